"""VGG networks: published sizes, and one of them against NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from trove_jax import models


def _size(tree):
    return sum(leaf.size for leaf in jax.tree.leaves(tree))


@pytest.mark.parametrize(("depth", "millions"), [(11, 9.2), (13, 9.4), (16, 14.7), (19, 20.0)])
def test_sizes(depth, millions):
    """20.0M is the lottery-ticket papers' VGG-19; the table of convolutions is VGG's own."""
    repeats = {11: (1, 1, 2, 2, 2), 13: (2,) * 5, 16: (2, 2, 3, 3, 3), 19: (2, 2, 4, 4, 4)}[depth]
    size, inputs = 0, 3
    for repeat, width in zip(repeats, (64, 128, 256, 512, 512), strict=True):
        for _ in range(repeat):
            size += 9 * inputs * width + 3 * width
            inputs = width
    size += 512 * 10 + 10
    variables = jax.eval_shape(
        models.cifar_vgg(depth).init,
        jax.random.key(0),
        jax.ShapeDtypeStruct((1, 32, 32, 3), jnp.float32),
    )
    assert _size(variables["params"]) == size
    assert round(size / 1e6, 1) == millions


def _conv(x, layer):
    x = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    rows, columns = x.shape[1] - 2, x.shape[2] - 2
    y = layer["bias"]
    for i in range(3):
        for j in range(3):
            window = x[:, i : i + rows, j : j + columns]
            y = y + np.tensordot(window, layer["kernel"][i, j], 1)
    return y


@pytest.mark.parametrize("train", [False, True])
def test_equals_numpy(train):
    model = models.CifarVGG(stages=((3, 4), (5,), (6,)), classes=4)
    rng = np.random.default_rng(0)
    x = rng.normal(size=(3, 8, 12, 2)).astype(np.float32)
    variables = jax.tree.map(
        lambda leaf: leaf + 0.3 * rng.random(leaf.shape).astype(np.float32),
        model.init(jax.random.key(0), x),
    )
    p, stats = (jax.tree.map(np.asarray, variables[c]) for c in ("params", "batch_stats"))
    y = x
    for stage, layers in enumerate((2, 1, 1)):
        if stage:
            b, rows, columns, d = y.shape
            y = y.reshape(b, rows // 2, 2, columns // 2, 2, d).max((2, 4))
        for layer in range(layers):
            y = _conv(y, p[f"stage_{stage}_conv_{layer}"])
            name = f"stage_{stage}_norm_{layer}"
            mean, var = stats[name]["mean"], stats[name]["var"]
            if train:
                mean, var = y.mean((0, 1, 2)), y.var((0, 1, 2))
            y = (y - mean) / np.sqrt(var + 1e-5) * p[name]["scale"] + p[name]["bias"]
            y = np.maximum(y, 0)
    assert y.shape == (3, 2, 3, 6)
    want = y.mean((1, 2)) @ p["output"]["kernel"] + p["output"]["bias"]
    got = model.apply(variables, x, train=train, mutable=["batch_stats"])[0]
    # Float32 sums over up to 54 terms in another order, 5 layers deep.
    np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-4 * np.abs(want).max())
    step = jax.jit(lambda v, x: model.apply(v, x, train=train, mutable=["batch_stats"])[0])
    np.testing.assert_allclose(step(variables, x), got, rtol=1e-4, atol=1e-4 * np.abs(want).max())


# Flax's batch normalisation mixes its float32 statistics with half-precision inputs.
@jax.numpy_dtype_promotion("standard")
def test_half_precision_answers_in_float32():
    model = models.CifarVGG(stages=((3,), (5,)), classes=4, dtype=jnp.bfloat16)
    x = jax.random.normal(jax.random.key(1), (2, 8, 8, 3))
    variables = model.init(jax.random.key(0), x)
    got = model.apply(variables, x)
    assert got.dtype == jnp.float32
    assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(variables))


def test_an_unknown_depth_is_refused():
    with pytest.raises(ValueError, match=r"depth=18 is unknown; choose one of \[11, 13, 16, 19\]"):
        models.cifar_vgg(18)
    assert models.cifar_vgg().stages == models.cifar_vgg(19).stages
