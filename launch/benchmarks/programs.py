"""Programs in processes of their own, which benchmarks start, stop and kill.

What a program prints goes to files, so that it never waits for somebody who reads it.
"""

import json
import os
import pathlib
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import weakref
from collections.abc import Callable, Sequence
from typing import Any

from trove_jax.core.errors import TroveError

_ROOT = pathlib.Path(__file__).parents[2]
_PATIENCE = 1800.0


class Program:
    """A module that runs as a program."""

    def __init__(self, *command: str, **environment: str):
        """Starts `python -m` with the command, in the folder of the project.

        Args:
          *command: a module and its arguments.
          **environment: variables that it sees beside, or in place of, those of this process.
        """
        self._folder = pathlib.Path(tempfile.mkdtemp())
        weakref.finalize(self, shutil.rmtree, self._folder)
        with (
            open(self._folder / "output", "w") as output,
            open(self._folder / "errors", "w") as errors,
        ):
            self._process = subprocess.Popen(
                [sys.executable, "-m", *command],
                cwd=_ROOT,
                env={**os.environ, **environment},
                stdout=output,
                stderr=errors,
            )

    @property
    def output(self) -> str:
        """What it has printed until now."""
        return (self._folder / "output").read_text(errors="replace")

    @property
    def errors(self) -> str:
        """What it has said on its standard error until now."""
        return (self._folder / "errors").read_text(errors="replace")

    @property
    def ended(self) -> bool:
        """Whether it no longer runs."""
        return self._process.poll() is not None

    def send(self, number: signal.Signals) -> None:
        """Sends a signal, which is lost where the program has ended."""
        self._process.send_signal(number)

    def ends_within(self, seconds: float) -> bool:
        """Waits for its end, at most so many seconds; gives whether it came."""
        try:
            self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            return False
        return True

    def wait(self, patience: float = _PATIENCE) -> int:
        """Waits for its end.

        Args:
          patience: seconds after which it is killed.

        Returns:
          Its exit code.

        Raises:
          TroveError: it had to be killed.
        """
        if not self.ends_within(patience):
            self.send(signal.SIGKILL)
            self.wait()
            raise TroveError(f"a program still ran after {patience:.0f} s: {self.errors[-2000:]}")
        return self._process.returncode

    def finish(self, code: int = 0) -> None:
        """Waits for its end, which must be the one that is expected.

        Args:
          code: exit code.

        Raises:
          TroveError: it ended with another one.
        """
        found = self.wait()
        if found != code:
            raise TroveError(
                f"a program ended with {found} instead of {code}: {self.errors[-2000:]}"
            )


def run_together(module: str, count: int, *arguments: str) -> list[list[Any]]:
    """Runs a module in processes of one CPU device each, which join one another.

    Args:
      module: a program whose first arguments are the port of the first process, how many processes
        there are, and which one it is.
      count: how many processes.
      *arguments: its other arguments.

    Returns:
      For each process the JSON objects that it has printed, a line each.

    Raises:
      TroveError: one of them failed.
    """
    port = str(free_port())
    programs = [
        Program(
            *(module, port, str(count), str(number), *arguments),
            XLA_FLAGS="--xla_force_host_platform_device_count=1",
            JAX_PLATFORMS="cpu",
            JAX_ENABLE_COMPILATION_CACHE="0",  # see launch.pod.connect
        )
        for number in range(count)
    ]
    for program in programs:
        program.finish()
    # The layer below prints lines of its own.
    return [
        [json.loads(line) for line in program.output.splitlines() if line.startswith("{")]
        for program in programs
    ]


def wait_until(reached: Callable[[], bool], programs: Sequence[Program]) -> bool:
    """Waits for something that running programs do.

    Args:
      reached: whether it has happened.
      programs: that are running.

    Returns:
      Whether it happened; False where a program ended before.

    Raises:
      TroveError: it did not happen for half an hour, and the programs were killed.
    """
    until = time.monotonic() + _PATIENCE
    while not reached():
        if any(program.ended for program in programs):
            return reached()
        if time.monotonic() > until:
            for program in programs:
                program.send(signal.SIGKILL)
            raise TroveError(f"what was waited for did not happen in {_PATIENCE:.0f} s")
        time.sleep(0.01)
    return True


def has_grown(path: pathlib.Path) -> Callable[[], bool]:
    """Gives a function that says whether a file has become longer since this call."""
    before = _size(path)
    return lambda: _size(path) > before


def free_port() -> int:
    """A port of this machine on which nothing listens, for processes that find each other."""
    with socket.socket() as server:
        server.bind(("localhost", 0))
        return server.getsockname()[1]


def _size(path: pathlib.Path) -> int:
    return path.stat().st_size if path.exists() else 0
