"""Residual networks against a NumPy forward pass, and their published sizes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.models.variables import count, random_variables, shapes
from trove_jax import models


def _conv(x, kernel, stride=1, pad=0):
    """One tap after the other, from the definition."""
    x = np.pad(x, ((0, 0), (pad, pad), (pad, pad), (0, 0)))
    rows = (x.shape[1] - kernel.shape[0]) // stride + 1
    columns = (x.shape[2] - kernel.shape[1]) // stride + 1
    y = 0.0
    for i in range(kernel.shape[0]):
        for j in range(kernel.shape[1]):
            window = x[:, i : i + stride * rows : stride, j : j + stride * columns : stride]
            y = y + np.tensordot(window[:, :rows, :columns], kernel[i, j], 1)
    return y


def _norm(x, p, stats):
    return (x - stats["mean"]) / np.sqrt(stats["var"] + 1e-5) * p["scale"] + p["bias"]


def _block(x, p, stats, plan, *, skip=True):
    """`plan`: (stride, padding) per convolution; the shortcut strides as the block does."""
    y = x
    for i, (stride, pad) in enumerate(plan):
        y = _conv(y, p[f"conv_{i}"]["kernel"], stride, pad)
        y = _norm(y, p[f"norm_{i}"], stats[f"norm_{i}"])
        y = np.maximum(y, 0) if i < len(plan) - 1 else y
    if not skip:
        return np.maximum(y, 0)
    if "shortcut" in p:
        x = _conv(x, p["shortcut"]["kernel"], max(stride for stride, _ in plan))
        x = _norm(x, p["shortcut_norm"], stats["shortcut_norm"])
    return np.maximum(x + y, 0)


def test_resnet_20_has_the_publishedcount():
    variables = shapes(models.cifar_resnet(20), (1, 32, 32, 3))
    convolutions = 9 * 3 * 16 + 6 * 9 * 16 * 16
    convolutions += 9 * 16 * 32 + 5 * 9 * 32 * 32 + 9 * 32 * 64 + 5 * 9 * 64 * 64
    shortcuts = 16 * 32 + 32 * 64
    norms = 2 * (7 * 16 + 6 * 32 + 6 * 64) + 2 * (32 + 64)
    assert count(variables["params"]) == convolutions + shortcuts + norms + 64 * 10 + 10
    assert count(variables["params"]) == 272_474
    assert count(variables["batch_stats"]) == norms


@pytest.mark.parametrize(("depth", "millions"), [(20, 0.27), (32, 0.46), (56, 0.85), (110, 1.7)])
def test_sizes_of_the_paper(depth, millions):
    """Table 6 of He et al.; option B adds 2,752 to every one."""
    size = count(shapes(models.cifar_resnet(depth), (1, 32, 32, 3))["params"]) - 2752
    digits = 1 if millions > 1 else 2
    assert round(size / 1e6, digits) == millions


def test_resnet_50_has_the_publishedcount():
    variables = shapes(models.resnet50(), (1, 224, 224, 3))
    size, inputs = 49 * 3 * 64 + 2 * 64, 64
    for blocks, c in zip((3, 4, 6, 3), (64, 128, 256, 512), strict=True):
        for block in range(blocks):
            size += inputs * c + 9 * c * c + 4 * c * c + 2 * (c + c + 4 * c)
            size += 0 if block else inputs * 4 * c + 2 * 4 * c
            inputs = 4 * c
    size += 2048 * 1000 + 1000
    assert count(variables["params"]) == size == 25_557_032


@pytest.mark.parametrize(
    ("build", "stages", "published"),
    [
        (models.resnet18, (2, 2, 2, 2), 11_689_512),
        (models.resnet34, (3, 4, 6, 3), 21_797_672),
    ],
)
def test_resnets_of_basic_blocks_have_the_publishedcount(build, stages, published):
    size, inputs = 49 * 3 * 64 + 2 * 64, 64
    for blocks, c in zip(stages, (64, 128, 256, 512), strict=True):
        for block in range(blocks):
            size += 9 * inputs * c + 9 * c * c + 4 * c
            size += 0 if block or inputs == c else inputs * c + 2 * c
            inputs = c
    size += 512 * 1000 + 1000
    assert count(shapes(build(), (1, 224, 224, 3))["params"]) == size == published


def test_resnet_101_has_the_publishedcount():
    size = 25_557_032 + 17 * (2 * 1024 * 256 + 9 * 256 * 256 + 2 * (256 + 256 + 1024))
    assert count(shapes(models.resnet101(), (1, 224, 224, 3))["params"]) == size == 44_549_160


def test_plain_networks_lack_the_shortcuts_and_nothing_else():
    shortcuts = sum(
        inputs * outputs + 2 * outputs
        for inputs, outputs in ((64, 256), (256, 512), (512, 1024), (1024, 2048))
    )
    plain = shapes(models.resnet50(skip=False), (1, 224, 224, 3))["params"]
    assert count(plain) == 25_557_032 - shortcuts == 22_780_456
    names = {path[-2].key for path, _ in jax.tree_util.tree_leaves_with_path(plain)}
    assert not any("shortcut" in name for name in names)
    small = shapes(models.cifar_resnet(20, skip=False), (1, 32, 32, 3))["params"]
    assert count(small) == 272_474 - 2752


@pytest.mark.parametrize("skip", [True, False])
def test_cifar_resnet_equals_numpy(skip):
    model = models.cifar_resnet(14, width=3, classes=5, skip=skip)
    variables = random_variables(model, (1, 8, 12, 2))
    x = np.random.default_rng(1).normal(size=(2, 8, 12, 2)).astype(np.float32)
    p, stats = (jax.tree.map(np.asarray, variables[c]) for c in ("params", "batch_stats"))
    y = _norm(_conv(x, p["stem"]["kernel"], 1, 1), p["stem_norm"], stats["stem_norm"])
    y = np.maximum(y, 0)
    for stage in range(3):
        for block in range(2):
            stride = 2 if stage and not block else 1
            name = f"stage_{stage}_block_{block}"
            y = _block(y, p[name], stats[name], [(stride, 1), (1, 1)], skip=skip)
    assert y.shape == (2, 2, 3, 12)
    want = y.mean((1, 2)) @ p["output"]["kernel"] + p["output"]["bias"]
    got = jax.jit(model.apply)(variables, x)
    # Float32 sums over up to 9 * 12 terms in another order, 14 layers deep.
    np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-4 * np.abs(want).max())


@pytest.mark.parametrize(("bottleneck", "skip"), [(True, True), (True, False), (False, True)])
def test_large_resnet_equals_numpy(bottleneck, skip):
    model = models.ResNet(stages=(2, 1, 1, 1), width=2, classes=5, bottleneck=bottleneck, skip=skip)
    variables = random_variables(model, (1, 32, 48, 3))
    x = np.random.default_rng(1).normal(size=(2, 32, 48, 3)).astype(np.float32)
    p, stats = (jax.tree.map(np.asarray, variables[c]) for c in ("params", "batch_stats"))
    y = _norm(_conv(x, p["stem"]["kernel"], 2, 3), p["stem_norm"], stats["stem_norm"])
    y = np.pad(np.maximum(y, 0), ((0, 0), (1, 1), (1, 1), (0, 0)))
    rows, columns = 8, 12
    y = np.max(
        [y[:, i : i + 2 * rows : 2, j : j + 2 * columns : 2] for i in range(3) for j in range(3)],
        axis=0,
    )
    for stage, blocks in enumerate((2, 1, 1, 1)):
        for block in range(blocks):
            name = f"stage_{stage}_block_{block}"
            stride = 2 if stage and not block else 1
            plan = [(1, 0), (stride, 1), (1, 0)] if bottleneck else [(stride, 1), (1, 1)]
            y = _block(y, p[name], stats[name], plan, skip=skip)
    assert y.shape == (2, 1, 2, 64 if bottleneck else 16)
    want = y.mean((1, 2)) @ p["output"]["kernel"] + p["output"]["bias"]
    got = jax.jit(model.apply)(variables, x)
    np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-4 * np.abs(want).max())


def test_training_uses_and_updates_batch_statistics():
    model = models.cifar_resnet(8, width=4)
    x = 2 + jax.random.normal(jax.random.key(1), (6, 8, 8, 3))
    variables = random_variables(model, x.shape)
    step = jax.jit(lambda v, x: model.apply(v, x, train=True, mutable=["batch_stats"]))
    got, updated = step(variables, x)
    first = _conv(np.asarray(x), np.asarray(variables["params"]["stem"]["kernel"]), 1, 1)
    old = variables["batch_stats"]["stem_norm"]
    stats = updated["batch_stats"]["stem_norm"]
    np.testing.assert_allclose(
        stats["mean"], 0.9 * old["mean"] + 0.1 * first.mean((0, 1, 2)), rtol=1e-3
    )
    np.testing.assert_allclose(
        stats["var"], 0.9 * old["var"] + 0.1 * first.var((0, 1, 2)), rtol=1e-3
    )
    assert not np.allclose(got, jax.jit(model.apply)(variables, x))


def test_kernels_start_he_normal_and_scales_as_asked():
    model = models.CifarResNet(blocks=1, scale_init=jax.nn.initializers.constant(0.5))
    params = model.init(jax.random.key(0), jnp.zeros((1, 8, 8, 3)))["params"]
    scales = []
    for path, leaf in jax.tree_util.tree_leaves_with_path(params):
        if path[-1].key == "kernel":
            std = np.sqrt(2 / np.prod(leaf.shape[:-1]))
            # Five standard deviations of the estimate.
            np.testing.assert_allclose(np.std(leaf), std, rtol=5 / np.sqrt(2 * leaf.size))
            assert float(jnp.abs(leaf).max()) > 2 * std
        if path[-1].key == "scale":
            scales.append(leaf)
            np.testing.assert_array_equal(leaf, 0.5)
    assert len(scales) == 1 + 3 * 2 + 2


# Flax's batch normalisation mixes its float32 statistics with half-precision inputs.
@jax.numpy_dtype_promotion("standard")
def test_half_precision_answers_in_float32():
    x = jax.random.normal(jax.random.key(1), (4, 8, 8, 3))
    model = models.cifar_resnet(8, width=4, dtype=jnp.bfloat16)
    variables = random_variables(model, x.shape)
    got = jax.jit(model.apply)(variables, x)
    want = jax.jit(models.cifar_resnet(8, width=4).apply)(variables, x)
    assert got.dtype == jnp.float32
    assert not np.array_equal(got, want)
    # bfloat16 rounds by 2^-9 per operation; eight layers deep.
    np.testing.assert_allclose(got, want, atol=0.05 * float(jnp.abs(want).max()))


@pytest.mark.parametrize(("depth", "nearest"), [(18, 20), (21, 20), (2, 8), (1, 8)])
def test_depths_that_are_no_network_are_refused(depth, nearest):
    with pytest.raises(ValueError, match=f"the nearest is depth={nearest}"):
        models.cifar_resnet(depth)
    assert models.cifar_resnet(nearest).blocks == (nearest - 2) // 6
