"""Stages of a run: resumed exactly, shown, logged, and stopped with a clear word."""

import io
import json
import os
import signal

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from tests.core.problems import TASK, loss, make_data
from trove_jax import core

TX = optax.adam(1e-2)
KEYS = core.seed_keys(2)


def make_context(path, **options):
    directory = core.RunDirectory(path, {"run": 1})
    writer = core.MetricWriter(directory.path)
    return core.Context(directory=directory, writer=writer, log_every=5, save_every=10, **options)


def close(context):
    context.close()
    context.directory.close()


def train(context, task=TASK, steps=30, **options):
    return context.train_seeds(
        "part/one", task, TX, make_data(), KEYS, steps=steps, batch_size=10, **options
    )


class StopAt:
    """Asks this process to stop, as a person at a terminal would."""

    every = 5

    def __init__(self, step):
        self.step = step

    def __call__(self, moment):
        if moment.step == self.step:
            os.kill(os.getpid(), signal.SIGINT)


def same(a, b):
    return jax.tree.all(jax.tree.map(np.array_equal, a, b))


def test_an_interrupted_stage_goes_on_to_the_same_bits_records_and_lines(tmp_path):
    straight = make_context(tmp_path / "straight")
    expected = train(straight)
    close(straight)
    stopped = make_context(tmp_path / "stopped")
    with core.catch_signals(), pytest.raises(core.Interrupted, match="stopped at step 20 of 30"):
        train(stopped, hooks=[StopAt(15)])
    close(stopped)
    again = make_context(tmp_path / "stopped")
    assert same(train(again), expected)
    close(again)
    lines = [core.read_metrics(tmp_path / run / "metrics.jsonl") for run in ("straight", "stopped")]
    assert lines[0] == lines[1]


def test_a_finished_stage_is_read_back_without_training(tmp_path):
    context = make_context(tmp_path)
    first = train(context)
    before = core.compilations()
    assert same(train(context), first)
    assert context.steps_done == 60
    assert core.compilations() == before
    close(context)


def test_a_single_network_is_a_stage_too(tmp_path):
    context = make_context(tmp_path)
    state, history = context.train("one", TASK, TX, make_data(), KEYS[0], steps=10, batch_size=10)
    assert state.variables["params"]["w"].shape == (8, 4)
    assert history.metrics["loss"].shape == (10,)
    close(context)


def test_without_a_directory_nothing_is_kept_and_the_numbers_are_the_same(tmp_path):
    kept = make_context(tmp_path)
    assert same(train(core.Context()), train(kept))
    close(kept)


@pytest.mark.parametrize("stop", [7, 20, 23])
def test_lines_do_not_depend_on_where_the_run_was_cut(tmp_path, stop):
    _, history = core.train_seeds(TASK, TX, make_data(), KEYS, steps=30, batch_size=10)

    def part(first, last):
        metrics = {k: v[:, first:last] for k, v in history.metrics.items()}
        return core.History(history.steps[first:last], metrics)

    def moment(last, new, steps=30):
        return core.Moment(last, steps, lambda: None, new, True, 1.0)

    for name, cuts in {"whole": [30], "cut": [stop, 30]}.items():
        (tmp_path / name).mkdir()
        writer, first = core.MetricWriter(tmp_path / name), 0
        for last in cuts:
            log = core.LogMetrics(writer, "x", interval=8, before=part(0, first))
            log(moment(last, part(first, last)))
            first = last
        writer.close()
    lines = [core.read_metrics(tmp_path / name / "metrics.jsonl") for name in ("whole", "cut")]
    assert [line["step"] for line in lines[0]] == [8, 16, 24, 30]
    assert lines[0] == lines[1]


def test_metrics_are_means_of_all_records_since_the_line_before(tmp_path):
    context = make_context(tmp_path)
    _, history = train(context)
    close(context)
    lines = core.read_metrics(tmp_path / "metrics.jsonl")
    assert [line["step"] for line in lines] == [5, 10, 15, 20, 25, 30]
    means = history.metrics["loss"].reshape(2, 6, 5).mean(axis=2)
    np.testing.assert_allclose([line["loss"] for line in lines], means.T, rtol=1e-6)


def test_a_failed_loss_names_stage_seed_step_and_the_last_good_checkpoint(tmp_path):
    def bad_loss(variables, batch, key, step):
        value, aux = loss(variables, batch, key, step)
        return jnp.where(step == 23, jnp.inf, value), aux

    context = make_context(tmp_path)
    with pytest.raises(
        core.NonFiniteLoss, match=r"part/one: the loss is inf at seed 0, 1, step 23; .* of step 20 "
    ):
        train(context, core.Task(TASK.init, bad_loss, TASK.metrics))
    close(context)


def test_plain_progress_is_lines_with_step_loss_speed_and_time_left(tmp_path):
    stream = io.StringIO()
    context = make_context(tmp_path, progress=core.Progress(stream, total=60))
    train(context)
    close(context)
    last = stream.getvalue().splitlines()[-1]
    assert "[ 50%] part/one: step 30/30, loss " in last
    assert "steps/s" in last
    assert "left" in last


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_a_terminal_gets_a_live_display(tmp_path):
    stream = Terminal()
    context = make_context(tmp_path, progress=core.Progress(stream, total=30))
    train(context)
    close(context)
    assert "part/one" in stream.getvalue()
    assert "100%" in stream.getvalue()


def test_a_torn_line_is_dropped_and_later_lines_are_rewound(tmp_path):
    writer = core.MetricWriter(tmp_path)
    for step in (5, 10, 15):
        writer.write("a", step, {"loss": [1.0, float("nan")]})
        writer.write("b", step, {"loss": [2.0]})
    writer.close()
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"stage": "a", "st')
    again = core.MetricWriter(tmp_path)
    again.rewind("a", 5)
    again.write("a", 10, {"loss": [3.0, 4.0]})
    again.close()
    lines = [json.loads(x) for x in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [(x["stage"], x["step"]) for x in lines] == [
        ("a", 5), ("b", 5), ("b", 10), ("b", 15), ("a", 10),
    ]  # fmt: skip
    assert lines[0]["loss"] == [1.0, None]


def test_a_plan_counts_steps_and_bytes():
    stage = core.plan_stage("x", TASK, TX, runs=3, seeds=4, steps=10)
    # w, its two moments, the counters of Adam and of the loop, and the running statistic.
    assert stage.state_bytes == 3 * 8 * 4 * 4 + 3 * 4
    assert stage.total_steps == 30
    assert "in all 30 steps" in core.describe_plan([stage])
