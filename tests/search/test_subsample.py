"""Means over draws, against a loop over the same keys."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import softmax

from trove_jax import search


def apply(variables, x, key):
    """A layer of which each draw drops half of the inputs."""
    return jnp.where(jax.random.bernoulli(key, 0.5, x.shape), x, 0.0) @ variables["w"]


def test_probabilities_of_the_draws_are_averaged():
    rng = np.random.default_rng(0)
    w, x = rng.normal(size=(6, 3)).astype(np.float32), rng.normal(size=(5, 6)).astype(np.float32)
    variables, key = {"w": jnp.asarray(w)}, jax.random.key(2)
    found = search.subsample_predict(apply, variables, x, key, samples=4)
    kept = [jax.random.bernoulli(jax.random.fold_in(key, m), 0.5, x.shape) for m in range(4)]
    each = [softmax((x * np.asarray(k)) @ w, axis=-1) for k in kept]
    np.testing.assert_allclose(found, np.mean(each, axis=0), rtol=1e-5)
    every = search.subsample_predict(apply, variables, x, key, samples=4, all_counts=True)
    assert every.shape == (4, 5, 3)
    for m in range(4):
        np.testing.assert_allclose(every[m], np.mean(each[: m + 1], axis=0), rtol=1e-5)


def test_without_draws_all_members_are_the_network():
    logits = jnp.array([[1.0, 2.0, -1.0]], jnp.bfloat16)
    found = search.subsample_predict(lambda v, x, key: x, {}, logits, jax.random.key(0))
    assert found.dtype == jnp.float32
    np.testing.assert_allclose(found, softmax(np.asarray(logits, np.float32)), rtol=1e-6)


def test_the_mean_tends_to_the_expectation():
    # Draws of one of two corners: p -> (softmax(a) + softmax(b)) / 2 with deviation 0.37 / 20.
    def corner(variables, x, key):
        return jnp.where(jax.random.bernoulli(key), x, -x)

    x = jnp.array([1.0, -1.0])
    found = search.subsample_predict(corner, {}, x, jax.random.key(1), samples=400)
    assert abs(float(found[0]) - 0.5) < 4.5 * 0.381 / 20


def test_no_sample_is_refused():
    with pytest.raises(ValueError, match="samples=0 leaves nothing"):
        search.subsample_predict(apply, {}, jnp.ones((1, 1)), jax.random.key(0), samples=0)
