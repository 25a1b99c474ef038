"""Neighbours of pairs against sets and scipy; masks, repeated edges, samples, gradients, seeds."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import sparse

from trove_jax import graphs
from trove_jax.graphs.topology import from_edges, mask_edges

N, F, M = 30, 3, 20
counts_of = jax.jit(graphs.common_neighbour_counts)
rest_of = jax.jit(graphs.neighbour_difference_counts)
common_of = jax.jit(graphs.common_neighbours, static_argnums=2)
difference_of = jax.jit(graphs.neighbour_difference, static_argnums=2)
sum_of = jax.jit(graphs.common_neighbour_sum, static_argnames="implementation")


def directed(seed=0):
    """Repeated edges, self-loops, a hub at 0, and the isolated nodes 28 and 29."""
    rng = np.random.default_rng(seed)
    edges = rng.integers(0, N - 2, (180, 2))
    edges[:20, 1] = 0
    edges[40:60] = edges[20:40]
    edges[60] = (5, 5)
    return edges


def a_mask(topology, seed=1):
    return mask_edges(topology, np.random.default_rng(seed).random(topology.n_edge) < 0.6)


TOPOLOGY = from_edges(directed(), N, undirected=False)
GRAPHS = {"plain": TOPOLOGY, "masked": a_mask(TOPOLOGY)}
ALL_PAIRS = np.stack(np.meshgrid(np.arange(N), np.arange(N)), -1).reshape(-1, 2)
X = np.random.default_rng(2).standard_normal((N, F)).astype(np.float32)


def sets(topology):
    kept = np.ones(topology.n_edge, bool)
    if topology.edge_mask is not None:
        kept = np.asarray(topology.edge_mask)
    senders, receivers = np.asarray(topology.senders)[kept], np.asarray(topology.receivers)[kept]
    return [set(senders[receivers == node].tolist()) for node in range(N)]


@pytest.fixture(params=["plain", "masked"])
def topology(request):
    return GRAPHS[request.param]


def run(function, *arguments, **options):
    return jax.tree.map(np.asarray, function(*arguments, **options))


def check_all(topology, functions, pairs=ALL_PAIRS):
    near = sets(topology)
    common, counts, difference, others = functions
    both, rest = run(common, topology, pairs, M), run(difference, topology, pairs, M)
    n_both, n_rest = run(counts, topology, pairs), run(others, topology, pairs)
    for p, (i, j) in enumerate(pairs):
        assert both.index[p, both.mask[p]].tolist() == sorted(near[i] & near[j])
        assert rest.index[p, rest.mask[p]].tolist() == sorted(near[i] - near[j])
        assert (n_both[p], n_rest[p]) == (len(near[i] & near[j]), len(near[i] - near[j]))
    assert (both.index[~both.mask] == 0).all()
    # True from the left.
    assert (np.diff(both.mask.astype(int), axis=1) <= 0).all()


def test_lists_and_counts_are_those_of_sets(topology):
    check_all(topology, (common_of, counts_of, difference_of, rest_of))


def test_lists_that_lie_across_chunks(monkeypatch):
    # Doctests load modules a second time: these are the names that the functions read.
    names = graphs.neighbour_difference.__globals__["over_hits"].__globals__
    monkeypatch.setitem(names, "_SLOTS", 64)
    monkeypatch.setitem(names, "_HITS", 8)
    # Programs are kept by the size of what they are given: another number of pairs.
    topology, pairs = GRAPHS["masked"], ALL_PAIRS[7:]
    near = sets(topology)
    rest = run(graphs.neighbour_difference, topology, pairs, M)
    for p, (i, j) in enumerate(pairs):
        assert rest.index[p, rest.mask[p]].tolist() == sorted(near[i] - near[j])
    # With no room for them, the sums walk again.
    for kept in (0, 16):
        monkeypatch.setitem(names, "_KEPT", kept)
        some = ALL_PAIRS[100 + kept :]
        got = graphs.common_neighbour_sum(topology, some, X)
        want = [X[sorted(near[i] & near[j])].sum(0) for i, j in some]
        np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-5)


def test_edges_that_are_stored_twice_count_while_one_is_left():
    edges = np.array([[1, 0], [1, 0], [1, 0], [1, 2], [3, 0], [3, 2], [3, 2]])
    full = from_edges(edges, 4, undirected=False)
    pairs = jnp.array([[0, 2], [2, 0]])
    for lost in ([], [0], [1], [2], [0, 2], [0, 1, 2], [5], [6], [5, 6, 0, 1]):
        keep = ~np.isin(np.asarray(full.order), lost)
        found = run(repeated_of, mask_edges(full, keep), pairs)
        near = [
            set(edges[[e for e in range(7) if e not in lost and edges[e, 1] == i], 0].tolist())
            for i in (0, 2)
        ]
        assert found[0].tolist() == [len(near[0] & near[1])] * 2
        assert found[1].tolist() == [len(near[0] - near[1]), len(near[1] - near[0])]


@jax.jit
def repeated_of(topology, pairs):
    return (
        graphs.common_neighbour_counts(topology, pairs),
        graphs.neighbour_difference_counts(topology, pairs),
    )


@pytest.mark.parametrize(
    ("name", "implementation"),
    [("plain", "sparse"), ("masked", "sparse"), ("masked", "dense"), ("masked", None)],
)
def test_sums_are_products_of_matrices(name, implementation):
    topology = GRAPHS[name]
    kept = slice(None) if topology.edge_mask is None else topology.edge_mask
    ends = (np.asarray(topology.receivers)[kept], np.asarray(topology.senders)[kept])
    adjacency = sparse.csr_matrix((np.ones(len(ends[0])), ends), (N, N))
    adjacency.data[:] = 1.0  # Repeated entries were added up.
    rows = adjacency[ALL_PAIRS[:, 0]].multiply(adjacency[ALL_PAIRS[:, 1]])
    g = np.random.default_rng(3).standard_normal((len(ALL_PAIRS), F)).astype(np.float32)
    got, slope, again = slopes_of(topology, X, g, implementation)
    np.testing.assert_allclose(got, rows @ X, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(slope, rows.T @ g, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(again, rows @ X, rtol=1e-5, atol=1e-5)


@functools.partial(jax.jit, static_argnums=3)
def slopes_of(topology, x, g, implementation):
    """The sum, its gradient to `x`, and the gradient of that gradient along `x` to `g`."""

    def total(x):
        return graphs.common_neighbour_sum(topology, ALL_PAIRS, x, implementation=implementation)

    y, pull = jax.vjp(total, x)
    return y, pull(g)[0], jax.grad(lambda g: jnp.sum(pull(g)[0] * x))(g)


def test_seeds():
    pairs = ALL_PAIRS[::9]
    xs = np.stack([X, 2.0 * X[::-1]])
    want = np.stack([sum_of(TOPOLOGY, pairs, x, implementation="dense") for x in xs])
    for implementation in ("sparse", "dense"):
        got = sum_of(TOPOLOGY, pairs, xs, implementation=implementation)
        np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-5)
    split = jax.tree.map(lambda a, b: np.stack([a, b]), a_mask(TOPOLOGY), a_mask(TOPOLOGY, 4))
    every = np.stack([pairs, pairs[::-1]])

    @jax.jit
    def mapped(split, every, xs):
        return jax.vmap(
            lambda topology, pairs, x: (
                graphs.common_neighbour_sum(topology, pairs, x),
                graphs.common_neighbour_counts(topology, pairs),
            )
        )(split, every, xs)

    sums, counts = mapped(split, every, xs)
    for s in range(2):
        alone = jax.tree.map(lambda leaf, s=s: leaf[s], split)
        want = sum_of(alone, every[s], xs[s], implementation="dense")
        np.testing.assert_allclose(sums[s], want, rtol=1e-5, atol=1e-5)
        ones = sum_of(alone, every[s], np.ones_like(X), implementation="dense")[:, 0]
        np.testing.assert_array_equal(counts[s], ones)


def test_what_is_left_out():
    pairs = np.tile([[0, 1]], (ALL_PAIRS.shape[0], 1))
    near = sets(TOPOLOGY)
    rest = sorted(near[0] - near[1])
    assert len(rest) > 6
    found = run(few_of, TOPOLOGY, pairs, 3, None)
    np.testing.assert_array_equal(found.index, np.tile(rest[:3], (len(pairs), 1)))
    drawn = run(few_of, TOPOLOGY, pairs, 3, jax.random.key(0))
    assert drawn.mask.all()
    assert all(len(set(row)) == 3 for row in drawn.index.tolist())
    share = np.bincount(drawn.index.ravel(), minlength=N)[rest] / len(pairs)
    assert share.sum() == pytest.approx(3.0)
    # Every count is binomial: beyond 5 deviations lie 6e-7 of the cases each.
    chance = 3 / len(rest)
    bound = 5 * np.sqrt(chance * (1 - chance) / len(pairs))
    np.testing.assert_allclose(share, chance, atol=bound)
    # The first ones are kept where everything fits.
    whole = run(few_of, TOPOLOGY, np.tile([[2, 1]], (len(pairs), 1)), 3, jax.random.key(0))
    assert whole.index[0, whole.mask[0]].tolist() == sorted(near[2] - near[1])


@functools.partial(jax.jit, static_argnums=2)
def few_of(topology, pairs, size, key):
    return graphs.neighbour_difference(topology, pairs, size, key=key)


def test_weights():
    found = difference_of(TOPOLOGY, ALL_PAIRS, M)
    weight = np.random.default_rng(5).random(found.index.shape).astype(np.float32)
    holed = jnp.where(found.mask, weight, jnp.nan)

    @jax.jit
    def slopes(weight, x):
        def total(weight, x):
            return jnp.sum(jnp.sin(graphs.weighted_neighbour_sum(found, weight, x)))

        return graphs.weighted_neighbour_sum(found, weight, x), *jax.grad(total, (0, 1))(weight, x)

    got, d_weight, d_x = slopes(holed, X)
    index, mask = np.asarray(found.index), np.asarray(found.mask)
    want = np.einsum("bm,bmf->bf", np.where(mask, weight, 0.0), X[index])
    np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-5)
    slope = np.cos(want)
    np.testing.assert_allclose(
        d_weight, np.einsum("bf,bmf->bm", slope, X[index]) * mask, rtol=1e-4, atol=1e-4
    )
    wanted = np.zeros_like(X)
    np.add.at(wanted, index, (np.where(mask, weight, 0.0)[..., None] * slope[:, None]))
    np.testing.assert_allclose(d_x, wanted, rtol=1e-4, atol=1e-4)


def test_dtypes_and_rows_that_are_not_read():
    pairs = np.array([[0, 0], [28, 29], [28, 0], [-1, 0], [0, -1], [-1, -1]])
    holed = np.where(np.isin(np.arange(N), sorted(sets(TOPOLOGY)[0]))[:, None], X, np.nan)
    got = graphs.common_neighbour_sum(TOPOLOGY, pairs, holed)
    np.testing.assert_allclose(got[0], X[sorted(sets(TOPOLOGY)[0])].sum(0), rtol=1e-5)
    assert not np.asarray(got[1:]).any()
    half = graphs.common_neighbour_sum(TOPOLOGY, pairs, jnp.asarray(X, jnp.bfloat16))
    assert half.dtype == jnp.bfloat16
    np.testing.assert_allclose(half.astype(jnp.float32)[0], got[0], rtol=0.02, atol=0.1)
    counts = graphs.neighbour_difference_counts(TOPOLOGY, pairs)
    assert counts.tolist() == [0, 0, 0, 0, len(sets(TOPOLOGY)[0]), 0]


def test_empty_graphs_and_no_pairs():
    none = from_edges([], 3)
    pairs = np.array([[0, 1], [-1, 2]])
    for topology, ends in ((none, pairs), (TOPOLOGY, pairs[:0])):
        x = np.ones((topology.n_node, 2), np.float32)
        assert not np.asarray(graphs.common_neighbour_sum(topology, ends, x)).any()
        assert graphs.common_neighbour_sum(topology, ends, x).shape == (len(ends), 2)
        assert graphs.common_neighbour_counts(topology, ends).tolist() == [0] * len(ends)
        assert graphs.common_neighbours(topology, ends, 2, key=jax.random.key(0)).mask.shape == (
            len(ends),
            2,
        )


@pytest.mark.parametrize(
    ("pairs", "x", "options", "message"),
    [
        (np.zeros((2, 3), int), X, {}, r"pairs have shape \(2, 3\) and dtype int64; integers"),
        (np.zeros((2, 2)), X, {}, "pairs have shape"),
        ([[0, 1], [3, N]], X, {}, r"pairs\[1\] is \[3, 30\]; numbers below 30 are wanted \(1 of 2"),
        (ALL_PAIRS, X[1:], {}, r"x has shape \(29, 3\); \(30, f\) or \(s, 30, f\)"),
        (ALL_PAIRS, X.astype(int), {}, "x has dtype int"),
        (ALL_PAIRS, X, {"implementation": "bitset"}, "implementation='bitset' is unknown"),
    ],
)
def test_what_is_refused(pairs, x, options, message):
    with pytest.raises(ValueError, match=message):
        graphs.common_neighbour_sum(TOPOLOGY, pairs, x, **options)


def test_what_the_others_refuse():
    with pytest.raises(ValueError, match="max_degree=0 must be at least 1"):
        graphs.common_neighbours(TOPOLOGY, ALL_PAIRS, 0)
    found = graphs.Neighbours(jnp.zeros((2, 3), jnp.int32), jnp.ones((2, 3), bool))
    with pytest.raises(ValueError, match=r"weight has shape \(2, 2\), mask \(2, 3\)"):
        graphs.weighted_neighbour_sum(found, jnp.ones((2, 2)), X)
    with pytest.raises(ValueError, match="weight has dtype int32"):
        graphs.weighted_neighbour_sum(found, jnp.ones((2, 3), jnp.int32), X)
    wide = from_edges([[0, 1]], 20_000)
    with pytest.raises(ValueError, match="'dense' takes 400200000 bytes for 20000 nodes and 2 pai"):
        graphs.common_neighbour_sum(
            wide, ALL_PAIRS[:2], np.ones((20_000, 1), np.float32), implementation="dense"
        )
