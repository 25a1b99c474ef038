"""How a fault came out, and the loop that all scripts of faults share."""

import contextlib
import copy
import logging
import pathlib
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

from launch.benchmarks.faults.tiny import FIRST_STEPS, SAVE_EVERY, StopAt, tiny_run
from trove_jax.core.errors import Interrupted, TroveError


class Outcome(NamedTuple):
    """What a fault did to a run.

    Attributes:
      fault: what was done.
      count: how often.
      equal: how often the run went on and ended with the numbers of the undisturbed one.
      refused: how often it ended in one line of its own instead.
      wrong: what came out otherwise, one line each; none is wanted.
      line: what a person saw last.
    """

    fault: str
    count: int
    equal: int
    refused: int
    wrong: tuple[str, ...]
    line: str


Fault = Callable[["Bench"], Outcome]


class Bench:
    """The undisturbed run, and copies of a run that was stopped in its last stage.

    Args:
      folder: an empty folder.
      every: of faults that come in many kinds, try one in so many.

    Attributes:
      wanted: the arms of the undisturbed run.
      saved: step of the newest checkpoint in the copies.
    """

    saved = FIRST_STEPS + 2 * SAVE_EVERY

    def __init__(self, folder: pathlib.Path, *, every: int = 1):
        self.folder, self.every = folder, every
        self.wanted = tiny_run(folder / "undisturbed")
        self._stopped = folder / "stopped"
        self._copies = 0
        with contextlib.suppress(Interrupted):
            tiny_run(self._stopped, hooks=[StopAt(self.saved + SAVE_EVERY)])

    def copy(self) -> pathlib.Path:
        """The folder of a run that was stopped."""
        self._copies += 1
        return shutil.copytree(self._stopped, self.new())

    def new(self) -> pathlib.Path:
        """A path at which nothing is."""
        self._copies += 1
        return self.folder / f"run_{self._copies}"


class Tally:
    """Counts how runs came out.

    Args:
      fault: what is done to them.
      wanted: the arms of the undisturbed run.
    """

    def __init__(self, fault: str, wanted: dict[str, Any]):
        self._fault, self._wanted = fault, copy.deepcopy(wanted)
        self._count = self._equal = self._refused = 0
        self._wrong: list[str] = []
        self._line = ""

    def run(
        self, name: str, run: Callable[[], dict[str, Any]], *, refuse: str | None = None
    ) -> None:
        """Notes how one run comes out.

        Args:
          name: of the case.
          run: gives arms, or raises what an experiment may raise.
          refuse: the run may end in a line that holds these words.
        """
        self._count += 1
        try:
            with hear() as warnings:
                arms = run()
        except TroveError as error:
            self._line = str(error)
            if refuse is not None and refuse in self._line and "\n" not in self._line:
                self._refused += 1
            else:
                self._wrong.append(f"{name}: {self._line}")
            return
        except Exception as error:  # whatever it is, a person would have seen its traceback
            self._wrong.append(f"{name}: {type(error).__name__}: {error}")
            return
        if warnings:
            self._line = warnings[-1]
        if arms == self._wanted:
            self._equal += 1
        else:
            self._wrong.append(f"{name}: other numbers")

    def expect(self, name: str, holds: bool) -> None:
        """Notes a fact that must hold beside the numbers."""
        if not holds:
            self._wrong.append(name)

    def outcome(self) -> Outcome:
        """What was counted."""
        return Outcome(
            self._fault, self._count, self._equal, self._refused, tuple(self._wrong), self._line
        )


@contextlib.contextmanager
def hear() -> Iterator[list[str]]:
    """Collects the warnings of the library instead of showing them; orbax is silent."""
    heard: list[str] = []

    class Listener(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            heard.append(record.getMessage())

    log, listener = logging.getLogger("trove_jax"), Listener(logging.WARNING)
    propagate, log.propagate = log.propagate, False
    log.addHandler(listener)
    orbax = logging.getLogger("absl")
    orbax.addFilter(_silence)
    try:
        yield heard
    finally:
        orbax.removeFilter(_silence)
        log.removeHandler(listener)
        log.propagate = propagate


def _silence(record: logging.LogRecord) -> bool:
    # Orbax logs a traceback of its threads beside the error that it raises.
    del record
    return False


def try_faults(faults: Sequence[Fault]) -> None:
    """Tries faults, and prints what came of them as a table.

    Raises:
      TroveError: something came out wrong.
    """
    wrong: list[str] = []
    print(f"{'fault':52} {'tried':>5} {'equal':>5} {'ended in one line':>17}")
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(pathlib.Path(folder))
        for fault in faults:
            found = fault(bench)
            wrong += found.wrong
            print(f"{found.fault:52} {found.count:5} {found.equal:5} {found.refused:17}")
            if found.line:
                print(f"    {found.line.replace(folder, '...')}")
            for line in found.wrong[:3]:
                print(f"    WRONG: {line.replace(folder, '...')}")
    if wrong:
        raise TroveError(f"{len(wrong)} of these should not be")
