"""How well a score tells examples of the training distribution from others.

In-distribution is the positive class and has the higher scores, as in the field's code. All
measures are exact functions of ranks: only the order of scores matters, and ties count half.
"""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp

from trove_jax.core.ranking import auc


class OODReport(NamedTuple):
    """Measures of one score, floating scalars in [0, 1].

    Attributes:
      auroc: as `auroc`; 0.5 for a score that knows nothing.
      aupr_in: as `aupr`, in-distribution positive; about n / (n + m) for such a score.
      aupr_out: the same with the out-of-distribution examples positive and the score negated.
      fpr: as `fpr_at_tpr`; lower is better.
    """

    auroc: jax.Array
    aupr_in: jax.Array
    aupr_out: jax.Array
    fpr: jax.Array


def auroc(in_scores: jax.Array, out_scores: jax.Array) -> jax.Array:
    """Area under the ROC curve: how often an in-distribution example has the higher score.

    P(s_in > s_out) + P(s_in = s_out) / 2  over all n m pairs (Mann and Whitney, with mid-ranks)

    Args:
      in_scores: scores of in-distribution examples, floating `[n]`, n at least 1; `jax.vmap` over
        seeds.
      out_scores: scores of other examples, `[m]` in the same dtype, m at least 1.

    Returns:
      Scalar in [0, 1], float32 (float64 for float64 scores); NaN where a score is NaN, since a
      network that failed ranks nothing. Infinite scores are ranked.

    Raises:
      ValueError: an argument is not a floating vector or is empty, or the dtypes differ.

    Example:
      >>> f"{auroc(jnp.array([0.9, 0.8, 0.4]), jnp.array([0.4, 0.1])):.3f}"
      '0.917'

    Reference: Hendrycks and Gimpel, A Baseline for Detecting Misclassified and Out-of-Distribution
    Examples in Neural Networks, ICLR 2017 (section 2).
    """
    _check(in_scores, out_scores)
    return auc(in_scores, out_scores)


def aupr(in_scores: jax.Array, out_scores: jax.Array) -> jax.Array:
    """Area under the precision-recall curve as average precision, in-distribution positive.

    sum_j (R_j - R_{j-1}) P_j  over the distinct scores, from the highest on; each positive counts
    the precision of the threshold at its own score, so that ties go together. It depends on the
    share n / (n + m). With the other class positive (AUPR-out): `aupr(-out_scores, -in_scores)`.

    Args:
      in_scores: as `auroc`, `[n]`.
      out_scores: as `auroc`, `[m]`.

    Returns:
      Scalar in (0, 1], as `auroc`.

    Raises:
      ValueError: as `auroc`.

    Example:
      >>> f"{aupr(jnp.array([0.9, 0.8, 0.4]), jnp.array([0.4, 0.1])):.3f}"
      '0.917'

    Reference: Hendrycks and Gimpel, ICLR 2017 (section 2); scikit-learn's `average_precision_score`
    is the same sum.
    """
    _check(in_scores, out_scores)
    dtype = _wide(in_scores)
    true, false = (_at_least(s, in_scores, dtype) for s in (in_scores, out_scores))
    return _unless_nan((true / (true + false)).mean(), in_scores, out_scores)


def fpr_at_tpr(in_scores: jax.Array, out_scores: jax.Array, *, tpr: float = 0.95) -> jax.Array:
    """Share of the others that pass where a given share of in-distribution examples passes.

    min_t FPR(t)  over thresholds t with TPR(t) >= tpr, a score of t passing; FPR95 by default.

    Part of the field's code takes the threshold with the TPR nearest to `tpr` instead, above or
    below it: the two differ by less than one in-distribution example.

    Args:
      in_scores: as `auroc`, `[n]`.
      out_scores: as `auroc`, `[m]`.
      tpr: true positive rate in (0, 1].

    Returns:
      Scalar in [0, 1], as `auroc`; lower is better.

    Raises:
      ValueError: `tpr` is outside (0, 1]; as `auroc`.

    Example:
      >>> print(fpr_at_tpr(jnp.array([0.9, 0.8, 0.4]), jnp.array([0.4, 0.1])))
      0.5

    Reference: Liang, Li and Srikant, Enhancing the Reliability of Out-of-distribution Image
    Detection in Neural Networks, ICLR 2018 (section 4.2).
    """
    _check(in_scores, out_scores)
    if not 0.0 < tpr <= 1.0:
        raise ValueError(f"tpr={tpr} is outside (0, 1]; give a share such as 0.95")
    n = in_scores.shape[0]
    # 0.07 * 100 is 7.000000000000001: without the slack one example too many would have to pass.
    passing = max(1, math.ceil(tpr * n * (1.0 - 1e-12)))
    threshold = jnp.sort(in_scores)[n - passing]
    passed = (out_scores >= threshold).astype(_wide(in_scores))
    return _unless_nan(passed.mean(), in_scores, out_scores)


def ood_report(in_scores: jax.Array, out_scores: jax.Array, *, tpr: float = 0.95) -> OODReport:
    """Takes all measures of one score.

    Args:
      in_scores: as `auroc`, `[n]`.
      out_scores: as `auroc`, `[m]`.
      tpr: as `fpr_at_tpr`.

    Returns:
      The measures, floating scalars; under `jax.vmap` one of each for each seed.

    Raises:
      ValueError: as `fpr_at_tpr`.

    Example:
      >>> report = ood_report(jnp.array([3.0, 2.0]), jnp.array([1.0, 0.0]))
      >>> print(report.auroc, report.aupr_in, report.aupr_out, report.fpr)
      1.0 1.0 1.0 0.0
    """
    return OODReport(
        auroc=auroc(in_scores, out_scores),
        aupr_in=aupr(in_scores, out_scores),
        aupr_out=aupr(-out_scores, -in_scores),
        fpr=fpr_at_tpr(in_scores, out_scores, tpr=tpr),
    )


def max_softmax_score(logits: jax.Array, *, temperature: float = 1.0) -> jax.Array:
    """Logarithm of the largest softmax probability.

    log max_k softmax(l / T)_k = -log1p(sum of exp((l_j - l_max) / T) over all other classes j)

    The order is that of the probability itself, without its ties: in float32 the probability
    rounds to 1 for a margin above 17, the logarithm keeps on telling examples apart.

    Args:
      logits: floating `[..., k]`, k at least 2; computed in float32 at least.
      temperature: T, above 0.

    Returns:
      `[...]`, at most 0, float32 (float64 for float64 logits).

    Raises:
      ValueError: `logits` is not floating or has fewer than two classes, or `temperature` is not
        above 0.

    Example:
      >>> f"{jnp.exp(max_softmax_score(jnp.log(jnp.array([0.7, 0.2, 0.1])))):.3f}"
      '0.700'

    Reference: Hendrycks and Gimpel, ICLR 2017 (section 2); the temperature: Liang et al., ICLR 2018
    (equation 1).
    """
    scaled = _scaled_logits(logits, temperature)
    largest = scaled.max(axis=-1, keepdims=True)
    is_first = jnp.argmax(scaled, axis=-1, keepdims=True) == _classes(scaled)
    others = jnp.where(is_first, 0.0, jnp.exp(scaled - largest))
    return -jnp.log1p(others.sum(axis=-1))


def energy_score(logits: jax.Array, *, temperature: float = 1.0) -> jax.Array:
    """Negative free energy of the logits.

    -E = T log sum_k exp(l_k / T)

    Args:
      logits: as `max_softmax_score`, `[..., k]`.
      temperature: T, above 0.

    Returns:
      `[...]`, higher for in-distribution examples, float32 (float64 for float64 logits).

    Raises:
      ValueError: as `max_softmax_score`.

    Example:
      >>> f"{jnp.exp(energy_score(jnp.log(jnp.array([1.0, 2.0, 5.0])))):.3f}"
      '8.000'

    Reference: Liu et al., Energy-based Out-of-distribution Detection, NeurIPS 2020 (equation 4).
    """
    return temperature * jax.nn.logsumexp(_scaled_logits(logits, temperature), axis=-1)


def _at_least(scores: jax.Array, thresholds: jax.Array, dtype: jnp.dtype) -> jax.Array:
    below = jnp.searchsorted(jnp.sort(scores), thresholds, side="left")
    return (scores.shape[0] - below).astype(dtype)


def _unless_nan(value: jax.Array, *scores: jax.Array) -> jax.Array:
    failed = jnp.stack([jnp.isnan(s).any() for s in scores]).any()
    return jnp.where(failed, jnp.nan, value)


def _wide(x: jax.Array) -> jnp.dtype:
    return jnp.dtype(x.dtype if jnp.finfo(x.dtype).bits > 32 else jnp.float32)


def _classes(logits: jax.Array) -> jax.Array:
    places = jnp.arange(logits.shape[-1])
    return places.reshape((1,) * (logits.ndim - 1) + places.shape)


def _scaled_logits(logits: jax.Array, temperature: float) -> jax.Array:
    if not jnp.issubdtype(logits.dtype, jnp.floating) or logits.ndim < 1 or logits.shape[-1] < 2:
        raise ValueError(
            f"logits is {logits.dtype} {list(logits.shape)}, expected floating [..., k] with at "
            "least two classes"
        )
    if not temperature > 0:
        raise ValueError(f"temperature={temperature} must be above 0")
    return logits.astype(_wide(logits)) / temperature


def _check(in_scores: jax.Array, out_scores: jax.Array) -> None:
    for name, scores in (("in_scores", in_scores), ("out_scores", out_scores)):
        if not jnp.issubdtype(scores.dtype, jnp.floating) or scores.ndim != 1 or not scores.size:
            raise ValueError(
                f"{name} is {scores.dtype} {list(scores.shape)}, expected floating [n] with at "
                "least one score; use jax.vmap for several seeds"
            )
    if in_scores.dtype != out_scores.dtype:
        raise ValueError(
            f"in_scores is {in_scores.dtype}, out_scores {out_scores.dtype}: scores that are "
            "rounded differently cannot be ranked together; expected one dtype"
        )
