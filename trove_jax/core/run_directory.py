"""The folder of one run: whose it is, that one process at a time uses it, and what is in it.

<workdir>/config.json    experiment, preset, seeds, resolved configuration
          metrics.jsonl  events/  checkpoints/  log.txt
          evidence.json  report.html  figures/      when the run is finished
"""

import contextlib
import fcntl
import json
import os
import pathlib
import time
from collections.abc import Mapping
from typing import Any, TextIO

from trove_jax.core.errors import RunMismatch, TroveError
from trove_jax.core.files import write_durably, writing
from trove_jax.core.processes import is_speaker, share
from trove_jax.core.pytrees import json_digest


class RunDirectory:
    """Opens a run's folder, making it if it is new.

    Of many processes the first alone touches the disk, and tells the others what it found.

    Args:
      path: the folder.
      run: what the run is: experiment, preset, seeds and configuration, as JSON values. An
        existing folder must hold the same.
      cure: what to do where it does not, for the message.

    Attributes:
      path: the folder, absolute.
      identity: digest of `run`; checkpoints carry it.
      resumed: whether an earlier process worked here.
      finished: whether the evidence of this run was written when the folder was opened.

    Raises:
      RunMismatch: the folder belongs to another run, or another process is using it.
      TroveError: the folder cannot be written.
    """

    def __init__(
        self,
        path: str | os.PathLike,
        run: Mapping[str, Any],
        *,
        cure: str = "use another --workdir",
    ):
        self.path = pathlib.Path(path).absolute()
        self.identity = json_digest(run)
        self._began = time.monotonic()
        self._lock: TextIO | None = None
        found = json.loads(share(lambda: json.dumps(self._open(run, cure)).encode()))
        self.resumed, self.finished, self._before = found

    def _open(self, run: Mapping[str, Any], cure: str) -> tuple[bool, bool, float]:
        """Takes the folder; says whether it was there, whether it is done, and seconds spent."""
        config = self.path / "config.json"
        with contextlib.ExitStack() as on_failure:
            try:
                self.path.mkdir(parents=True, exist_ok=True)
                self._lock = on_failure.enter_context((self.path / ".lock").open("w"))
                fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                resumed = config.exists()
                if resumed:
                    _check_same_run(config, run, cure)
                else:
                    write_durably(config, json.dumps(run, indent=1).encode())
            except BlockingIOError as error:
                raise RunMismatch(f"another process is running in {self.path}") from error
            except OSError as error:
                raise TroveError(f"cannot write to {self.path}: {error.strerror}") from error
            on_failure.pop_all()
        return resumed, self.evidence.exists(), _read_seconds(self._clock) if resumed else 0.0

    @property
    def evidence(self) -> pathlib.Path:
        """The file with arms, claims and verdicts; it is written last."""
        return self.path / "evidence.json"

    @property
    def report(self) -> pathlib.Path:
        """The page that a person reads."""
        return self.path / "report.html"

    @property
    def figures(self) -> pathlib.Path:
        """The folder of figures."""
        return self.path / "figures"

    def checkpoints(self, stage: str) -> pathlib.Path:
        """The folder of a stage's checkpoints."""
        return self.path / "checkpoints" / stage

    @property
    def seconds(self) -> float:
        """Time spent on this run by all its processes, as far as `note_time` was called."""
        return self._before + time.monotonic() - self._began

    def note_time(self) -> None:
        """Keeps the time spent so far for a process that goes on later."""
        if not is_speaker():
            return
        with writing(self._clock):
            write_durably(self._clock, json.dumps({"seconds": self.seconds}).encode())

    @property
    def _clock(self) -> pathlib.Path:
        return self.path / "checkpoints" / "time_spent.json"

    def close(self) -> None:
        """Lets other processes use the folder."""
        if self._lock is not None:
            self._lock.close()


def _read_seconds(clock: pathlib.Path) -> float:
    try:
        return float(json.loads(clock.read_text())["seconds"])
    except (OSError, ValueError, KeyError, TypeError):
        return 0.0


def _check_same_run(config: pathlib.Path, run: Mapping[str, Any], cure: str) -> None:
    try:
        found = json.loads(config.read_text())
    except ValueError as error:
        raise RunMismatch(f"{config} is damaged; {cure}") from error
    difference = _first_difference(found, json.loads(json.dumps(run)))
    if difference:
        raise RunMismatch(f"{config.parent} belongs to another run ({difference}); {cure}")


def _first_difference(found: Any, wanted: Any, name: str = "") -> str | None:
    if isinstance(found, dict) and isinstance(wanted, dict):
        for key in [*wanted, *(key for key in found if key not in wanted)]:
            inner = f"{name}.{key}" if name else key
            difference = _first_difference(found.get(key), wanted.get(key), inner)
            if difference:
                return difference
        return None
    return None if found == wanted else f"{name} is {found!r} there and {wanted!r} here"
