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


@functools.partial(jax.jit, static_argnums=(0, 1))
def both(reduce, implementation, topology, x, weight, g):
    """The result and the gradients to features and to weights or logits."""

    def call(x, weight):
        named = {"logits": weight} if reduce == "softmax" else {"edge_weight": weight}
        return propagate(topology, x, **named, reduce=reduce, implementation=implementation)

    out, pull = jax.vjp(call, x, weight)
    return out, *pull(g)


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


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize(("reduce", "implementation"), ALL)
def test_every_reduction_is_its_definition(reduce, implementation, dtype):
    weight = LOGITS if reduce == "softmax" else np.asarray(TOPOLOGY.weight)
    arguments = [jnp.asarray(a, dtype) for a in (X, weight, G)]
    got = both(reduce, implementation, TOPOLOGY, *arguments)
    assert [a.dtype for a in got] == [dtype] * 3
    x, weight, g = (np.asarray(a, np.float32) for a in arguments)
    want = (by_loop(TOPOLOGY, x, weight, reduce), *slopes(reduce, x, weight, g))
    for one, other in zip(got, want, strict=True):
        np.testing.assert_allclose(np.asarray(one, float), other, atol=5 * TOLERANCE[dtype])
    assert not np.asarray(got[0][7]).any()


@functools.cache
def _slopes_cached(reduce, *keys):
    x, weight, g = (np.frombuffer(k, np.float32).astype(float) for k in keys)
    x, g = x.reshape(N, F), g.reshape(N, F)

    def value(x, weight):
        return np.sum(g * by_loop(TOPOLOGY, x, weight, reduce))

    step = 1e-6
    found = []
    for number, array in enumerate((x, weight)):
        slope = np.zeros(array.size)
        for i in range(array.size):
            moved = []
            for sign in (1, -1):
                pair = [x.copy(), weight.copy()]
                pair[number].reshape(-1)[i] += sign * step
                moved.append(value(*pair))
            slope[i] = (moved[0] - moved[1]) / (2 * step)
        found.append(slope.reshape(array.shape))
    return tuple(found)


def slopes(reduce, x, weight, g):
    """Central differences of the loop; where two messages tie they are half of either side."""
    return _slopes_cached(reduce, x.tobytes(), weight.tobytes(), g.tobytes())


@pytest.mark.parametrize("reduce", ["sum", "mean", "max", "softmax"])
def test_gradients_in_float64(reduce):
    with jax.enable_x64(True):
        x, weight = jnp.asarray(X, jnp.float64), jnp.asarray(LOGITS, jnp.float64)
        if reduce == "mean":
            weight = jnp.exp(weight)

        @jax.jit
        def call(x, weight):
            named = {"logits": weight} if reduce == "softmax" else {"edge_weight": weight}
            return propagate(TOPOLOGY, x, **named, reduce=reduce)

        order = 1 if reduce == "max" else 2
        jax.test_util.check_grads(call, (x, weight), order=order, modes=("rev",))


def test_weights_by_default():
    for reduce in ("sum", "mean"):
        want = by_loop(TOPOLOGY, X, TOPOLOGY.weight, reduce)
        np.testing.assert_allclose(propagate(TOPOLOGY, X, reduce=reduce), want, atol=1e-5)
    want = by_loop(TOPOLOGY, X, np.ones(E), "max")
    np.testing.assert_allclose(propagate(TOPOLOGY, X, reduce="max"), want, rtol=1e-6)


@pytest.mark.parametrize(("reduce", "implementation"), [a for a in ALL if a[1] is None])
def test_seeds_are_a_loop(reduce, implementation):
    rng = np.random.default_rng(3)
    xs = rng.standard_normal((4, N, F)).astype(np.float32)
    weights = rng.uniform(0.5, 1.5, (4, E)).astype(np.float32)
    run = functools.partial(both, reduce, implementation, TOPOLOGY)
    for axes, arguments in (
        ((0, None, None), (xs, weights[0], G)),
        ((0, 0, None), (xs, weights, G)),
    ):
        got = jax.vmap(run, in_axes=axes)(*arguments)
        for seed in range(4):
            want = run(xs[seed], weights[seed] if axes[1] == 0 else weights[0], G)
            for one, other in zip(got, want, strict=True):
                np.testing.assert_allclose(one[seed], other, atol=1e-5)
        if reduce != "softmax":
            call = functools.partial(propagate, TOPOLOGY, reduce=reduce)
            np.testing.assert_allclose(call(xs, arguments[1]), got[0], atol=1e-6)


@pytest.mark.parametrize("reduce", ["sum", "mean", "max", "softmax"])
def test_heads_are_a_loop(reduce):
    rng = np.random.default_rng(4)
    x = rng.standard_normal((N, 2, F)).astype(np.float32)
    weight = rng.uniform(0.5, 1.5, (E, 2)).astype(np.float32)
    g = rng.standard_normal((N, 2, F)).astype(np.float32)
    got = both(reduce, None, TOPOLOGY, x, weight, g)
    for head in range(2):
        want = both(reduce, None, TOPOLOGY, x[:, head], weight[:, head], g[:, head])
        for one, other in zip(got, want, strict=True):
            np.testing.assert_allclose(one[:, head], other, atol=1e-5)


@pytest.mark.parametrize("reduce", ["sum", "mean", "max", "softmax"])
def test_padding_does_not_leak(reduce):
    edges = np.array([[0, 1], [1, 2], [2, 0], [3, 0]])
    plain = jraph.GraphsTuple(
        nodes=None, edges=None, globals=None, n_node=np.array([5]), n_edge=np.array([4]),
        senders=edges[:, 0], receivers=edges[:, 1],
    )  # fmt: skip
    padded = jraph.pad_with_graphs(plain, n_node=8, n_edge=9)
    small, large = build(plain), build(padded, padded=True)
    weight = np.random.default_rng(5).uniform(0.5, 1.5, 4).astype(np.float32)
    wide = np.concatenate([weight, np.full(5, np.nan, np.float32)])
    x, g = X[:5], G[:5]
    # Padding nodes and edges hold NaN; only what padding nodes receive may be NaN.
    features = np.concatenate([x, np.full((3, F), np.nan, np.float32)])
    want = both(reduce, None, small, x, small.arrange(weight), g)
    got = both(
        reduce,
        None,
        large,
        features,
        large.arrange(wide),
        np.concatenate([g, np.zeros((3, F), np.float32)]),
    )
    np.testing.assert_allclose(got[0][:5], want[0], atol=1e-6)
    np.testing.assert_allclose(got[2][np.asarray(large.edge_mask)], want[2], atol=1e-6)
    np.testing.assert_allclose(got[1][:5], want[1], atol=1e-6)
    assert not np.asarray(got[2][~np.asarray(large.edge_mask)]).any()


def test_softmax_of_large_and_masked_logits():
    topology = from_edges([[0, 2], [1, 2], [2, 0]], 3, undirected=False)
    got = edge_softmax(topology, jnp.array([5.0, 1e4, 1e4 - np.log(3.0)]))
    np.testing.assert_allclose(got, [1.0, 0.75, 0.25], rtol=1e-3)
    masked = topology.replace(edge_mask=jnp.array([True, True, False]))

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


@jax.jit
def stack_and_gradients(x, weight, g):
    stack, pull = jax.vjp(lambda x, w: hop_stack(TOPOLOGY, x, 3, w), x, weight)
    return stack, *pull(g)


def test_hops_are_powers_of_the_matrix():
    dense = np.zeros((N, N))
    np.add.at(
        dense, (np.asarray(TOPOLOGY.receivers), np.asarray(TOPOLOGY.senders)), TOPOLOGY.weight
    )
    g = np.random.default_rng(7).standard_normal((4, N, F)).astype(np.float32)
    got = stack_and_gradients(X, TOPOLOGY.weight, g)
    powers = [np.linalg.matrix_power(dense, k) for k in range(4)]
    np.testing.assert_allclose(got[0], [p @ X for p in powers], rtol=1e-4, atol=1e-4)
    want = sum(p.T @ one for p, one in zip(powers, g, strict=True))
    np.testing.assert_allclose(got[1], want, rtol=1e-4, atol=1e-3)

    def by_propagate(x, weight):
        held = [x]
        for _ in range(3):
            held.append(propagate(TOPOLOGY, held[-1], weight, implementation="segment"))
        return jnp.sum(jnp.stack(held) * g)

    slopes = jax.jit(jax.grad(by_propagate, argnums=(0, 1)))(X, jnp.asarray(TOPOLOGY.weight))
    np.testing.assert_allclose(got[1], slopes[0], rtol=1e-4, atol=1e-3)
    np.testing.assert_allclose(got[2], slopes[1], rtol=1e-4, atol=1e-3)


def test_hops_of_seeds():
    rng = np.random.default_rng(8)
    xs, gs = rng.standard_normal((4, N, F)), rng.standard_normal((4, 4, N, F))
    xs, gs = xs.astype(np.float32), gs.astype(np.float32)
    got = jax.vmap(stack_and_gradients, in_axes=(0, None, 0))(xs, TOPOLOGY.weight, gs)
    for seed in range(4):
        want = stack_and_gradients(xs[seed], TOPOLOGY.weight, gs[seed])
        for one, other in zip(got, want, strict=True):
            np.testing.assert_allclose(one[seed], other, rtol=1e-5, atol=1e-3)
    together = hop_stack(TOPOLOGY, xs, 3)
    np.testing.assert_allclose(together, got[0].swapaxes(0, 1), rtol=1e-5, atol=1e-4)
    np.testing.assert_array_equal(hop_stack(TOPOLOGY, X, 0), X[None])


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
