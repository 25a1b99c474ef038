"""Deep perceptrons against NumPy, with and without normalisation and dropout."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from tests.models.variables import count, random_variables, shapes
from trove_jax import models


def _reference(variables, x, *, depth, train):
    p = jax.tree.map(np.asarray, variables["params"])
    stats = jax.tree.map(np.asarray, variables.get("batch_stats", {}))
    x = np.asarray(x).reshape(len(x), -1)
    for i in range(depth):
        x = x @ p[f"hidden_{i}"]["kernel"]
        if stats:
            mean = x.mean(0) if train else stats[f"norm_{i}"]["mean"]
            var = x.var(0) if train else stats[f"norm_{i}"]["var"]
            x = (x - mean) / np.sqrt(var + 1e-5)
            x = x * p[f"norm_{i}"]["scale"] + p[f"norm_{i}"]["bias"]
        else:
            x = x + p[f"hidden_{i}"]["bias"]
        x = np.maximum(x, 0)
    return x @ p["output"]["kernel"] + p["output"]["bias"]


@pytest.mark.parametrize("train", [False, True])
@pytest.mark.parametrize("norm", [None, "batch"])
def test_equals_numpy(norm, train):
    model = models.DeepMLP(depth=4, width=12, classes=3, norm=norm)
    x = jax.random.normal(jax.random.key(1), (16, 5, 2))
    variables = random_variables(model, x.shape)
    got, _ = model.apply(variables, x, train=train, mutable=["batch_stats"])
    want = _reference(variables, x, depth=4, train=train)
    # Rounding errors of float32 over five layers, relative to the largest output.
    np.testing.assert_allclose(got, want, rtol=1e-3, atol=1e-4 * np.abs(want).max())


def test_without_extras_it_is_the_mlp_of_equal_widths():
    deep = models.DeepMLP(depth=3, width=8, classes=4)
    flat = models.MLP((8, 8, 8, 4), kernel_init=models.inputs.he_normal)
    x = jax.random.normal(jax.random.key(1), (5, 6))
    variables = flat.init(jax.random.key(0), x)
    same = jax.tree.map(jnp.array_equal, deep.init(jax.random.key(0), x), variables)
    assert jax.tree.all(same)
    np.testing.assert_array_equal(deep.apply(variables, x), flat.apply(variables, x))


def test_the_paper_network_has_the_size_of_its_formula():
    params = shapes(models.DeepMLP(depth=20, width=50), (1, 28, 28))["params"]
    assert count(params) == 784 * 50 + 19 * 50 * 50 + 50 * 10 + 20 * 50 + 10
    assert set(params) == {*(f"hidden_{i}" for i in range(20)), "output"}


def test_initialisers_reach_every_layer():
    ones, twos = nn.initializers.constant(1.0), nn.initializers.constant(2.0)
    model = models.DeepMLP(depth=2, width=3, kernel_init=ones, bias_init=twos)
    params = model.init(jax.random.key(0), jnp.zeros((1, 4)))["params"]
    for layer in params.values():
        assert np.all(np.asarray(layer["kernel"]) == 1.0)
        assert np.all(np.asarray(layer["bias"]) == 2.0)


def test_dropout_draws_in_training_only_and_keeps_the_mean():
    wide = models.DeepMLP(
        depth=1, width=20_000, classes=1, dropout_rate=0.25, activation=lambda x: x
    )
    x = jnp.ones((1, 1))
    variables = wide.init(jax.random.key(0), x)
    variables = jax.tree.map(lambda leaf: jnp.ones_like(leaf) / 20_000, variables)
    quiet = wide.apply(variables, x)

    def drawn(key):
        return wide.apply(variables, x, train=True, rngs={"dropout": jax.random.key(key)})

    np.testing.assert_array_equal(drawn(0), drawn(0))
    assert not np.array_equal(drawn(0), drawn(1))
    # Kept units are scaled by 4/3: the sum has relative standard deviation sqrt(1/3 / 20,000) =
    # 0.004; five of them.
    np.testing.assert_allclose(drawn(0), quiet, rtol=0.02)
    assert "dropout_0" not in variables["params"]


def test_batch_statistics_are_averaged_over_the_named_axis():
    model = models.DeepMLP(depth=2, width=6, norm="batch", axis_name="replica")
    x = jax.random.normal(jax.random.key(1), (2, 8, 5))
    variables = random_variables(models.DeepMLP(depth=2, width=6, norm="batch"), (1, 5))

    def apply(x):
        return model.apply(variables, x, train=True, mutable=["batch_stats"])

    parts, stats = jax.vmap(apply, axis_name="replica")(x)
    alone = models.DeepMLP(depth=2, width=6, norm="batch")
    whole, want = alone.apply(variables, x.reshape(16, 5), train=True, mutable=["batch_stats"])
    # The variance over replicas is a mean of squares minus a squared mean: float32 rounding.
    np.testing.assert_allclose(parts.reshape(16, -1), whole, rtol=1e-3, atol=1e-4)
    for got, leaf in zip(jax.tree.leaves(stats), jax.tree.leaves(want), strict=True):
        np.testing.assert_allclose(got[0], leaf, rtol=1e-4, atol=1e-5)


def test_half_precision_computes_in_half_and_answers_in_float32():
    x = jax.random.normal(jax.random.key(1), (4, 20))
    full = models.DeepMLP(depth=3, width=16)
    half = models.DeepMLP(depth=3, width=16, dtype=jnp.bfloat16, dropout_rate=0.5)
    variables = random_variables(full, x.shape)
    got, want = half.apply(variables, x), full.apply(variables, x)
    assert got.dtype == jnp.float32
    assert not np.array_equal(got, want)
    # bfloat16 rounds by 2^-9 per operation; four layers deep.
    np.testing.assert_allclose(got, want, atol=0.05 * float(jnp.abs(want).max()))
    drawn = half.apply(variables, x, train=True, rngs={"dropout": jax.random.key(0)})
    assert drawn.dtype == jnp.float32


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"depth": 0}, "depth=0, want a positive integer"),
        ({"width": 2.5}, "width=2.5"),
        ({"classes": -1}, "classes=-1"),
        ({"norm": "layer"}, "norm='layer' is unknown"),
        ({"dropout_rate": 1.0}, "dropout_rate=1.0"),
        ({"dropout_rate": -0.1}, "dropout_rate=-0.1"),
    ],
)
def test_bad_settings_are_refused(options, message):
    model = models.DeepMLP(**({"depth": 2, "width": 4} | options))
    with pytest.raises(ValueError, match=message):
        model.init(jax.random.key(0), jnp.zeros((1, 3)))


def test_pixel_bytes_are_refused():
    with pytest.raises(ValueError, match="dtype uint8"):
        models.DeepMLP(depth=1, width=4).init(jax.random.key(0), jnp.zeros((1, 3), jnp.uint8))
