"""What a run records, and the hooks that see it between chunks."""

from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol

import numpy as np

from trove_jax.core.steps import TrainState


class History(NamedTuple):
    """What was recorded, on the host.

    Attributes:
      steps: number of the step that each record belongs to, `[t]`; the first step is 0.
      metrics: `loss` and the metrics of the loss, each `[t]`, or `[s, t]` with seeds.
    """

    steps: np.ndarray
    metrics: dict[str, np.ndarray]

    @classmethod
    def join(cls, parts: Sequence["History"]) -> "History":
        """Puts records that follow each other into one history."""
        parts = [part for part in parts if part.steps.size] or list(parts[:1])
        if not parts:
            return cls(np.zeros(0, np.int64), {})
        return cls(
            np.concatenate([part.steps for part in parts]),
            {
                name: np.concatenate([part.metrics[name] for part in parts], axis=-1)
                for name in parts[0].metrics
            },
        )


class Moment(NamedTuple):
    """What a hook sees between two chunks.

    Attributes:
      step: steps done.
      steps: the step at which training stops.
      state: gives the state now. Its arrays are given back to the compiler with the next chunk:
        a hook that keeps them must copy them (`jax.device_get`).
      new: the records since this hook's last moment.
      final: no further chunk follows, because training is done or was asked to stop.
      steps_per_second: speed of the last chunk.
    """

    step: int
    steps: int
    state: Callable[[], TrainState]
    new: History
    final: bool
    steps_per_second: float


class Hook(Protocol):
    """Something to do between chunks: called at multiples of `every`, and at the end."""

    @property
    def every(self) -> int:
        """Steps between two calls; 0 for every chunk."""
        ...

    def __call__(self, moment: Moment) -> None:
        """Looks at the run; what it raises stops the run."""
        ...
