"""A grid in one program equals runs with the same numbers written into the program."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from tests.core.problems import TASK, make_data
from trove_jax import core, search

KEYS = core.seed_keys(2)
STEPS = 12

# Two programs with other orders of summation, over 12 steps.
equal = functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-5)


def make_task(weight):
    """The shared problem with a penalty on the weights, and a start that depends on it too."""

    def init(key):
        return jax.tree.map(lambda leaf: leaf * weight, TASK.init(key))

    def loss(variables, batch, key, step):
        value, aux = TASK.loss(variables, batch, key, step)
        return value + weight * (variables["params"]["w"] ** 2).sum(), aux

    def metrics(variables, data):
        return {name: value * weight for name, value in TASK.metrics(variables, data).items()}

    return core.Task(init, loss, metrics)


def make_tx(learning_rate, decay, nesterov=True):
    return optax.sgd(learning_rate, momentum=decay, nesterov=nesterov)


VALUES = {"learning_rate": [0.1, 0.01, 0.1], "decay": [0.5, 0.5, 0.9], "weight": [0.1, 0.2, 0.3]}


@pytest.fixture(scope="module")
def data():
    return make_data()


@pytest.fixture(scope="module")
def found(data):
    return search.train_grid(
        make_task, make_tx, data, KEYS, VALUES, steps=STEPS, batch_size=10, measure_on=data
    )


def test_a_point_equals_its_separate_run(found, data):
    assert found.history.metrics["loss"].shape == (3, 2, STEPS)
    values = {name: numbers[2] for name, numbers in VALUES.items()}
    task = make_task(values.pop("weight"))
    state, history = core.train_seeds(
        task, make_tx(**values), data, KEYS, steps=STEPS, batch_size=10
    )
    measured = core.evaluate_seeds(task, state.variables, data)
    equal(found.history.metrics["loss"][2], history.metrics["loss"])
    equal(found.metrics["loss"][2], measured["loss"])
    together = jax.tree.map(lambda leaf: leaf[2], found.states.variables)
    jax.tree.map(equal, together, state.variables)
    assert set(found.states.variables) == {"params", "statistics"}


def test_every_seed_draws_its_own_noise_and_the_same_at_every_point(data):
    def noise(scale):
        def update(updates, key, params=None):
            return jax.tree.map(lambda x: scale * jax.random.normal(key, x.shape), updates), key

        return optax.GradientTransformation(lambda params: jax.random.key(0), update)

    def loss(variables, batch, key, step):
        return variables["params"]["w"].sum(), core.Aux()

    still = core.Task(lambda key: {"params": {"w": jnp.zeros(4)}}, loss, TASK.metrics)
    found = search.train_grid(
        still, noise, data, KEYS, {"scale": [1.0, 4.0]}, steps=1, batch_size=None
    ).states.variables["params"]["w"]
    np.testing.assert_array_equal(4 * found[0], found[1])
    assert (found[0, 0] != found[0, 1]).all()


def test_another_grid_compiles_nothing_and_a_point_that_diverges_leaves_the_others(found, data):
    before = core.compilations()
    again = search.train_grid(
        make_task,
        make_tx,
        data,
        KEYS,
        {**VALUES, "learning_rate": [0.3, 1e30, 0.1]},
        steps=STEPS,
        batch_size=10,
        stop_at_nonfinite=False,
    )
    assert core.compilations() == before
    losses, first = again.history.metrics["loss"], found.history.metrics["loss"]
    assert np.isnan(losses[1, :, -1]).all()
    assert (losses[0, :, -1] != first[0, :, -1]).all()
    np.testing.assert_array_equal(losses[2], first[2])


def test_continued_equals_straight(found, data):
    grid = functools.partial(search.train_grid, make_task, make_tx, data, KEYS, VALUES)
    half = grid(steps=5, batch_size=10)
    end = grid(steps=STEPS, batch_size=10, start=half.states)
    jax.tree.map(np.testing.assert_array_equal, end.states, found.states)
    assert end.history.steps.tolist() == list(range(5, STEPS))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({}, "values is empty"),
        ({**VALUES, "momentum": [0.1, 0.2, 0.3]}, "'momentum', which neither task nor tx takes"),
        ({"learning_rate": [0.1], "decay": [0.1]}, "task needs 'weight'"),
        ({**VALUES, "decay": [0.1, 0.2]}, "'decay': 2"),
        ({**VALUES, "decay": 0.1}, r"values\['decay'\] has shape \(\)"),
        ({**VALUES, "decay": ["a", "b", "c"]}, "dtype <U1; one number per point"),
    ],
)
def test_refusals(values, message, data):
    with pytest.raises(ValueError, match=message):
        search.train_grid(make_task, make_tx, data, KEYS, values, steps=1, batch_size=10)


def test_functions_that_hide_their_parameters_are_refused(data):
    with pytest.raises(ValueError, match="tx takes rest without naming"):
        search.grid_lanes(TASK, lambda **rest: optax.sgd(**rest), KEYS, {"learning_rate": [0.1]})
    with pytest.raises(ValueError, match=r"keys has shape \(\)"):
        search.grid_lanes(TASK, optax.sgd, KEYS[0], {"learning_rate": [0.1]})
