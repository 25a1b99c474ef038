"""Initial weights against their laws, and the random walk against a simulation."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from trove_jax import layers


def test_simple_normal_has_its_standard_deviation_whatever_the_shape():
    for shape in ((400, 50), (3, 3, 50, 20)):
        weights = np.asarray(layers.simple_normal(0.1)(jax.random.key(0), shape, jnp.float32))
        # The estimate's own standard deviation is std / sqrt(2 n); five of them.
        np.testing.assert_allclose(weights.std(), 0.1, rtol=5 / np.sqrt(2 * weights.size))
        assert abs(weights.mean()) < 5 * 0.1 / np.sqrt(weights.size)


def test_zeros_are_zero_in_the_dtype_that_is_asked_for():
    weights = layers.zeros(jax.random.key(0), (3, 2), jnp.bfloat16)
    assert weights.dtype == jnp.bfloat16
    assert not np.asarray(weights, np.float32).any()


@pytest.mark.parametrize(
    ("activation", "fan_in", "gain"),
    [
        # sqrt(2) exp(1.2 / 47.6), sqrt(2) exp(1.2 / 3.6) below six inputs, exp(1 / 100).
        ("relu", 50, 1.450319),
        ("relu", 4, 1.973683),
        ("linear", 50, 1.010050),
    ],
)
def test_sussillo_abbott_has_the_published_gain(activation, fan_in, gain):
    init = layers.sussillo_abbott(activation)
    weights = np.asarray(init(jax.random.key(0), (fan_in, 40_000), jnp.float32))
    tolerance = 5 / np.sqrt(2 * weights.size)
    np.testing.assert_allclose(weights.std(), gain / np.sqrt(fan_in), rtol=tolerance)


@pytest.mark.parametrize("activation", ["relu", "linear"])
def test_sussillo_abbott_keeps_the_log_length_of_a_gradient_where_it_is(activation):
    """A gradient sent back through 50 layers: its log length must not drift."""
    width, depth, runs = 50, 50, 400
    init = layers.sussillo_abbott(activation)

    def one(key):
        def back(delta, key):
            weights, gates = jax.random.split(key)
            delta = init(weights, (width, width), jnp.float32) @ delta
            if activation == "relu":
                delta = delta * jax.random.bernoulli(gates, 0.5, delta.shape).astype(delta.dtype)
            return delta, None

        delta, _ = jax.lax.scan(back, jnp.ones(width), jax.random.split(key, depth))
        return jnp.log(jnp.sum(delta**2) / width)

    drift = np.asarray(jax.jit(jax.vmap(one))(jax.random.split(jax.random.key(1), runs)))
    # Five standard errors, and 0.15 for what the published fit leaves over 50 layers. Without the
    # exponential the drift is about -50 * 2.4 / 50 = -2.4 (relu) and -1 (linear).
    assert abs(drift.mean()) < 5 * drift.std() / np.sqrt(runs) + 0.15
    assert 5 * drift.std() / np.sqrt(runs) < 0.6


def test_bad_arguments_are_refused():
    for stddev in (-0.1, float("nan"), float("inf")):
        with pytest.raises(ValueError, match="stddev"):
            layers.simple_normal(stddev)
    with pytest.raises(ValueError, match="activation='tanh' is unknown"):
        layers.sussillo_abbott("tanh")
    with pytest.raises(ValueError, match=r"shape=\(3,\) has no fan-in"):
        layers.sussillo_abbott()(jax.random.key(0), (3,), jnp.float32)
