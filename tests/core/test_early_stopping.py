"""Keeping the best variables inside the loop, against a plain loop over the same losses."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from tests.core.problems import TASK, make_data
from trove_jax import core

STEPS, SEEDS = 40, 3
# One weight that walks from 0 by 0.1 a step, and a valley that each seed has at another place.
VALLEY = jnp.array([0.75, 2.0, 9.0])
WALK = core.Task(
    lambda key: {
        "params": {"w": jnp.float32(0.0)},
        "where": {"n": jax.random.randint(key, (), 0, 3)},
    },
    lambda variables, batch, key, step: (-variables["params"]["w"], core.Aux()),
    lambda variables, data: {"w": variables["params"]["w"]},
)
DATA = core.Data({"x": jnp.zeros((1, 1))}, VALLEY)


def valley(variables, batch):
    return jnp.abs(variables["params"]["w"] - batch.shared[variables["where"]["n"]])


def walk(rule, seeds=SEEDS, every=1, **options):
    task = core.keep_best(WALK, valley, rule, every=every)
    state, history = core.train_seeds(
        task, optax.sgd(0.1), DATA, core.seed_keys(seeds), steps=STEPS, batch_size=None, **options
    )
    return task, jax.device_get(state.variables), history


def expected(losses, rule):
    """Best step and first stop, by a Python loop over one seed's validation losses."""
    best, at, stopped = np.inf, -1, []
    for step, loss in enumerate(losses):
        if not any(stopped) and loss < best:
            best, at = loss, step
        stopped.append(bool(rule(losses, step)) or any(stopped))
    return at, stopped


def by_window(losses, step, window=5, start=8):
    return step > start and losses[step] > np.mean(losses[max(0, step - window) : step])


def by_patience(losses, step, steps=4):
    return step - int(np.argmin(losses[: step + 1])) >= steps


@pytest.mark.parametrize(
    ("rule", "plain"),
    [
        (core.windowed(5, start=8), by_window),
        (core.patience(4), by_patience),
        (core.never(), lambda losses, step: False),
    ],
    ids=["windowed", "patience", "never"],
)
def test_rules_equal_a_plain_loop(rule, plain):
    _, variables, history = walk(rule)
    assert len(set(variables["where"]["n"].tolist())) > 1  # seeds stop at different steps
    for i in range(SEEDS):
        at, stopped = expected(history.metrics["validation"][i], plain)
        assert core.best_step(variables)[i] == at
        assert core.best_loss(variables)[i] == history.metrics["validation"][i][at]
        assert history.metrics["stopped"][i].tolist() == stopped
        assert core.has_stopped(variables)[i] == stopped[-1]
        np.testing.assert_allclose(
            core.best_variables(variables)["params"]["w"][i], 0.1 * at, rtol=1e-5
        )
    # The walk itself is the one without the wrapper.
    np.testing.assert_allclose(variables["params"]["w"], 0.1 * STEPS, rtol=1e-5)


def test_looking_at_every_third_step_equals_a_loop_over_those_steps():
    every = 3
    _, variables, history = walk(core.windowed(4, start=3), every=every)
    _, _, whole = walk(core.never())
    for i in range(SEEDS):
        losses = whole.metrics["validation"][i][::every]
        at, stopped = expected(losses, functools.partial(by_window, window=4, start=3))
        assert core.best_step(variables)[i] == every * at
        assert core.best_loss(variables)[i] == losses[at]
        # Between two looks the records hold the last one.
        looked = np.repeat(np.arange(len(losses)), every)[:STEPS]
        np.testing.assert_array_equal(history.metrics["validation"][i], losses[looked])
        assert history.metrics["stopped"][i].tolist() == np.array(stopped)[looked].tolist()


def test_seeds_one_by_one_and_side_by_side_agree_and_resume_bit_for_bit():
    rule = core.windowed(5, start=8)
    together = walk(rule, over_seeds="vmap")
    in_turn = walk(rule, over_seeds="map")
    for a, b in zip(jax.tree.leaves(together[1:]), jax.tree.leaves(in_turn[1:]), strict=True):
        np.testing.assert_array_equal(a, b)
    task, key = together[0], core.seed_keys(1)[0]
    options = {"batch_size": None}
    straight, _ = core.train(task, optax.sgd(0.1), DATA, key, steps=20, **options)
    first, _ = core.train(task, optax.sgd(0.1), DATA, key, steps=11, **options)
    second, _ = core.train(task, optax.sgd(0.1), DATA, key, steps=20, start=first, **options)
    for a, b in zip(jax.tree.leaves(straight), jax.tree.leaves(second), strict=True):
        np.testing.assert_array_equal(a, b)


def test_other_collections_are_kept_and_training_is_unchanged():
    def validate(variables, batch):
        return TASK.metrics(variables, core.Data(batch.examples))["loss"]

    tx, data, key = optax.adam(0.5), make_data(), jax.random.key(1)
    task = core.keep_best(TASK, validate)
    state, history = core.train(task, tx, data, key, steps=30, batch_size=None)
    plain, _ = core.train(TASK, tx, data, key, steps=30, batch_size=None)
    # Two programs that XLA fuses differently.
    np.testing.assert_allclose(
        state.variables["params"]["w"], plain.variables["params"]["w"], rtol=1e-4, atol=1e-5
    )
    best = core.best_variables(state.variables)
    at = int(core.best_step(state.variables))
    assert at == history.metrics["validation"].argmin()
    assert float(best["statistics"]["seen"]) == at
    measured = core.evaluate(TASK, best, data)["loss"]
    np.testing.assert_allclose(measured, history.metrics["validation"].min(), rtol=1e-5)
    now = core.evaluate(task, state.variables, data)["loss"]
    np.testing.assert_allclose(now, TASK.metrics(plain.variables, data)["loss"], rtol=1e-4)


def test_nan_is_never_the_best():
    def validate(variables, batch):
        w = variables["params"]["w"]
        return jnp.where(w < 1.05, jnp.nan, jnp.abs(w - 2.0))

    task = core.keep_best(WALK, validate, core.windowed(3, start=0))
    key = jax.random.key(0)
    state, history = core.train(task, optax.sgd(0.1), DATA, key, steps=STEPS, batch_size=None)
    assert int(core.best_step(state.variables)) == 20
    assert np.isnan(history.metrics["validation"][:10]).all()


def test_refusals():
    with pytest.raises(ValueError, match="every=0 steps is no interval"):
        core.keep_best(WALK, valley, every=0)
    for call in (
        lambda: core.windowed(0, start=1),
        lambda: core.windowed(1, start=-1),
        lambda: core.patience(0),
    ):
        with pytest.raises(ValueError, match=r"window=|steps="):
            call()
    task = core.keep_best(WALK, valley)
    with pytest.raises(ValueError, match="wrap a task once"):
        core.keep_best(task, valley).init(jax.random.key(0))
    with pytest.raises(ValueError, match="keep_best made"):
        core.best_variables(WALK.init(jax.random.key(0)))
    variables = task.init(jax.random.key(0))
    vector = core.keep_best(WALK, lambda variables, batch: batch.shared)
    with pytest.raises(ValueError, match="a scalar is wanted"):
        vector.loss(variables, core.Batch((), VALLEY), jax.random.key(0), jnp.int32(0))
