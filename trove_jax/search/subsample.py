"""Averaging a network over draws of its own structure: an ensemble from one set of weights."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

PyTree = Any
Apply = Callable[[PyTree, PyTree, jax.Array], jax.Array]


def subsample_predict(
    apply: Apply,
    variables: PyTree,
    inputs: PyTree,
    key: jax.Array,
    *,
    samples: int = 8,
    all_counts: bool = False,
) -> jax.Array:
    """Mean of the class probabilities of networks that differ in what they draw.

    p = 1/M sum_m softmax(z_m), where draw m has the key `fold_in(key, m)`

    The first M draws are the same however many are asked for. Draws are made one after the other:
    memory does not grow with their number.

    Args:
      apply: `(variables, inputs, key) -> logits [..., k]`; draws what it leaves out from the key.
      variables: of one network.
      inputs: what it is asked.
      key: decides all draws.
      samples: M.
      all_counts: whether to return the means of the first 1, 2, ..., M draws.

    Returns:
      Probabilities, at least float32 `[..., k]`, or `[M, ..., k]` with `all_counts`.

    Raises:
      ValueError: `samples` is below 1.

    Example:
      >>> def apply(variables, x, key):
      ...     return jnp.where(jax.random.bernoulli(key, 0.5, x.shape), x, 0.0)
      >>> x = jnp.array([[0.0, 5.0]])
      >>> p = subsample_predict(apply, {}, x, jax.random.key(0), samples=4)
      >>> print(p.shape, p.sum())
      (1, 2) 1.0

    Reference: Hussain et al., The Information Pathways Hypothesis: Transformers are Dynamic
    Self-Ensembles, KDD 2023 (sub-ensembles at inference).
    """
    if samples < 1:
        raise ValueError(f"samples={samples} leaves nothing to average; use 1 or more")

    def probabilities(m):
        logits = apply(variables, inputs, jax.random.fold_in(key, m))
        if logits.dtype.itemsize < 4:
            logits = logits.astype(jnp.float32)
        return jax.nn.softmax(logits)

    def add(total, m):
        total = total + probabilities(m)
        return total, (total / (m + 1).astype(total.dtype) if all_counts else None)

    like = jax.eval_shape(probabilities, jnp.uint32(0))
    draws = jnp.arange(samples, dtype=jnp.uint32)
    total, means = lax.scan(add, jnp.zeros(like.shape, like.dtype), draws)
    return total / samples if means is None else means
