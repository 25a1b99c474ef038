"""Verdicts: what the seeds of a run say about its claims.

Each claim is decided by an interval; `claim` says how. Several claims on one run are tested by
Holm's step-down rule, so that the chance of even one wrong verdict stays below 5 %: of m claims the
one with the smallest p-value is decided at the level 1 - 0.05 / m, the next at 1 - 0.05 / (m - 1),
and so on; at the first that stays inconclusive the rest stay so too, at that same level.

Reference: Holm, A Simple Sequentially Rejective Multiple Test Procedure, Scand. J. Statist. 1979.
Equality by two one-sided tests: Schuirmann, J. Pharmacokinetics and Biopharmaceutics 1987.
"""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Literal, NamedTuple

import numpy as np

from trove_jax.evidence.claim import Claim, nearest_name
from trove_jax.evidence.statistics import Spread, interval_at, one_sided_p, paired_spread

Outcome = Literal["supported", "contradicted", "inconclusive"]


@dataclasses.dataclass(frozen=True)
class Verdict:
    """What a run says about one claim.

    Args:
      claim: the claim.
      effect: its effect, as `claim` defines it by kind; None when no pair of seeds is finite.
      ci95: the plain 95 % interval of the effect; None below two pairs.
      corrected_interval: the interval that decided, at `corrected_level`; None below two pairs.
      corrected_level: 1 - alpha after Holm's correction; 1 - 2 alpha where two one-sided tests
        of an equality decide.
      n: number of paired seeds.
      p_value: of the claim, two-sided, before the correction; None below two pairs.
      verdict: `"supported"`, `"contradicted"` or `"inconclusive"`.
      method: of the intervals, and the correction.
      treatment_mean: mean of the treatment over the paired seeds.
      baseline_mean: mean of the baseline over the paired seeds.
      left_out: positions of the seeds left out because a value is not finite.
      note: what a reader must know beside the numbers; often empty.
    """

    claim: Claim
    effect: float | None
    ci95: tuple[float, float] | None
    corrected_interval: tuple[float, float] | None
    corrected_level: float | None
    n: int
    p_value: float | None
    verdict: Outcome
    method: str
    treatment_mean: float | None
    baseline_mean: float | None
    left_out: tuple[int, ...] = ()
    note: str = ""


class _Paired(NamedTuple):
    claim: Claim
    treatment: np.ndarray
    baseline: np.ndarray
    left_out: tuple[int, ...]
    effect: float | None
    spread: Spread | None
    p_value: float
    note: str


def judge(
    claims: Sequence[Claim],
    arms: Mapping[str, Mapping[str, Sequence[float]]],
    *,
    level: float = 0.95,
) -> list[Verdict]:
    """Decides claims by the per-seed values of the arms; the module says by which rule.

    Args:
      claims: with different ids.
      arms: arm name -> metric name -> one value per seed, `[s]`, the same seeds in the same order
        in both arms of a claim. A seed whose value is not finite in either arm is left out of that
        claim, and the verdict names it.
      level: 1 - the chance of even one wrong verdict among the claims, in (0.5, 1).

    Returns:
      One verdict per claim, in their order. A claim with fewer than two pairs has no interval and
      is inconclusive. So is a ratio of a value that is not positive, which has no logarithm: the
      note names it.

    Raises:
      ValueError: an arm or metric that is not there, arms of different length, two claims of one
        id, a level outside (0.5, 1).

    Example:
      >>> claim = Claim("C1", "Deep is better.", "accuracy", "deep", "shallow", unit="points")
      >>> (verdict,) = judge(
      ...     [claim], {"deep": {"accuracy": [95, 96, 95]}, "shallow": {"accuracy": [91, 91, 92]}}
      ... )
      >>> print(verdict.verdict, verdict.effect, verdict.n)
      supported 4.0 3
    """
    if not 0.5 < level < 1:
        raise ValueError(f"level={level}; it lies between 0.5 and 1, for instance 0.95")
    ids = [claim.id for claim in claims]
    twice = sorted({name for name in ids if ids.count(name) > 1})
    if twice:
        raise ValueError(f"claim id {twice[0]!r} is used {ids.count(twice[0])} times; ids differ")
    paired = [_pair(claim, arms) for claim in claims]
    order = sorted(range(len(paired)), key=lambda i: paired[i].p_value)
    correction = f"Holm over {len(claims)} claims" if len(claims) > 1 else ""
    verdicts: dict[int, Verdict] = {}
    step, open_ = 0, True
    for i in order:
        alpha = (1 - level) / (len(claims) - step)
        verdicts[i] = _decide(paired[i], alpha=alpha, correction=correction, open_=open_)
        open_ = open_ and verdicts[i].verdict != "inconclusive"
        step += open_
    return [verdicts[i] for i in range(len(paired))]


def _pair(claim: Claim, arms: Mapping[str, Mapping[str, Sequence[float]]]) -> _Paired:
    values = {}
    for role in ("treatment", "baseline"):
        arm = getattr(claim, role)
        if arm not in arms:
            raise ValueError(
                f"claim {claim.id}: no arm {arm!r} (its {role}); there are "
                f"{', '.join(arms) or 'none'}" + nearest_name(arm, list(arms))
            )
        if claim.metric not in arms[arm]:
            raise ValueError(
                f"claim {claim.id}: arm {arm!r} has no metric {claim.metric!r}; it has "
                f"{', '.join(arms[arm]) or 'none'}" + nearest_name(claim.metric, list(arms[arm]))
            )
        values[role] = np.asarray(arms[arm][claim.metric], dtype=np.float64)
        if values[role].ndim != 1:
            raise ValueError(
                f"claim {claim.id}: {claim.metric!r} of arm {arm!r} has shape "
                f"{values[role].shape}; it is one value per seed, [s]"
            )
    treatment, baseline = values["treatment"], values["baseline"]
    if treatment.size != baseline.size:
        raise ValueError(
            f"claim {claim.id}: {treatment.size} seeds in arm {claim.treatment!r} and "
            f"{baseline.size} in {claim.baseline!r}; seeds are compared pair by pair"
        )
    finite = np.isfinite(treatment) & np.isfinite(baseline)
    left_out = tuple(int(i) for i in np.flatnonzero(~finite))
    treatment, baseline = treatment[finite], baseline[finite]
    notes = []
    if left_out:
        notes.append(
            f"{len(left_out)} of {finite.size} seeds left out, because a value is not finite: the "
            "verdict speaks only of the others."
        )
    effect = spread = None
    n = treatment.size
    if n == 0:
        notes.append("No pair of seeds: nothing can be said.")
    elif claim.kind == "ratio" and not (np.all(treatment > 0) and np.all(baseline > 0)):
        arm, column = (
            (claim.treatment, treatment) if np.any(treatment <= 0) else (claim.baseline, baseline)
        )
        where = int(np.flatnonzero(finite)[np.flatnonzero(column <= 0)[0]])
        notes.append(
            f"No ratio can be formed: {claim.metric} of arm {arm!r} at seed position {where} is "
            f"{column[column <= 0][0]:g}, and a ratio needs positive values."
        )
    elif n == 1:
        effect = float(_effects(claim, treatment, baseline)[0])
        notes.append("One seed gives no interval, so nothing can be decided.")
    else:
        spread = paired_spread(_effects(claim, treatment, baseline))
        effect = spread.centre
        if spread.low == spread.high == 0:
            notes.append("All paired differences are equal, so the interval has no width.")
    p_value = 1.0 if spread is None else min(_p_values(claim, spread))
    return _Paired(claim, treatment, baseline, left_out, effect, spread, p_value, " ".join(notes))


def _effects(claim: Claim, treatment: np.ndarray, baseline: np.ndarray) -> np.ndarray:
    if claim.kind == "ratio":
        return np.log(treatment) - np.log(baseline)
    if claim.kind == "difference" and claim.better == "lower":
        return baseline - treatment
    return treatment - baseline


def _p_values(claim: Claim, spread: Spread) -> tuple[float, float]:
    """Of "supported" and of "contradicted", each to be held against the claim's alpha."""
    margin = math.log(claim.margin) if claim.kind == "ratio" else claim.margin
    above = one_sided_p(spread, margin, side="above")
    below = one_sided_p(spread, margin, side="below")
    if claim.kind == "equality":
        over = one_sided_p(spread, -margin, side="above")
        under = one_sided_p(spread, -margin, side="below")
        return max(over, below), min(1.0, 2 * min(above, under))
    if claim.kind == "ratio" and claim.better == "lower":
        above, below = below, above
    return min(1.0, 2 * above), min(1.0, 2 * below)


def _decide(paired: _Paired, *, alpha: float, correction: str, open_: bool) -> Verdict:
    claim, spread = paired.claim, paired.spread
    outcome: Outcome = "inconclusive"
    back = _exp if claim.kind == "ratio" else float
    ci95 = corrected = level = None
    method = "none"
    if spread is not None:
        margin = math.log(claim.margin) if claim.kind == "ratio" else claim.margin
        # Two one-sided tests can only find an effect inside the margins, the two-sided interval
        # only one outside: where the centre lies says which of the two could decide.
        inside = claim.kind == "equality" and abs(spread.centre) < margin
        level = 1 - 2 * alpha if inside else 1 - alpha
        low, high, *_ = interval_at(spread, level=level)
        if open_:
            outcome = _outcome(claim, low, high, margin)
        plain = interval_at(spread, level=0.95)
        ci95 = (back(plain.low), back(plain.high))
        corrected = (back(low), back(high))
        method = f"{spread.method}; {correction}" if correction else spread.method
    means = [float(a.mean()) if a.size else None for a in (paired.treatment, paired.baseline)]
    return Verdict(
        claim=claim,
        effect=None if paired.effect is None else back(paired.effect),
        ci95=ci95,
        corrected_interval=corrected,
        corrected_level=level,
        n=int(paired.treatment.size),
        p_value=None if spread is None else paired.p_value,
        verdict=outcome,
        method=method,
        treatment_mean=means[0],
        baseline_mean=means[1],
        left_out=paired.left_out,
        note=paired.note,
    )


def _outcome(claim: Claim, low: float, high: float, margin: float) -> Outcome:
    if claim.kind == "equality":
        if -margin < low and high < margin:
            return "supported"
        return "contradicted" if low > margin or high < -margin else "inconclusive"
    if claim.kind == "ratio" and claim.better == "lower":
        low, high, margin = -high, -low, -margin
    if low > margin:
        return "supported"
    return "contradicted" if high < margin else "inconclusive"


def _exp(value: float) -> float:
    """exp, held below the overflow that two seeds with wild ratios can reach."""
    return math.exp(min(value, 700.0))
