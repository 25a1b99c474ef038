"""Measurements of attention: its maps, how alike heads are, and what sampled keys leave of it."""

import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from scipy.special import ndtr

from trove_jax.kernels.numbers import compute_dtype

_BISECTIONS = 80


def attention_maps(
    q: jax.Array,
    k: jax.Array,
    *,
    mask: jax.Array | None = None,
    bias: jax.Array | None = None,
    scale: float | None = None,
) -> jax.Array:
    """How much each query weighs each key, for every head.

    w_ij = softmax over j of (scale q_i . k_j + bias_ij), over the keys that the mask shows

    Queries and keys are what the projections of an attention layer return: `layers.capture` with a
    filter such as `r".*/(query|key)"` reads them.

    Args:
      q: queries, floating-point `[b, n, h, d]`.
      k: keys, `[b, m, h, d]`.
      mask: which keys a query sees, bool, broadcast to `[b, h, n, m]`; None: all.
      bias: added before the softmax, broadcast to `[b, h, n, m]`.
      scale: of the products; None: 1 / sqrt(d).

    Returns:
      Weights, at least float32 `[b, h, n, m]`; a row without keys is zero, all others sum to 1.

    Raises:
      ValueError: the shapes do not belong together, or the mask is not bool.

    Example:
      >>> q = jnp.zeros((1, 2, 1, 4))
      >>> print(attention_maps(q, q, mask=jnp.array([[[[True, True], [False, True]]]])))
      [[[[0.5 0.5]
         [0.  1. ]]]]
    """
    if q.ndim != 4 or k.ndim != 4 or (q.shape[0], *q.shape[2:]) != (k.shape[0], *k.shape[2:]):
        raise ValueError(
            f"q {q.shape} and k {k.shape} do not belong together; [b, n, h, d] and [b, m, h, d] "
            "are wanted"
        )
    if mask is not None and mask.dtype != jnp.bool_:
        raise ValueError(f"mask has dtype {mask.dtype}; bool is wanted")
    dtype = compute_dtype(q, k)
    scale = 1.0 / math.sqrt(q.shape[-1]) if scale is None else scale
    scores = jnp.einsum("bnhd,bmhd->bhnm", q.astype(dtype), k.astype(dtype)) * scale
    if bias is not None:
        scores = scores + jnp.broadcast_to(bias.astype(dtype), scores.shape)
    if mask is None:
        return jax.nn.softmax(scores)
    seen = jnp.broadcast_to(mask, scores.shape)
    weights = jax.nn.softmax(jnp.where(seen, scores, jnp.finfo(dtype).min))
    return jnp.where(seen, weights, jnp.zeros((), dtype))


def head_redundancy(maps: jax.Array, *, mask: jax.Array | None = None) -> jax.Array:
    """How alike the heads of a layer attend: the mean overlap of the maps of two heads.

    overlap of heads a, b at query i = sum_j min(w^a_ij, w^b_ij) = 1 - total variation distance

    Args:
      maps: weights whose rows sum to 1, `[b, h, n, m]`, such as `attention_maps` returns.
      mask: which queries count, bool `[b, n]`; None: all.

    Returns:
      Scalar in [0, 1], the mean over pairs of heads and queries: 1 where all heads attend alike, 0
      where no two share a key. 0 where no query counts.

    Raises:
      ValueError: `maps` is not of rank 4, has fewer than two heads, or does not fit the mask.

    Example:
      >>> maps = jnp.array([[[[1.0, 0.0]], [[0.5, 0.5]]]])
      >>> print(head_redundancy(maps))
      0.5
    """
    if maps.ndim != 4 or maps.shape[1] < 2:
        raise ValueError(
            f"maps has shape {maps.shape}; [b, h, n, m] of two heads or more is wanted: one head "
            "has none to be like"
        )
    b, h, n, _ = maps.shape
    if mask is None:
        mask = jnp.ones((b, n), jnp.bool_)
    if mask.shape != (b, n) or mask.dtype != jnp.bool_:
        raise ValueError(f"mask is {mask.dtype} {mask.shape}; bool {(b, n)} is wanted")
    # Hidden before the minimum, whose gradient would bring a NaN back.
    maps = jnp.where(mask[:, None, :, None], maps, jnp.zeros((), maps.dtype))
    maps = maps.astype(compute_dtype(maps))
    first, second = np.triu_indices(h, k=1)

    def overlap(pair):
        a, b = (lax.dynamic_index_in_dim(maps, i, axis=1, keepdims=False) for i in pair)
        return jnp.minimum(a, b).sum()

    total = lax.map(overlap, (jnp.asarray(first), jnp.asarray(second))).mean()
    return total / jnp.maximum(mask.sum(), 1).astype(total.dtype)


def support_mass(weights: jax.Array, visible: jax.Array) -> jax.Array:
    """How much of dense attention falls on the keys that a sample leaves.

    m_i = sum of w_ij over the visible j

    Args:
      weights: of dense attention, `[..., n, m]`.
      visible: which keys the sample shows, bool, broadcast to `weights`.

    Returns:
      `[..., n]`, in [0, 1] where rows sum to 1.

    Raises:
      ValueError: `visible` is not bool.

    Example:
      >>> print(support_mass(jnp.array([[0.5, 0.25, 0.25]]), jnp.array([[True, False, True]])))
      [0.75]
    """
    if visible.dtype != jnp.bool_:
        raise ValueError(f"visible has dtype {visible.dtype}; bool is wanted")
    seen = jnp.broadcast_to(visible, weights.shape)
    kept = jnp.where(seen, weights, jnp.zeros((), weights.dtype))
    return kept.astype(compute_dtype(kept)).sum(axis=-1).astype(weights.dtype)


def pathway_reach(masks: Sequence[jax.Array], *, residual: bool = False) -> jax.Array:
    """Share of the pairs of tokens between which layers of attention leave a route.

    Token i is reached from j where (A_L ... A_1)_ij > 0, the product of all layers' masks.

    Args:
      masks: who sees whom, one of each layer, the first layer first: bool `[..., n, n]`, query by
        key.
      residual: whether a token also reaches itself past a layer, A_l or identity.

    Returns:
      float32 `[...]`, in [0, 1].

    Raises:
      ValueError: no masks, or masks that are not bool and square of one size.

    Example:
      >>> shift = jnp.roll(jnp.eye(4, dtype=bool), 1, axis=1)
      >>> print(pathway_reach([shift, shift]), pathway_reach([shift, shift], residual=True))
      0.25 0.75

    Reference: Hussain et al., The Information Pathways Hypothesis: Transformers are Dynamic
    Self-Ensembles, KDD 2023 (pathways through several layers).
    """
    if not masks:
        raise ValueError("masks is empty; one bool [..., n, n] for each layer is wanted")
    n = masks[0].shape[-1]
    reached = None
    for i, mask in enumerate(masks):
        if mask.shape[-2:] != (n, n) or mask.dtype != jnp.bool_:
            raise ValueError(
                f"masks[{i}] is {mask.dtype} {mask.shape}; bool [..., {n}, {n}] is wanted"
            )
        if residual:
            mask = mask | jnp.broadcast_to(jnp.eye(n, dtype=jnp.bool_), mask.shape)
        # Counts of routes up to n are exact in float32, and only their sign is kept.
        step = mask.astype(jnp.float32)
        reached = mask if reached is None else (step @ reached.astype(jnp.float32)) > 0
    assert reached is not None
    return reached.astype(jnp.float32).mean(axis=(-2, -1))


def inclusion_probability(n: int, window: int, sigma: float) -> np.ndarray:
    """How probably each key is in each window of a locally biased permutation.

    P(j in window b) = Phi((c_{b+1} - j) / sigma) - Phi((c_b - j) / sigma), where c_b is the place
    below which b w of the shifted keys are expected: sum_m Phi((c_b - m) / sigma) = b w

    The places are taken as fixed; in truth they vary with the draw, which changes probabilities
    by less than 0.01 for windows of 32. At the ends of the sequence c_b is not b w - 1/2.

    Args:
      n: number of keys.
      window: w, keys of a window; the last window may have fewer.
      sigma: spread of the normal shifts in positions; 0: keys stay in their window.

    Returns:
      float64 `[n, windows]`; rows sum to 1, the columns of whole windows to w.

    Raises:
      ValueError: `n` or `window` below 1, or a negative `sigma`.

    Example:
      >>> print(inclusion_probability(4, 2, 0.0))
      [[1. 0.]
       [1. 0.]
       [0. 1.]
       [0. 1.]]
      >>> print(inclusion_probability(4, 2, 1.0)[:, 0].round(2))
      [0.93 0.69 0.31 0.07]

    Reference: Hussain et al., The Information Pathways Hypothesis: Transformers are Dynamic
    Self-Ensembles, KDD 2023 (the permutation; the law is derived here).
    """
    for name, value in (("n", n), ("window", window)):
        if value < 1:
            raise ValueError(f"{name}={value} must be at least 1")
    if not 0.0 <= sigma < math.inf:
        raise ValueError(f"sigma={sigma} is no spread; use a finite number, 0 or more")
    keys = np.arange(n, dtype=np.float64)
    inner = np.arange(window, n, window, dtype=np.float64)
    if sigma == 0.0:
        cuts = inner - 0.5
        below = (keys[:, None] < cuts).astype(np.float64)
    else:
        low, high = np.full(inner.shape, -10 * sigma), np.full(inner.shape, n + 10 * sigma)
        for _ in range(_BISECTIONS):
            middle = (low + high) / 2
            expected = ndtr((middle[:, None] - keys) / sigma).sum(axis=1)
            low = np.where(expected < inner, middle, low)
            high = np.where(expected < inner, high, middle)
        below = ndtr(((low + high) / 2 - keys[:, None]) / sigma)
    ends = np.zeros((n, 1)), np.ones((n, 1))
    return np.diff(np.concatenate([ends[0], below, ends[1]], axis=1), axis=1)
