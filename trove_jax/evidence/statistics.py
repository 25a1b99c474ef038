"""Intervals for the mean of paired per-seed differences.

Below 10 seeds: Student's t. From 10 seeds on: the bias-corrected and accelerated (BCa) bootstrap,
which follows the skewness that so many seeds can show. Two corrections make it hold its level at
these sizes:

1. The plain BCa interval is too short (90.4 % instead of 95 % for 10 normal values): the bootstrap
   spreads like the standard deviation with divisor n, and knows no quantile of t. The nominal
   normal quantile is therefore replaced by `sqrt(n / (n - 1)) t` (the "expanded" interval), here
   with n - 3 degrees of freedom, because the bias and the acceleration are estimated from the same
   values as the mean and the variance; n - 1 leaves 94.3 % for 10 normal values, n - 3 gives
   95.0 %.
2. The far tails of the bootstrap distribution of ten values are too thin: a 99.5 % interval read
   from them misses a normal mean in 1.2 % of cases instead of 0.5 %. So the bootstrap sets the two
   reaches of the 95 % interval, and other levels stretch both by the ratio of the t quantiles
   (0.5 % again). This also gives every threshold a p-value in closed form.

Coverage of the 95 % interval, in per cent, by simulation (40,000 samples or more each):

| n  | normal | gamma(6) | gamma(4) | Gumbel | logistic | t, 5 d.f. |
|----|--------|----------|----------|--------|----------|-----------|
| 5  | 95.0   | 93.8     | 93.2     | 93.3   | 95.6     | 95.7      |
| 9  | 95.0   | 94.1     | 93.5     | 93.5   | 95.4     | 95.5      |
| 10 | 95.0   | 95.0     | 94.7     | 94.1   | 94.1     | 93.8      |
| 20 | 95.1   | 94.9     | 94.7     | 94.2   | 94.0     | 93.4      |

Outside 93 to 97 %: strong skewness (exponential: 88 % at n = 5, 90 % at n = 9) and heavy tails from
10 seeds on (Laplace and t with 3 d.f.: 92 %); no interval from so few values is safe there.

References: Efron, Better Bootstrap Confidence Intervals, JASA 1987. Hesterberg, What Teachers
Should Know About the Bootstrap, The American Statistician 2015 (expanded percentile interval).
"""

import functools
from collections.abc import Sequence
from typing import Literal, NamedTuple

import numpy as np

BOOTSTRAP_FROM = 10
"""Number of seeds from which the bootstrap is used."""

RESAMPLES = 20_000
_LEVEL = 0.95


class Interval(NamedTuple):
    """An interval for a mean of `n` values, and the name of the method that made it."""

    low: float
    high: float
    level: float
    n: int
    method: str


class Spread(NamedTuple):
    """What a sample says about its mean: enough for an interval of any level and for p-values.

    `low` and `high` are the distances from `centre` to the ends of the 95 % interval; other levels
    scale them by the ratio of the quantiles of Student's t with `df` degrees of freedom.
    """

    centre: float
    low: float
    high: float
    df: int
    n: int
    method: str


def paired_spread(differences: Sequence[float] | np.ndarray) -> Spread:
    """The spread of the mean of paired differences; the module says by which method.

    Args:
      differences: one finite value per seed, `[s]`, at least two.

    Returns:
      Centre, reaches of the 95 % interval, degrees of freedom, n and the method. Equal differences
      have reaches of zero. The bootstrap draws from a fixed seed: the same input gives the same
      bits.

    Raises:
      ValueError: not one-dimensional, fewer than two values, or one that is not finite.
    """
    values = np.asarray(differences, dtype=np.float64)
    if values.ndim != 1:
        raise ValueError(f"differences has shape {values.shape}; it is one value per seed, [s]")
    if values.size < 2:
        raise ValueError(f"differences has {values.size} values; an interval needs two at least")
    if not np.all(np.isfinite(values)):
        bad = int(np.flatnonzero(~np.isfinite(values))[0])
        raise ValueError(
            f"differences[{bad}]={values[bad]} is not finite; leave the seed out of both arms"
        )
    from scipy.special import stdtrit

    n = values.size
    bootstrap = n >= BOOTSTRAP_FROM
    df = n - 3 if bootstrap else n - 1
    method = f"BCa bootstrap, {RESAMPLES} resamples, expanded" if bootstrap else "Student's t"
    if np.ptp(values) == 0:
        return Spread(float(values[0]), 0.0, 0.0, df, n, method)
    centre = float(values.mean())
    if bootstrap:
        quantile = float(np.sqrt(n / (n - 1)) * stdtrit(df, (1 + _LEVEL) / 2))
        low, high = bca_reaches(values, quantile=quantile)
    else:
        scale = np.ptp(values)  # squares of very small differences would vanish
        error = (values / scale).std(ddof=1) * scale / np.sqrt(n)
        low = high = float(stdtrit(df, (1 + _LEVEL) / 2) * error)
    return Spread(centre, low, high, df, n, method)


def interval_at(spread: Spread, *, level: float = 0.95) -> Interval:
    """The interval of a spread at a level.

    Args:
      spread: from `paired_spread`.
      level: coverage, in (0, 1).

    Raises:
      ValueError: `level` outside (0, 1).
    """
    if not 0 < level < 1:
        raise ValueError(f"level={level}; it is a coverage between 0 and 1, for instance 0.95")
    from scipy.special import stdtrit

    stretch = float(stdtrit(spread.df, (1 + level) / 2) / stdtrit(spread.df, (1 + _LEVEL) / 2))
    if level == _LEVEL:
        stretch = 1.0
    return Interval(
        spread.centre - stretch * spread.low,
        spread.centre + stretch * spread.high,
        level,
        spread.n,
        spread.method,
    )


def one_sided_p(spread: Spread, threshold: float, *, side: Literal["above", "below"]) -> float:
    """p-value of "the mean lies `side` the threshold" against the contrary.

    It is the error at which the matching end of the interval touches the threshold.

    Args:
      spread: from `paired_spread`.
      threshold: in the unit of the differences.
      side: `"above"` or `"below"`.

    Raises:
      ValueError: another `side`.
    """
    if side not in ("above", "below"):
        raise ValueError(f"side={side!r}; it is 'above' or 'below'")
    from scipy.special import stdtr, stdtrit

    gap = spread.centre - threshold if side == "above" else threshold - spread.centre
    # The end of the interval that faces the threshold; beyond the threshold, the other one.
    facing_low = (side == "above") == (gap >= 0)
    reach = spread.low if facing_low else spread.high
    if reach == 0:
        return 0.0 if gap > 0 else 1.0
    return float(stdtr(spread.df, -gap / reach * stdtrit(spread.df, (1 + _LEVEL) / 2)))


def paired_interval(differences: Sequence[float] | np.ndarray, *, level: float = 0.95) -> Interval:
    """Interval for the mean of paired per-seed differences.

    Student's t below 10 seeds, the expanded BCa bootstrap from 10 on; the module gives the reasons
    and the coverage.

    Args:
      differences: one finite value per seed, `[s]`, at least two.
      level: coverage, in (0, 1).

    Returns:
      The interval and the name of its method; of zero width when all differences are equal.

    Raises:
      ValueError: fewer than two values, a value that is not finite, a level outside (0, 1).

    Example:
      >>> low, high, *_ = paired_interval([2.0, 3.0, 2.5, 3.5])
      >>> print(round(low, 3), round(high, 3))
      1.723 3.777
    """
    return interval_at(paired_spread(differences), level=level)


def bca_reaches(values: np.ndarray, *, quantile: float) -> tuple[float, float]:
    """Distances from the mean to the ends of its BCa interval at a normal quantile.

    ends at the fractions Phi(z0 + u / (1 - a u)), u = z0 ± quantile, of the bootstrap means, with
    Phi(z0) the fraction of them below the mean and a = sum c^3 / (6 (sum c^2)^(3/2)), c centred

    Args:
      values: `[n]`, not all equal.
      quantile: 1.96 for the plain 95 % interval.

    Returns:
      Reach below and reach above the mean.

    Reference: Efron, Better Bootstrap Confidence Intervals, JASA 1987, equations 3.9 and 7.3.
    """
    from scipy.special import ndtr, ndtri

    centred = values - values.mean()
    scale = np.abs(centred).max()
    centred = centred / scale
    means = _resampling_weights(values.size) @ centred
    # Values on a lattice (accuracies) tie with the mean up to rounding; a tie counts half.
    tolerance = 1e-12
    below = (np.mean(means < -tolerance) + np.mean(means <= tolerance)) / 2
    bias = float(ndtri(np.clip(below, 1 / RESAMPLES, 1 - 1 / RESAMPLES)))
    acceleration = float(np.sum(centred**3) / (6 * np.sum(centred**2) ** 1.5))
    fractions = []
    for side in (-quantile, quantile):
        shifted = bias + side
        fractions.append(ndtr(bias + shifted / (1 - acceleration * shifted)))
    ranks = np.clip((np.array(fractions) * RESAMPLES).astype(int), 0, RESAMPLES - 1)
    ends = np.partition(means, ranks)[ranks]
    return float(-ends[0] * scale), float(ends[1] * scale)


@functools.lru_cache(maxsize=8)
def _resampling_weights(n: int) -> np.ndarray:
    """How much each of n values weighs in each bootstrap mean, `[resamples, n]`; fixed draws."""
    generator = np.random.default_rng(0)
    return generator.multinomial(n, np.full(n, 1 / n), size=RESAMPLES) / n
