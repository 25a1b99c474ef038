"""The sparse product and maximum against scipy and dense arithmetic, forward and backward."""

import functools

import jax
import jax.numpy as jnp
import jax.test_util
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import sparse

from trove_jax.kernels import sparse_forms, sparse_maximum, sparse_pattern, sparse_product

ROWS, COLUMNS, ENTRIES, WIDTH = 13, 9, 40, 5
IMPLEMENTATIONS = (None, "reference", "bcsr", "chunked")
# Float32 sums of a dozen terms; bfloat16 rounds its inputs to 2^-8 and its result once more.
TOLERANCE = {"float32": 1e-5, "bfloat16": 3e-2, "float64": 1e-12}


def draw(seed=0, entries=ENTRIES, width=WIDTH):
    """Rows 3 and 7 and column 2 are empty; some places are taken twice."""
    rng = np.random.default_rng(seed)
    rows = rng.choice([i for i in range(ROWS) if i not in (3, 7)], entries)
    columns = rng.choice([j for j in range(COLUMNS) if j != 2], entries)
    rows[:3], columns[:3] = rows[0], columns[0]
    pattern, order = sparse_pattern(rows, columns, (ROWS, COLUMNS))
    values = rng.standard_normal(entries).astype(np.float32)
    x = rng.standard_normal((COLUMNS, width)).astype(np.float32)
    g = rng.standard_normal((ROWS, width)).astype(np.float32)
    return pattern, values, x, g, (rows, columns, order)


PATTERN, VALUES, X, G, GIVEN = draw()


@functools.partial(jax.jit, static_argnums=0)
def product(implementation, pattern, values, x):
    return sparse_product(pattern, values, x, implementation=implementation)


@functools.partial(jax.jit, static_argnums=0)
def both(implementation, pattern, values, x, g):
    call = functools.partial(sparse_product, pattern, implementation=implementation)
    out, pull = jax.vjp(call, values, x)
    return out, *pull(g)


@functools.partial(jax.jit, static_argnums=0)
def both_of_maximum(implementation, pattern, values, x, mask, g):
    def call(values, x):
        return sparse_maximum(pattern, values, x, mask=mask, implementation=implementation)

    out, pull = jax.vjp(call, values, x)
    return out, *pull(g)


def dense_results(pattern, values, x, g):
    """Product and gradients from scipy's matrices and one dot product per entry."""
    matrix = sparse.coo_matrix((values, (pattern.rows, pattern.columns)), pattern.shape)
    return matrix @ x, np.sum(g[pattern.rows] * x[pattern.columns], axis=1), matrix.T @ g


def assert_close(got, want, dtype="float32"):
    for one, other in zip(got, want, strict=True):
        other = np.asarray(other, np.float64)
        atol = TOLERANCE[dtype] * max(1.0, np.abs(other).max(initial=0.0))
        np.testing.assert_allclose(np.asarray(one, np.float64), other, rtol=0, atol=atol)


def test_pattern_keeps_every_entry_in_both_orders():
    rows, columns, order = GIVEN
    np.testing.assert_array_equal(PATTERN.rows, rows[order])
    np.testing.assert_array_equal(PATTERN.columns, columns[order])
    to = PATTERN.to_transposed
    np.testing.assert_array_equal(np.sort(to), np.arange(ENTRIES))
    np.testing.assert_array_equal(PATTERN.transposed_rows, PATTERN.rows[to])
    np.testing.assert_array_equal(PATTERN.transposed_columns, PATTERN.columns[to])
    for starts, ends in (
        (PATTERN.row_starts, PATTERN.rows),
        (PATTERN.column_starts, PATTERN.transposed_columns),
    ):
        np.testing.assert_array_equal(np.repeat(np.arange(len(starts) - 1), np.diff(starts)), ends)
    assert {a.dtype for a in jax.tree.leaves(PATTERN)} == {np.dtype(np.int32)}


@functools.partial(jax.jit, static_argnums=0)
def each(implementations, pattern, values, x, g):
    """`both` of several implementations in one program, which compiles sooner."""
    return [both(implementation, pattern, values, x, g) for implementation in implementations]


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_product_and_gradients_are_scipys(dtype):
    values, x, g = (jnp.asarray(a, dtype) for a in (VALUES, X, G))
    for got in each(IMPLEMENTATIONS, PATTERN, values, x, g):
        assert [a.dtype for a in got] == [dtype] * 3
        assert_close(got, dense_results(PATTERN, VALUES, X, G), dtype)


def test_bfloat16_is_summed_in_float32():
    # 4096 ones: a sum in bfloat16 stops at 256.
    pattern, _ = sparse_pattern(np.zeros(4096, int), np.zeros(4096, int), (1, 1))
    one = jnp.ones((1, 1), jnp.bfloat16)
    for out, _, d_x in each(IMPLEMENTATIONS, pattern, jnp.ones(4096, jnp.bfloat16), one, one):
        assert (float(out[0, 0]), float(d_x[0, 0])) == (4096.0, 4096.0)


def test_many_chunks_with_a_ragged_last_one():
    # 2,100 numbers an entry make chunks of 256 entries; 700 are two of them and a rest.
    pattern, values, x, g, _ = draw(entries=700, width=2100)
    got = both("chunked", pattern, values, x, g)
    for one, other in zip(got, dense_results(pattern, values, x, g), strict=True):
        np.testing.assert_allclose(one, other, atol=2e-3)  # up to 2,100 terms of size 1
    kept = np.arange(700) % 3 > 0
    want = both_of_maximum("reference", pattern, values, x, kept, g)
    got = both_of_maximum("chunked", pattern, values, x, kept, g)
    for one, other in zip(got, want, strict=True):
        np.testing.assert_allclose(one, other, atol=2e-3)


@settings(max_examples=25, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 3)), min_size=8, max_size=8))
def test_any_pattern(places):
    rows, columns = np.array(places).T
    pattern, _ = sparse_pattern(rows, columns, (6, 4))
    rng = np.random.default_rng(len(set(places)))
    values, x, g = (rng.standard_normal(shape).astype(np.float32) for shape in (8, (4, 3), (6, 3)))
    want = dense_results(pattern, values, x, g)
    for got in each(("bcsr", "chunked"), pattern, values, x, g):
        assert_close(got, want)


def test_gradients_in_float64():
    with jax.enable_x64(True):
        values, x = jnp.asarray(VALUES, jnp.float64), jnp.asarray(X, jnp.float64)
        call = jax.jit(functools.partial(sparse_product, PATTERN))
        jax.test_util.check_grads(call, (values, x), order=1, modes=("rev",))
        want = dense_results(PATTERN, VALUES.astype(float), X, G)[0]
        assert_close([call(values, x)], [want], "float64")


@jax.jit
def curvatures(values, x):
    """Of each implementation, the gradient of what a gradient adds up to, squared."""

    def one(implementation):
        call = functools.partial(sparse_product, PATTERN, implementation=implementation)

        def slopes(values, x):
            out, pull = jax.vjp(call, values, x)
            return sum(jnp.sum(slope**2) for slope in pull(out**2))

        return jax.grad(slopes, argnums=(0, 1))(values, x)

    return [one(implementation) for implementation in ("reference", "bcsr", "chunked")]


def test_gradients_of_gradients():
    want, *found = curvatures(VALUES, X)
    for got in found:
        assert_close(got, want)


@pytest.mark.parametrize(
    ("implementation", "axes"),
    [(None, (None, 0)), (None, (0, None)), (None, (0, 0)), ("chunked", (None, 0))],
)
def test_vmap_is_a_loop(implementation, axes):
    rng = np.random.default_rng(1)
    values = rng.standard_normal((3, ENTRIES)).astype(np.float32)
    x = rng.standard_normal((3, COLUMNS, WIDTH)).astype(np.float32)
    values, x = (a if axis == 0 else a[0] for a, axis in zip((values, x), axes, strict=True))
    got = jax.vmap(functools.partial(both, implementation, PATTERN), in_axes=(*axes, None))(
        values, x, G
    )
    for seed in range(3):
        one = values[seed] if axes[0] == 0 else values, x[seed] if axes[1] == 0 else x
        want = both(implementation, PATTERN, *one, G)
        assert_close([a[seed] for a in got], want)
    # The axis that the function takes itself is the same.
    assert_close([sparse_product(PATTERN, values, x, implementation=implementation)], [got[0]])


def test_seeds_that_leave_the_cache_follow_one_another(monkeypatch):
    monkeypatch.setattr(sparse_forms, "_LARGEST_FOLD", 3 * COLUMNS * 6 - 1)
    pattern, values, x, g, _ = draw(width=6)
    xs = np.stack([x, 2 * x, 3 * x])
    run = jax.vmap(functools.partial(both, None, pattern), in_axes=(None, 0, None))
    assert "while" in jax.jit(run).lower(values, xs, g).as_text().split("cpu_csr")[0]
    got = run(values, xs, g)
    for seed in range(3):
        assert_close([a[seed] for a in got], dense_results(pattern, values, xs[seed], g))


def test_vmap_over_patterns():
    pattern, values, x, g, _ = draw(seed=3)
    stacked = jax.tree.map(lambda *a: np.stack(a), PATTERN, pattern)
    got = jax.vmap(functools.partial(both, None))(
        stacked, np.stack([VALUES, values]), np.stack([X, x]), np.stack([G, g])
    )
    assert_close([a[0] for a in got], both(None, PATTERN, VALUES, X, G))
    assert_close([a[1] for a in got], both(None, pattern, values, x, g))


def test_heads_have_values_of_their_own():
    rng = np.random.default_rng(2)
    values = rng.standard_normal((ENTRIES, 2)).astype(np.float32)
    x = rng.standard_normal((COLUMNS, 2, WIDTH)).astype(np.float32)
    g = rng.standard_normal((ROWS, 2, WIDTH)).astype(np.float32)
    for got in each(IMPLEMENTATIONS, PATTERN, values, x, g):
        for head in range(2):
            want = dense_results(PATTERN, values[:, head], x[:, head], g[:, head])
            assert_close([a[:, head] for a in got], want)


@pytest.mark.parametrize(
    ("rows", "shape", "width"),
    [([], (3, 4), 2), ([], (0, 4), 2), ([], (3, 0), 2), ([0, 2], (3, 4), 0)],
)
@pytest.mark.parametrize("implementation", [None, "bcsr", "chunked"])
def test_nothing_gives_zeros(implementation, rows, shape, width):
    pattern, _ = sparse_pattern(rows, rows, shape)
    values, x = jnp.ones(len(rows)), jnp.ones((shape[1], width))
    out = sparse_product(pattern, values, x, implementation=implementation)
    np.testing.assert_array_equal(out, np.zeros((shape[0], width)))


def test_maximum_of_a_loop_in_numpy():
    mask = VALUES < 1
    want = np.zeros((ROWS, WIDTH))
    for row in range(ROWS):
        here = (PATTERN.rows == row) & mask
        if here.any():
            want[row] = np.max(VALUES[here, None] * X[PATTERN.columns[here]], axis=0)
    for implementation in (None, "chunked", "reference"):
        got = both_of_maximum(implementation, PATTERN, VALUES, X, mask, G)
        np.testing.assert_array_equal(got[0], want.astype(np.float32))
        assert_close(got, both_of_maximum("reference", PATTERN, VALUES, X, mask, G))
    assert (want[3] == 0).all()  # an empty row, not -inf


@pytest.mark.parametrize("implementation", ["chunked", "reference"])
def test_ties_of_a_maximum_share_equally_and_masked_nan_stays_out(implementation):
    pattern, _ = sparse_pattern([0, 0, 0, 1, 1], [0, 1, 2, 0, 3], (3, 4))
    x = jnp.array([[2.0], [2.0], [1.0], [9.0]])
    values = jnp.array([1.0, 1.0, 1.0, 1.0, jnp.nan])
    mask, g = jnp.array([True] * 4 + [False]), jnp.array([[6.0], [10.0], [7.0]])
    out, d_values, d_x = both_of_maximum(implementation, pattern, values, x, mask, g)
    np.testing.assert_array_equal(out.ravel(), [2.0, 2.0, 0.0])
    np.testing.assert_array_equal(d_x.ravel(), [3.0 + 10.0, 3.0, 0.0, 0.0])
    np.testing.assert_array_equal(d_values, [6.0, 6.0, 0.0, 20.0, 0.0])


@pytest.mark.parametrize("platform", ["cuda", "tpu"])
def test_other_platforms_get_a_program_without_the_cpu_kernel(platform):
    def everything(pattern, values, x, g):
        return both(None, pattern, values, x, g), jax.vmap(
            lambda x: sparse_maximum(pattern, None, x)
        )(jnp.stack([x, x]))

    lowered = jax.export.export(jax.jit(everything), platforms=[platform])(PATTERN, VALUES, X, G)
    assert "cpu_csr" not in lowered.mlir_module()
    assert "cpu_csr" in jax.jit(product, static_argnums=0).lower(None, PATTERN, VALUES, X).as_text()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (([0, 3], [0, 0], (3, 2)), r"rows\[1\] is 3; 0 to 2 is wanted \(1 of 2"),
        (([0, 0], [0, -1], (3, 2)), r"columns\[1\] is -1; 0 to 1 is wanted"),
        (([0], [0, 1], (3, 2)), r"rows have shape \(1,\) and columns \(2,\)"),
        (([0.0], [0], (3, 2)), "dtype float64; a vector of integers"),
        (([[0]], [[0]], (3, 2)), r"shape \(1, 1\)"),
        (([], [], (-1, 2)), "shape has -1 rows"),
    ],
)
def test_patterns_that_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        sparse_pattern(*arguments)


@pytest.mark.parametrize(
    ("values", "x", "options", "message"),
    [
        (VALUES[:-1], X, {}, r"values have shape \(39,\)"),
        (VALUES, X[:-1], {}, r"x \(8, 5\); for 40 entries and 9 columns"),
        (np.ones((2, ENTRIES), np.float32), np.ones((3, COLUMNS, 2), np.float32), {}, "are wanted"),
        (np.ones(ENTRIES, int), X, {}, "values has dtype int"),
        (VALUES, np.ones((COLUMNS, 2), int), {}, "x has dtype int"),
        (VALUES, X, {"implementation": "coo"}, "'coo' is unknown; use one of"),
    ],
)
def test_operands_that_are_refused(values, x, options, message):
    with pytest.raises(ValueError, match=message):
        sparse_product(PATTERN, values, x, **options)
    with pytest.raises(ValueError, match=message):
        sparse_maximum(PATTERN, values, x, **options)


def test_masks_that_are_refused():
    with pytest.raises(ValueError, match=r"mask has shape \(40,\) and dtype int"):
        sparse_maximum(PATTERN, VALUES, X, mask=np.ones(ENTRIES, int))
