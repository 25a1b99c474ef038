"""Showing a person how far a run is: a live line on a terminal, plain lines elsewhere."""

import sys
import time
from typing import Any, TextIO

import numpy as np

from trove_jax.core.history import Moment

_SECONDS_BETWEEN_LINES = 10.0


class Progress:
    """Shows stage, step, loss, steps/s and the time left.

    Args:
      stream: where to; default: standard error.
      total: steps of all stages together, if known; the time left is then that of the whole run.
    """

    def __init__(self, stream: TextIO | None = None, *, total: int | None = None):
        self._stream = stream or sys.stderr
        self._total, self._done = total, 0
        self._began = self._last_line = time.monotonic()
        self._counted = 0
        self._live: Any = _live(self._stream) if self._stream.isatty() else None
        self._bar: Any = None

    def skip(self, steps: int) -> None:
        """Counts steps that an earlier process did."""
        self._done += steps

    def show(self, stage: str, moment: Moment) -> None:
        """Takes note of a moment, and shows it if it is time to."""
        loss = float(np.mean(moment.new.metrics["loss"][..., -1]))
        self._done += moment.new.steps.size
        self._counted += moment.new.steps.size
        text = f"loss {loss:.4f}, {moment.steps_per_second:.3g} steps/s, {self._left(moment)} left"
        if self._live is not None:
            if self._bar is None:
                self._bar = self._live.add_task("", total=self._total or moment.steps, text="")
                self._live.start()
            done = self._done if self._total else moment.step
            self._live.update(self._bar, completed=done, description=stage, text=text)
        elif moment.final or time.monotonic() - self._last_line > _SECONDS_BETWEEN_LINES:
            self._last_line = time.monotonic()
            share = f" [{self._done / self._total:4.0%}]" if self._total else ""
            print(f"{share} {stage}: step {moment.step}/{moment.steps}, {text}", file=self._stream)

    def close(self) -> None:
        """Leaves the terminal as it was."""
        if self._live is not None:
            self._live.stop()

    def _left(self, moment: Moment) -> str:
        if self._total:
            pace = (time.monotonic() - self._began) / max(self._counted, 1)
            seconds = max(0, self._total - self._done) * pace
        else:
            seconds = (moment.steps - moment.step) / moment.steps_per_second
        minutes, seconds = divmod(round(seconds), 60)
        return f"{minutes}:{seconds:02d}"


class ShowProgress:
    """A hook that shows one stage on a `Progress`, after every chunk."""

    every = 0

    def __init__(self, progress: Progress, stage: str):
        self._progress, self._stage = progress, stage

    def __call__(self, moment: Moment) -> None:
        """Shows the moment."""
        self._progress.show(self._stage, moment)


def _live(stream: TextIO):
    from rich.console import Console
    from rich.progress import BarColumn, TaskProgressColumn, TextColumn
    from rich.progress import Progress as RichProgress

    return RichProgress(
        TextColumn("{task.description}"),
        BarColumn(),
        TaskProgressColumn(),
        TextColumn("{task.fields[text]}"),
        console=Console(file=stream),
        transient=True,
    )
