"""The link loss against a loop, and what its mask hides."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from trove_jax import losses


def test_the_loss_is_the_mean_of_both_kinds():
    positive, negative = np.array([0.5, -2.0, 3.0]), np.array([1.0, -4.0])
    expected = 0.5 * (
        np.log1p(np.exp(-positive)).mean() - np.log(1 - 1 / (1 + np.exp(-negative))).mean()
    )
    found = losses.link_bce(jnp.float32(positive), jnp.float32(negative))
    np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_a_large_logit_stays_finite():
    found = losses.link_bce(jnp.array([-1e4]), jnp.array([1e4]))
    np.testing.assert_allclose(found, 1e4)


def test_a_masked_link_reaches_neither_value_nor_gradient():
    positive, mask = jnp.array([0.5, jnp.nan, -1.0]), jnp.array([True, False, True])
    negative = jnp.array([0.25])
    value, gradient = jax.value_and_grad(losses.link_bce)(positive, negative, mask=mask)
    np.testing.assert_allclose(value, losses.link_bce(positive[mask], negative), rtol=1e-6)
    assert gradient[1] == 0.0
    assert jnp.isfinite(gradient).all()


@pytest.mark.parametrize(
    ("positive", "mask", "message"),
    [
        (jnp.zeros((2, 2)), None, r"positive is float32 \[2, 2\]"),
        (jnp.zeros(0), None, r"positive is float32 \[0\]"),
        (jnp.zeros(2, jnp.int32), None, "positive is int32"),
        (jnp.zeros(2), jnp.ones(3, bool), r"mask is bool \[3\], expected bool \[2\]"),
    ],
)
def test_other_shapes_are_refused(positive, mask, message):
    with pytest.raises(ValueError, match=message):
        losses.link_bce(positive, jnp.zeros(1), mask=mask)
