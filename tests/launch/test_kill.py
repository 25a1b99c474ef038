"""Runs that are killed end with the numbers of the undisturbed run."""

import pathlib

import pytest

from launch.benchmarks.faults.kill import kill_runs

# Every kind of stage once, and few steps: almost all of the time is compilation.
SMALL = (
    "--config.tickets.rounds=1",
    "--config.tickets.shown_rounds=(1,)",
    "--config.tickets.steps=20",
    "--config.rewinding.residual_mlp.steps=20",
    "--config.rewinding.residual_mlp.k=(0,4,12)",
    "--config.rewinding.residual_mlp.late=12",
)


def test_three_kills_change_no_bit(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")  # compiles faster
    monkeypatch.setenv("PYTHONWARNINGS", "error")
    runs = kill_runs(tmp_path, kills=3, seed=1, overrides=SMALL)
    assert sum(len(run.moments) for run in runs) == 3
    assert max(max(run.saved) for run in runs) > 0  # at least one kill hit the training
    assert all(run.equal for run in runs)
