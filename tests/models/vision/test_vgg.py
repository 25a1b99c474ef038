"""VGG networks: published sizes, and one of them against NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.models.variables import count, random_variables, shapes
from trove_jax import models


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
    variables = shapes(models.cifar_vgg(depth), (1, 32, 32, 3))
    assert count(variables["params"]) == size
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
    variables = random_variables(model, x.shape)
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
    variables = random_variables(model, x.shape)
    assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(shapes(model, x.shape)))
    got = jax.jit(model.apply)(variables, x)
    assert got.dtype == jnp.float32


def test_gradient_in_a_scan_equals_the_gradient_outside():
    model = models.CifarVGG(stages=((2,), (3,)), classes=4)
    x = jax.random.normal(jax.random.key(1), (3, 4, 8, 8, 3))
    variables = random_variables(model, x[0].shape)

    def gradient(images):
        def loss(params):
            out, _ = model.apply(
                {**variables, "params": params}, images, train=True, mutable=["batch_stats"]
            )
            return jnp.sum(jnp.square(out))

        return jax.grad(loss)(variables["params"])

    alone = jax.jit(gradient)
    inside = jax.jit(lambda x: jax.lax.map(gradient, x))(x)
    outside = [alone(images) for images in x]
    for i, want in enumerate(outside):
        # Biases before a normalisation have gradient 0, of which only rounding is left.
        largest = max(float(jnp.abs(w).max()) for w in jax.tree.leaves(want))
        for got, w in zip(jax.tree.leaves(inside), jax.tree.leaves(want), strict=True):
            np.testing.assert_allclose(got[i], w, rtol=1e-3, atol=1e-4 * largest)


def test_an_unknown_depth_is_refused():
    with pytest.raises(ValueError, match=r"depth=18 is unknown; choose one of \[11, 13, 16, 19\]"):
        models.cifar_vgg(18)
    assert models.cifar_vgg().stages == models.cifar_vgg(19).stages
