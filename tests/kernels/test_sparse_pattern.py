"""The places of a sparse matrix against NumPy's sorting by comparison."""

import numpy as np
import pytest

from trove_jax.kernels import sparse_pattern


@pytest.mark.parametrize(
    ("shape", "entries"),
    [((7, 5), 40), ((5, 7), 12), ((1, 9), 20), ((9, 1), 20), ((4, 6), 0), ((0, 3), 0), ((3, 0), 0)],
)
def test_it_sorts_as_numpy_does_and_keeps_the_order_of_the_same_place(shape, entries):
    rng = np.random.default_rng(0)
    rows, columns = (rng.integers(0, max(size, 1), entries) for size in shape)
    pattern, order = sparse_pattern(rows, columns, shape)
    wanted = np.lexsort((columns, rows))
    rows, columns = rows[wanted], columns[wanted]
    transposed = np.argsort(columns, kind="stable")
    assert order.dtype == np.int64
    np.testing.assert_array_equal(order, wanted)
    for name, value in {
        "rows": rows,
        "columns": columns,
        "row_starts": np.searchsorted(rows, np.arange(shape[0] + 1)),
        "transposed_rows": rows[transposed],
        "transposed_columns": columns[transposed],
        "column_starts": np.searchsorted(columns[transposed], np.arange(shape[1] + 1)),
        "to_transposed": transposed,
    }.items():
        found = getattr(pattern, name)
        assert found.dtype == np.int32
        np.testing.assert_array_equal(found, value, err_msg=name)
    assert pattern.n_entries == entries
    assert pattern.shape == shape
