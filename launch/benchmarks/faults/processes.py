"""Kills one of two processes of a run: the other ends soon, and the same command continues.

    python -m launch.benchmarks.faults.processes

The smoke preset of `gradient_noise` is run by two processes on loopback, and one of them is killed
(signal 9) after the first metrics: once the second, after which two processes continue, and once
the first, after which one process continues. What they end with is compared with a run that nobody
disturbed.
"""

import pathlib
import signal
import tempfile
import time

from launch.benchmarks.meshes import Layout, differences, finish, start
from launch.benchmarks.programs import has_grown, wait_until
from launch.program import run_program
from trove_jax.core.errors import TroveError

_COMMAND = ["--experiment=gradient_noise", "--preset=smoke", "--save_every=5", "--log_every=5"]
_ONE, _TWO = Layout("seed:1"), Layout("seed:2", 2)
_MINUTE = 60.0
_TOLERANCE = 1e-3


def main(overrides: list[str]) -> None:
    """Kills either, and prints what came of it.

    Raises:
      TroveError: the other did not end within a minute, with the wrong code or without saying how
        to continue, or the run ended with other numbers.
    """
    command = [*_COMMAND, *overrides]
    with tempfile.TemporaryDirectory() as folder:
        undisturbed = pathlib.Path(folder) / "undisturbed"
        wanted = finish(start(_ONE, command, undisturbed), undisturbed)
        for killed, after in ((1, _TWO), (0, _ONE)):
            workdir = pathlib.Path(folder) / str(killed)
            seconds, code, line = _kill(killed, command, workdir)
            print(f"process {killed} killed: the other ended after {seconds:.1f} s with {code}:")
            print(f"    {line}")
            loss, evidence = differences(finish(start(after, command, workdir), workdir), wanted)
            print(f"    continued as {after}: losses differ by {loss:.1g}, evidence {evidence:.1g}")
            if not loss <= _TOLERANCE:
                raise TroveError("the run that was continued ended with other numbers")


def _kill(number: int, command: list[str], workdir: pathlib.Path) -> tuple[float, int, str]:
    """Seconds until the other process ended, its exit code, and its last line."""
    programs = start(_TWO, command, workdir)
    wait_until(has_grown(workdir / "metrics.jsonl"), programs)
    programs[number].send(signal.SIGKILL)
    began = time.monotonic()
    other = programs[1 - number]
    code = other.wait(_MINUTE)
    seconds = time.monotonic() - began
    lines = [line for line in other.errors.splitlines() if line.startswith("error: ")]
    if code == 0 or not lines or "the same command" not in lines[-1]:
        raise TroveError(f"the other ended with {code}: {other.errors[-2000:]}")
    return seconds, code, lines[-1]


if __name__ == "__main__":
    run_program(main, extra="--config.")
