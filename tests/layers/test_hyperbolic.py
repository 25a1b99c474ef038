"""Poincare layers: what they keep, average, learn and refuse; their formulas are held to HypLL."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import beta

from trove_jax import layers
from trove_jax.geometry import poincare as ball

KEY = jax.random.key(0)


def images(*shape, size=0.5, dtype=jnp.float32):
    values = np.random.default_rng(0).normal(size=shape)
    return jnp.asarray(size * values, dtype)


def test_half_identity_makes_a_dense_layer_the_identity():
    v = images(20, 6, size=2.0)
    out, _ = layers.PoincareDense(6, curvature=0.1).init_with_output(KEY, v)
    np.testing.assert_allclose(out, v, rtol=1e-5, atol=1e-6)


def test_convolution_is_concatenation_and_a_dense_layer():
    """Patch by patch, from the operations of the ball; a 3x2 window, stride 2, uneven padding."""
    v = images(2, 5, 6, 3)
    layer = layers.PoincareConv(
        4,
        (3, 2),
        strides=2,
        padding=((1, 0), (0, 1)),
        curvature=0.3,
        kernel_init=layers.hnn_normal(),
    )
    out, variables = layer.init_with_output(KEY, v)
    kernel = variables["params"]["kernel"].reshape(18, 4)
    padded = np.pad(v, ((0, 0), (1, 0), (0, 1), (0, 0)))
    rho = beta(9, 0.5) / beta(1.5, 0.5)
    for i in range(out.shape[1]):
        for j in range(out.shape[2]):
            patch = padded[:, 2 * i : 2 * i + 3, 2 * j : 2 * j + 2].reshape(2, 18)
            x = ball.expmap0(jnp.asarray(rho * patch), curvature=0.3)
            y = ball.logmap0(ball.fc(x, kernel, jnp.zeros(4), curvature=0.3), curvature=0.3)
            np.testing.assert_allclose(out[:, i, j], y, rtol=1e-4, atol=1e-5)


def test_batch_norm_centres_and_scales():
    v = images(64, 5, size=0.7) + 0.5
    norm = layers.PoincareBatchNorm(curvature=0.3)
    out, variables = norm.init_with_output(KEY, v, train=True)
    x = ball.expmap0(out, curvature=0.3)
    centre = ball.midpoint(x, curvature=0.3)
    np.testing.assert_allclose(centre, np.zeros(5), atol=0.1)
    spread = jnp.mean(ball.dist(x, jnp.zeros((1, 5)), curvature=0.3) ** 2)
    np.testing.assert_allclose(spread, 1.0, rtol=1e-4)
    gamma = jax.nn.softplus(variables["params"]["scale"])
    np.testing.assert_allclose(gamma, 1.0, rtol=1e-6)


@pytest.mark.parametrize("mean", ["midpoint", "frechet"])
def test_running_statistics_reach_those_of_a_constant_batch(mean):
    """After 200 steps of momentum 0.9 nothing is left of the start (0.9^200 = 7e-10)."""
    v = images(32, 3, size=0.4) + 0.3
    norm = layers.PoincareBatchNorm(mean=mean, curvature=0.5)
    variables = norm.init(KEY, v, train=True)
    step = jax.jit(lambda variables: norm.apply(variables, v, train=True, mutable=["batch_stats"]))
    for _ in range(200):
        trained, updates = step(variables)
        variables = {**variables, **updates}
    np.testing.assert_allclose(norm.apply(variables, v, train=False), trained, atol=1e-4)
    x = ball.expmap0(v, curvature=0.5)
    average = {"midpoint": ball.midpoint, "frechet": ball.frechet_mean}[mean]
    wanted = ball.logmap0(average(x, curvature=0.5), curvature=0.5)
    np.testing.assert_allclose(variables["batch_stats"]["mean"], wanted, atol=1e-5)


def test_evaluation_does_not_look_at_the_batch():
    norm = layers.PoincareBatchNorm()
    variables = norm.init(KEY, images(8, 3), train=True)
    alone = norm.apply(variables, images(8, 3)[:1], train=False)
    together = norm.apply(variables, images(8, 3), train=False)
    np.testing.assert_allclose(alone, together[:1], rtol=1e-6, atol=1e-7)


def test_statistics_over_a_mapped_axis_are_those_of_the_whole_batch():
    v = images(8, 4, 3)
    whole, parts = layers.PoincareBatchNorm(), layers.PoincareBatchNorm(axis_name="data")
    variables = whole.init(KEY, v, train=True)

    def apply(norm, v):
        return norm.apply(variables, v, train=True, mutable=["batch_stats"])

    wanted, updates = apply(whole, v)
    found, parts_updates = jax.vmap(lambda v: apply(parts, v), axis_name="data")(
        v.reshape(2, 4, 4, 3)
    )
    np.testing.assert_allclose(found.reshape(8, 4, 3), wanted, rtol=1e-4, atol=1e-5)
    for a, b in zip(jax.tree.leaves(parts_updates), jax.tree.leaves(updates), strict=True):
        np.testing.assert_allclose(a[0], b, rtol=1e-5, atol=1e-6)


def test_sums_of_the_convolution_are_those_of_its_result():
    v, norm = images(2, 6, 6, 3), layers.PoincareBatchNorm()
    conv = layers.PoincareConv(4)
    (out, sums), _ = conv.init_with_output(KEY, v, with_sums=True)
    variables = norm.init(KEY, out, train=True)
    with_sums = norm.apply(variables, out, train=True, sums=sums, mutable=["batch_stats"])
    without = norm.apply(variables, out, train=True, mutable=["batch_stats"])
    for a, b in zip(jax.tree.leaves(with_sums), jax.tree.leaves(without), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)


def test_curvature_is_learned_from_where_it_is_set():
    v = images(4, 3)
    layer = layers.PoincareDense(3, curvature=0.1, learn_curvature=True)
    variables = layer.init(KEY, v)
    raw = variables["params"]["learned_curvature"]["raw"]
    np.testing.assert_allclose(jax.nn.softplus(raw), 0.1, rtol=1e-6)
    layer_fixed = layers.PoincareDense(3, curvature=0.1, kernel_init=layers.hnn_normal())
    layer = layer_fixed.clone(learn_curvature=True)
    variables = layer.init(KEY, v)
    gradient = jax.grad(lambda p: jnp.sum(layer.apply({"params": p}, v) ** 2))(variables["params"])
    assert gradient["learned_curvature"]["raw"] != 0


def test_half_precision_is_stored_and_single_computed():
    """Inputs and results are rounded to bfloat16: one part in 128 of the largest entry."""
    v = images(2, 6, 6, 4)
    layer = layers.PoincareConv(4, kernel_init=layers.hnn_normal())
    wanted, variables = layer.init_with_output(KEY, v)
    found = layer.apply(variables, v.astype(jnp.bfloat16))
    assert found.dtype == jnp.bfloat16
    largest = float(jnp.abs(wanted).max())
    np.testing.assert_allclose(found.astype(jnp.float32), wanted, atol=largest / 64)
    norm = layers.PoincareBatchNorm()
    out, variables = norm.init_with_output(KEY, v.astype(jnp.bfloat16), train=True)
    assert out.dtype == jnp.bfloat16
    assert {a.dtype for a in jax.tree.leaves(variables)} == {jnp.dtype("float32")}


def test_gradient_at_zero_is_finite_and_not_lost():
    """A ReLU makes rows of zeros, and padding is zero."""
    v = jnp.zeros((1, 4, 4, 3))
    layer = layers.PoincareConv(3, kernel_init=layers.centre_tap())
    variables = layer.init(KEY, v)
    gradient = jax.grad(lambda v: jnp.sum(layer.apply(variables, v)))(v)
    np.testing.assert_allclose(gradient, np.ones_like(v), rtol=1e-5)


def test_midpoint_pool_is_the_midpoint():
    v = images(3, 2, 4, 5)
    x = ball.expmap0(v.reshape(3, 8, 5), curvature=0.6)
    wanted = ball.logmap0(ball.midpoint(x, axis=1, curvature=0.6), curvature=0.6)
    np.testing.assert_allclose(layers.poincare_pool(v, curvature=0.6), wanted, rtol=1e-5, atol=1e-6)
    mean = layers.poincare_pool(v, curvature=0.6, pool="tangent")
    np.testing.assert_allclose(mean, v.mean((1, 2)), rtol=1e-6)


@pytest.mark.parametrize(
    ("layer", "v", "message"),
    [
        (layers.PoincareDense(3), jnp.ones((2, 3), jnp.int32), "v has dtype int32"),
        (layers.PoincareDense(3, curvature=0.0), jnp.ones((2, 3)), "curvature=0.0"),
        (layers.PoincareDense(3, curvature=-1.0, learn_curvature=True), jnp.ones((2, 3)), "-1.0"),
        (layers.PoincareConv(3), jnp.ones((2, 3)), r"v has shape \(2, 3\)"),
        (layers.PoincareConv(3, padding="VALID"), jnp.ones((1, 2, 2, 3)), "leaves no output"),
        (layers.PoincareMLR(3), jnp.ones(()), "channels last"),
    ],
)
def test_bad_arguments_are_named(layer, v, message):
    with pytest.raises(ValueError, match=message):
        layer.init(KEY, v)


def test_batch_norm_refuses_what_it_cannot_average():
    with pytest.raises(ValueError, match="mean of 0 rows"):
        layers.PoincareBatchNorm().init(KEY, jnp.ones((0, 3)), train=True)
    with pytest.raises(ValueError, match="mean='median' is unknown"):
        layers.PoincareBatchNorm(mean="median").init(KEY, jnp.ones((2, 3)), train=True)
    with pytest.raises(ValueError, match="axis_name='data' needs"):
        layers.PoincareBatchNorm(mean="frechet", axis_name="data").init(
            KEY, jnp.ones((2, 3)), train=True
        )
    with pytest.raises(ValueError, match="must agree"):
        layers.poincare_residual(jnp.ones((2, 3)), jnp.ones((1, 3)), curvature=0.1)
    with pytest.raises(ValueError, match="pool='max' is unknown"):
        layers.poincare_pool(jnp.ones((1, 2, 2, 3)), curvature=0.1, pool="max")
