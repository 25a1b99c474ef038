"""DAGNN against its equations with dense matrices, and what it promises on odd graphs."""

from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.sparse

from trove_jax import graphs, layers, models

N, D, K, CLASSES = 12, 7, 3, 3
EDGES = np.array([[0, 1], [1, 2], [2, 0], [2, 3], [4, 5], [5, 6], [6, 6], [7, 8], [8, 9], [1, 9]])
TOPOLOGY = graphs.topology.from_edges(EDGES, N, **models.DAGNN.TOPOLOGY)
X = np.where(
    np.random.default_rng(0).random((N, D)) < 0.4, np.random.default_rng(1).random((N, D)), 0.0
).astype(np.float32)
MODEL = models.DAGNN(hidden=5, classes=CLASSES, hops=K, dropout=0.5)
VARIABLES = MODEL.init(jax.random.key(0), TOPOLOGY, jnp.asarray(X))
apply = jax.jit(MODEL.apply, static_argnames=("method", "train"))


def dense_adjacency():
    a = np.zeros((N, N))
    for i, j in EDGES:
        a[i, j] = a[j, i] = 1.0
    np.fill_diagonal(a, 1.0)  # a self-loop that is there keeps its weight
    scale = a.sum(1) ** -0.5
    return scale[:, None] * a * scale


def by_matrices(x):
    p = jax.tree.map(np.float64, VARIABLES["params"])
    z = np.maximum(x @ p["hidden_layer"]["kernel"] + p["hidden_layer"]["bias"], 0.0)
    z = z @ p["output"]["kernel"] + p["output"]["bias"]
    stack = [z]
    for _ in range(K):
        stack.append(dense_adjacency() @ stack[-1])
    stack = np.stack(stack, axis=1)
    scores = 1 / (1 + np.exp(-(stack @ p["readout"]["kernel"] + p["readout"]["bias"])))
    return (scores * stack).sum(axis=1), scores[:, :, 0]


def sparse(x):
    rows = scipy.sparse.csr_array(x)
    return layers.sparse_input(
        SimpleNamespace(
            starts=rows.indptr, columns=rows.indices, values=rows.data, shape=rows.shape
        )
    )


@pytest.mark.parametrize("features", [jnp.asarray(X), sparse(X)], ids=["dense", "sparse"])
def test_equals_dense_matrices(features):
    logits, scores = apply(VARIABLES, TOPOLOGY, features, method="with_scores")
    expected = by_matrices(np.float64(X))
    np.testing.assert_allclose(logits, expected[0], rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(scores, expected[1], rtol=1e-4)
    np.testing.assert_allclose(apply(VARIABLES, TOPOLOGY, features), logits, rtol=1e-5, atol=1e-6)


def test_an_isolated_node_holds_the_same_at_every_hop():
    stack = apply(VARIABLES, TOPOLOGY, jnp.asarray(X), method="hop_logits")
    np.testing.assert_allclose(stack[:, 10], np.tile(stack[0, 10], (K + 1, 1)), rtol=1e-6)


def test_permuted_nodes_give_permuted_logits():
    order = np.random.default_rng(2).permutation(N)
    back = np.argsort(order)
    topology = graphs.topology.from_edges(back[EDGES], N, **models.DAGNN.TOPOLOGY)
    found = apply(VARIABLES, topology, jnp.asarray(X[order]))
    np.testing.assert_allclose(
        found, apply(VARIABLES, TOPOLOGY, jnp.asarray(X))[order], rtol=1e-4, atol=1e-6
    )


def test_dropout_draws_in_training_alone_and_seeds_equal_the_loop():
    keys = jax.random.split(jax.random.key(3), 2)
    x = sparse(X)

    @jax.jit
    def train(key):
        return MODEL.apply(VARIABLES, TOPOLOGY, x, train=True, rngs={"dropout": key})

    together = jax.jit(jax.vmap(train))(keys)
    assert not np.allclose(together[0], together[1])
    for found, key in zip(together, keys, strict=True):
        np.testing.assert_allclose(found, train(key), rtol=1e-4, atol=1e-6)


def test_the_published_size_for_ogbn_arxiv():
    # The official README counts 43,857 parameters for 128 features, 40 classes, hidden 256.
    model = models.DAGNN(hidden=256, classes=40, hops=16, norm="batch", input_dropout=0.0)
    shapes = jax.eval_shape(
        lambda: model.init(jax.random.key(0), TOPOLOGY, jnp.zeros((N, 128)))["params"]
    )
    assert sum(np.prod(leaf.shape) for leaf in jax.tree.leaves(shapes)) == 43_857


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"hops": 0}, "hops=0"),
        ({"classes": 0}, "classes=0"),
        ({"dropout": 1.0}, "rate=1.0"),
        ({"norm": "layer"}, "norm='layer'"),
    ],
)
def test_refusals(options, match):
    with pytest.raises(ValueError, match=match):
        models.DAGNN(**options).init(jax.random.key(0), TOPOLOGY, jnp.asarray(X))
