"""Metrics as lines of JSON: the truth of a run's course; TensorBoard events are a copy.

Each line holds the stage of the run, the step, and the mean of every record since the line
before, one number per seed:

    {"stage": "imp/round_1", "step": 100, "loss": [0.31, 0.29, ...]}
"""

import contextlib
import importlib.util
import json
import math
import os
import pathlib
from collections.abc import Mapping, Sequence

import numpy as np

from trove_jax.core.files import write_durably, writing
from trove_jax.core.history import History, Moment


class MetricWriter:
    """Appends metrics to `<directory>/metrics.jsonl`, and to TensorBoard where it is installed.

    Args:
      directory: where `metrics.jsonl` and the event files go.
      tensorboard: whether to write events; default: if the extra `tensorboard` is installed.

    Raises:
      TroveError: the disk is full or refuses; by every method too.
    """

    def __init__(self, directory: str | os.PathLike, *, tensorboard: bool | None = None):
        directory = pathlib.Path(directory)
        self.path = directory / "metrics.jsonl"
        with writing(self.path):
            self._file = self.path.open("a")
        if tensorboard is None:
            tensorboard = importlib.util.find_spec("tensorboardX") is not None
        self._events = _event_writer(directory / "events") if tensorboard else None

    def write(self, stage: str, step: int, values: Mapping[str, Sequence[float]]) -> None:
        """Writes one line; a number that is not finite becomes null."""
        line: dict = {"stage": stage, "step": step}
        for name, numbers in values.items():
            line[name] = [float(x) if math.isfinite(x) else None for x in numbers]
            if self._events is not None:
                self._events.add_scalar(f"{stage}/{name}", float(np.mean(numbers)), step)
        with writing(self.path):
            self._file.write(json.dumps(line) + "\n")

    def flush(self) -> None:
        """Hands everything written so far to the disk."""
        with writing(self.path):
            self._file.flush()
            os.fsync(self._file.fileno())

    def rewind(self, stage: str, step: int) -> None:
        """Drops the lines of a stage after `step`, and what a killed process left unfinished."""
        with writing(self.path):
            self._file.flush()
            kept = [
                line
                for line in read_metrics(self.path)
                if line["stage"] != stage or line["step"] <= step
            ]
            write_durably(self.path, "".join(json.dumps(line) + "\n" for line in kept).encode())
            self._file.close()
            self._file = self.path.open("a")

    def close(self) -> None:
        """Flushes and closes."""
        try:
            self.flush()
        finally:
            # What could not be flushed is tried again here, and has been reported.
            with contextlib.suppress(OSError):
                self._file.close()
            if self._events is not None:
                self._events.close()


def read_metrics(path: str | os.PathLike) -> list[dict]:
    """Reads the whole lines of a `metrics.jsonl`.

    The torn last line of a killed run is left out, and so is what a failing disk made of a line.
    """
    lines = []
    for text in pathlib.Path(path).read_bytes().splitlines():
        try:
            line = json.loads(text)
        except ValueError:
            continue
        if isinstance(line, dict) and {"stage", "step"} <= line.keys():
            lines.append(line)
    return lines


class LogMetrics:
    """A hook that writes the mean of the records of every `interval` steps.

    It takes what each chunk brings and cuts blocks from it, so that logging often does not make
    chunks short.

    Args:
      writer: where to.
      stage: name of this part of the run.
      interval: steps per line.
      before: the records of an earlier part of the same stage, which may end within a block.
    """

    every = 0

    def __init__(
        self,
        writer: MetricWriter,
        stage: str,
        *,
        interval: int,
        before: History | None = None,
    ):
        if interval < 1:
            raise ValueError(f"interval={interval} steps is no block; use at least 1")
        self._writer, self._stage, self._interval = writer, stage, interval
        self._waiting = before or History.join([])
        self._cut(until=self._block_end(-1))

    def __call__(self, moment: Moment) -> None:
        """Writes a line per finished block, and hands all to the disk at the end of a stage."""
        self._waiting = History.join([self._waiting, moment.new])
        while self._waiting.steps.size and (end := self._block_end(0)) <= moment.step:
            self._writer.write(self._stage, end, means(self._cut(until=end)))
        if moment.step == moment.steps and self._waiting.steps.size:
            self._writer.write(self._stage, moment.step, means(self._waiting))
        if moment.final:
            self._writer.flush()

    def _block_end(self, position: int) -> int:
        """The end of the block before (-1), or of the block that (0), the waiting records end."""
        steps = self._waiting.steps
        if not steps.size:
            return 0
        if position:
            return (int(steps[-1]) + 1) // self._interval * self._interval
        return (int(steps[0]) // self._interval + 1) * self._interval

    def _cut(self, *, until: int) -> History:
        """Takes the waiting records of the steps before `until`."""
        steps, metrics = self._waiting
        n = int(np.searchsorted(steps, until))
        self._waiting = History(steps[n:], {k: v[..., n:] for k, v in metrics.items()})
        return History(steps[:n], {k: v[..., :n] for k, v in metrics.items()})


def means(history: History) -> dict[str, list[float]]:
    """Mean over the steps of each metric, one number per seed."""
    return {
        name: np.atleast_2d(values).mean(axis=1).tolist()
        for name, values in history.metrics.items()
    }


def _event_writer(directory: pathlib.Path):
    from tensorboardX import SummaryWriter  # pyright: ignore[reportMissingImports]

    return SummaryWriter(str(directory), flush_secs=30)
