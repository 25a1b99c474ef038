"""Batch normalisation against Flax's where both are exact, and against float64 where not."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from trove_jax import layers

OPTIONS = {"use_running_average": False, "momentum": 0.9, "epsilon": 1e-5}


def test_is_flax_batch_norm_for_ordinary_inputs():
    x = jax.random.normal(jax.random.key(0), (64, 5))
    ours, state = layers.BatchNorm(**OPTIONS).init_with_output(jax.random.key(1), x)
    theirs, their_state = nn.BatchNorm(**OPTIONS).init_with_output(jax.random.key(1), x)
    # Two formulas of one variance, a few roundings apart.
    np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-6)
    assert jax.tree.structure(state) == jax.tree.structure(their_state)


def test_a_small_variance_beside_a_large_mean_survives():
    rng = np.random.default_rng(0)
    x = (300.0 + 0.01 * rng.normal(size=(64, 1))).astype(np.float32)
    wide = x.astype(np.float64)
    expected = (wide - wide.mean()) / np.sqrt(wide.var() + 1e-5)
    ours, _ = layers.BatchNorm(**OPTIONS).init_with_output(jax.random.key(1), jnp.asarray(x))
    # The inputs themselves are multiples of 3e-5, a third of a percent of their deviation.
    np.testing.assert_allclose(ours, expected, atol=0.02)
    fast, _ = nn.BatchNorm(**OPTIONS).init_with_output(jax.random.key(1), jnp.asarray(x))
    assert np.abs(np.asarray(fast) - expected).max() > 0.2  # the trap is still there


def test_names_of_variables_are_those_of_flax():
    class Net(nn.Module):
        """A layer without a name."""

        @nn.compact
        def __call__(self, x):
            return layers.BatchNorm(**OPTIONS)(x)

    variables = Net().init(jax.random.key(0), jnp.ones((2, 3)))
    assert set(variables["params"]) == {"BatchNorm_0"}
