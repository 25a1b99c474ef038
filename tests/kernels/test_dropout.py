"""Dropout draws the bits of `jax.random.bits`, at its rate, and what is dropped does not leak."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from trove_jax.kernels import dropout

KEY = jax.random.key(5)
X = jax.random.normal(jax.random.key(1), (300, 70))
draw = jax.jit(dropout, static_argnames=("rate", "implementation"))


@pytest.mark.parametrize("rate", [0.2, 0.8])
def test_forms_agree_with_bits_of_jax_random(rate):
    bits = np.asarray(jax.random.bits(KEY, X.shape, jnp.uint32), np.float64)
    expected = np.where(bits < 2**32 * (1.0 - rate), np.asarray(X) / (1.0 - rate), 0.0)
    for implementation in (None, "reference", "fused"):
        found = draw(KEY, X, rate=rate, implementation=implementation)
        np.testing.assert_allclose(found, expected, rtol=1e-6)
    # 21,000 draws; 5 standard deviations: a false alarm in 2 million.
    share = np.mean(np.asarray(found) != 0.0)
    assert abs(share - (1.0 - rate)) < 5 * np.sqrt(rate * (1.0 - rate) / X.size)


def test_seeds_draw_alone_what_they_draw_together():
    keys = jax.random.split(KEY, 3)
    together = jax.jit(jax.vmap(lambda key: dropout(key, X, 0.5)))(keys)
    for key, found in zip(keys, together, strict=True):
        np.testing.assert_array_equal(found, draw(key, X, rate=0.5))


def test_what_is_dropped_reaches_neither_value_nor_gradient():
    kept = draw(KEY, X, rate=0.8) != 0.0
    poisoned = jnp.where(kept, X, jnp.nan)
    value, gradient = jax.jit(jax.value_and_grad(lambda x: (dropout(KEY, x, 0.8) ** 2).sum()))(
        poisoned
    )
    assert np.isfinite(value)
    np.testing.assert_allclose(gradient, np.where(kept, 50.0 * np.asarray(X), 0.0), rtol=1e-5)


@pytest.mark.parametrize("shape", [(), (0,), (1,), (3, 0, 2)])
def test_empty_and_single(shape):
    assert dropout(KEY, jnp.ones(shape, jnp.bfloat16), 0.5).shape == shape
    assert dropout(KEY, jnp.ones(shape, jnp.bfloat16), 0.5).dtype == jnp.bfloat16
    np.testing.assert_array_equal(dropout(KEY, jnp.ones(shape), 0.0), np.ones(shape))


def test_other_generators_and_refusals():
    rbg = jax.random.key(0, impl="rbg")
    found = dropout(rbg, jnp.ones(4000), 0.5)
    assert 0.4 < float((found == 2.0).mean()) < 0.6
    with pytest.raises(ValueError, match="leave implementation out"):
        dropout(rbg, X, 0.5, implementation="fused")
    with pytest.raises(ValueError, match="rate="):
        dropout(KEY, X, 1.0)
    with pytest.raises(ValueError, match="implementation="):
        dropout(KEY, X, 0.5, implementation="pallas")  # pyright: ignore[reportArgumentType]
    with pytest.raises(ValueError, match="floating-point"):
        dropout(KEY, jnp.arange(3), 0.5)
