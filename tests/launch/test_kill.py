"""Runs that are killed end with the numbers of the undisturbed run."""

import pathlib

import pytest

from launch.benchmarks.faults.kill import TINY, kill_runs


def test_five_kills_change_no_bit(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`launch.run` is interrupted and continued in test_run; what saves and restores is the same.

    The first half of such a short run goes into imports: a kill there changes nothing.
    """
    monkeypatch.setenv("PYTHONWARNINGS", "error")
    runs = kill_runs(tmp_path, kills=5, seed=1, command=TINY, earliest=0.5)
    assert sum(len(run.moments) for run in runs) == 5
    assert max(max(run.saved) for run in runs) > 0  # at least one kill hit the training
    assert all(run.equal for run in runs)
