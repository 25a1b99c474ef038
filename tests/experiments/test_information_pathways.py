"""The parts of the experiment on information pathways: schedule, draws, costs, ensembles."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.language import _subsampled as subsampled
from experiments.language import information_pathways as experiment
from trove_jax import core
from trove_jax.layers import LocalSubsampledAttention, UnbiasedSubsampledAttention

NET = subsampled.Net(17, 10, 64, 1, 2, 4, 8, 8, predicts=False)
LOCAL = subsampled.Arm("ssa_local", LocalSubsampledAttention(window=16, sigma_over_w=0.5))


def test_the_rate_rises_and_drops_at_the_switch():
    schedule = subsampled.Schedule(10, 8, 4, 0.5, 0.1, 4)
    tx = subsampled.optimiser(schedule)
    start = {"w": jnp.zeros(())}

    def step(state, _):
        updates, state = tx.update({"w": jnp.ones(())}, state, start)
        return state, -updates["w"]

    with jax.numpy_dtype_promotion("standard"):  # optax's own code mixes dtypes
        _, moves = jax.lax.scan(step, tx.init(start), length=10)
    # Adam's step for a constant gradient is the rate itself.
    wanted = [0.125, 0.25, 0.375, *[0.5] * 5, 0.05, 0.05]
    np.testing.assert_allclose(moves, wanted, rtol=1e-3)


def test_arms_that_draw_keys_have_the_variables_of_the_dense_one():
    key = jax.random.key(0)
    begun = [
        jax.eval_shape(subsampled.task_of(NET, arm).init, key) for arm in (subsampled.DENSE, LOCAL)
    ]
    assert begun[0] == begun[1]
    # One task for the same settings: what was compiled for one arm serves the next.
    assert subsampled.task_of(NET, LOCAL) is subsampled.task_of(NET, LOCAL)


def test_masks_show_each_query_as_many_keys_as_are_drawn():
    keys = jax.random.split(jax.random.key(0), 3)
    draw = functools.partial(subsampled.drawn_masks, n=64, keys=keys)
    local, unbiased = (
        np.asarray(draw(kind)) for kind in (LOCAL.attention, UnbiasedSubsampledAttention(keys=16))
    )
    for masks in (local, unbiased):
        assert masks.shape == (3, 64, 64)
        assert (masks.sum(axis=2) == 16).all()
        assert (masks[0] != masks[1]).any()
    assert (local.sum(axis=1) == 16).all()
    assert (unbiased == unbiased[:, :1]).all()


def test_fixed_windows_never_meet_and_drawn_keys_do():
    fixed = LocalSubsampledAttention(window=4, sigma_over_w=0.0)
    reach = subsampled.reach_by_depth(fixed, 16, 3, draws=2)
    np.testing.assert_allclose(reach, 0.25)
    drawn = subsampled.reach_by_depth(UnbiasedSubsampledAttention(keys=4), 16, 3, draws=2)
    # One layer: four keys and, past the layer, itself: 4 / 16 + 12 / 256.
    np.testing.assert_allclose(drawn[:, 0], 4 / 16 + 12 / 256)
    assert (np.diff(drawn, axis=1) >= 0).all()
    assert (drawn[:, -1] > drawn[:, 0]).all()


def test_an_eighth_of_the_keys_takes_an_eighth_of_the_operations():
    dense = subsampled.attention_cost("vanilla", 512, heads=1, head_dim=16)
    local = subsampled.attention_cost(
        LocalSubsampledAttention(window=64), 512, heads=1, head_dim=16
    )
    # Five products of 2 n^2 d operations: scores and output, and three more in the gradient, or
    # four where scores are computed again; the softmax comes on top.
    products = 2 * 512**2 * 16
    assert 5 * products < dense["flops"] < 9 * products
    assert dense["flops"] / local["flops"] == pytest.approx(8, rel=0.1)
    assert dense["temporary_mib"] > 2 * local["temporary_mib"]


def test_an_ensemble_is_the_mean_of_its_draws():
    class Drawing(nn.Module):
        """Logits of two classes that a draw may swap."""

        @nn.compact
        def __call__(self, tokens, *, sample):
            w = self.param("w", nn.initializers.ones, (1, 2))
            logits = (tokens.astype(jnp.float32) @ w) * jnp.array([[1.0, -1.0]])
            swap = jax.random.bernoulli(self.make_rng("ssa"))
            return jnp.where(swap & sample, -logits, logits)

    module, keys = Drawing(), core.seed_keys(3)
    tokens = jnp.ones((4, 1), jnp.int32)
    examples = {"tokens": tokens, "label": jnp.array([0, 0, 0, 1], jnp.int32)}
    variables = {"params": {"w": jnp.arange(1.0, 4.0)[:, None, None] * jnp.ones((3, 1, 2))}}
    found = subsampled.ensemble_accuracy(module, variables, examples, keys, 3)

    def is_swapped(key, draw):
        one = jax.tree.map(lambda leaf: leaf[0], variables)
        rngs = {"ssa": jax.random.fold_in(key, draw)}
        return module.apply(one, tokens[:1], sample=True, rngs=rngs)[0, 0] < 0

    each = jax.jit(jax.vmap(jax.vmap(is_swapped, (None, 0)), (0, None)))
    swapped = np.asarray(each(keys, jnp.arange(3, dtype=jnp.uint32)))
    # Three of four labels are right while fewer than half of the draws are swapped, else one.
    for count in (1, 3):
        wanted = np.where(swapped[:, :count].mean(axis=1) < 0.5, 75.0, 25.0)
        np.testing.assert_allclose(found[:, count - 1], wanted)
    assert swapped.any()
    assert not swapped.all()


def test_every_claim_can_be_tested_by_a_preset():
    arms = set()
    for preset in ("laptop", "paper"):
        config = experiment.get_config(preset)
        for part in config.parts:
            arms |= {f"{part}_{arm.name}" for arm in subsampled.arms_of(config[part])}
    arms |= {f"digits_ssa_local_ensemble_{count}" for count in (1, 8, 16)}
    arms |= {"attention_dense", "attention_ssa_local"}
    assert {
        name for claim in experiment.CLAIMS for name in (claim.treatment, claim.baseline)
    } <= arms
