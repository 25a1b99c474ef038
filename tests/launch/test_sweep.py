"""launch.sweep: its points, programs, resumption, failures, report and job array."""

import dataclasses
import functools
import itertools
import json
import os
import pathlib
import signal
import subprocess
import sys
import types

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import optax
import pytest
from absl import flags
from absl.testing import flagsaver

from launch import sweep as sweep_program
from launch.execution import Settings
from launch.points import check_points, make_points, make_programs, read_grid, read_list
from launch.slurm import array_script
from launch.sweep_runs import Sweep, run_programs, write_report
from trove_jax import core, evidence, search

ROOT = pathlib.Path(__file__).parents[2]
X = np.linspace(-1.0, 1.0, 8, dtype=np.float32)


@functools.lru_cache
def make_task(width):
    """Fits a line by the mean of some weights, so that the width changes the program."""

    def loss(variables, batch, key, step):
        error = batch.examples * (variables["params"]["w"].mean() - 2.0)
        return (error**2).mean(), core.Aux()

    def init(key):
        return {"params": {"w": jax.random.normal(key, (width,))}}

    return core.Task(init, loss, lambda variables, data: {})


def get_config(preset):
    return ml_collections.ConfigDict(
        {"seeds": 2, "rate": 0.1, "rates": (0.1, 0.2), "width": 3, "steps": 40, "name": "a"}
    )


def plan(config):
    if config.width < 1:
        raise ValueError(f"width={config.width} is none")
    return [
        core.plan_stage(
            "fit", make_task(config.width), optax.sgd(0.1), runs=1, seeds=2, steps=config.steps
        )
    ]


def run_points(configs, context):
    if context.before_training:
        context.before_training(configs)
    config = configs[0]
    lanes = search.grid_lanes(
        make_task(config.width),
        optax.sgd,
        core.seed_keys(config.seeds),
        {"learning_rate": [config.rate for config in configs]},
    )
    _, history = context.train_seeds(
        "fit",
        lanes.task,
        lanes.tx,
        core.Data(jnp.asarray(X)),
        lanes.keys,
        steps=config.steps,
        start=lanes.start,
        batch_size=None,
        over_seeds="vmap",
    )
    losses = lanes.split(history.metrics["loss"])[..., -1]
    return [
        evidence.Evidence(arms={"fit": {"loss": own.tolist()}, "none": {"loss": [0.0, 0.0]}})
        for own in losses
    ]


SMALL = types.SimpleNamespace(
    SYSTEM=evidence.System(99, "Small", "none"),
    CLAIMS=(),  # without any, no figures are drawn
    TRACED=("rate", "rates"),
    get_config=get_config,
    plan=plan,
    run=lambda config, context: run_points([config], context)[0],
    run_points=run_points,
)


@pytest.fixture(autouse=True)
def before_training(monkeypatch):
    """What happens when an experiment has begun and not trained yet; a test may set it."""
    monkeypatch.setattr(core.Context, "before_training", None, raising=False)

    def set_to(action):
        monkeypatch.setattr(core.Context, "before_training", staticmethod(action), raising=False)

    return set_to


def make_sweep(workdir, **grid):
    points = make_points(SMALL, "smoke", [], {key: value.split() for key, value in grid.items()})
    settings = Settings(save_every=10)
    return Sweep(
        SMALL, "small", "smoke", make_programs(SMALL, points), workdir, settings, command="again"
    )


def losses(sweep):
    return {
        point.label: evidence.read_record(sweep.folder(point) / "evidence.json")["arms"]["fit"][
            "loss"
        ]
        for point in sweep.points
    }


def test_a_grid_is_all_combinations_of_its_values():
    grid = read_grid(["--grid.rate=0.1,1e-2,3", "--grid.rates=(0.1, 0.2),(1,2),", "--grid.name=x"])
    assert grid == {"rate": ["0.1", "1e-2", "3"], "rates": ["(0.1, 0.2)", "(1,2)"], "name": ["x"]}
    points = make_points(SMALL, "smoke", ["--config.width=5"], grid)
    wanted = itertools.product([0.1, 0.01, 3.0], [(0.1, 0.2), (1, 2)], ["x"])
    found = [(p.config.rate, p.config.rates, p.config.name) for p in points]
    assert found == list(wanted)
    assert {point.config.width for point in points} == {5}
    assert len({point.name for point in points}) == 6
    assert all("/" not in point.name and len(point.name) <= 100 for point in points)


def test_a_list_gives_its_points_and_the_grid_varies_each(tmp_path):
    path = tmp_path / "points.json"
    path.write_text(json.dumps([{"rate": 0.5, "name": "a,b"}, {"rates": [0.3, 0.4]}]))
    points = make_points(SMALL, "smoke", [], {"width": ["1", "2"]}, read_list(str(path)))
    found = [(p.config.rate, p.config.name, p.config.rates, p.config.width) for p in points]
    assert found == [
        (0.5, "a,b", (0.1, 0.2), 1),
        (0.5, "a,b", (0.1, 0.2), 2),
        (0.1, "a", (0.3, 0.4), 1),
        (0.1, "a", (0.3, 0.4), 2),
    ]


def test_only_traced_numbers_of_one_shape_share_a_program():
    listed = [
        {"rate": "0.5"},
        {"rate": "0.6", "rates": "(0.3, 0.4)"},
        {"rates": "(0.3,)"},
        {"width": "4"},
        {"rate": "0.7", "width": "4"},
    ]
    programs = make_programs(SMALL, make_points(SMALL, "smoke", [], {}, listed))
    assert [[p.values for p in program.points] for program in programs] == [
        listed[:2],
        [listed[2]],
        listed[3:],
    ]
    untraced = types.SimpleNamespace(**{**vars(SMALL), "TRACED": ()})
    assert len(make_programs(untraced, make_points(untraced, "smoke", [], {}, listed))) == 5


@pytest.mark.parametrize(
    ("grid", "overrides", "message"),
    [
        (["--grid.widht=1,2"], [], "did you mean 'width'?"),
        (["--grid.width=1,two"], [], "--grid.width=two is no int"),
        (["--grid.width=1,2.5"], [], "--grid.width=2.5 is float; it replaces 3"),
        (["--grid.width="], [], "'--grid.width=' lists no values"),
        (["--grid.width"], [], "lists no values"),
        (["--grid.width=1,,2"], [], "lists no values"),
        (["--grid.width=1", "--grid.width=2"], [], "--grid.width is given twice"),
        (["--grid.width=1,2"], ["--config.width=1"], "both --config.width and the sweep"),
        (["--grid.width=1,1"], [], "two points are the same: width=1 and width=1"),
        (["--grid.width=1,0"], [], "width=0: width=0 is none"),
        ([], [], "a sweep needs points"),
    ],
)
def test_a_mistake_in_the_grid_is_refused_by_name(grid, overrides, message):
    with pytest.raises(core.UsageError) as refusal:
        check_points(SMALL, make_points(SMALL, "smoke", overrides, read_grid(grid)))
    assert message in str(refusal.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "cannot be read: No such file"),
        ("{", "is no JSON"),
        ("{}", "holds no list of points"),
        ("[]", "holds no list of points"),
        ("[{}]", "entry 0 is not"),
        ('[{"a": {"b": 1}}]', "'a' is a group; write GROUP.KEY"),
    ],
)
def test_a_mistake_in_the_list_is_refused(tmp_path, content, message):
    path = tmp_path / "points.json"
    if content is not None:
        path.write_text(content)
    with pytest.raises(core.UsageError) as refusal:
        read_list(str(path))
    assert message in str(refusal.value)


def test_programs_equal_separate_runs_and_the_same_command_runs_nothing(tmp_path, before_training):
    sweep = make_sweep(tmp_path / "s", rate="0.1 0.3", width="2 3")
    calls = []
    before_training(lambda configs: calls.append([(c.rate, c.width) for c in configs]))
    assert run_programs(sweep, sweep.programs) == {}
    assert calls == [[(0.1, 2), (0.3, 2)], [(0.1, 3), (0.3, 3)]]
    found = losses(sweep)

    alone = make_sweep(tmp_path / "alone", rate="0.3", width="2")
    assert run_programs(alone, alone.programs) == {}
    # The loss is a square of what is left of 2 after 39 roundings.
    np.testing.assert_allclose(found["rate=0.3, width=2"], losses(alone)["rate=0.3, width=2"], 1e-3)
    # By hand: the mean of w moves by -rate 2 mean(x^2) (mean - 2) / width in each step.
    start = [jax.random.normal(core.init_key(key), (2,)).mean() for key in core.seed_keys(2)]
    shrink = 1 - 0.3 * 2 * (X**2).mean() / 2
    by_hand = (X**2).mean() * ((np.array(start) - 2) * shrink**39) ** 2
    np.testing.assert_allclose(found["rate=0.3, width=2"], by_hand, rtol=1e-3)

    times = {path: path.stat().st_mtime_ns for path in (tmp_path / "s").rglob("*.json")}
    before, calls[:] = core.compilations(), []
    assert run_programs(sweep, sweep.programs) == {}
    assert calls == []
    assert core.compilations() == before
    assert times == {path: path.stat().st_mtime_ns for path in (tmp_path / "s").rglob("*.json")}

    larger = make_sweep(tmp_path / "s", rate="0.1 0.2 0.3", width="2")
    assert run_programs(larger, larger.programs) == {}
    assert calls == [[(0.2, 2)]]
    assert {k: v for k, v in losses(larger).items() if "0.2" not in k}.items() <= found.items()


def test_stopped_it_saves_and_the_same_command_continues(tmp_path, before_training, monkeypatch):
    grid = {"rate": "0.1 0.3", "width": "3", "name": "a b"}
    straight = make_sweep(tmp_path / "straight", **grid)
    run_programs(straight, straight.programs)
    sweep = make_sweep(tmp_path / "s", **grid)
    started = []

    def stop_the_second(configs):
        started.append(configs[0].name)
        if configs[0].name == "b":
            os.kill(os.getpid(), signal.SIGTERM)

    before_training(stop_the_second)
    with core.catch_signals(), pytest.raises(core.Interrupted, match="the same command continues"):
        run_programs(sweep, sweep.programs)
    assert started == ["a", "b"]
    assert [sweep.is_finished(point) for point in sweep.points] == [True, False, True, False]
    saved = list((tmp_path / "s" / ".programs").glob("*/checkpoints/fit/*"))
    assert len(saved) > 1

    trained = []
    train_seeds = core.Context.train_seeds

    def count(context, *args, **options):
        found = train_seeds(context, *args, **options)
        trained.append(context.steps_done)
        return found

    monkeypatch.setattr(core.Context, "train_seeds", count)
    before_training(lambda configs: started.append(configs[0].name))
    assert run_programs(sweep, sweep.programs) == {}
    assert started == ["a", "b", "b"]
    assert 0 < trained[0] < 4 * 40  # four lanes, not from the beginning
    assert losses(sweep) == losses(straight)


def test_a_point_that_fails_is_reported_and_the_others_go_on(tmp_path, before_training):
    sweep = make_sweep(tmp_path / "s", rate="0.1 1e30", name="a b")

    def break_one(configs):
        if configs[0].name == "b" and any(config.rate == 0.1 for config in configs):
            raise RuntimeError("no such luck\nat all")

    before_training(break_one)
    failures = run_programs(sweep, sweep.programs)
    assert [point.label for point in sweep.points if point.name in failures] == [
        "rate=0.1, name=b",
        "rate=1e30, name=a",
        "rate=1e30, name=b",
    ]
    report = write_report(sweep, failures).read_text()
    assert "RuntimeError: no such luck" in report
    # A later process, which did not see it happen, reports the same.
    assert write_report(sweep, {}).read_text() == report
    points = json.loads((tmp_path / "s" / "sweep.json").read_text())["points"]
    assert [point["status"] for point in points] == [
        *("finished", "failed"),  # a learning rate of 0.1
        *("failed", "failed"),  # 1e30
    ]
    assert "the loss is" in points[2]["reason"]
    before_training(None)
    again = run_programs(sweep, sweep.programs)
    assert [point.label for point in sweep.points if point.name in again] == [
        "rate=1e30, name=a",
        "rate=1e30, name=b",
    ]


def test_the_report_shows_means_intervals_and_how_to_run_each(tmp_path):
    claim = evidence.Claim("C1", "Fits.", "loss", "fit", "none", better="lower")
    judged = types.SimpleNamespace(**{**vars(SMALL), "CLAIMS": (claim,)})
    sweep = dataclasses.replace(make_sweep(tmp_path, rate="0.1 0.2", width="3"), experiment=judged)
    run_programs(sweep, sweep.programs)
    report = write_report(sweep, {}).read_text()
    summary = json.loads((tmp_path / "sweep.json").read_text())
    assert (summary["traced"], summary["separate"]) == (["rate"], ["width"])
    values = np.array(losses(sweep)["rate=0.1, width=3"])
    mean = summary["points"][0]["means"]["fit"]["loss"]
    assert mean["mean"] == pytest.approx(values.mean())
    # Student's t of one degree of freedom: 12.706 standard errors.
    half = 12.7062 * values.std(ddof=1) / np.sqrt(2)
    assert mean["high"] - mean["mean"] == pytest.approx(half, rel=1e-4)
    command = summary["points"][1]["command"]
    assert command.startswith("python -m launch.run --experiment=small --preset=smoke")
    assert "--config.rate=0.2 --config.width=3" in command
    assert command.replace("'", "&#x27;") in report
    assert report.count("2 finished") == 1
    for point in summary["points"]:
        assert (tmp_path / point["folder"] / "report.html").is_file()
        assert f"{point['folder']}/report.html" in report.replace("%3D", "=").replace("%2C", ",")
        assert point["cost"]["network_steps"] == 80
        record = evidence.read_record(tmp_path / point["folder"] / "evidence.json")
        assert point["claims"]["C1"]["verdict"] == record["claims"][0]["verdict"]


def test_a_folder_of_another_configuration_is_left_alone(tmp_path):
    sweep = make_sweep(tmp_path, width="3")
    run_programs(sweep, sweep.programs)
    point = sweep.points[0]
    others = make_points(SMALL, "smoke", ["--config.rate=0.7"], {"width": ["3"]})
    assert [other.name for other in others] == [point.name]
    (sweep.folder(point) / "evidence.json").unlink()
    changed = dataclasses.replace(sweep, programs=make_programs(SMALL, others))
    failures = run_programs(changed, changed.programs)
    assert "config.rate is 0.1 there and 0.7 here" in str(failures[point.name])
    assert not (sweep.folder(point) / "failure.txt").exists()


def test_the_job_array_runs_its_task_and_requeues_what_was_stopped(tmp_path):
    folder = tmp_path / "it's here"
    (folder / "bin").mkdir(parents=True)
    text = array_script(
        ["python", "--grid.rates=(0.1, 0.2),(1, 2)"],
        tasks=[0, 1, 2, 5],
        name="small-sweep",
        folder=str(folder),
        logs=str(tmp_path / "logs"),
    )
    assert "#SBATCH --array=0-2,5\n" in text
    script = tmp_path / "sweep.sbatch"
    script.write_text(text)
    subprocess.run(["bash", "-n", script], check=True)
    tools = {
        "srun": 'shift; printf "%s|" "$PWD" "$@" > "$OUT/srun"; exit $CODE',
        "scontrol": 'echo "$@" > "$OUT/scontrol"',
    }
    for name, body in tools.items():
        (folder / "bin" / name).write_text(f"#!/bin/bash\n{body}\n")
        (folder / "bin" / name).chmod(0o755)
    for code, requeued in ((75, True), (0, False), (65, False)):
        (tmp_path / "scontrol").unlink(missing_ok=True)
        environment = {
            "PATH": f"{folder / 'bin'}:{os.environ['PATH']}",
            "OUT": str(tmp_path),
            "CODE": str(code),
            "SLURM_ARRAY_TASK_ID": "5",
            "SLURM_ARRAY_JOB_ID": "77",
        }
        assert subprocess.run(["bash", script], env=environment, check=False).returncode == code
        assert (tmp_path / "scontrol").exists() == requeued
    assert (tmp_path / "srun").read_text() == (
        f"{folder}|python|--grid.rates=(0.1, 0.2),(1, 2)|--task=5|"
    )
    with pytest.raises(ValueError, match="nothing is left"):
        array_script(["python"], tasks=[], name="a", folder="/", logs="/")


def typed(*arguments):
    """Runs the program's main function as the command line would, in this process."""
    extra = [text for text in arguments if text.startswith(("--grid.", "--config."))]
    with flagsaver.flagsaver():
        flags.FLAGS(["sweep", "--preset=smoke", *(text for text in arguments if text not in extra)])
        sweep_program.main(extra)


def test_a_dry_run_says_what_is_traced_and_how_many_programs(tmp_path, capsys):
    typed(
        "--experiment=gradient_noise",
        "--grid.eta=0.01,0.3",
        "--grid.width=8,12",
        "--dry_run",
        f"--workdir={tmp_path / 'none'}",
    )
    out = capsys.readouterr().out
    assert "4 points x 2 seeds, 2 programs" in out
    assert "traced, arguments of one program: eta\n" in out
    assert "separate, a program for each value: width\n" in out
    assert not (tmp_path / "none").exists()


def test_submit_writes_an_array_and_runs_nothing(tmp_path, capsys):
    arguments = ["--experiment=lottery_ticket", f"--workdir={tmp_path}", "--seeds=3"]
    typed(*arguments, "--submit=slurm", "--grid.tickets.rounds=1,2")
    assert f"sbatch --time=04:00:00 --gres=gpu:1 {tmp_path}/sweep.sbatch" in capsys.readouterr().out
    text = (tmp_path / "sweep.sbatch").read_text()
    assert "#SBATCH --array=0-1\n" in text
    assert f"--seeds=3 --workdir={tmp_path} --grid.tickets.rounds=1,2 --task=" in text
    assert "--submit" not in text
    assert not (tmp_path / "points").exists()
    with pytest.raises(core.UsageError, match="did you mean 'slurm'"):
        typed(*arguments, "--submit=slum", "--grid.tickets.rounds=1,2")
    with pytest.raises(core.UsageError, match="there are 2 programs, from 0"):
        typed(*arguments, "--task=2", "--grid.tickets.rounds=1,2")


def test_a_mistake_on_the_command_line_is_one_line():
    arguments = ["--experiment=gradient_noise", "--grid.widht=1,2"]
    done = subprocess.run(
        [sys.executable, "-m", "launch.sweep", *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 2
    assert done.stderr.startswith("error: the configuration has no key")
    assert done.stderr.count("\n") == 1
