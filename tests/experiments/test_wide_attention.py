"""The arms and sizes of the experiment on wide attention."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.language import _aspects as aspects
from experiments.language import wide_attention
from trove_jax import layers


def test_every_preset_compares_one_layer_with_the_same_heads_in_several():
    for preset in ("smoke", "laptop", "paper"):
        for task in wide_attention.get_config(preset).tasks.values():
            arms = wide_attention._arms(task)
            for kind in task.kinds:
                found = {name: aspect for name, of_kind, aspect in arms if of_kind == kind}
                assert {f"{kind}_deep", f"{kind}_wide"} <= set(found)
                assert found[f"{kind}_wide"][0] == 1
                assert len({depth * heads for depth, heads in found.values()}) == 1
                assert len(found) == (len(wide_attention._family(task)) if len(found) > 2 else 2)


def test_the_laptop_sweeps_a_kind_over_the_aspects_between():
    task = wide_attention.get_config("laptop").tasks["sst2_words"]
    assert wide_attention._family(task) == [(4, 2), (2, 4), (1, 8)]
    names = [name for name, kind, _ in wide_attention._arms(task) if kind == "vanilla"]
    assert names == ["vanilla_deep", "vanilla_2x4", "vanilla_wide"]


@pytest.mark.parametrize("length", [16, 32, 256])
def test_short_sequences_have_kinds_that_hide_something(length):
    i = np.arange(length)
    for name in ("local", "longformer", "bigbird", "sparse"):
        kind = aspects.kind_of(name, length, head_dim=16, published=False)
        seen = kind.pattern(length, 2).visible(i[:, None], i[None], 0)
        assert 0 < seen.mean() < 0.7
    assert aspects.kind_of("linformer", length, head_dim=16, published=False).rank < length
    published = aspects.kind_of("local", length, head_dim=16, published=True)
    assert published == layers.LocalAttention(block=50)


def test_published_sizes_are_the_published_numbers():
    found = wide_attention._published_sizes(wide_attention.get_config("smoke"))
    assert found["published_deep"]["parameters"] == [3_476_736] * 2
    assert found["published_wide"]["parameters"] == [1_896_960] * 2


def test_the_rate_rises_and_falls_as_published():
    tx = aspects.optimiser(0.05, 100)
    params, gradient = {"w": jnp.zeros(1)}, {"w": jnp.ones(1)}
    update = jax.jit(tx.update)
    state, rates = tx.init(params), []
    with jax.numpy_dtype_promotion("standard"):
        for _ in range(400):
            updates, state = update(gradient, state, params)
            rates.append(-float(updates["w"][0]))
    # Adam moves by the rate where the gradient never changes; weights of 0 do not decay.
    assert rates[49] == pytest.approx(0.05 * 0.5 / 10, rel=1e-3)
    assert rates[99] == pytest.approx(0.05 / 10, rel=1e-3)
    assert rates[399] == pytest.approx(0.05 / 20, rel=1e-3)


def test_kinds_with_the_same_parameters_start_from_the_same_values():
    """Which is why the experiment draws them once for several kinds."""
    task = wide_attention.get_config("smoke").tasks["listops"]
    first, second = (
        jax.jit(aspects.task_of(wide_attention._module(task, kind, (1, 2), vocabulary=16)).init)(
            jax.random.key(0)
        )
        for kind in ("vanilla", "local")
    )
    assert jax.tree.structure(first) == jax.tree.structure(second)
    jax.tree.map(np.testing.assert_array_equal, first, second)
