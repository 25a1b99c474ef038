"""launch.bench: what it finds, how it compares, and what it prints and writes."""

import json
import pathlib
import subprocess
import sys

import numpy as np
import pytest

from launch import bench
from launch.benchmarks import train_step
from launch.benchmarks.lottery_ticket_job import check_same_job
from launch.benchmarks.timing import Row, Timings, needs_extra, time_in_turn
from trove_jax.core.errors import UsageError

ROOT = pathlib.Path(__file__).parents[2]


class Clock:
    """A clock that only sleeping moves."""

    def __init__(self) -> None:
        self.now, self.slept = 0.0, []

    def __call__(self) -> float:
        return self.now

    def sleeper(self, name: str, seconds: list[float]):
        durations = iter(seconds)

        def sleep() -> None:
            self.slept.append(name)
            self.now += next(durations)

        return sleep


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "launch.bench", *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )


def test_ratio_is_of_medians_of_repetitions_in_turn() -> None:
    clock = Clock()
    found = time_in_turn(
        {
            "slow": clock.sleeper("slow", [100.0, 3.0, 9.0, 4.0]),
            "fast": clock.sleeper("fast", [100.0, 2.0, 1.0, 7.0]),
        },
        repeats=3,
        clock=clock,
    )
    assert found.seconds == {"slow": [3.0, 9.0, 4.0], "fast": [2.0, 1.0, 7.0]}
    assert found.ratio("slow", to="fast") == 2.0  # 4 / 2; the warm-up of 100 does not count
    assert clock.slept == ["fast", "slow", "slow", "fast", "fast", "slow", "slow", "fast"]


def test_nothing_to_time_is_refused() -> None:
    with pytest.raises(ValueError, match="repeats=0 of 1 candidates"):
        time_in_turn({"a": lambda: None}, repeats=0)


def test_median_of_an_even_number() -> None:
    assert Timings({"a": [1.0, 2.0, 4.0, 50.0]}).median("a") == 3.0


@pytest.mark.parametrize(
    ("ratio", "goal", "better", "met"),
    [
        (1.05, 1.05, "lower", True),
        (1.06, 1.05, "lower", False),
        (2.5, 2.5, "higher", True),
        (2.4, 2.5, "higher", False),
        (2.4, None, "higher", None),
        (None, 2.5, "higher", None),
    ],
)
def test_goal_is_a_bound_that_counts_as_met(ratio, goal, better, met) -> None:
    assert Row("a", ratio, goal, better).met is met


def test_table_is_aligned() -> None:
    rows = [
        Row("long name", 1.2345, 1.05, detail="why"),
        Row("b", 3.0, 2.5, "higher", "5 ms"),
        Row("c", None, 2.5, "higher", "needs it"),
        Row("d", 0.5),
    ]
    assert bench.table(rows).splitlines() == [
        "name       ratio  goal     met  detail",
        "long name  1.234  <= 1.05  NO   why",
        "b          3.000  >= 2.50  yes  5 ms",
        "c          -      >= 2.50       needs it",
        "d          0.500",
    ]


def test_modules_without_measure_are_no_benchmarks() -> None:
    names = set(bench.benchmarks())
    assert {"masked_step", "train_step", "lottery_ticket_job", "shell"} <= names
    assert not names & {"timing", "lenet", "plain_torch", "kill"}


def test_choice_keeps_the_order_and_drops_repetitions() -> None:
    assert bench.choose(["shell", "masked_step", "shell"]) == ["shell", "masked_step"]
    assert bench.choose([]) == list(bench.benchmarks())
    with pytest.raises(UsageError, match="'shel'; did you mean 'shell'"):
        bench.choose(["masked_step", "shel"])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["--only=masked_stop"],
            "error: no benchmark is called 'masked_stop'; did you mean 'masked_step'?\n",
        ),
        (["--only=shell", "--json={tmp}"], "error: --json={tmp} is a directory"),
        (["--ony=shell"], "error: Unknown command line flag 'ony'"),
    ],
)
def test_wrong_use_is_one_line_and_exit_code_2(arguments, message, tmp_path) -> None:
    done = run(*(argument.format(tmp=tmp_path) for argument in arguments))
    assert done.returncode == 2
    assert done.stderr.startswith(message.format(tmp=tmp_path))
    assert done.stderr.count("\n") == 1


def test_row_of_a_peer_that_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)  # importing it now fails
    monkeypatch.delitem(sys.modules, "launch.benchmarks.plain_torch", raising=False)
    (row,) = bench.measure("lottery_ticket_job", quick=True)
    assert (row.ratio, row.goal, row.met) == (None, 2.5, None)
    assert row.detail == 'needs the extra bench: pip install -e ".[bench]"'


def test_a_missing_module_that_is_no_peer_is_a_fault() -> None:
    fault = ModuleNotFoundError("No module named 'trove_jux'", name="trove_jux")
    with pytest.raises(ModuleNotFoundError, match="trove_jux"):
        needs_extra(fault, "a")


def test_jobs_that_reach_other_accuracies_are_not_compared() -> None:
    ours = np.array([[90.0, 91.0, 80.0], [92.0, 91.0, 80.0]])
    check_same_job(ours + np.array([1.0, -1.4, 5.0])[None], ours)
    with pytest.raises(AssertionError, match="the jobs are not the same"):
        check_same_job(ours + np.array([0.0, 1.6, 0.0])[None], ours)
    with pytest.raises(AssertionError, match="nan"):
        check_same_job(np.full((2, 3), np.nan), ours)


def test_operations_of_a_step_by_hand() -> None:
    forward = 2 * 60 * (784 * 300 + 300 * 100 + 100 * 10)
    assert train_step.step_flops() == 2 * forward + 2 * 60 * (300 * 100 + 100 * 10)


def test_products_are_the_gradients_of_a_linear_network() -> None:
    draw = np.random.default_rng(0).standard_normal
    weights, inputs = [draw((5, 4)), draw((4, 3)), draw((3, 2))], draw((6, 5))
    found = train_step._products(weights, inputs)

    def loss(weights):
        return 0.5 * np.sum((inputs @ weights[0] @ weights[1] @ weights[2]) ** 2)

    for number, gradient in enumerate(found):
        step = np.zeros_like(weights[number])
        step[1, 1] = 1e-5
        moved = [
            [w + sign * step if i == number else w for i, w in enumerate(weights)]
            for sign in (1, -1)
        ]
        # Central differences of a quartic polynomial: the error is of the order of 1e-10.
        expected = (loss(moved[0]) - loss(moved[1])) / 2e-5
        np.testing.assert_allclose(gradient[1, 1], expected, rtol=1e-6)


def test_quick_run_prints_a_table_and_writes_results(tmp_path: pathlib.Path) -> None:
    out = tmp_path / "new" / "bench.json"
    done = run("--only=masked_step", "--quick", f"--json={out}")
    assert done.returncode == 0, done.stderr
    heading, row, last = done.stdout.splitlines()
    assert heading.split() == ["name", "ratio", "goal", "met", "detail"]
    assert row.startswith("masked step / dense step  ")
    assert last == f"results: {out}"
    results = json.loads(out.read_text())
    assert results["quick"] is True
    assert results["cores"] >= 1
    assert results["environment"]["packages"]["jax"]
    assert {"revision", "dirty"} == set(results["environment"]["git"])
    (record,) = results["rows"]
    assert record["ratio"] > 0
    assert (record["goal"], record["better"]) == (1.05, "lower")
    assert record["met"] is (record["ratio"] <= 1.05)
