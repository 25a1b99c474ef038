"""Graph networks: their layers put together by hand, skips in NumPy, and what they refuse."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from trove_jax import graphs, kernels, layers, models

N, D, K = 10, 5, 3
RING = np.stack([np.arange(N - 1), (np.arange(N - 1) + 1) % (N - 1)], axis=1)  # node 9 is alone
TOPOLOGY = graphs.topology.from_edges(RING, N, **layers.GCNConv.TOPOLOGY)
X = jax.random.normal(jax.random.key(5), (N, D))


def _dense():
    a = np.eye(N)
    a[RING[:, 0], RING[:, 1]] = a[RING[:, 1], RING[:, 0]] = 1.0
    scale = 1.0 / np.sqrt(a.sum(1))
    return scale[:, None] * a * scale


def _variables(model, seed=0):
    """Variables whose leaves all differ from their start."""
    shapes = jax.eval_shape(model.init, jax.random.key(0), TOPOLOGY, X)
    rng = np.random.default_rng(seed)
    return jax.tree.map(
        lambda leaf: jnp.asarray(rng.uniform(0.1, 1.0, leaf.shape), jnp.float32) - 0.4, shapes
    )


@pytest.mark.parametrize("residual", [None, "res", "dense"])
def test_skips_equal_numpy(residual):
    model = models.GNN("gcn", hidden=6, classes=K, depth=4, residual=residual)
    variables = _variables(model)
    p = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), variables["params"])
    a, outputs, h = _dense(), [], np.asarray(X, np.float64)
    for i in range(3):
        layer = p[f"convs_{i}"]
        h = np.maximum(a @ h @ layer["linear"]["kernel"] + layer["bias"], 0.0)
        if residual == "res" and outputs:
            h = h + outputs[-1]
        elif residual == "dense":
            h = h + sum(outputs)
        outputs.append(h)
    logits, embedding = model.apply(variables, TOPOLOGY, X, method="both")
    # Float32 through four layers whose sums reach a few hundred.
    scale = np.abs(h).max()
    np.testing.assert_allclose(embedding, h, rtol=1e-4, atol=1e-5 * scale)
    want = a @ h @ p["output"]["linear"]["kernel"] + p["output"]["bias"]
    np.testing.assert_allclose(logits, want, rtol=1e-4, atol=1e-4 * scale)


@pytest.mark.parametrize("norm", ["batch", "layer"])
def test_norms_see_the_nodes_that_count(norm):
    model = models.GNN("mlp", hidden=4, classes=K, norm=norm, dropout=0.0)
    variables = model.init(jax.random.key(0), TOPOLOGY, X)
    padded = X.at[N // 2 :].set(1e6)
    mask = jnp.arange(N) < N // 2

    def apply(x, mask):
        return model.apply(
            variables, TOPOLOGY, x, train=True, node_mask=mask, mutable=["batch_stats"]
        )

    (got, state), (want, alone) = apply(padded, mask), apply(X[: N // 2], None)
    # Means over the same five nodes, in another order.
    np.testing.assert_allclose(got[: N // 2], want, rtol=1e-4, atol=1e-5)
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-5), state, alone)
    assert ("batch_stats" in state) == (norm == "batch")


@pytest.mark.parametrize("name", sorted(models.graph.CONVOLUTIONS))
def test_every_convolution_has_a_name_and_learns_from_every_parameter(name):
    model = models.GNN(name, hidden=4, classes=K)
    variables = _variables(model)

    @jax.jit
    def loss(variables):
        logits = model.apply(variables, TOPOLOGY, X)
        return jnp.sum(logits * jnp.arange(N * K, dtype=jnp.float32).reshape(N, K))

    slopes = jax.grad(loss)(variables)["params"]
    for path, slope in jax.tree.leaves_with_path(slopes):
        assert float(jnp.abs(slope).max()) > 0, path


@pytest.mark.parametrize("name", ["gcn", "gin", "gat"])
def test_sparse_features_are_the_same_features(name):
    x = np.where(np.random.default_rng(0).random((N, D)) < 0.4, np.asarray(X), 0.0)
    rows, columns = np.nonzero(x)
    sparse = layers.SparseInput(
        kernels.sparse_pattern(rows, columns, x.shape)[0], jnp.asarray(x[rows, columns])
    )
    model = models.GNN(name, hidden=4, classes=K)
    variables = _variables(model)
    # Float32 sums of a few terms in another order.
    np.testing.assert_allclose(
        model.apply(variables, TOPOLOGY, sparse),
        model.apply(variables, TOPOLOGY, jnp.asarray(x)),
        rtol=1e-4,
        atol=1e-5,
    )
    drawn = model.apply(
        variables, TOPOLOGY, sparse, train=True, rngs={"dropout": jax.random.key(0)}
    )
    assert bool(jnp.all(jnp.isfinite(drawn)))


def test_builders_are_their_papers_networks():
    """Parameters by hand, for Cora's 1,433 words and 7 classes."""
    x = jax.ShapeDtypeStruct((N, 1433), jnp.float32)

    def count(model):
        init = jax.eval_shape(model.init, jax.random.key(0), TOPOLOGY, x)
        return sum(leaf.size for leaf in jax.tree.leaves(init))

    assert count(models.gcn(classes=7, hidden=16)) == 1433 * 16 + 16 + 16 * 7 + 7
    assert count(models.sgc(classes=7)) == 1433 * 7 + 7
    assert count(models.appnp(classes=7)) == 1433 * 64 + 64 + 64 * 7 + 7
    # A head's two vectors of its width, for 8 heads of 8 and one of 7.
    assert count(models.gat(classes=7)) == 1433 * 64 + 64 + 2 * 64 + 64 * 7 + 7 + 2 * 7


def test_appnp_propagates_what_the_perceptron_predicts():
    model = models.appnp(classes=K, hidden=6, hops=3, alpha=0.3)
    plain = models.GNN("mlp", hidden=6, classes=K)
    variables = _variables(plain)
    h = np.asarray(plain.apply(variables, TOPOLOGY, X), np.float64)
    want = h
    for _ in range(3):
        want = 0.7 * _dense() @ want + 0.3 * h
    got = model.apply(variables, TOPOLOGY, X)
    np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-5)


def test_dropout_draws_in_training_only_and_both_heads_see_one_draw():
    model = models.gcn(classes=K, hidden=6, depth=2, input_dropout=0.0, dropout=0.5)
    variables = _variables(model)
    quiet = model.apply(variables, TOPOLOGY, X)
    train = functools.partial(model.apply, variables, TOPOLOGY, X, train=True, method="both")
    logits, h = train(rngs={"dropout": jax.random.key(0)})
    again, _ = train(rngs={"dropout": jax.random.key(0)})
    other, _ = train(rngs={"dropout": jax.random.key(1)})
    np.testing.assert_array_equal(logits, again)
    assert not np.allclose(logits, other)
    assert not np.allclose(logits, quiet)
    np.testing.assert_array_equal(logits, model.apply(variables, TOPOLOGY, h, method="classify"))


def test_depth_one_is_the_last_convolution_alone():
    model = models.GNN("gcn", classes=K, depth=1)
    variables = model.init(jax.random.key(0), TOPOLOGY, X)
    assert set(variables["params"]) == {"output"}
    alone = layers.GCNConv(K).apply({"params": variables["params"]["output"]}, TOPOLOGY, X)
    np.testing.assert_array_equal(model.apply(variables, TOPOLOGY, X), alone)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"conv": "gnc"}, "conv='gnc' is unknown; use one of 'gat'"),
        ({"norm": "instance"}, "norm='instance' is unknown"),
        ({"residual": "skip"}, "residual='skip' is unknown"),
        ({"depth": 0}, "depth=0"),
        ({"dropout": 1.0}, r"dropout=1.0 is outside \[0, 1\)"),
        ({"input_dropout": -0.1}, "input_dropout=-0.1"),
        ({"output_conv": "none"}, "conv='none' is unknown"),
    ],
)
def test_refuses(options, message):
    with pytest.raises(ValueError, match=message):
        models.GNN(**options).init(jax.random.key(0), TOPOLOGY, X)


def test_activation_and_factory_are_the_callers():
    conv = functools.partial(layers.GCNConv, use_bias=False)
    model = models.GNN(conv, hidden=4, classes=K, activation=nn.tanh, dropout=0.0)
    variables = model.init(jax.random.key(0), TOPOLOGY, X)
    assert all(path[-1].key == "kernel" for path, _ in jax.tree.leaves_with_path(variables))
    h = model.apply(variables, TOPOLOGY, 100.0 * X, method="embed")
    assert float(h.min()) < -0.9
