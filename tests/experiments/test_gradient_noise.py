"""Several settings of the gradient noise experiment share programs, each with its own numbers."""

import jax.numpy as jnp
import numpy as np
import pytest

from experiments.learning import gradient_noise as experiment
from launch.lookup import resolve_config
from trove_jax import core

NUMBERS = (
    {"learning_rates": "(0.5, 0.25)", "eta": "0.125", "zero_eta": "2.0", "gamma": "0.5"},
    {"learning_rates": "(1.0, 0.75)", "eta": "4.0", "zero_eta": "8.0", "gamma": "0.0"},
)


def configs():
    small = ["--config.shallow_depth=2", "--config.width=4", "--config.steps=2"]
    return [
        resolve_config(
            experiment, "smoke", [*small, *(f"--config.{k}={v}" for k, v in numbers.items())]
        )
        for numbers in NUMBERS
    ]


class Recorder:
    """Trains nothing, and writes down the numbers that each lane would have been trained with."""

    def train_seeds(self, stage, task, tx, data, keys, *, steps, start, **options):
        del stage, task, tx, data, keys, options
        numbers = start.opt_state.hyperparams
        code = numbers["learning_rate"] + 10 * numbers["eta"] + 100 * numbers["gamma"]
        metrics = {"accuracy": np.repeat(np.asarray(code)[:, None], steps, axis=1)}
        return start._replace(step=jnp.int32(steps)), core.History(np.arange(steps), metrics)


def test_every_lane_gets_the_numbers_of_its_setting_arm_and_rate():
    both = configs()
    group = experiment._groups(both[0])[2]
    found = experiment._train_group(both, Recorder(), group, prepare=None, train=None, parts={})
    for config, arms in zip(both, found, strict=True):
        for arm, eta in (("shallow", 0.0), ("shallow_noise", config.eta)):
            for rate, measured in zip(config.learning_rates, arms[arm]["train"], strict=True):
                assert measured.shape == (config.seeds, 2)
                assert (measured == 100 * (rate + 10 * eta + 100 * config.gamma)).all()


def test_the_zero_start_has_a_variance_of_its_own():
    config = configs()[1]
    _, noise, _ = experiment._groups(config)
    found = {(lane.arm.name, lane.values["eta"]) for lane in experiment._lanes([config], noise)}
    assert found == {("zero_noise", 8.0), ("simple_noise", 4.0), ("good_noise", 4.0)}


def test_a_number_that_no_noise_can_take_is_refused_by_the_plan():
    config = resolve_config(experiment, "smoke", ["--config.zero_eta=-1.0"])
    with pytest.raises(ValueError, match=r"eta=-1\.0 must be finite and not negative"):
        experiment.plan(config)
