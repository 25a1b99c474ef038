"""The Poincare residual network and its Euclidean twins."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.models.variables import count, random_variables, shapes
from trove_jax import models

IMAGES = (2, 8, 12, 3)


def _twin_of_cifar_resnet(variables):
    """The same function: shortcut norms with running statistics folded into their convolutions."""
    params, stats = ({**variables[c]} for c in ("params", "batch_stats"))
    for name, block in params.items():
        block = {
            layer: {**p, "bias": jnp.zeros(p["kernel"].shape[-1])} if "conv" in layer else p
            for layer, p in block.items()
        }
        if "shortcut" in block:
            norm, seen = block.pop("shortcut_norm"), stats[name]["shortcut_norm"]
            scale = norm["scale"] / jnp.sqrt(seen["var"] + 1e-5)
            block["shortcut"] = {
                "kernel": block["shortcut"]["kernel"] * scale,
                "bias": norm["bias"] - seen["mean"] * scale,
            }
            stats[name] = {k: v for k, v in stats[name].items() if k != "shortcut_norm"}
        params[name] = block
    params["stem"] = {**params["stem"], "bias": jnp.zeros(params["stem"]["kernel"].shape[-1])}
    return {"params": params, "batch_stats": stats}


@jax.numpy_rank_promotion("allow")
def test_euclidean_twin_is_a_residual_network_without_shortcut_norms():
    known = models.cifar_resnet(14, width=3, classes=5)
    variables = random_variables(known, IMAGES)
    x = jax.random.normal(jax.random.key(1), IMAGES)
    twin = models.euclidean_twin(14, widths=(3, 6, 12), classes=5)
    folded = _twin_of_cifar_resnet(variables)
    jax.tree.map(lambda a, b: None, folded, shapes(twin, IMAGES))  # the same names
    want = jax.jit(known.apply)(variables, x)
    got = jax.jit(twin.apply)(folded, x)
    # Float32 through 14 layers, with one product folded in another order.
    np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-4 * np.abs(want).max())


def test_euclidean_twin_has_the_sizes_of_its_plan():
    variables = shapes(models.euclidean_twin(20), (1, 32, 32, 3))
    convolutions, inputs = 9 * 3 * 8 + 8, 8
    for width in (8, 16, 32):
        convolutions += 9 * inputs * width + width + 5 * (9 * width * width + width)
        convolutions += inputs * width + width if width > inputs else 0
        inputs = width
    norms = 2 * (7 * 8 + 6 * 16 + 6 * 32)
    assert count(variables["params"]) == convolutions + norms + 32 * 10 + 10
    assert count(variables["batch_stats"]) == norms


def test_euclidean_twin_updates_running_statistics():
    model = models.euclidean_twin(8, widths=(2, 2, 2))
    x = 2 + jax.random.normal(jax.random.key(1), IMAGES)
    variables = random_variables(model, IMAGES)
    step = jax.jit(lambda v, x: model.apply(v, x, train=True, mutable=["batch_stats"]))
    got, updated = step(variables, x)
    moved = jax.tree.map(
        lambda a, b: bool(jnp.all(a != b)), updated["batch_stats"], variables["batch_stats"]
    )
    assert all(jax.tree.leaves(moved))
    assert not np.allclose(got, jax.jit(model.apply)(variables, x))


@pytest.mark.parametrize("build", [models.euclidean_twin])
@pytest.mark.parametrize(
    ("options", "shape", "message"),
    [
        ({"widths": (8, 16)}, IMAGES, r"widths=\(8, 16\), want one for each group"),
        ({"widths": (8, 0, 8)}, IMAGES, r"widths\[1\]=0, want a positive integer"),
        ({"classes": 0}, IMAGES, "classes=0, want a positive integer"),
        ({}, (2, 3, 2, 2), "at least 4x4 pixels"),
        ({}, (8, 8, 3), "want images"),
    ],
)
def test_networks_that_cannot_be_are_refused(build, options, shape, message):
    with pytest.raises(ValueError, match=message):
        shapes(build(8, **options), shape)


@pytest.mark.parametrize("build", [models.euclidean_twin])
def test_depths_that_are_no_network_are_refused(build):
    with pytest.raises(ValueError, match="the nearest is depth=20"):
        build(18)
