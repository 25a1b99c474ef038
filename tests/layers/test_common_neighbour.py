"""The head for pairs against loops over pairs and nodes, written from the paper in NumPy."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from trove_jax import graphs, layers

N, WIDTH = 9, 6
# Node 8 is isolated; link 0-1 is masked below, and every node has a self-loop that must not count.
LINKS = np.array(
    [[0, 1], [0, 2], [1, 2], [1, 3], [2, 3], [3, 4], [4, 5], [0, 4], [5, 6], [2, 5], [6, 7]]
)
FULL = graphs.topology.from_edges(LINKS, N, self_loops="add_remaining")
TOPOLOGY = graphs.remove_links(FULL, jnp.array([0]))
# A link, pairs with and without common neighbours, the removed link, both directions, a node and
# itself, and an isolated node.
PAIRS = np.array([[1, 2], [0, 3], [3, 0], [0, 1], [0, 7], [2, 2], [8, 0], [1, 5]], np.int32)
NEAR = {i: set() for i in range(N)}
for a, b in LINKS[1:].tolist():
    NEAR[a].add(b)
    NEAR[b].add(a)
OPTIONS = {"scale": 1.5, "offset": 0.2, "prior": 0.3, "alpha": 0.8, "limit": 8, "block": 16}


def perceptron(params, x, *, front=False, tail=False):
    dense = iter([params[f"Dense_{i}"] for i in range(1 + front + tail)])

    def apply(x):
        layer = next(dense)
        return x @ layer["kernel"] + layer["bias"]

    if front:
        x = np.maximum(apply(x), 0)
    x = apply(x)
    norm = params["LayerNorm_0"]
    x = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-6)
    x = np.maximum(x * norm["scale"] + norm["bias"], 0)
    return apply(x) if tail else x


def loop(head, params, h, pairs, depth):
    """Scores of the paper, one pair and one neighbour at a time."""
    tail = not head.tail_activation
    x = h
    if head.kind not in ("gae", "gae_cn") and head.node_map:
        x = h + perceptron(params["of_node"], h, front=True)
    reached = {i: set().union(*(NEAR[k] for k in NEAR[i])) for i in NEAR}
    scores = []
    for i, j in pairs:
        shared = NEAR[i] & NEAR[j]
        mixed = perceptron(params["of_pair"], h[i] * h[j], tail=tail)
        common, rest = sum((x[u] for u in shared), np.zeros(WIDTH)), np.zeros(WIDTH)
        if head.kind == "gae_cn":
            common = np.array([float(len(shared))])
        if head.kind == "ncn_diff":
            rest = sum((x[u] for u in NEAR[i] ^ NEAR[j]), rest)
        if head.kind == "ncn2":
            for a, b in ((i, j), (j, i)):
                rest = sum((x[u] for u in NEAR[a] & reached[b]), rest)
        if head.kind == "ncnc" and depth:
            for a, b in ((i, j), (j, i)):
                for u in sorted(NEAR[a] - NEAR[b]):
                    inner = loop(head, params, x if head.as_released else h, [(b, u)], depth - 1)
                    q = 1 / (1 + np.exp(-head.scale * (inner[0] - head.offset)))
                    r = head.prior
                    common = common + head.alpha * r * q / (r * q + 1 - q) * x[u]
        if head.kind != "gae":
            seen = perceptron(params["of_common"], common, front=True, tail=tail)
            mixed = mixed + params["beta"] * seen
        if head.kind in ("ncn2", "ncn_diff"):
            mixed = mixed + perceptron(params["of_rest"], rest, front=True, tail=tail)
        for k in range(1 + head.two_layers):
            mixed = perceptron(params[f"out_{k}"], mixed)
        last = params["score"]
        scores.append((mixed @ last["kernel"] + last["bias"])[0])
    return np.array(scores)


@functools.partial(jax.jit, static_argnums=0)
def scores_of(head, variables, h):
    return head.apply(variables, TOPOLOGY, h, jnp.asarray(PAIRS))


def started(head, h):
    """Variables in float64 that are nowhere 0 or 1, so that no bias or scale can be forgotten."""
    like = jax.ShapeDtypeStruct(h.shape, jnp.float32)
    variables = jax.eval_shape(head.init, jax.random.key(0), TOPOLOGY, like, jnp.asarray(PAIRS))
    rng = np.random.default_rng(1)
    return jax.tree.map(lambda leaf: jnp.asarray(rng.normal(0.3, 1.0, leaf.shape)), variables)


HEADS = {
    "gae": layers.CNHead("gae", tail_activation=False),
    "gae_cn": layers.CNHead("gae_cn", tail_activation=False),
    "ncn": layers.CNHead("ncn", two_layers=True),
    "ncn2": layers.CNHead("ncn2", node_map=False),
    "ncn_diff": layers.CNHead("ncn_diff", tail_activation=False),
    "ncnc_depth_2": layers.CNHead("ncnc", depth=2, **OPTIONS),
    "ncnc_as_released": layers.CNHead("ncnc", as_released=True, **OPTIONS),
}


@pytest.mark.parametrize("name", HEADS)
def test_scores_are_those_of_a_loop(name):
    # Flax's layer normalisation refuses float64 under strict promotion.
    with jax.enable_x64(True), jax.numpy_dtype_promotion("standard"):
        head = HEADS[name].clone(features=WIDTH)
        h = jnp.asarray(np.random.default_rng(0).normal(size=(N, WIDTH)))
        variables = started(head, h)
        got = np.asarray(scores_of(head, variables, h))
        params, nodes = jax.tree.map(np.asarray, (variables["params"], h))
        expected = loop(head, params, nodes, PAIRS.tolist(), head.depth)
        if head.kind == "ncnc":
            shallow = loop(head, params, nodes, PAIRS.tolist(), head.depth - 1)
            assert np.abs(got - shallow).max() > 1e-7
    np.testing.assert_allclose(got, expected, rtol=1e-9)  # Float64 sums in another order.
    np.testing.assert_allclose(got[1], got[2], rtol=1e-9)  # Both directions of one pair.
    assert np.ptp(got) > 1e-3


def test_training_drops_and_gradients_are_finite():
    head = layers.CNHead("ncn", features=WIDTH, dropout=0.3, edge_dropout=0.3)
    h = jnp.asarray(np.random.default_rng(0).normal(size=(N, WIDTH)), jnp.float32)
    variables = jax.tree.map(lambda leaf: leaf.astype(jnp.float32), started(head, h))

    @jax.jit
    @functools.partial(jax.value_and_grad, has_aux=True)
    def loss(variables, key):
        rngs = {"dropout": key}
        scores = head.apply(variables, TOPOLOGY, h, jnp.asarray(PAIRS), train=True, rngs=rngs)
        return scores.sum(), scores

    (_, first), gradient = loss(variables, jax.random.key(1))
    (_, second), _ = loss(variables, jax.random.key(2))
    assert np.abs(first - second).max() > 1e-3
    norms = jax.tree.map(lambda leaf: float(jnp.abs(leaf).max()), gradient)
    assert all(np.isfinite(norm) for norm in jax.tree.leaves(norms))
    assert norms["params"]["of_node"]["Dense_0"]["kernel"] > 0


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"kind": "cn"}, "kind='cn' is unknown"),
        ({"depth": 0}, "depth=0"),
        ({"prior": 0.0}, "prior=0.0"),
        ({"features": 5}, "h has shape"),
    ],
)
def test_bad_settings_are_refused(changes, message):
    head = layers.CNHead(**{"features": WIDTH, **changes})
    with pytest.raises(ValueError, match=message):
        jax.eval_shape(head.init, jax.random.key(0), TOPOLOGY, jnp.ones((N, WIDTH)), PAIRS)
