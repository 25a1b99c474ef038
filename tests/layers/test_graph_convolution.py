"""Graph convolutions against dense matrices in NumPy, on a batch of two graphs and two seeds.

One program per convolution, mapped over the seeds of its variables, serves all comparisons: what it
gives for the batch must be what NumPy gives for each graph and each seed alone.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from trove_jax import graphs, layers

SIZES = (7, 5)
NODES = sum(SIZES)
WIDTH, FEATURES = 4, 6
# The last node of each graph is isolated.
EDGES = (
    np.array([[0, 1], [0, 2], [1, 2], [2, 3], [3, 4], [4, 5]]),
    np.array([[0, 1], [1, 2], [0, 3]]),
)


def _relu(x):
    return np.maximum(x, 0.0)


def _sigmoid(x):
    return 1.0 / (1.0 + np.exp(-x))


def _adjacency(edges, n):
    a = np.zeros((n, n))
    a[edges[:, 0], edges[:, 1]] = a[edges[:, 1], edges[:, 0]] = 1.0
    return a


def _symmetric(a):
    a = a + np.eye(len(a))
    scale = 1.0 / np.sqrt(a.sum(1))
    return scale[:, None] * a * scale


def _gcn(p, a, x):
    return _symmetric(a) @ x @ p["linear"]["kernel"] + p["bias"]


def _sgc(p, a, x):
    return np.linalg.matrix_power(_symmetric(a), 3) @ x @ p["linear"]["kernel"] + p["bias"]


def _appnp(p, a, x):
    # The sum of the series, not the recursion: alpha (1 - alpha)^k for every walk that returned.
    a, alpha = _symmetric(a), 0.2
    walks = sum(alpha * (1 - alpha) ** k * np.linalg.matrix_power(a, k) for k in range(4))
    return (walks + (1 - alpha) ** 4 * np.linalg.matrix_power(a, 4)) @ x


def _sage_mean(p, a, x):
    mean = a @ x / np.maximum(a.sum(1, keepdims=True), 1.0)
    both = np.concatenate([x, mean], axis=1)
    kernel = np.concatenate([p["own"]["kernel"], p["neighbours"]["kernel"]])
    return both @ kernel + p["own"]["bias"]


def _sage_max(p, a, x):
    pooled = _relu(x @ p["pool"]["kernel"] + p["pool"]["bias"])
    largest = np.stack([pooled[row > 0].max(0, initial=0.0) for row in a])
    out = x @ p["own"]["kernel"] + largest @ p["neighbours"]["kernel"] + p["own"]["bias"]
    return out / np.linalg.norm(out, axis=1, keepdims=True)


def _gin(p, a, x):
    y = ((1.0 + p["epsilon"]) * x + a @ x) @ p["first"]["kernel"] + p["first_bias"]
    return _relu(y) @ p["second"]["kernel"] + p["second"]["bias"]


def _gat(p, a, x, *, heads, mean=False):
    y = (x @ p["linear"]["kernel"]).reshape(len(x), heads, -1)
    out = []
    for h in range(heads):
        logits = y[:, h] @ p["receiver"][h][:, None] + (y[:, h] @ p["sender"][h])[None]
        logits = np.where(logits > 0, logits, 0.2 * logits)
        weights = np.exp(logits) * (a + np.eye(len(a)))
        out.append(weights / weights.sum(1, keepdims=True) @ y[:, h])
    return (np.mean(out, axis=0) if mean else np.concatenate(out, axis=1)) + p["bias"]


def _gated(p, a, x):
    maps = {name: x @ p[name]["kernel"] + p[name]["bias"] for name in p}
    eta = _sigmoid(maps["sender"][None] + maps["receiver"][:, None]) * a[:, :, None]
    weighted = (eta * maps["value"][None]).sum(1)
    return maps["own"] + weighted / (eta.sum(1) + 1e-6)


def _mlp(p, a, x):
    return x @ p["linear"]["kernel"] + p["linear"]["bias"]


CONVS = {
    "gcn": (layers.GCNConv(FEATURES), _gcn),
    "sgc": (layers.SGConv(FEATURES, hops=3), _sgc),
    "appnp": (layers.APPNPConv(hops=4, alpha=0.2), _appnp),
    "sage_mean": (layers.SAGEConv(FEATURES), _sage_mean),
    "sage_max": (layers.SAGEConv(FEATURES, aggregate="max", unit_length=True), _sage_max),
    "gin": (layers.GINConv(FEATURES, hidden=5, epsilon=0.3, learn_epsilon=True), _gin),
    "gat": (layers.GATConv(FEATURES, heads=3), functools.partial(_gat, heads=3)),
    "gat_mean": (
        layers.GATConv(FEATURES, heads=2, concatenate=False),
        functools.partial(_gat, heads=2, mean=True),
    ),
    "gatedgcn": (layers.GatedGCNConv(FEATURES), _gated),
    "mlp": (layers.MLPConv(FEATURES), _mlp),
}


def _batch(order=None):
    """Both graphs as one; node i of the batch becomes node `order[i]`."""
    edges = np.concatenate([EDGES[0], EDGES[1] + SIZES[0]])
    return edges if order is None else order[edges]


def _topology(conv, edges, n=NODES):
    return graphs.topology.from_edges(edges, n, **conv.TOPOLOGY)


def _x(n=NODES):
    return np.random.default_rng(0).normal(size=(n, WIDTH)).astype(np.float32)


@functools.cache
def _compiled(name):
    """Two seeds of random variables, and the program that applies both."""
    conv = CONVS[name][0]
    topology = _topology(conv, _batch())
    shapes = jax.eval_shape(conv.init, jax.random.key(0), topology, jnp.asarray(_x()))
    rng = np.random.default_rng(1)
    variables = jax.tree.map(
        lambda leaf: jnp.asarray(rng.normal(size=(2, *leaf.shape)), jnp.float32), shapes
    )
    apply = jax.jit(
        jax.vmap(conv.apply, in_axes=(0 if variables else None, None, None), axis_size=2)
    )
    return variables, lambda edges, x: apply(variables, _topology(conv, edges), x)


@pytest.mark.parametrize("name", CONVS)
def test_equals_dense_matrices_graph_by_graph_and_seed_by_seed(name):
    variables, apply = _compiled(name)
    x = _x()
    got = apply(_batch(), x)
    start = 0
    for edges, n in zip(EDGES, SIZES, strict=True):
        for seed in range(2):
            params = jax.tree.map(
                lambda leaf, seed=seed: np.asarray(leaf[seed], np.float64),
                variables.get("params", {}),
            )
            own = x[start : start + n].astype(np.float64)
            want = CONVS[name][1](params, _adjacency(edges, n), own)
            # Float32 sums of a few dozen terms of order 1.
            np.testing.assert_allclose(got[seed, start : start + n], want, rtol=1e-4, atol=2e-5)
        start += n


@pytest.mark.parametrize("name", CONVS)
def test_other_numbers_of_the_nodes_change_nothing_else(name):
    _, apply = _compiled(name)
    order = np.random.default_rng(2).permutation(NODES)
    x = _x()
    moved = np.empty_like(x)
    moved[order] = x
    # Sums of other orders, in float32.
    np.testing.assert_allclose(
        apply(_batch(order), moved)[:, order], apply(_batch(), x), rtol=1e-4, atol=2e-5
    )


def test_gates_read_and_update_features_of_edges():
    conv = layers.GatedGCNConv(3)
    topology = _topology(conv, _batch())
    rng = np.random.default_rng(3)
    x, edges = _x(), rng.normal(size=(topology.n_edge, 2)).astype(np.float32)
    (out, updated), variables = conv.init_with_output(
        jax.random.key(0), topology, jnp.asarray(x), edges=jnp.asarray(edges)
    )
    p = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), variables["params"])
    sums, total = np.zeros((NODES, 3)), np.full((NODES, 3), 1e-6)
    for k, (j, i) in enumerate(zip(topology.senders, topology.receivers, strict=True)):
        e = (
            edges[k] @ p["edge"]["kernel"]
            + x[j] @ p["sender"]["kernel"]
            + x[i] @ p["receiver"]["kernel"]
        )
        np.testing.assert_allclose(updated[k], e, rtol=1e-4, atol=1e-5)
        sums[i] += _sigmoid(e) * (x[j] @ p["value"]["kernel"])
        total[i] += _sigmoid(e)
    np.testing.assert_allclose(out, x @ p["own"]["kernel"] + sums / total, rtol=1e-4, atol=1e-5)


def test_one_seed_of_dropped_attention_keeps_the_mean():
    """With equal scores, alpha is 1/n on a complete graph; kept entries are doubled."""
    n = 200
    conv = layers.GATConv(1, dropout_rate=0.5)
    pairs = np.stack(np.triu_indices(n, 1), axis=1)
    topology = _topology(conv, pairs, n)
    x = jnp.ones((n, 1))
    variables = jax.tree.map(jnp.ones_like, conv.init(jax.random.key(0), topology, x))
    quiet = conv.apply(variables, topology, x)
    np.testing.assert_allclose(quiet, 2.0, rtol=1e-4)  # W x + b
    drawn = conv.apply(variables, topology, x, train=True, rngs={"dropout": jax.random.key(1)})
    # The mean of 40,000 values of deviation 1: 0.005; five of them.
    np.testing.assert_allclose(drawn.mean(), 2.0, atol=0.025)
    assert float(jnp.std(drawn)) > 0.03  # 1 / sqrt(200) = 0.07 was drawn


def test_personalised_propagation_drops_other_edges_in_every_hop():
    conv = layers.APPNPConv(hops=2, alpha=0.0, dropout_rate=0.5)
    n = 400
    ring = np.stack([np.arange(n), (np.arange(n) + 1) % n], axis=1)
    topology = graphs.topology.from_edges(ring, n, undirected=False, norm=None)
    got = conv.apply(
        {}, topology, jnp.ones((n, 1)), train=True, rngs={"dropout": jax.random.key(0)}
    )
    # Each hop keeps the one message of a node with probability 1/2 and doubles it: 4 for a quarter
    # of the nodes, else 0. The standard error of the share is 0.022; a mask used twice gives 1/2.
    assert set(np.unique(got)) == {0.0, 4.0}
    assert abs(float(jnp.mean(got > 0)) - 0.25) < 0.1


def test_a_row_of_zeros_has_no_direction_and_a_finite_gradient():
    conv = layers.SAGEConv(2, unit_length=True)
    topology = _topology(conv, _batch())
    x = jnp.zeros((NODES, WIDTH))
    variables = conv.init(jax.random.key(0), topology, x)
    out = conv.apply(variables, topology, x)
    np.testing.assert_array_equal(out, 0.0)
    slope = jax.grad(lambda x: conv.apply(variables, topology, x).sum())(x)
    assert bool(jnp.all(jnp.isfinite(slope)))


@pytest.mark.parametrize(
    ("conv", "message"),
    [
        (layers.GCNConv(0), "features=0"),
        (layers.SGConv(2, hops=0), "hops=0"),
        (layers.APPNPConv(hops=1.5), "hops=1.5"),
        (layers.APPNPConv(alpha=1.2), r"alpha=1.2 is outside \[0, 1\]"),
        (layers.APPNPConv(dropout_rate=1.0), r"dropout_rate=1.0 is outside \[0, 1\)"),
        (layers.SAGEConv(2, aggregate="median"), "aggregate='median' is unknown"),
        (layers.GATConv(6, heads=4), "heads=4 does not divide features=6"),
        (layers.GATConv(6, heads=0), "heads=0"),
        (layers.GATConv(6, dropout_rate=-0.5), "dropout_rate=-0.5"),
    ],
)
def test_refuses(conv, message):
    topology = _topology(conv, _batch())
    with pytest.raises(ValueError, match=message):
        conv.init(jax.random.key(0), topology, jnp.ones((NODES, WIDTH)))


def test_half_precision_computes_in_half():
    conv = layers.GCNConv(FEATURES, dtype=jnp.bfloat16)
    topology = _topology(conv, _batch())
    out, variables = conv.init_with_output(jax.random.key(0), topology, jnp.asarray(_x()))
    full = layers.GCNConv(FEATURES).apply(variables, topology, jnp.asarray(_x()))
    assert out.dtype == jnp.bfloat16
    # bfloat16 rounds by 2^-9 per operation; sums of a few terms of order 1.
    np.testing.assert_allclose(np.asarray(out, np.float32), full, atol=0.05)
