"""The experiment on local learning: what it refuses, and how it chooses a learning rate."""

import jax.numpy as jnp
import numpy as np
import pytest

from experiments.learning import auglocal
from launch.lookup import resolve_config
from trove_jax import core


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["network=vgg"], "network='vgg' is none of mlp, resnet32, resnet110"),
        (["arms=('bp','gready')"], "arms names 'gready'"),
        (["analysed=('gready',)"], "analysed names 'gready'"),
        (["arms=('greedy','bp')"], "must begin with 'bp'"),
        (["validation=0.0"], "are chosen on validation images"),
    ],
)
def test_configurations_that_no_run_could_use_are_refused(overrides, message):
    config = resolve_config(auglocal, "laptop", [f"--config.{text}" for text in overrides])
    with pytest.raises(core.UsageError, match=message):
        auglocal.plan(config)


def test_published_schedule():
    config = auglocal.get_config("paper")
    assert auglocal._steps(config) == 400 * 48
    units, head = auglocal._network(config)
    assert ([unit.width for unit in units], head.classes) == ([16] * 6 + [32] * 5 + [64] * 5, 10)
    config.network = "resnet110"
    assert len(auglocal._network(config)[0]) == 55


def test_every_arm_of_the_claims_is_in_the_paper_preset():
    arms = {arm for claim in auglocal.CLAIMS for arm in (claim.treatment, claim.baseline)}
    assert arms <= set(auglocal.get_config("paper").arms)
    laptop = set(auglocal.get_config("laptop").arms)
    assert arms - laptop == {"infopro"}  # reconstructs images, which a perceptron flattens


def test_the_rate_with_the_best_mean_validation_accuracy_is_chosen():
    """Constant networks that are right on a known share of the examples."""
    config = auglocal.get_config("smoke")
    answers = jnp.array([0, 1, 2, 1])  # two seeds at each of two rates

    def metrics(variables, data):
        right = data.examples["label"] == variables["params"]["answer"]
        return {"accuracy": right.astype(jnp.float32).mean()}

    def unused(*_):
        raise AssertionError

    task = core.Task(unused, unused, metrics)
    labels = jnp.array([0] * 2 + [1] * 5 + [2] * 3)  # means: 0.35 at the first, 0.4 at the second
    chosen, rate = auglocal._choose(
        config, task, {"params": {"answer": answers}}, core.Data({"label": labels})
    )
    assert rate == config.learning_rates[1]
    np.testing.assert_array_equal(chosen["params"]["answer"], [2, 1])
