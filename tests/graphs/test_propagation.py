"""Propagation against loops in NumPy: every reduction, implementation, dtype and axis."""

import functools

import jax
import jax.numpy as jnp
import jax.test_util
import jraph
import numpy as np
import pytest

from trove_jax.graphs import (
    edge_softmax,
    gather_receivers,
    gather_senders,
    hop_stack,
    propagate,
    segment_reduce,
)
from trove_jax.graphs.topology import build, from_edges

N, E, F = 8, 24, 3
ALL = [
    (reduce, implementation)
    for reduce in ("sum", "mean", "max", "softmax")
    for implementation in (None, "segment", "bcsr", "chunked")
    if (reduce, implementation) != ("max", "bcsr")
]
# Float32 sums of ten terms; bfloat16 rounds inputs, weights and results to 2^-8 each.
TOLERANCE = {"float32": 1e-5, "bfloat16": 3e-2}


def draw(seed=0):
    """A directed graph with self-loops and repeated edges; nothing arrives at node 7."""
    rng = np.random.default_rng(seed)
    edges = np.stack([rng.integers(0, N, E), rng.integers(0, N - 1, E)], axis=1)
    edges[0], edges[1] = (2, 2), (2, 2)
    weight = rng.uniform(0.5, 2.0, E)
    topology = from_edges(edges, N, undirected=False, edge_weight=weight)
    x, g = rng.standard_normal((2, N, F)).astype(np.float32)
    return topology, x, g, rng.standard_normal(E).astype(np.float32)


TOPOLOGY, X, G, LOGITS = draw()
WEIGHT = np.asarray(TOPOLOGY.weight)


@functools.partial(jax.jit, static_argnums=0)
def every(implementations, topology, x, weight, g):
    """Results, and gradients to features and to weights or logits, in one program.

    They are `{(reduce, implementation): [result, gradient, gradient]}`.
    """
    found = {}
    for reduce, implementation in ALL:
        if implementation not in implementations:
            continue

        def call(x, weight, reduce=reduce, implementation=implementation):
            named = {"logits": weight} if reduce == "softmax" else {"edge_weight": weight}
            return propagate(topology, x, **named, reduce=reduce, implementation=implementation)

        out, pull = jax.vjp(call, x, weight)
        found[reduce, str(implementation)] = [out, *pull(g)]
    return found


default = functools.partial(every, (None,))


def by_loop(topology, x, weight, reduce):
    """The definition, node by node, in float64."""
    x, weight = np.asarray(x, float), np.asarray(weight, float)
    out = np.zeros_like(x)
    for node in range(topology.n_node):
        here = np.flatnonzero(np.asarray(topology.receivers) == node)
        if not here.size:
            continue
        w, sent = weight[here], x[np.asarray(topology.senders)[here]]
        if reduce == "softmax":
            w = np.exp(w) / np.exp(w).sum()
        if reduce == "mean":
            w = w / w.sum()
        messages = w[:, None] * sent
        out[node] = messages.max(0) if reduce == "max" else messages.sum(0)
    return out


@pytest.mark.parametrize(
    ("dtype", "implementations"),
    [("float32", (None, "segment", "bcsr", "chunked")), ("bfloat16", (None,))],
)
def test_every_reduction_is_its_definition(dtype, implementations):
    arguments = [jnp.asarray(a, dtype) for a in (X, WEIGHT, G)]
    found = every(implementations, TOPOLOGY, *arguments)
    assert set(found) == {(reduce, str(name)) for reduce, name in ALL if name in implementations}
    x, weight, g = (np.asarray(a, np.float32) for a in arguments)
    wanted = {
        reduce: (by_loop(TOPOLOGY, x, weight, reduce), *slopes(reduce, x, weight, g))
        for reduce in ("sum", "mean", "max", "softmax")
    }
    for (reduce, implementation), got in found.items():
        assert [a.dtype for a in got] == [dtype] * 3
        for one, other in zip(got, wanted[reduce], strict=True):
            np.testing.assert_allclose(
                np.asarray(one, float), other, atol=5 * TOLERANCE[dtype], err_msg=implementation
            )
        assert not np.asarray(got[0][7]).any()


def slopes(reduce, x, weight, g):
    """Central differences of the loop, to features and to weights."""
    given = [x.astype(float), weight.astype(float)]
    found = []
    for number, array in enumerate(given):
        slope = np.zeros(array.size)
        for i in range(array.size):
            values = []
            for step in (1e-6, -1e-6):
                moved = [a.copy() for a in given]
                moved[number].reshape(-1)[i] += step
                values.append(np.sum(g * by_loop(TOPOLOGY, *moved, reduce)))
            slope[i] = (values[0] - values[1]) / 2e-6
        found.append(slope.reshape(array.shape))
    return found


@pytest.mark.parametrize("reduce", ["mean", "softmax"])
def test_gradients_in_float64(reduce):
    with jax.enable_x64(True):
        x, weight = jnp.asarray(X, jnp.float64), jnp.asarray(LOGITS, jnp.float64)
        if reduce == "mean":
            weight = jnp.exp(weight)

        @jax.jit
        def call(x, weight):
            named = {"logits": weight} if reduce == "softmax" else {"edge_weight": weight}
            return propagate(TOPOLOGY, x, **named, reduce=reduce)

        jax.test_util.check_grads(call, (x, weight), order=1, modes=("rev",))


def test_weights_by_default():
    for reduce in ("sum", "mean"):
        want = by_loop(TOPOLOGY, X, TOPOLOGY.weight, reduce)
        np.testing.assert_allclose(propagate(TOPOLOGY, X, reduce=reduce), want, atol=1e-5)
    want = by_loop(TOPOLOGY, X, np.ones(E), "max")
    np.testing.assert_allclose(propagate(TOPOLOGY, X, reduce="max"), want, rtol=1e-6)


@pytest.mark.parametrize("of_weights", [None, 0])
def test_seeds_are_a_loop(of_weights):
    rng = np.random.default_rng(3)
    xs = rng.standard_normal((4, N, F)).astype(np.float32)
    weights = rng.uniform(0.5, 1.5, (4, E)).astype(np.float32)
    given = weights if of_weights == 0 else weights[0]
    run = functools.partial(default, TOPOLOGY)
    found = jax.vmap(run, in_axes=(0, of_weights, None))(xs, given, G)
    for seed in range(4):
        want = run(xs[seed], weights[seed] if of_weights == 0 else given, G)
        for name, got in found.items():
            for one, other in zip(got, want[name], strict=True):
                np.testing.assert_allclose(one[seed], other, atol=1e-5, err_msg=str(name))
    for reduce in ("sum", "mean"):
        got = propagate(TOPOLOGY, xs, given, reduce=reduce)
        np.testing.assert_allclose(got, found[reduce, "None"][0], atol=1e-6)


def test_heads_are_a_loop():
    rng = np.random.default_rng(4)
    x = rng.standard_normal((N, 2, F)).astype(np.float32)
    weight = rng.uniform(0.5, 1.5, (E, 2)).astype(np.float32)
    g = rng.standard_normal((N, 2, F)).astype(np.float32)
    found = default(TOPOLOGY, x, weight, g)
    for head in range(2):
        want = default(TOPOLOGY, x[:, head], weight[:, head], g[:, head])
        for name, got in found.items():
            for one, other in zip(got, want[name], strict=True):
                np.testing.assert_allclose(one[:, head], other, atol=1e-5, err_msg=str(name))


def test_padding_does_not_leak():
    edges = np.array([[0, 1], [1, 2], [2, 0], [3, 0]])
    plain = jraph.GraphsTuple(
        nodes=None, edges=None, globals=None, n_node=np.array([5]), n_edge=np.array([4]),
        senders=edges[:, 0], receivers=edges[:, 1],
    )  # fmt: skip
    padded = jraph.pad_with_graphs(plain, n_node=N, n_edge=E)
    small, large = build(plain), build(padded, padded=True)
    weight = np.random.default_rng(5).uniform(0.5, 1.5, 4).astype(np.float32)
    wanted = default(small, X[:5], small.arrange(weight), G[:5])
    # Padding nodes and edges hold NaN; only what padding nodes receive may be NaN.
    x, g = X.copy(), G.copy()
    x[5:], g[5:] = np.nan, 0.0
    wide = np.concatenate([weight, np.full(E - 4, np.nan, np.float32)])
    is_real = np.asarray(large.edge_mask)
    for name, got in default(large, x, large.arrange(wide), g).items():
        want = wanted[name]
        np.testing.assert_allclose(got[0][:5], want[0], atol=1e-6, err_msg=str(name))
        np.testing.assert_allclose(got[1][:5], want[1], atol=1e-6, err_msg=str(name))
        np.testing.assert_allclose(got[2][is_real], want[2], atol=1e-6, err_msg=str(name))
        assert not np.asarray(got[2][~is_real]).any()


def test_softmax_of_large_and_masked_logits():
    topology = from_edges([[0, 2], [1, 2], [2, 0]], 3, undirected=False)
    got = edge_softmax(topology, jnp.array([5.0, 1e4, 1e4 - np.log(3.0)]))
    np.testing.assert_allclose(got, [1.0, 0.75, 0.25], rtol=1e-3)
    masked = topology.replace(edge_mask=jnp.array([True, True, False]))

    @jax.jit
    def total(logits):
        shares = edge_softmax(masked, logits)
        return jnp.sum(shares * jnp.array([1.0, 2.0, 3.0])), shares

    slope, shares = jax.grad(total, has_aux=True)(jnp.array([5.0, -1e4, jnp.nan]))
    np.testing.assert_array_equal(shares, [1.0, 1.0, 0.0])
    np.testing.assert_array_equal(slope, [0.0, 0.0, 0.0])


@pytest.mark.parametrize("reduce", ["sum", "mean", "max", "min"])
def test_messages_of_edges(reduce):
    keep = np.arange(E) % 4 > 0
    topology = TOPOLOGY.replace(edge_mask=keep)
    messages = np.random.default_rng(6).standard_normal((E, 2, 2)).astype(np.float32)
    messages[~keep] = np.nan
    got = segment_reduce(topology, messages, reduce=reduce)
    function = {"sum": np.sum, "mean": np.mean, "max": np.max, "min": np.min}[reduce]
    for node in range(N):
        here = messages[(np.asarray(topology.receivers) == node) & keep]
        want = function(here, axis=0) if len(here) else np.zeros((2, 2))
        np.testing.assert_allclose(got[node], want, atol=1e-6)
    half = segment_reduce(topology, jnp.asarray(messages).astype(jnp.bfloat16), reduce=reduce)
    assert half.dtype == jnp.bfloat16


def test_ends_of_edges():
    np.testing.assert_array_equal(gather_senders(TOPOLOGY, X), X[TOPOLOGY.senders])
    np.testing.assert_array_equal(gather_receivers(TOPOLOGY, X), X[TOPOLOGY.receivers])


def test_hops_are_propagations():
    xs = np.random.default_rng(8).standard_normal((4, N, F)).astype(np.float32)
    held = [X]
    for _ in range(3):
        held.append(propagate(TOPOLOGY, held[-1], implementation="segment"))
    got = hop_stack(TOPOLOGY, X, 3)
    np.testing.assert_allclose(got, np.stack(held), rtol=1e-5, atol=1e-5)
    masked = TOPOLOGY.replace(edge_mask=np.arange(E) > 2)
    weight = jnp.where(masked.edge_mask, WEIGHT, jnp.nan)
    got = hop_stack(masked, xs, 1, weight)
    assert got.shape == (2, 4, N, F)
    want = [propagate(masked, x, weight, implementation="segment") for x in xs]
    np.testing.assert_allclose(got[1], np.stack(want), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("arguments", "options", "message"),
    [
        ((X,), {"reduce": "median"}, "reduce='median' is unknown; use one of"),
        ((X,), {"implementation": "coo"}, "implementation='coo' is unknown; use one of"),
        ((X,), {"reduce": "softmax"}, "'softmax' came without logits"),
        ((X,), {"logits": LOGITS}, "'sum' came with logits"),
        ((X, LOGITS), {"reduce": "softmax", "logits": LOGITS}, "edge_weight came with"),
        ((X,), {"reduce": "max", "implementation": "bcsr"}, "'bcsr' has no maximum"),
        ((X[:-1],), {}, r"x \(7, 3\); for 24 entries"),
        ((X, LOGITS[:-1]), {}, r"values have shape \(23,\)"),
        ((X,), {"reduce": "softmax", "logits": LOGITS[1:]}, r"logits have shape \(23,\)"),
        ((X.astype(int),), {}, "x has dtype int"),
    ],
)
def test_what_is_refused(arguments, options, message):
    with pytest.raises(ValueError, match=message):
        propagate(TOPOLOGY, *arguments, **options)


def test_what_the_others_refuse():
    with pytest.raises(ValueError, match="hops=-1 is negative"):
        hop_stack(TOPOLOGY, X, -1)
    with pytest.raises(ValueError, match="reduce='prod' is unknown"):
        segment_reduce(TOPOLOGY, LOGITS, reduce="prod")
    with pytest.raises(ValueError, match="messages have dtype int"):
        segment_reduce(TOPOLOGY, np.ones(E, int))
    with pytest.raises(ValueError, match=r"logits have shape \(8, 3\); \(24, ...\)"):
        edge_softmax(TOPOLOGY, X)
