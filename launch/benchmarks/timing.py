"""How a benchmark compares: repetitions taken in turn, medians, and the row that shows a ratio.

A machine is never quite the same twice, so a bare time says little. What is compared here runs in
turn within one process, and only the ratio of the medians is a result.
"""

import dataclasses
import statistics
import time
from collections.abc import Callable, Mapping
from typing import Any, Literal


@dataclasses.dataclass(frozen=True)
class Row:
    """One line of the table.

    Attributes:
      name: what is compared.
      ratio: of two medians; None where it could not be measured, and `detail` says why.
      goal: the bound on the ratio; None for a ratio that is only shown.
      better: whether a `lower` or a `higher` ratio is wanted.
      detail: what stands behind the ratio.
    """

    name: str
    ratio: float | None
    goal: float | None = None
    better: Literal["lower", "higher"] = "lower"
    detail: str = ""

    @property
    def met(self) -> bool | None:
        """Whether the goal is met; None where there is no goal or no ratio."""
        if self.ratio is None or self.goal is None:
            return None
        return self.ratio <= self.goal if self.better == "lower" else self.ratio >= self.goal

    def record(self) -> dict[str, Any]:
        """The row as JSON values."""
        return {**dataclasses.asdict(self), "met": self.met}


class Timings:
    """Seconds of every repetition, by candidate.

    Args:
      seconds: `{name: [seconds of each repetition]}`.
    """

    def __init__(self, seconds: Mapping[str, list[float]]):
        self.seconds = dict(seconds)

    def median(self, name: str) -> float:
        """Median seconds of a candidate."""
        return statistics.median(self.seconds[name])

    def ratio(self, name: str, to: str) -> float:
        """Median of one candidate, divided by that of another."""
        return self.median(name) / self.median(to)


def time_in_turn(
    candidates: Mapping[str, Callable[[], object]],
    *,
    repeats: int,
    warm_up: int = 1,
    clock: Callable[[], float] = time.perf_counter,
) -> Timings:
    """Times candidates in turn: every repetition runs each of them once.

    Every other repetition goes backwards, so that none always follows the same neighbour and what
    it left in the caches.

    Args:
      candidates: `{name: function}`; each returns when its work is done.
      repeats: number of repetitions, at least 1.
      warm_up: rounds before them that are not counted, for compilation.
      clock: gives seconds.

    Returns:
      The seconds of all repetitions.

    Raises:
      ValueError: `repeats` is below 1, or there is no candidate.
    """
    if repeats < 1 or not candidates:
        raise ValueError(
            f"repeats={repeats} of {len(candidates)} candidates measure nothing; use at least 1"
        )
    order = list(candidates)
    seconds: dict[str, list[float]] = {name: [] for name in order}
    for repeat in range(-warm_up, repeats):
        for name in order if repeat % 2 == 0 else reversed(order):
            began = clock()
            candidates[name]()
            if repeat >= 0:
                seconds[name].append(clock() - began)
    return Timings(seconds)


PEERS = ("geoopt", "hypll", "torch", "torch_geometric")


def needs_extra(
    error: ModuleNotFoundError,
    name: str,
    goal: float | None = None,
    better: Literal["lower", "higher"] = "lower",
) -> Row:
    """The row of a comparison with a library that is not installed.

    Args:
      error: what importing it raised.
      name: of the row.
      goal: of the row.
      better: of the row.

    Raises:
      ModuleNotFoundError: what is missing is no peer of the extra `bench`, but a fault.
    """
    if (error.name or "").split(".")[0] not in PEERS:
        raise error
    return Row(name, None, goal, better, 'needs the extra bench: pip install -e ".[bench]"')
