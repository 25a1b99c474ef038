"""Where the entries of a sparse matrix stand, sorted by row and by column, as arrays for a program.

The arrays are arguments of whatever is compiled, never constants of it: XLA folds index arrays that
a program closes over for tens of seconds.
"""

from typing import Any, cast

import jax
import numpy as np
from flax import struct
from scipy import sparse

_LARGEST = np.iinfo(np.int32).max


@struct.dataclass
class SparsePattern:
    """The places of the `e` entries of a sparse matrix; their values are separate arrays.

    An entry may stand twice in the same place: both count. Build it by `sparse_pattern`, which
    checks what is promised here.

    Attributes:
      rows: row of each entry, ascending, `[e]` int32.
      columns: column of each entry, ascending within a row, `[e]` int32.
      row_starts: entries `row_starts[i]` to `row_starts[i + 1]` are row i, `[n_rows + 1]` int32.
      transposed_rows: row of each entry, in the order of columns, `[e]` int32.
      transposed_columns: column of each entry, in the order of columns, `[e]` int32.
      column_starts: as `row_starts`, of the transposed order, `[n_columns + 1]` int32.
      to_transposed: entry k of the transposed order is entry `to_transposed[k]`, `[e]` int32.
      shape: `(n_rows, n_columns)`, static.
    """

    rows: jax.Array
    columns: jax.Array
    row_starts: jax.Array
    transposed_rows: jax.Array
    transposed_columns: jax.Array
    column_starts: jax.Array
    to_transposed: jax.Array
    shape: tuple[int, int] = struct.field(pytree_node=False)

    @property
    def n_entries(self) -> int:
        """Number of stored entries, e."""
        return self.rows.shape[-1]


def sparse_pattern(
    rows: Any, columns: Any, shape: tuple[int, int]
) -> tuple[SparsePattern, np.ndarray]:
    """Sorts the places of a sparse matrix, on the host.

    Args:
      rows: row of each entry in any order, `[e]` integers.
      columns: column of each entry, `[e]` integers.
      shape: `(n_rows, n_columns)`.

    Returns:
      pattern: its arrays are NumPy arrays; they become device arrays where they are used.
      order: stored entry k is the caller's entry `order[k]`, `[e]` int64; entries in the same place
        keep their order.

    Raises:
      ValueError: arrays that are not two equally long vectors of integers; an index out of range;
        a negative size; more than 2^31 - 1 entries, rows or columns.

    Example:
      >>> pattern, order = sparse_pattern([1, 0, 1], [2, 1, 0], (2, 3))
      >>> print(pattern.rows, pattern.columns, pattern.row_starts, order)
      [0 1 1] [1 0 2] [0 1 3] [1 2 0]
      >>> print(pattern.transposed_columns, pattern.transposed_rows, pattern.to_transposed)
      [0 1 2] [1 0 1] [1 0 2]
    """
    n_rows, n_columns = (int(size) for size in shape)
    rows = _indices("rows", rows, n_rows)
    columns = _indices("columns", columns, n_columns)
    if rows.shape != columns.shape:
        raise ValueError(
            f"rows have shape {rows.shape} and columns {columns.shape}; the same is wanted"
        )
    if rows.size > _LARGEST:
        raise ValueError(f"{rows.size} entries are too many; at most {_LARGEST} fit int32")
    # Each transposition is a counting sort that keeps the order of what is equal: for 20 million
    # entries, three of them take a quarter of the time of sorting by comparison.
    single = np.arange(rows.size + 1, dtype=np.int32)
    _, by_column, starts = _transposed(single[:-1], columns, single, n_columns)
    order, columns, row_starts = _transposed(by_column, rows[by_column], starts, n_rows)
    to_transposed, transposed_rows, column_starts = _transposed(
        single[:-1], columns, row_starts, n_columns
    )
    pattern = SparsePattern(
        rows=_repeated(row_starts),
        columns=cast(Any, columns),
        row_starts=cast(Any, row_starts),
        transposed_rows=cast(Any, transposed_rows),
        transposed_columns=_repeated(column_starts),
        column_starts=cast(Any, column_starts),
        to_transposed=cast(Any, to_transposed),
        shape=(n_rows, n_columns),
    )
    return pattern, order.astype(np.int64)


def _indices(name: str, values: Any, size: int) -> np.ndarray:
    found = np.asarray(values)
    if found.ndim != 1 or (found.size and not np.issubdtype(found.dtype, np.integer)):
        raise ValueError(
            f"{name} have shape {found.shape} and dtype {found.dtype}; a vector of integers is "
            "wanted"
        )
    if not 0 <= size <= _LARGEST:
        raise ValueError(f"shape has {size} {name}; 0 to {_LARGEST} are possible")
    outside = np.flatnonzero((found < 0) | (found >= size))
    if outside.size:
        raise ValueError(
            f"{name}[{outside[0]}] is {found[outside[0]]}; 0 to {size - 1} is wanted "
            f"({outside.size} of {found.size} are out of range)"
        )
    return found.astype(np.int32)


def _transposed(
    data: np.ndarray, columns: np.ndarray, row_starts: np.ndarray, n_columns: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Data, rows and starts of the columns of a matrix that is stored by rows."""
    shape = (len(row_starts) - 1, n_columns)
    found = sparse.csr_array((data, columns, row_starts), shape=shape).tocsc()
    return found.data, found.indices, found.indptr


def _repeated(starts: np.ndarray) -> Any:
    """The number of each row, as often as it has entries."""
    return np.repeat(np.arange(len(starts) - 1, dtype=np.int32), np.diff(starts))
