"""Auxiliary networks against NumPy forward passes written from their papers."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.models.variables import count, random_variables, shapes
from trove_jax import layers, models
from trove_jax.layers import auxiliary

# Float32 sums of up to 9 * 12 terms in another order, a handful of layers deep.
RTOL = 1e-4


def close(got, want):
    np.testing.assert_allclose(got, want, rtol=RTOL, atol=RTOL * np.abs(want).max())


def applied(model, shape, seed=0):
    """Outputs in evaluation, inputs, parameters and statistics, all as NumPy arrays."""
    variables = random_variables(model, shape, seed)
    x = np.random.default_rng(seed + 1).normal(size=shape).astype(np.float32)
    y = jax.jit(model.apply)(variables, x)
    p = jax.tree.map(np.asarray, variables["params"])
    return y, x, p, jax.tree.map(np.asarray, variables.get("batch_stats", {}))


def norm(x, p, stats):
    return (x - stats["mean"]) / np.sqrt(stats["var"] + 1e-5) * p["scale"] + p["bias"]


def conv(x, kernel, stride=1):
    x = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    rows, columns = ((n - 3) // stride + 1 for n in x.shape[1:3])
    y = np.zeros((x.shape[0], rows, columns, kernel.shape[-1]))
    for r in range(rows):
        for c in range(columns):
            window = x[:, r * stride : r * stride + 3, c * stride : c * stride + 3]
            y[:, r, c] = np.tensordot(window, kernel, 3)
    return y


def averaged(x, rows, columns):
    """Adaptive average pooling from its definition."""
    y = np.zeros((x.shape[0], rows, columns, x.shape[-1]))
    for r in range(rows):
        for c in range(columns):
            window = x[
                :,
                r * x.shape[1] // rows : -(-(r + 1) * x.shape[1] // rows),
                c * x.shape[2] // columns : -(-(c + 1) * x.shape[2] // columns),
            ]
            y[:, r, c] = window.mean((1, 2))
    return y


def test_units_then_the_mean_then_a_normalised_linear_head():
    net = layers.AuxNet(units=(models.ResidualUnit(6, stride=2),), classes=3, norm=True)
    y, x, p, stats = applied(net, (2, 6, 8, 4))
    unit = models.ResidualUnit(6, stride=2)
    inner = unit.apply({"params": p["units_0"], "batch_stats": stats["units_0"]}, x)
    mean = np.asarray(inner).mean((1, 2))
    want = norm(mean, p["norm"], stats["norm"]) @ p["output"]["kernel"] + p["output"]["bias"]
    assert list(y) == ["logits"]
    close(y["logits"], want)


def test_a_linear_head_alone_reads_vectors_too():
    y, x, p, _ = applied(layers.AuxNet(units=(), classes=3), (5, 4))
    close(y["logits"], x @ p["output"]["kernel"] + p["output"]["bias"])


@pytest.mark.parametrize("space", [(10, 7), (3, 5), (8, 8), (1, 1)])
def test_dgl_equals_numpy(space):
    y, x, p, stats = applied(layers.DglAux(classes=3), (4, *space, 2))
    small = [-(-n // 4) for n in space]
    x = averaged(x, *small)
    for i in range(3):
        x = x @ p[f"point_{i}"]["kernel"]
        x = np.maximum(norm(x, p[f"point_norm_{i}"], stats[f"point_norm_{i}"]), 0)
    x = averaged(x, *(min(n, 2) for n in small)).reshape(4, -1)
    for i in range(2):
        x = x @ p[f"hidden_{i}"]["kernel"]
        x = np.maximum(norm(x, p[f"hidden_norm_{i}"], stats[f"hidden_norm_{i}"]), 0)
    close(y["logits"], x @ p["output"]["kernel"] + p["output"]["bias"])


def test_dgl_has_the_published_size():
    """Three 1x1 convolutions and a perceptron of three layers on 2x2 pixels, norms included."""
    c, k = 16, 10
    size = count(shapes(layers.DglAux(classes=k), (1, 32, 32, c))["params"])
    assert size == 3 * (c * c + 2 * c) + 2 * (16 * c * c + 8 * c) + 4 * c * k + k


def test_dgl_of_vectors_is_a_perceptron():
    y, x, p, stats = applied(layers.DglAux(classes=3), (4, 5))
    for part, count_ in (("point", 3), ("hidden", 2)):
        for i in range(count_):
            x = x @ p[f"{part}_{i}"]["kernel"]
            x = np.maximum(norm(x, p[f"{part}_norm_{i}"], stats[f"{part}_norm_{i}"]), 0)
    close(y["logits"], x @ p["output"]["kernel"] + p["output"]["bias"])


@pytest.mark.parametrize(("space", "channels"), [((9, 11), 20), ((3, 2), 5)])
def test_predsim_equals_numpy(space, channels):
    y, x, p, _ = applied(layers.PredSimAux(classes=3), (2, *space, channels))
    mapped = conv(x, p["similarity"]["kernel"])
    close(y["similarity"], mapped.std((1, 2), ddof=1))
    side = int(np.sqrt(1024 / channels))
    pooled = averaged(x, *(min(n, side) for n in space)).reshape(2, -1)
    assert pooled.shape[1] <= 1024
    close(y["logits"], pooled @ p["output"]["kernel"] + p["output"]["bias"])


def test_predsim_of_vectors_is_two_linear_maps():
    y, x, p, _ = applied(layers.PredSimAux(classes=3), (4, 5))
    close(y["similarity"], x @ p["similarity"]["kernel"])
    close(y["logits"], x @ p["output"]["kernel"] + p["output"]["bias"])


def test_predsim_of_a_constant_image_has_a_finite_gradient():
    net = layers.PredSimAux(classes=3)
    x = jnp.zeros((2, 4, 4, 3))
    variables = random_variables(net, x.shape)
    gradient = jax.grad(lambda x: net.apply(variables, x)["similarity"].sum())(x)
    assert bool(jnp.isfinite(gradient).all())


@pytest.mark.parametrize(("channels", "features", "stride"), [(4, 8, 2), (6, 8, 2), (8, 8, 1)])
def test_infopro_equals_numpy(channels, features, stride):
    net = layers.InfoProAux(classes=3, size=9, channels=2, widest=8)
    y, x, p, stats = applied(net, (2, 5, 4, channels))
    big = np.apply_along_axis(
        lambda line: np.interp(np.linspace(0, 4, 9), np.arange(5), line), 1, x
    )
    big = np.apply_along_axis(
        lambda line: np.interp(np.linspace(0, 3, 9), np.arange(4), line), 2, big
    )
    d = conv(big, p["decoder_0"]["kernel"]) + p["decoder_0"]["bias"]
    d = np.maximum(norm(d, p["decoder_norm"], stats["decoder_norm"]), 0)
    close(y["reconstruction"], conv(d, p["decoder_1"]["kernel"]) + p["decoder_1"]["bias"])
    h = conv(x, p["conv"]["kernel"], stride)
    assert h.shape[-1] == features
    h = np.maximum(norm(h, p["norm"], stats["norm"]), 0).mean((1, 2))
    h = np.maximum(h @ p["hidden"]["kernel"] + p["hidden"]["bias"], 0)
    close(y["logits"], h @ p["output"]["kernel"] + p["output"]["bias"])


def test_infopro_refuses_vectors():
    net = layers.InfoProAux(classes=3, size=9, channels=2, widest=8)
    with pytest.raises(ValueError, match=r"x has shape \(2, 5\); images are reconstructed"):
        shapes(net, (2, 5))


def test_images_too_small_for_the_strides_are_refused_with_sizes():
    net = layers.AuxNet(units=tuple(models.ResidualUnit(8, stride=2) for _ in range(2)), classes=3)
    with pytest.raises(ValueError, match=r"3x8 pixels, but the strides of the 2 .* need 4x4"):
        shapes(net, (1, 3, 8, 4))
    assert shapes(net, (1, 4, 4, 4))


def test_windows_of_averaging_cover_everything_once_where_sizes_divide():
    for size, out in [(12, 4), (7, 3), (2, 5), (1, 1)]:
        weights = auxiliary._averaging(size, out)
        np.testing.assert_allclose(weights.sum(1), 1, rtol=1e-6)
        assert (weights > 0).any(0).all()
    np.testing.assert_allclose(auxiliary._averaging(12, 4).sum(0), 1 / 3, rtol=1e-6)


# Flax's batch normalisation mixes its float32 statistics with half-precision inputs.
@jax.numpy_dtype_promotion("standard")
@pytest.mark.parametrize("kind", ["units", "dgl", "predsim", "infopro"])
def test_half_precision_answers_in_float32(kind):
    x = jax.random.normal(jax.random.key(0), (4, 8, 8, 4))

    def make(dtype):
        return {
            "units": layers.AuxNet((models.ResidualUnit(4, dtype=dtype),), 3, True, dtype=dtype),
            "dgl": layers.DglAux(3, dtype=dtype),
            "predsim": layers.PredSimAux(3, dtype=dtype),
            "infopro": layers.InfoProAux(3, 8, 3, 8, dtype=dtype),
        }[kind]

    variables = random_variables(make(None), x.shape)
    half = jax.jit(make(jnp.bfloat16).apply)(variables, x.astype(jnp.bfloat16))
    full = jax.jit(make(None).apply)(variables, x)
    for name, value in half.items():
        assert value.dtype == jnp.float32
        # bfloat16 rounds by 2^-9 per operation; a handful of layers deep.
        np.testing.assert_allclose(value, full[name], atol=0.05 * float(jnp.abs(full[name]).max()))
