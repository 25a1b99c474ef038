"""The random walk that gradient noise alone makes of the weights."""

from typing import Any

import numpy as np


def expected_weight_std(
    learning_rate: float,
    eta: float,
    gamma: float = 0.55,
    *,
    steps: int | np.ndarray,
    start: float = 0.0,
) -> Any:
    """Predicts how far noise alone carries the weights under SGD.

    sqrt(start^2 + lr^2 eta S_T),  S_T = sum_{t<T} (1 + t)^-gamma ~ T^(1-gamma) / (1 - gamma)

    Exact where the true gradient is zero: a random walk. From all-zero weights, a rectified network
    of width n leaves the chance level once this is near sqrt(2 / n), 0.2 for 50 units.

    Args:
      learning_rate: lr, constant.
      eta: variance of the noise at t = 0.
      gamma: exponent of the decay.
      steps: T, updates done, an integer or an array of them, at least 0.
      start: standard deviation of the weights at t = 0.

    Returns:
      Standard deviation of a weight, float or float64 array of the shape of `steps`.

    Raises:
      ValueError: a negative or non-finite argument.

    Example:
      >>> print([round(expected_weight_std(0.1, 0.01, steps=t), 3) for t in (1000, 20_000)])
      [0.069, 0.138]

    Reference: follows from Neelakantan et al., 2015, section 3, for a gradient of zero.
    """
    for name, value in {
        "learning_rate": learning_rate,
        "eta": eta,
        "gamma": gamma,
        "start": start,
        "steps": np.min(steps, initial=0),
    }.items():
        if not (np.isfinite(value) and value >= 0):
            raise ValueError(f"{name}={value} must be finite and not negative")
    total = _power_sum(np.asarray(steps, np.float64), gamma)
    std = np.sqrt(start**2 + learning_rate**2 * eta * total)
    return float(std) if std.ndim == 0 else std


def _power_sum(n: np.ndarray, gamma: float) -> np.ndarray:
    """sum_{k=1}^n k^-gamma: 64 terms, and Euler-Maclaurin (relative error 1e-13) for the rest."""
    first = 64
    powers = np.concatenate([[0.0], np.cumsum(np.arange(1, first + 1) ** -gamma)])
    few, last = powers[np.minimum(n, first).astype(int)], np.maximum(n, first)

    def primitive(x):
        return np.log(x) if gamma == 1 else x ** (1 - gamma) / (1 - gamma)

    def slopes(x):
        third = gamma * (gamma + 1) * (gamma + 2) * x ** (-gamma - 3)
        return x**-gamma / 2 - gamma * x ** (-gamma - 1) / 12 + third / 720

    first = float(first)
    return few + (primitive(last) - primitive(first)) + (slopes(last) - slopes(first))
