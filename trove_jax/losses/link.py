"""The loss of link prediction: held-out links against pairs that are none."""

import jax
import jax.numpy as jnp


def link_bce(
    positive: jax.Array, negative: jax.Array, *, mask: jax.Array | None = None
) -> jax.Array:
    """Binary cross-entropy of links and of pairs without one, each kind weighing the same.

    (mean -log sigmoid(s+) + mean -log sigmoid(-s-)) / 2

    Args:
      positive: logits of links, floating `[b]`; computed in float32 at least.
      negative: logits of other pairs, `[m]`.
      mask: links that count, bool `[b]`; None: all. A masked logit may be anything; without any
        link left their half is 0.

    Returns:
      Scalar, at least float32.

    Raises:
      ValueError: logits that are no floating vector or are empty, or a mask of another shape.

    Example:
      >>> f"{link_bce(jnp.zeros(2), jnp.zeros(3)):.3f}"
      '0.693'

    Reference: Wang et al., A Topological Perspective on Demystifying GNN-Based Link Prediction
    Performance, ICLR 2024 (the training of its link predictors).
    """
    for name, logits in (("positive", positive), ("negative", negative)):
        if not jnp.issubdtype(logits.dtype, jnp.floating) or logits.ndim != 1 or not logits.size:
            raise ValueError(
                f"{name} is {logits.dtype} {list(logits.shape)}, expected floating [b] with at "
                "least one logit"
            )
    others = jax.nn.softplus(_wide(negative)).mean()
    if mask is None:
        return 0.5 * (jax.nn.softplus(-_wide(positive)).mean() + others)
    if mask.shape != positive.shape or mask.dtype != jnp.bool_:
        raise ValueError(
            f"mask is {mask.dtype} {list(mask.shape)}, expected bool {list(positive.shape)}"
        )
    logits = jnp.where(mask, _wide(positive), 0.0)
    losses = jnp.where(mask, jax.nn.softplus(-logits), 0.0)
    return 0.5 * (losses.sum() / jnp.maximum(mask.sum(), 1).astype(losses.dtype) + others)


def _wide(x: jax.Array) -> jax.Array:
    return x if x.dtype.itemsize >= 4 else x.astype(jnp.float32)
