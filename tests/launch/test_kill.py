"""Runs that are killed end with the numbers of the undisturbed run."""

import json
import pathlib
import types

import pytest

from launch.benchmarks.faults import kill


def test_five_kills_change_no_bit(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`launch.run` is interrupted in test_run; what saves and restores is the same."""
    monkeypatch.setenv("PYTHONWARNINGS", "error")
    runs = kill.kill_runs(tmp_path, kills=5, seed=9, command=kill.TINY, training_only=True)
    assert sum(len(run.moments) for run in runs) == 5
    assert max(max(run.saved) for run in runs) > 0
    assert all(run.equal for run in runs)


class Programs:
    """Programs that take given times, of which the last is that of all that follow."""

    def __init__(self, seconds: list[float]) -> None:
        self.now, self._seconds, self.count = 0.0, seconds, 0

    def __call__(self, *command: str, **environment: str) -> "Programs":
        assert self.count < 100, "nothing is ever killed"
        self._left = self._seconds[min(self.count, len(self._seconds) - 1)]
        self.count += 1
        (workdir,) = (part.split("=")[1] for part in command if part.startswith("--workdir="))
        pathlib.Path(workdir).mkdir(exist_ok=True)
        (pathlib.Path(workdir) / "evidence.json").write_text(json.dumps({"arms": {}}))
        return self

    def ends_within(self, seconds: float) -> bool:
        passed = min(seconds, self._left)
        self.now, self._left = self.now + passed, self._left - passed
        return not self._left

    def send(self, number: int) -> None:
        self._left = 0.0

    def wait(self) -> int:
        return -9

    def finish(self) -> None:
        self.ends_within(self._left)


@pytest.mark.parametrize("timed", [1.0, 1000.0])
def test_a_run_that_was_timed_while_something_held_it_up(tmp_path, monkeypatch, timed):
    programs = Programs([5.0, timed, 1.0])
    monkeypatch.setattr(kill, "Program", programs)
    monkeypatch.setattr(kill, "time", types.SimpleNamespace(monotonic=lambda: programs.now))
    runs = kill.kill_runs(tmp_path, kills=8)
    moments = [moment for run in runs for moment in run.moments]
    assert len(moments) == 8
    assert max(moments) < 1.0
    assert programs.count < 30
