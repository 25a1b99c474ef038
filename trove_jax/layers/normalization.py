"""Batch normalisation that keeps small variances."""

import flax.linen as nn


class BatchNorm(nn.BatchNorm):
    """Flax's batch normalisation with the variance as the mean of (x - mean)^2.

    Flax's default computes E[x^2] - E[x]^2, which in float32 loses a variance below about 1e-6 of
    the squared mean: it becomes 0, and gradients are multiplied by 1 / sqrt(epsilon) instead of
    1 / std. Sparse networks have such units (a random mask at 5 % made training diverge that
    trains well with this form). Attributes, variables and results are otherwise those of
    `flax.linen.BatchNorm`.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> x = 1000.0 + 0.01 * jnp.array([[1.0], [-1.0]])
      >>> norm = BatchNorm(use_running_average=False, epsilon=1e-12)
      >>> y, _ = norm.init_with_output(jax.random.key(0), x)
      >>> print(y.ravel().round(2))
      [ 1. -1.]
    """

    use_fast_variance: bool = False
