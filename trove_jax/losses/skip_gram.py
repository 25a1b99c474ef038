"""Skip-gram with negative sampling on whole sequences: nodes of a walk predict their neighbours."""

import jax
import jax.numpy as jnp

from trove_jax.kernels.numbers import compute_dtype


def skip_gram_loss(
    centre: jax.Array,
    context: jax.Array,
    negative: jax.Array,
    *,
    window: int = 10,
    negatives: float = 5.0,
) -> jax.Array:
    """The loss of word2vec on all pairs of each sequence at once.

    mean over pairs 0 < |i - j| <= W of softplus(-h_i . c_j) + k mean over m of softplus(h_i . c_m)

    with pairs weighted by w_ij = (W + 1 - |i - j|) / W. That is how often word2vec, which draws the
    window of each position from 1 to W, takes a pair. A sequence shares its negative samples among
    its positions, so that all products are those of matrices.

    Args:
      centre: embeddings of the sequence as predictors, floating `[b, l, d]`.
      context: embeddings of the same sequence as predicted, `[b, l, d]`.
      negative: embeddings of drawn nodes as predicted, `[b, m, d]`.
      window: W, how far a pair is apart at most.
      negatives: k, how many negative samples a pair weighs.

    Returns:
      Scalar, at least float32.

    Raises:
      ValueError: shapes that do not belong together, fewer than two positions, or `window` below 1.

    Example:
      >>> h = jnp.zeros((1, 4, 2))
      >>> f"{skip_gram_loss(h, h, h, window=2, negatives=1.0):.3f}"
      '1.386'

    Reference: Mikolov et al., Distributed Representations of Words and Phrases and their
    Compositionality, NeurIPS 2013 (equation 4); Perozzi et al., DeepWalk, KDD 2014.
    """
    shapes = (centre.shape, context.shape, negative.shape)
    if any(len(shape) != 3 for shape in shapes) or not (
        centre.shape == context.shape
        and (centre.shape[0], centre.shape[2]) == (negative.shape[0], negative.shape[2])
    ):
        raise ValueError(
            f"centre, context and negative have shapes {shapes}; [b, l, d] twice and [b, m, d] are "
            "wanted"
        )
    length = centre.shape[1]
    if length < 2 or window < 1:
        raise ValueError(f"a window of {window} in sequences of {length} has no pair")
    dtype = compute_dtype(centre)
    place = jnp.arange(length)
    apart = jnp.abs(place[:, None] - place[None, :])
    weight = jnp.maximum(window + 1 - apart, 0).astype(dtype) / window
    weight = jnp.where(apart > 0, weight, jnp.zeros_like(weight))
    pairs = jnp.einsum("bid,bjd->bij", centre, context, preferred_element_type=dtype)
    others = jnp.einsum("bid,bmd->bim", centre, negative, preferred_element_type=dtype)
    attracted = jnp.einsum("bij,ij->b", jax.nn.softplus(-pairs), weight)
    repelled = jnp.einsum("bi,i->b", jax.nn.softplus(others).mean(axis=2), weight.sum(axis=1))
    return jnp.mean(attracted + negatives * repelled) / weight.sum()
