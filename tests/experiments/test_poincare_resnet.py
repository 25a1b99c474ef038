"""The experiment on Poincare networks: what it refuses, and how it prepares, chooses and fuses."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from experiments.vision import _poincare_measures as measures
from experiments.vision import _poincare_nets as nets
from experiments.vision import poincare_resnet
from launch.lookup import resolve_config
from trove_jax import core


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["parts=('norm',)"], "parts=.'norm',. must be some of norms, means"),
        (["easy.arms=('poincare','euclid')"], "easy.arms names 'euclid'"),
        (["hard.validation=0.0"], "hard has several learning_rates"),
    ],
)
def test_configurations_that_no_run_could_use_are_refused(overrides, message):
    config = resolve_config(poincare_resnet, "laptop", [f"--config.{text}" for text in overrides])
    with pytest.raises(core.UsageError, match=message):
        poincare_resnet.plan(config)


def test_published_setting():
    config = poincare_resnet.get_config("paper")
    images = nets.Images(config.easy)
    network = images.network("poincare")
    assert (network.blocks, network.widths, network.curvature) == (3, (8, 16, 32), 0.1)
    assert images.shape.shape == (32, 32, 3)
    assert (config.easy.batch_size, config.easy.epochs, config.easy.weight_decay) == (
        128,
        100,
        1e-4,
    )
    assert 1e-3 in config.easy.learning_rates
    kept = 50_000 - round(50_000 * config.easy.validation)
    assert images.steps == 100 * (kept // 128)
    assert nets.Images(config.hard).classes == 100


def test_every_arm_of_the_claims_is_in_the_laptop_preset():
    config = poincare_resnet.get_config("laptop")
    trained = {f"{p}_{arm}" for p in ("digits", "easy", "hard") for arm in config[p].arms}
    named = {arm for claim in poincare_resnet.CLAIMS for arm in (claim.treatment, claim.baseline)}
    assert {arm for arm in named if arm.startswith(("digits_", "easy_"))} <= trained
    assert {f"hard_{arm}" for arm in ("poincare", "euclidean", "head")} <= trained & named
    assert config.parts == poincare_resnet._PARTS


def test_images_are_bordered_and_shrunk_to_the_range_of_the_paper():
    settings = poincare_resnet.get_config("laptop").easy
    images = nets.Images(settings)
    stored = np.random.default_rng(0).integers(0, 256, (2, 28, 28, 1)).astype(np.uint8)
    got = jax.jit(images.prepare)(jnp.asarray(stored))
    assert got.shape == (2, *images.shape.shape) == (2, 16, 16, 1)
    padded = np.pad(stored / 255.0, ((0, 0), (2, 2), (2, 2), (0, 0)))
    want = 2 * padded.reshape(2, 16, 2, 16, 2, 1).mean((2, 4)) - 1
    # Float32 values of order 1.
    np.testing.assert_allclose(got, want, atol=1e-6)


def test_white_of_digits_is_one():
    images = nets.Images(poincare_resnet.get_config("laptop").digits)
    stored = jnp.full((1, 8, 8, 1), 16, jnp.uint8).at[0, 0, 0, 0].set(0)
    got = images.prepare(stored)
    np.testing.assert_allclose(got[0, 0, :2, 0], [-1.0, 1.0], atol=1e-6)


def test_the_rate_with_the_best_mean_validation_accuracy_is_chosen():
    """Constant networks that are right on a known share of the examples."""

    def metrics(variables, data):
        right = data.examples["label"] == variables["params"]["answer"]
        return {"accuracy": right.astype(jnp.float32).mean()}

    def unused(*_):
        raise AssertionError

    task = core.Task(unused, unused, metrics)
    labels = jnp.array([0] * 2 + [1] * 5 + [2] * 3)  # means: 0.35 at the first, 0.4 at the second
    lanes = {"params": {"answer": jnp.array([0, 1, 2, 1])}}
    chosen, rate = nets.choose(task, lanes, core.Data({"label": labels}), (1e-3, 4e-3), seeds=2)
    assert rate == 4e-3
    np.testing.assert_array_equal(chosen["params"]["answer"], [2, 1])


def test_lanes_train_at_their_own_rates():
    """One step of Adam at rate r moves every weight by r, whatever the gradient."""
    images = nets.Images(poincare_resnet.get_config("laptop").digits)
    tx = images.optimiser()
    params = {"w": jnp.array([1.0, -2.0])}
    state = tx.init(params)
    state = optax.tree_utils.tree_set(state, step_size=jnp.float32(0.25))
    with jax.numpy_dtype_promotion("standard"):
        updates, _ = tx.update({"w": jnp.array([3.0, -5.0])}, state, params)
    np.testing.assert_allclose(updates["w"], [-0.25, 0.25], rtol=1e-5)


def test_fusions_average_log_probabilities_of_the_right_pairs():
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 3, 50)
    found = {arm: rng.normal(size=(3, 50, 3)) for arm in ("poincare", "euclidean")}
    log_p = {arm: jnp.asarray(x, jnp.float32) for arm, x in found.items()}
    got = nets._fusions(log_p, jnp.asarray(labels, jnp.int32))
    pairs = {
        "fusion": [("poincare", s, "euclidean", s) for s in range(3)],
        "two_euclidean": [("euclidean", s, "euclidean", (s - 1) % 3) for s in range(3)],
        "two_poincare": [("poincare", s, "poincare", (s - 1) % 3) for s in range(3)],
    }
    for name, chosen in pairs.items():
        want = [
            100 * np.mean((found[a][s] + found[b][t]).argmax(1) == labels) for a, s, b, t in chosen
        ]
        np.testing.assert_allclose(got[name]["accuracy"], want, rtol=1e-6)
    assert nets._fusions({"poincare": log_p["poincare"]}, labels) == {}


class _Halve(nn.Module):
    @nn.compact
    def __call__(self, v):
        return v * self.param("factor", nn.initializers.constant(0.5), ())


def test_norms_are_those_behind_every_layer():
    with jax.numpy_rank_promotion("allow"):
        got = measures._depth_norms(_Halve(), core.seed_keys(2), (400, 9), 3)
    np.testing.assert_allclose(got / got[:, :1], [[1.0, 0.5, 0.25, 0.125]] * 2, rtol=1e-6)
    # The norm of 9 normal numbers has mean 2.918 and deviation 0.70: five standard errors of 400.
    np.testing.assert_allclose(got[:, 0], 2.918, atol=5 * 0.7 / 20)
