"""Kills runs at random moments, goes on with the same command, and compares what they end with.

    python -m launch.benchmarks.faults.kill --kills=20

A run is killed (signal 9) at a moment drawn uniformly over the time that an undisturbed run takes.
The same command is given again, and killed again, until once it is finished before its moment; then
the next run begins in a folder of its own, until there were as many kills as asked for. The arms
in the evidence of every run must equal those of the undisturbed one, bit for bit. Arguments that
start with `--config.` go on to `launch.run`. With `--tiny` it is the run of
`launch.benchmarks.faults.tiny` that is killed.
"""

import dataclasses
import json
import os
import pathlib
import random
import shutil
import signal
import tempfile
import time
from collections.abc import Sequence
from typing import Any

from absl import flags

from launch.benchmarks.programs import Program, has_grown, wait_until
from launch.program import run_program
from trove_jax.core.errors import TroveError

_KILLS = flags.DEFINE_integer("kills", 20, "How many runs to kill.", 1)
_SEED = flags.DEFINE_integer("seed", 0, "Decides the moments.")
_TINY = flags.DEFINE_bool("tiny", False, "Kill the run of a second instead of an experiment.")

LOTTERY_TICKET = (
    "launch.run",
    "--experiment=lottery_ticket",
    "--preset=smoke",
    "--save_every=10",
)
TINY = ("launch.benchmarks.faults.tiny",)


@dataclasses.dataclass(frozen=True)
class Killed:
    """One run, killed until it was finished.

    Attributes:
      moments: seconds to each kill, from the start or from the first metrics.
      saved: stages that had a checkpoint at each kill.
      equal: whether it ended with the arms of the undisturbed run.
    """

    moments: list[float]
    saved: list[int]
    equal: bool


def main(overrides: list[str]) -> None:
    """Kills as many runs as asked for, and prints the counts.

    Raises:
      TroveError: a run ended with other arms.
    """
    with tempfile.TemporaryDirectory() as folder:
        command = TINY if _TINY.value else (*LOTTERY_TICKET, *overrides)
        runs = kill_runs(
            pathlib.Path(folder), kills=_KILLS.value, seed=_SEED.value, command=command
        )
    for run in runs:
        kills = ", ".join(
            f"{at:.1f} s ({saved} stages saved)"
            for at, saved in zip(run.moments, run.saved, strict=True)
        )
        print(f"killed after {kills}: arms {'equal' if run.equal else 'DIFFERENT'}")
    kills, equal = sum(len(run.moments) for run in runs), sum(run.equal for run in runs)
    print(f"{kills} kills in {len(runs)} runs; {equal} ended with the arms of the undisturbed run")
    if equal < len(runs):
        raise TroveError("a killed run ended with other numbers than the undisturbed one")


def kill_runs(
    folder: pathlib.Path,
    *,
    kills: int,
    seed: int = 0,
    command: Sequence[str] = LOTTERY_TICKET,
    training_only: bool = False,
) -> list[Killed]:
    """Kills runs of a program.

    Args:
      folder: an empty folder for the runs, and for a compilation cache where there is none.
      kills: how many kills there shall be.
      seed: decides the moments.
      command: module and arguments of the program, which takes `--workdir=`.
      training_only: count time from the first metrics that a process writes. Most of a short run
        goes into imports, where a kill changes nothing.

    Returns:
      The runs that were killed.

    Raises:
      TroveError: a run that nobody killed fails, or the second undisturbed run, which reads
        compiled programs from the cache, ends with other arms than the first.
    """
    environment = {
        "JAX_COMPILATION_CACHE_DIR": os.environ.get(
            "JAX_COMPILATION_CACHE_DIR", str(folder / "compiled")
        ),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
    }

    def start(workdir: pathlib.Path) -> tuple[Program, float]:
        trains = has_grown(workdir / "metrics.jsonl")
        program = Program(*command, f"--workdir={workdir}", **environment)
        if training_only:
            wait_until(trains, [program])
        return program, time.monotonic()

    program, _ = start(folder / "first")
    wanted = _finish(program, folder / "first")
    program, began = start(folder / "second")
    again = _finish(program, folder / "second")
    seconds = time.monotonic() - began
    if again != wanted:
        raise TroveError("two undisturbed runs of the same command ended with other arms")
    draw = random.Random(seed)
    runs, left = [], kills
    while left:
        workdir, moments, saved = folder / f"run_{len(runs)}", [], []
        program, began = start(workdir)
        while left:
            at = draw.uniform(0.0, seconds)
            if program.ends_within(at):
                break
            program.send(signal.SIGKILL)
            program.wait()
            left -= 1
            moments.append(at)
            saved.append(len({file.parents[1] for file in workdir.rglob("manifest.json")}))
            program, began = start(workdir)
        found = _finish(program, workdir)
        if moments:
            runs.append(Killed(moments, saved, found == wanted))
        else:
            # If something held up the run that was timed, all moments would come too late; and in
            # a finished folder there is nothing left to kill.
            seconds = min(seconds, time.monotonic() - began)
            shutil.rmtree(workdir)
    return runs


def _finish(program: Program, workdir: pathlib.Path) -> dict[str, Any]:
    """Lets a run come to its end; gives the arms of its evidence."""
    program.finish()
    return json.loads((workdir / "evidence.json").read_text())["arms"]


if __name__ == "__main__":
    run_program(main, extra="--config.")
