"""Perceptrons against NumPy, and their published sizes."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.models.variables import count, random_variables, shapes
from trove_jax import models


def _normalise(x, p, mean=None, var=None):
    mean = x.mean(0) if mean is None else mean
    var = x.var(0) if var is None else var
    return (x - mean) / np.sqrt(var + 1e-5) * p["scale"] + p["bias"]


def _residual_reference(variables, x, *, train):
    p = jax.tree.map(np.asarray, variables["params"])
    stats = jax.tree.map(np.asarray, variables["batch_stats"])

    def norm(y, params, stat):
        return _normalise(y, params) if train else _normalise(y, params, stat["mean"], stat["var"])

    x = np.asarray(x).reshape(len(x), -1)
    x = np.maximum(norm(x @ p["input"]["kernel"], p["input_norm"], stats["input_norm"]), 0)
    for i in range(4):
        block, stat = p[f"block_{i}"], stats[f"block_{i}"]
        y = np.maximum(norm(x @ block["dense_0"]["kernel"], block["norm_0"], stat["norm_0"]), 0)
        y = norm(y @ block["dense_1"]["kernel"], block["norm_1"], stat["norm_1"])
        x = np.maximum(x + y, 0)
    return x @ p["output"]["kernel"] + p["output"]["bias"]


def test_lenet_has_the_publishedcount():
    model = models.lenet_300_100()
    params = shapes(model, (1, 28, 28, 1))["params"]
    kernels = 784 * 300 + 300 * 100 + 100 * 10
    assert count(params) == kernels + 300 + 100 + 10 == 266_610
    assert list(params) == ["hidden_0", "hidden_1", "output"]


def test_lenet_equals_numpy_and_flattens():
    model = models.lenet_300_100()
    x = jax.random.normal(jax.random.key(1), (5, 28, 28))
    variables = random_variables(model, x.shape)
    y = np.asarray(x).reshape(5, -1)
    for name in ("hidden_0", "hidden_1", "output"):
        y = y @ np.asarray(variables["params"][name]["kernel"])
        y = y + np.asarray(variables["params"][name]["bias"])
        y = y if name == "output" else np.maximum(y, 0)
    got = model.apply(variables, x)
    np.testing.assert_allclose(got, y, rtol=1e-4, atol=1e-5)
    for flags in ({"train": True}, {"train": False}):
        jitted = jax.jit(functools.partial(model.apply, **flags))(variables, x)
        np.testing.assert_allclose(jitted, got, rtol=1e-5, atol=1e-5)


def test_lenet_starts_glorot_normal():
    params = models.lenet_300_100().init(jax.random.key(0), jnp.zeros((1, 784)))["params"]
    for layer in params.values():
        fan_in, fan_out = layer["kernel"].shape
        std = np.sqrt(2 / (fan_in + fan_out))
        # The estimate's own standard deviation is std / sqrt(2 n); five of them.
        tolerance = 5 / np.sqrt(2 * layer["kernel"].size)
        np.testing.assert_allclose(np.std(layer["kernel"]), std, rtol=tolerance)
        assert np.all(np.asarray(layer["bias"]) == 0)


def test_residual_mlp_has_the_size_of_its_formula():
    variables = shapes(models.residual_mlp(), (1, 784))
    kernels = 784 * 160 + 8 * 160 * 160 + 160 * 10
    norms = 9 * 2 * 160
    assert count(variables["params"]) == kernels + norms + 10
    assert count(variables["batch_stats"]) == norms


def test_residual_mlp_starts_he_normal():
    model = models.residual_mlp(blocks=1)
    params = jax.jit(model.init)(jax.random.key(0), jnp.zeros((1, 784)))["params"]
    block = params["block_0"]
    for layer in (params["input"], block["dense_0"], block["dense_1"], params["output"]):
        kernel = layer["kernel"]
        # Five standard deviations of the estimate, as above.
        tolerance = 5 / np.sqrt(2 * kernel.size)
        np.testing.assert_allclose(np.std(kernel), np.sqrt(2 / kernel.shape[0]), rtol=tolerance)
    assert set(block) == {"dense_0", "dense_1", "norm_0", "norm_1"}


@pytest.mark.parametrize("train", [False, True])
def test_residual_mlp_equals_numpy(train):
    model = models.residual_mlp(width=12, classes=3)
    x = jax.random.normal(jax.random.key(1), (16, 5, 2))
    variables = random_variables(model, x.shape)
    got = model.apply(variables, x, train=train, mutable=["batch_stats"] if train else False)
    got = got[0] if train else got
    want = _residual_reference(variables, x, train=train)
    np.testing.assert_allclose(got, want, rtol=1e-3, atol=1e-3 * np.abs(want).max())


def test_residual_mlp_bounds_the_gradient_of_a_unit_that_is_constant_over_the_batch():
    x = jnp.ones((4, 6))
    slopes = {}
    for epsilon in (1e-5, 1e-3):
        model = models.residual_mlp(width=8, blocks=1, epsilon=epsilon)
        params = random_variables(model, x.shape)["params"]

        def push(x, model=model, params=params):
            # One example leaves the constant state by a step that is small against epsilon.
            y = model.apply({"params": params}, x, train=True, mutable=["batch_stats"])[0]
            return y[0].sum() - y[1].sum()

        slopes[epsilon] = float(jnp.linalg.norm(jax.grad(push)(x)))
    # Three normalisations lie between input and output, each of them constant here.
    assert slopes[1e-5] > 10 * slopes[1e-3] > 0


@pytest.mark.parametrize("epsilon", [0.0, -1e-5])
def test_residual_mlp_refuses_an_epsilon_that_divides_by_zero(epsilon):
    with pytest.raises(ValueError, match="epsilon"):
        models.residual_mlp(epsilon=epsilon)


def test_residual_mlp_updates_batch_statistics_only_in_training():
    model = models.residual_mlp(width=8)
    x = 3 + jax.random.normal(jax.random.key(1), (32, 6))
    variables = random_variables(model, x.shape)
    _, updated = model.apply(variables, x, train=True, mutable=["batch_stats"])
    first = np.asarray(x @ variables["params"]["input"]["kernel"])
    old = variables["batch_stats"]["input_norm"]
    stats = updated["batch_stats"]["input_norm"]
    np.testing.assert_allclose(stats["mean"], 0.9 * old["mean"] + 0.1 * first.mean(0), rtol=1e-4)
    np.testing.assert_allclose(stats["var"], 0.9 * old["var"] + 0.1 * first.var(0), rtol=1e-4)
    _, kept = model.apply(variables, x, train=False, mutable=["batch_stats"])
    assert jax.tree.all(
        jax.tree.map(jnp.array_equal, kept, {"batch_stats": variables["batch_stats"]})
    )


# Flax's batch normalisation mixes its float32 statistics with half-precision inputs.
@pytest.mark.parametrize("build", [models.lenet_300_100, models.residual_mlp])
@jax.numpy_dtype_promotion("standard")
def test_half_precision_computes_in_half_and_answers_in_float32(build):
    x = jax.random.normal(jax.random.key(1), (4, 20))
    full, half = build(), build(dtype=jnp.bfloat16)
    variables = random_variables(half, x.shape)
    assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(variables))
    got, want = half.apply(variables, x), full.apply(variables, x)
    assert got.dtype == jnp.float32
    assert not np.array_equal(got, want)
    # bfloat16 rounds by 2^-9 per operation; ten layers deep.
    np.testing.assert_allclose(got, want, atol=0.05 * float(jnp.abs(want).max()))


def test_seeds_under_vmap_equal_the_loop():
    model = models.residual_mlp(width=8, blocks=1)
    x = jax.random.normal(jax.random.key(1), (3, 6))
    seeds = [random_variables(model, x.shape, seed) for seed in range(3)]
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *seeds)
    together = jax.jit(jax.vmap(model.apply, in_axes=(0, None)))(stacked, x)
    alone = jax.jit(model.apply)
    for variables, got in zip(seeds, together, strict=True):
        np.testing.assert_allclose(got, alone(variables, x), rtol=1e-4, atol=1e-5)
