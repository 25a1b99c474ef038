"""How well scores rank what is there above what is not: Hits@K, MRR, AUC, and lists per node.

All measures depend on the order of the scores alone. Where scores tie, a positive counts as ranked
in the middle of its equals (`auc`, `mean_reciprocal_rank`) or behind them (`hits_at_k`), so that a
network that gives everything one score gains nothing.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp


class NodeRanking(NamedTuple):
    """How well each query's targets are ranked, `[q]` each, in [0, 1]; 0 without a target.

    Attributes:
      recall: share of the targets that are among the first K.
      precision: share of the first K that are targets.
      f1: harmonic mean of the two.
      ndcg: discounted gain of the first K, of the largest there is.
      hits: 1 where a target is among the first K.
      mrr: 1 / rank of the first target, in the whole list.
      is_valid: whether the query has a target, bool.
    """

    recall: jax.Array
    precision: jax.Array
    f1: jax.Array
    ndcg: jax.Array
    hits: jax.Array
    mrr: jax.Array
    is_valid: jax.Array


def auc(positive: jax.Array, negative: jax.Array) -> jax.Array:
    """Area under the ROC curve: how often a positive has the higher score.

    P(s+ > s-) + P(s+ = s-) / 2  over all n m pairs (Mann and Whitney, with mid-ranks)

    Args:
      positive: scores of positives, floating `[n]`, n at least 1; `jax.vmap` over seeds.
      negative: scores of negatives, `[m]` in the same dtype, m at least 1.

    Returns:
      Scalar in [0, 1], float32 (float64 for float64 scores); NaN where a score is NaN. Infinite
      scores are ranked.

    Raises:
      ValueError: an argument is not a floating vector or is empty, or the dtypes differ.

    Example:
      >>> f"{auc(jnp.array([0.9, 0.8, 0.4]), jnp.array([0.4, 0.1])):.3f}"
      '0.917'
    """
    _check(positive, negative)
    others = jnp.sort(negative)
    below = jnp.searchsorted(others, positive, side="left")
    up_to = jnp.searchsorted(others, positive, side="right")
    dtype = _wide(positive)
    wins = 0.5 * (below.astype(dtype) + up_to.astype(dtype)) / others.shape[0]
    return _unless_nan(wins.mean(), positive, negative)


def hits_at_k(positive: jax.Array, negative: jax.Array, k: int) -> jax.Array:
    """Share of the positives that score above the K-th best negative.

    All positives meet the same negatives, as in the Open Graph Benchmark. A positive that ties with
    the K-th negative does not count.

    Args:
      positive: as `auc`, `[n]`.
      negative: as `auc`, `[m]`; with fewer than K of them every positive counts.
      k: K, at least 1.

    Returns:
      Scalar in [0, 1], as `auc`.

    Raises:
      ValueError: `k` is below 1; as `auc`.

    Example:
      >>> print(hits_at_k(jnp.array([3.0, 1.0]), jnp.array([2.0, 0.5]), 1))
      0.5

    Reference: Hu et al., Open Graph Benchmark, NeurIPS 2020 (ogbl-collab).
    """
    _check(positive, negative)
    if k < 1:
        raise ValueError(f"k={k} must be at least 1")
    dtype = _wide(positive)
    if negative.shape[0] < k:
        return _unless_nan(jnp.ones((), dtype), positive, negative)
    threshold = jnp.sort(negative)[negative.shape[0] - k]
    return _unless_nan((positive > threshold).astype(dtype).mean(), positive, negative)


def mean_reciprocal_rank(positive: jax.Array, negative: jax.Array) -> jax.Array:
    """Mean of 1 / rank of each positive among negatives.

    rank = 1 + #{s- > s+} + #{s- = s+} / 2

    Args:
      positive: scores of positives, floating `[n]`, n at least 1.
      negative: negatives of all positives, `[m]`, or of each, `[n, m]`, in the same dtype.

    Returns:
      Scalar in (0, 1], as `auc`.

    Raises:
      ValueError: other shapes or dtypes.

    Example:
      >>> print(mean_reciprocal_rank(jnp.array([3.0, 1.0]), jnp.array([2.0, 0.5])))
      0.75
    """
    if negative.ndim == 1:
        _check(positive, negative)
        others = jnp.sort(negative)
        above = others.shape[0] - jnp.searchsorted(others, positive, side="right")
        equal = others.shape[0] - above - jnp.searchsorted(others, positive, side="left")
    else:
        if negative.ndim == 2:
            _check(positive, negative[:1].reshape(-1))
        if negative.ndim != 2 or positive.ndim != 1 or negative.shape[0] != positive.shape[0]:
            raise ValueError(
                f"negative has shape {list(negative.shape)}, expected [m], or a row for each of "
                f"positive, which has shape {list(positive.shape)}"
            )
        above = (negative > positive[:, None]).sum(axis=1)
        equal = (negative == positive[:, None]).sum(axis=1)
    dtype = _wide(positive)
    rank = 1.0 + above.astype(dtype) + 0.5 * equal.astype(dtype)
    return _unless_nan((1.0 / rank).mean(), positive, negative)


def node_ranking(
    scores: jax.Array, targets: jax.Array, excluded: jax.Array | None = None, *, k: int = 10
) -> NodeRanking:
    """Ranks all nodes for each query, and says where its targets are.

    Args:
      scores: of every node for every query, floating `[q, n]`. Ties are ordered by the node's
        index, so give scores that tell nodes apart.
      targets: nodes that should come first, bool `[q, n]`.
      excluded: nodes that are left out of the list, such as known neighbours and the node itself,
        bool `[q, n]`; a target that is excluded does not count. None: none.
      k: K, from 1 to n.

    Returns:
      The measures of each query.

    Raises:
      ValueError: `scores` is no floating matrix, a mask has another shape or dtype, or `k` is out
        of range.

    Example:
      >>> scores = jnp.array([[0.9, 0.5, 0.1]])
      >>> found = node_ranking(scores, jnp.array([[False, True, False]]), k=2)
      >>> print(found.recall, found.precision, found.mrr)
      [1.] [0.5] [0.5]

    Reference: Wang et al., A Topological Perspective on Demystifying GNN-Based Link Prediction
    Performance, ICLR 2024 (section 3.1).
    """
    if scores.ndim != 2 or not jnp.issubdtype(scores.dtype, jnp.floating):
        raise ValueError(f"scores is {scores.dtype} {list(scores.shape)}, expected floating [q, n]")
    masks = [("targets", targets)] + ([] if excluded is None else [("excluded", excluded)])
    for name, mask in masks:
        if mask.shape != scores.shape or mask.dtype != jnp.bool_:
            raise ValueError(
                f"{name} is {mask.dtype} {list(mask.shape)}, expected bool {list(scores.shape)}"
            )
    if not 1 <= k <= scores.shape[1]:
        raise ValueError(f"k={k} is not between 1 and the {scores.shape[1]} nodes")
    if excluded is not None:
        scores = jnp.where(excluded, -jnp.inf, scores)
        targets = targets & ~excluded
    dtype = _wide(scores)
    _, first = jax.lax.top_k(scores, k)
    is_hit = jnp.take_along_axis(targets, first, axis=1).astype(dtype)
    count, hits = targets.sum(axis=1).astype(dtype), is_hit.sum(axis=1)
    recall, precision = hits / jnp.maximum(count, 1.0), hits / k
    discount = 1.0 / jnp.log2(jnp.arange(k).astype(dtype) + 2.0)
    ideal = jnp.cumsum(discount)[jnp.clip(count.astype(jnp.int32), 1, k) - 1]
    best = jnp.where(targets, scores, -jnp.inf).max(axis=1)
    rank = 1.0 + (scores > best[:, None]).sum(axis=1).astype(dtype)
    is_valid = count > 0
    return NodeRanking(
        recall=recall,
        precision=precision,
        f1=2.0 * hits / (count + k),
        ndcg=(is_hit * discount[None]).sum(axis=1) / ideal,
        hits=(hits > 0).astype(dtype),
        mrr=jnp.where(is_valid, 1.0 / rank, 0.0),
        is_valid=is_valid,
    )


def _unless_nan(value: jax.Array, *scores: jax.Array) -> jax.Array:
    failed = jnp.stack([jnp.isnan(s).any() for s in scores]).any()
    return jnp.where(failed, jnp.nan, value)


def _wide(x: jax.Array) -> jnp.dtype:
    return jnp.dtype(x.dtype if jnp.finfo(x.dtype).bits > 32 else jnp.float32)


def _check(positive: jax.Array, negative: jax.Array) -> None:
    for name, scores in (("positive", positive), ("negative", negative)):
        if not jnp.issubdtype(scores.dtype, jnp.floating) or scores.ndim != 1 or not scores.size:
            raise ValueError(
                f"{name} is {scores.dtype} {list(scores.shape)}, expected floating [n] with at "
                "least one score; use jax.vmap for several seeds"
            )
    if positive.dtype != negative.dtype:
        raise ValueError(
            f"positive is {positive.dtype}, negative {negative.dtype}: scores that are rounded "
            "differently cannot be ranked together; expected one dtype"
        )
