"""Whether two classifiers make the same mistakes."""

import jax
import jax.numpy as jnp


def error_consistency(right_a: jax.Array, right_b: jax.Array) -> jax.Array:
    """Agreement of two classifiers on which examples they get right, beyond chance.

    Cohen's kappa (c - e) / (1 - e): c is the share of examples on which both are right or both
    wrong, e = p q + (1 - p)(1 - q) what two independent classifiers of these accuracies p and q
    would reach.

    Args:
      right_a: whether one classifier is right, bool `[n]`.
      right_b: whether the other one is, on the same examples, bool `[n]`.

    Returns:
      float32 scalar in [-1, 1]: 1 for the same mistakes, 0 for independent ones; 1 where both are
      always right or both always wrong. NaN without examples.

    Raises:
      ValueError: not two boolean vectors of one length.

    Example:
      >>> right = jnp.array([True, True, False, True])
      >>> f"{error_consistency(right, right):.1f}, {error_consistency(right, ~right):.1f}"
      '1.0, -0.6'

    Reference: Geirhos et al., Beyond accuracy: quantifying trial-by-trial behaviour of CNNs and
    humans by measuring error consistency, NeurIPS 2020.
    """
    if right_a.ndim != 1 or right_a.shape != right_b.shape:
        raise ValueError(f"right_a {right_a.shape} and right_b {right_b.shape} must both be [n]")
    if right_a.dtype != jnp.bool_ or right_b.dtype != jnp.bool_:
        raise ValueError(f"right_a and right_b are {right_a.dtype}, {right_b.dtype}; want bool")
    p, q = (jnp.mean(x.astype(jnp.float32)) for x in (right_a, right_b))
    same = jnp.mean((right_a == right_b).astype(jnp.float32))
    chance = p * q + (1.0 - p) * (1.0 - q)
    certain = chance >= 1.0
    return jnp.where(certain, 1.0, (same - chance) / jnp.where(certain, 1.0, 1.0 - chance))
