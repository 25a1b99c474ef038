"""The averaging encoder against dense powers of the normalised adjacency matrix."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from trove_jax import graphs, layers

LINKS = np.array([[0, 1], [1, 2], [2, 3], [0, 2]])
TOPOLOGY = graphs.topology.from_edges(LINKS, 5, **layers.PureGCN.TOPOLOGY)
X = jnp.asarray(np.random.default_rng(0).normal(size=(5, 3)), jnp.float32)


def test_layers_are_powers_of_the_matrix():
    encoder = layers.PureGCN(4, depth=3)
    y, variables = encoder.init_with_output(jax.random.key(0), TOPOLOGY, X)
    a = np.eye(5)
    a[LINKS[:, 0], LINKS[:, 1]] = a[LINKS[:, 1], LINKS[:, 0]] = 1
    root = 1 / np.sqrt(a.sum(1))
    a = root[:, None] * a * root
    params = jax.tree.map(np.asarray, variables["params"])
    dense = params["SparseDense_0"]
    h, expected = np.asarray(X) @ dense["kernel"] + dense["bias"], 0.0
    for weight in params["jump"]["weight"]:
        h = a @ h
        expected = expected + weight * h
    np.testing.assert_allclose(y, expected, rtol=1e-5, atol=1e-6)  # Float32 sums.
    last = layers.PureGCN(4, depth=3, jump=False)
    only = last.apply({"params": {"SparseDense_0": dense}}, TOPOLOGY, X)
    np.testing.assert_allclose(only, h, rtol=1e-5, atol=1e-6)


def test_weights_of_layers_start_as_asked_for():
    stack = jnp.stack([X, 2 * X])
    y, _ = layers.JumpSum(nn.initializers.ones).init_with_output(jax.random.key(0), stack)
    np.testing.assert_allclose(y, 3 * X, rtol=1e-6)
    with pytest.raises(ValueError, match="stack has shape"):
        layers.JumpSum().init(jax.random.key(0), jnp.zeros((0, 3)))


@pytest.mark.parametrize("rate", ["input_dropout", "dropout", "tail_dropout", "edge_dropout"])
def test_each_dropout_draws_in_training_alone(rate):
    encoder = layers.PureGCN(3, linear=False, jump=False, **{rate: 0.5})
    still = encoder.apply({}, TOPOLOGY, X)
    one, two = (
        encoder.apply({}, TOPOLOGY, X, train=True, rngs={"dropout": jax.random.key(seed)})
        for seed in (0, 1)
    )
    assert not np.allclose(one, two)
    np.testing.assert_allclose(
        still, layers.PureGCN(3, linear=False, jump=False).apply({}, TOPOLOGY, X)
    )


def test_what_does_not_fit_is_refused():
    with pytest.raises(ValueError, match="x has width 3 and linear=False"):
        layers.PureGCN(4, linear=False).init(jax.random.key(0), TOPOLOGY, X)
    with pytest.raises(ValueError, match="depth=0"):
        layers.PureGCN(4, depth=0).init(jax.random.key(0), TOPOLOGY, X)
