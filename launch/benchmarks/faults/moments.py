"""What happens to a run while it runs: signals, a second process, clocks, and data that break.

python -m launch.benchmarks.faults.moments
"""

import os
import pathlib
import signal
import unittest.mock

import numpy as np

from launch.benchmarks.faults.outcome import Bench, Outcome, Tally, try_faults
from launch.benchmarks.faults.tiny import LAST_STAGE, make_data, tiny_run, train_briefly
from launch.benchmarks.programs import Program, wait_until
from launch.program import run_program
from trove_jax import core, data
from trove_jax.core.errors import DataUnavailable, NonFiniteLoss, TroveError

_PATIENCE = 300.0


def main(_: list[str]) -> None:
    """Tries all of them."""
    try_faults(FAULTS)


def stop_and_start_twice(bench: Bench) -> Outcome:
    """A second process in the same folder, then SIGTERM, then the same command again."""
    tally = Tally("a second process refuses; SIGTERM, exit 75, continue", bench.wanted)
    run = bench.new()
    first = _start(run, f"--hold={_PATIENCE}")
    if not wait_until((run / "checkpoints" / LAST_STAGE).exists, [first]):
        raise TroveError(f"the run ended before it should: {first.errors}")
    second = _start(run)
    code, errors = second.wait(_PATIENCE), second.errors
    tally.expect(f"the second ended with {code}: {errors}", code == 2)
    one_line = errors.count("\n") == 1 and "another process is running in" in errors
    tally.expect(f"the second said {errors!r}", one_line)
    first.send(signal.SIGTERM)
    code, errors = first.wait(_PATIENCE), first.errors
    tally.expect(f"the first ended with {code}: {errors}", code == 75)
    tally.expect(f"the first said {errors!r}", errors.endswith("the same command continues\n"))
    tally.run("the same command", lambda: tiny_run(run))
    return tally.outcome()


def _start(run: pathlib.Path, *arguments: str) -> Program:
    return Program("launch.benchmarks.faults.tiny", f"--workdir={run}", *arguments)


def set_clock_back(bench: Bench) -> Outcome:
    """Goes on with a clock that went back years, and files whose times stand in reverse."""
    tally = Tally("clock set back, times of files turned round", bench.wanted)
    run = bench.copy()
    files = sorted(run.rglob("*"), key=lambda path: path.stat().st_mtime)
    for age, path in enumerate(files):
        os.utime(path, (86400.0 * age, 86400.0 * (len(files) - age)))
    ticks = iter(range(10**9, 0, -3600))
    with (
        unittest.mock.patch("time.time", side_effect=lambda: float(next(ticks))),
        unittest.mock.patch("time.time_ns", side_effect=lambda: next(ticks) * 10**9),
    ):
        tally.run("a clock that runs backwards", lambda: tiny_run(run))
    lines = core.read_metrics(run / "metrics.jsonl")
    steps = [line["step"] for line in lines if line["stage"] == LAST_STAGE]
    tally.expect(f"lines of metrics at steps {steps}", steps == sorted(set(steps)))
    return tally.outcome()


def break_numbers(bench: Bench) -> Outcome:
    """Goes on with an example that became NaN; then again with the whole data."""
    tally = Tally("NaN in the data", bench.wanted)
    run, poisoned = bench.copy(), make_data(wrong_at=3)
    for attempt in ("first", "again"):
        refuse = f"{LAST_STAGE}: the loss is nan at seed "
        tally.run(attempt, lambda: tiny_run(run, data=poisoned), refuse=refuse)
    tally.expect("its exit code is 65", NonFiniteLoss.exit_code == 65)
    steps = core.Checkpoints(run / "checkpoints" / LAST_STAGE, identity="").steps()
    tally.expect(f"checkpoints of steps {steps}", max(steps) >= bench.saved)
    for step in steps:
        history = run / "checkpoints" / LAST_STAGE / str(step) / "history.npz"
        with np.load(history) as records:
            finite = np.isfinite(records["metric loss"]).all()
        tally.expect(f"NaN in the checkpoint of step {step}", bool(finite))
    return tally.outcome()


def break_image(bench: Bench) -> Outcome:
    """A stream of pictures of which one is cut while the run learns from them."""
    from PIL import Image

    tally = Tally("an image file that breaks during training", bench.wanted)
    root = bench.new()
    for i in range(8):
        path = root / "train" / f"class_{i % 2}" / f"{i}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = np.random.RandomState(i).randint(0, 256, (8, 8, 3)).astype(np.uint8)
        Image.fromarray(pixels).save(path)
    stream = _Pictures(data.ImageFolder(root, "train", size=8, threads=1))
    tally.run("whole", lambda: _like_wanted(bench, stream))
    path.write_bytes(path.read_bytes()[:60])
    tally.run("cut", lambda: _like_wanted(bench, stream), refuse=f"cannot decode {path}")
    path.unlink()
    tally.run("missing", lambda: _like_wanted(bench, stream), refuse=f"cannot decode {path}")
    tally.expect("its exit code is 66", DataUnavailable.exit_code == 66)
    return tally.outcome()


class _Pictures:
    """The examples of the tiny run, each read together with a picture."""

    def __init__(self, folder: data.ImageFolder):
        self._folder = folder
        self._examples = {k: np.asarray(v) for k, v in make_data().examples.items()}

    def __len__(self) -> int:
        return len(self._examples["x"])

    def __getitem__(self, indices: np.ndarray) -> dict[str, np.ndarray]:
        self._folder[np.asarray(indices) % len(self._folder)]
        return {k: v[np.asarray(indices)] for k, v in self._examples.items()}


def _like_wanted(bench: Bench, stream: _Pictures) -> dict:
    """A short training from the stream; the wanted arms if it came to its end."""
    directory = core.RunDirectory(bench.new(), {"experiment": "pictures"})
    context = core.Context(directory=directory, save_every=5)
    try:
        train_briefly(context, core.Data(stream))
    finally:
        context.close()
        directory.close()
    return bench.wanted


FAULTS = (stop_and_start_twice, set_clock_back, break_numbers, break_image)

if __name__ == "__main__":
    run_program(main)
