"""The arms of the guidance experiment that its smoke preset leaves out, traced but not compiled."""

import jax
import jax.numpy as jnp
import pytest

from experiments.learning import guidance
from experiments.learning._guided_images import Parts
from trove_jax import core, losses

CONFIG = guidance.get_config("laptop")


def images():
    image = jax.ShapeDtypeStruct((4, 8, 8, 1), jnp.float32)
    return core.Batch({"image": image, "label": jax.ShapeDtypeStruct((4,), jnp.int32)})


def trace(task, batch):
    variables = jax.eval_shape(task.init, jax.random.key(0))
    return variables, jax.eval_shape(task.loss, variables, batch, jax.random.key(0), jnp.int32(0))


@pytest.mark.parametrize("arm", guidance.get_config("paper").deep.arms)
def test_every_control_compares_as_many_layers_as_the_arm_that_it_controls(arm):
    parts = Parts(CONFIG.deep)
    variables, (value, aux) = trace(parts.control(arm), images())
    assert value.shape == ()
    assert {"guide_loss", "guide_similarity"} <= set(aux.metrics)
    if arm == "own_shape":
        shapes = jax.tree.map(lambda leaf: leaf.shape, variables)
        assert shapes["guide"]["params"] == shapes["params"]
        mapping = parts._own_layers()
        assert list(mapping) == [f"hidden_{i}" for i in (0, 6, 12, 17, 23, 29)]
        assert mapping == dict(zip(mapping, mapping, strict=True))


def test_baselines_can_be_traced():
    parts = Parts(CONFIG.deep)
    for task in (parts.dropped(0.1), parts.distilled(4.0)):
        assert trace(task, images())[1][0].shape == ()


def test_plain_and_residual_networks_differ_in_skips_only():
    parts = Parts(CONFIG.plain)
    variables, _ = trace(parts.drawn, images())
    shapes = jax.tree.map(lambda leaf: leaf.shape, variables)
    assert shapes["params"] == shapes["guide"]["params"]


def test_the_sequence_part_can_be_traced():
    settings = CONFIG.parity
    task, guide_task, guide = guidance._parity_tasks(settings)
    shapes = {"tokens": jnp.int32, "mask": jnp.bool_}
    examples = {
        name: jax.ShapeDtypeStruct((4, settings.max_length), dtype)
        for name, dtype in shapes.items()
    }
    batch = core.Batch({**examples, "label": jax.ShapeDtypeStruct((4,), jnp.int32)})
    for one in (task, guide_task, losses.guided(task, guide)):
        assert trace(one, batch)[1][0].shape == ()


def test_unknown_parts_and_arms_are_refused():
    config = guidance.get_config("smoke")
    config.parts = ("deep", "wide")
    with pytest.raises(core.UsageError, match="parts="):
        guidance.plan(config)
    with pytest.raises(core.UsageError, match="'reversed'"):
        Parts(CONFIG.deep).control("reversed")
