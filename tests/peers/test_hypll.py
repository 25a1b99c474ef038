"""The ball and its layers against HypLL, values and gradients.

HypLL's tensors hold points of the ball with the channels second; ours tangent vectors at 0 with
the channels last. Every test maps the one to the other around HypLL's layer, in torch, so that the
gradients that are compared are those of the same function.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from trove_jax import layers
from trove_jax.geometry import poincare

torch = pytest.importorskip("torch", reason="needs the extra bench")
hypll = pytest.importorskip("hypll", reason="needs the extra bench")

from hypll import nn as hnn  # noqa: E402
from hypll.manifolds.euclidean import Euclidean  # noqa: E402
from hypll.manifolds.poincare_ball import Curvature, PoincareBall  # noqa: E402
from hypll.tensors import ManifoldTensor, TangentTensor  # noqa: E402

# Agreement in float64, and of outputs in float32.
TIGHT = 1e-9
SINGLE = 1e-6


def _ball(c):
    """HypLL keeps the curvature in float32 behind a softplus: both are replaced here."""
    curvature = Curvature(1.0, constraining_strategy=lambda value: value)
    curvature.value = torch.nn.Parameter(torch.tensor(c, dtype=torch.float64))
    return PoincareBall(curvature)


def _theirs(function, ball, *arrays):
    """Output, and the gradients of its product with a fixed cotangent: of arrays and curvature."""
    leaves = [torch.tensor(a, requires_grad=True) for a in arrays]
    out = function(ball, *leaves)
    (out * torch.tensor(_cotangent(out.shape, np.float64))).sum().backward()
    return out.detach().numpy(), [leaf.grad.numpy() for leaf in (*leaves, ball.c.value)]


def _cotangent(shape, dtype):
    return np.random.default_rng(99).normal(size=tuple(shape)).astype(dtype)


def _agree(ours, theirs, draw, curvatures):
    """Values and gradients in float64, values in float32; each is compiled once."""

    @jax.jit
    def with_gradients(*leaves):
        out, pull = jax.vjp(ours, *leaves)
        return out, pull(jnp.asarray(_cotangent(out.shape, out.dtype)))

    single = jax.jit(ours)
    for c in curvatures:
        arrays = draw(np.random.default_rng(0), c)
        out, grads = _theirs(theirs, _ball(c), *arrays)
        assert np.abs(out).max() > 1e-2
        with jax.enable_x64(True):
            my_out, my_grads = with_gradients(*map(jnp.asarray, (*arrays, np.float64(c))))
            assert my_out.dtype == jnp.float64
        np.testing.assert_allclose(my_out, out, rtol=TIGHT, atol=TIGHT)
        for mine, other in zip(my_grads, grads, strict=True):
            scale = np.abs(other).max()
            assert scale > 1e-4, "a gradient of nothing agrees with anything"
            np.testing.assert_allclose(mine, other, rtol=TIGHT, atol=TIGHT * max(scale, 1.0))
        my_out = single(*(jnp.asarray(a, jnp.float32) for a in (*arrays, np.float32(c))))
        assert my_out.dtype == jnp.float32
        # Inputs are rounded as well, and a mean is small against them.
        size = max(np.abs(out).max(), np.abs(arrays[0]).max())
        np.testing.assert_allclose(my_out, out, rtol=SINGLE, atol=SINGLE * size)


def _points(rng, c, *shape, reach=0.8):
    x = rng.normal(size=shape)
    x *= rng.uniform(0.1, reach, (*shape[:-1], 1)) / np.linalg.norm(x, axis=-1, keepdims=True)
    return x / np.sqrt(c)


def _held(ball, x, man_dim=-1):
    return ManifoldTensor(x, ball, man_dim=man_dim)


def test_midpoints():
    def draw(rng, c):
        return _points(rng, c, 7, 5), rng.uniform(0.1, 2, 7)

    _agree(
        lambda x, w, c: poincare.midpoint(x, w, curvature=c),
        lambda ball, x, w: ball.midpoint(_held(ball, x), w=w[:, None]).tensor,
        draw,
        (0.1, 1.0, 2.5),
    )
    _agree(
        lambda x, c: poincare.midpoint(x, curvature=c),
        lambda ball, x: ball.midpoint(_held(ball, x)).tensor,
        lambda rng, c: draw(rng, c)[:1],
        (0.1, 1.0, 2.5),
    )


def test_frechet_means():
    # HypLL stops at 1e-12 as we do; its gradient is that of the minimum too (Lou et al.).
    _agree(
        lambda x, c: poincare.frechet_mean(x, curvature=c),
        lambda ball, x: ball.frechet_mean(_held(ball, x)).tensor,
        lambda rng, c: [_points(rng, c, 9, 4)],
        (0.1, 1.0),
    )


def test_signed_distances_and_the_fully_connected_map():
    def draw(rng, c):
        # Short of the largest radius, which is another one in float32.
        return _points(rng, c, 6, 5), rng.normal(size=(5, 3)) / 4, rng.normal(size=3) / 8

    _agree(
        lambda x, z, r, c: poincare.mlr(x, z, r, curvature=c),
        lambda ball, x, z, r: ball.hyperplane_dists(_held(ball, x, 1), _held(ball, z, 0), r),
        draw,
        (0.1, 1.0, 2.5),
    )
    _agree(
        lambda x, z, r, c: poincare.fc(x, z, r, curvature=c),
        lambda ball, x, z, r: ball.fully_connected(_held(ball, x), _held(ball, z, 0), r).tensor,
        draw,
        (0.1, 1.0, 2.5),
    )


def _published_fc(x, z, r, c, *, lambda_variant):
    """The fully connected map as the paper's repository computes it.

    It takes lambda as 2 (1 - c|x|^2), not 2 / (1 - c|x|^2); `"right"` is the formula of HNN++.
    """
    root, square = np.sqrt(c), c * np.sum(x * x, axis=-1, keepdims=True)
    stretch = {"official": 2 * (1 - square), "right": 2 / (1 - square)}[lambda_variant]
    s = np.linalg.norm(z, axis=0)
    inner = root * stretch * (x @ z) / s * np.cosh(2 * root * r)
    v = 2 * s / root * np.arcsinh(inner - (stretch - 1) * np.sinh(2 * root * r))
    w = np.sinh(root * v) / root
    return w / (1 + np.sqrt(1 + c * np.sum(w * w, axis=-1, keepdims=True)))


def test_the_published_code_has_another_lambda_with_which_half_the_identity_is_not_the_identity():
    c, rng = 0.5, np.random.default_rng(3)
    x, half = _points(rng, c, 8, 4), np.eye(4) / 2
    zero = np.zeros(4)
    with jax.enable_x64(True):
        got = poincare.fc(*map(jnp.asarray, (x, half, zero)), curvature=c)
    right = _published_fc(x, half, zero, c, lambda_variant="right")
    official = _published_fc(x, half, zero, c, lambda_variant="official")
    np.testing.assert_allclose(right, x, atol=1e-12)
    np.testing.assert_allclose(got, x, atol=1e-12)
    # It shortens: 1 - c|x|^2 stands where its inverse belongs.
    shorter = np.linalg.norm(official, axis=1) / np.linalg.norm(x, axis=1)
    assert shorter.max() < 1.0
    assert shorter.min() < 0.6


def _vectors(rng, c, *shape, reach=1.0):
    """Tangent vectors at 0 of length up to `reach` / C, and some that are exactly 0."""
    v = rng.normal(size=shape)
    v *= rng.uniform(0.0, reach, (*shape[:-1], 1)) / np.linalg.norm(v, axis=-1, keepdims=True)
    v.reshape(-1, shape[-1])[:: max(1, v.size // (2 * shape[-1]))] = 0.0
    return v / np.sqrt(c)


def _map(layer, ball, v):
    """Tangent vectors `[b, h, w, d]` or `[b, d]` to those behind HypLL's layer, channels last."""
    is_image = v.dim() == 4
    last = (lambda x: x.permute(0, 2, 3, 1)) if is_image else (lambda x: x)
    first = v.permute(0, 3, 1, 2) if is_image else v
    dim = 1 if is_image else -1
    points = layer(ball.expmap(TangentTensor(first, None, ball, man_dim=dim)))
    return last(ball.logmap(None, points).tensor)


def _with(layer, **values):
    """Puts tensors in the place of parameters, so that gradients flow through them."""
    for name, value in values.items():
        del layer._parameters[name]
        layer.__dict__[name] = value
    return layer


def _raw_scale(gamma):
    # Our parameter is the softplus' inverse, theirs gamma itself.
    return jnp.log(jnp.expm1(gamma))


@pytest.mark.parametrize(
    ("size", "stride", "padding"), [((3, 3), 1, 1), ((3, 3), 2, 1), ((1, 1), 2, 0), ((2, 3), 1, 0)]
)
def test_convolutions(size, stride, padding):
    d, m = 3, 4

    def draw(rng, c):
        kernel = rng.normal(size=(*size, d, m)) / np.sqrt(4 * d * size[0] * size[1])
        return _vectors(rng, c, 2, 6, 5, d), kernel, rng.normal(size=m) / 8

    def ours(v, kernel, bias, c):
        layer = layers.PoincareConv(m, size, stride, padding, curvature=c)
        return layer.apply({"params": {"kernel": kernel, "bias": bias}}, v)

    def theirs(ball, v, kernel, bias):
        # torch unfolds channel by channel, and tap by tap within a channel. Both scale by
        # beta(n/2, 1/2) / beta(d/2, 1/2), the padding included.
        rows = kernel.permute(2, 0, 1, 3).reshape(-1, m)
        layer = hnn.HConvolution2d(d, m, size, ball, stride=stride, padding=padding)
        return _map(_with(layer, weights=_held(Euclidean(), rows, 0), bias=bias), ball, v)

    _agree(ours, theirs, draw, (0.1, 1.0))


def test_linear_layers_and_class_scores():
    d, m = 5, 3

    def draw(rng, c):
        return _vectors(rng, c, 6, d), rng.normal(size=(d, m)) / 4, rng.normal(size=m) / 8

    def dense(v, kernel, bias, c):
        return layers.PoincareDense(m, curvature=c).apply(_params(kernel, bias), v)

    def mlr(v, kernel, bias, c):
        return layers.PoincareMLR(m, curvature=c).apply(_params(kernel, bias), v)

    def linear(ball, v, kernel, bias):
        layer = _with(hnn.HLinear(d, m, ball), z=_held(Euclidean(), kernel, 0), bias=bias)
        return _map(layer, ball, v)

    def scores(ball, v, kernel, bias):
        x = ball.expmap(TangentTensor(v, None, ball, man_dim=1))
        return ball.hyperplane_dists(x, _held(Euclidean(), kernel, 0), bias)

    _agree(dense, linear, draw, (0.1, 1.0, 2.5))
    _agree(mlr, scores, draw, (0.1, 1.0, 2.5))


def _params(kernel, bias):
    return {"params": {"kernel": kernel, "bias": bias}}


@pytest.mark.parametrize("mean", ["midpoint", "frechet"])
def test_batch_normalisations(mean):
    d = 3

    def draw(rng, c):
        # Off the origin, or a mean of nearly 0 would be compared.
        v = _vectors(rng, c, 3, 4, 2, d) + 0.3 / np.sqrt(c)
        return v, rng.normal(size=d) / (4 * np.sqrt(c)), np.float64(1.7 / c) * np.ones(())

    def ours(v, bias, gamma, c):
        layer = layers.PoincareBatchNorm(mean=mean, curvature=c)
        stats = {"mean": jnp.zeros(d, v.dtype), "var": jnp.ones((), v.dtype)}
        params = {"bias": bias, "scale": _raw_scale(gamma)}
        variables = {"params": params, "batch_stats": stats}
        return layer.apply(variables, v, train=True, mutable="batch_stats")[0]

    def theirs(ball, v, bias, gamma):
        layer = hnn.HBatchNorm2d(d, ball, use_midpoint=mean == "midpoint")
        _with(layer.norm, bias=bias, weight=gamma)
        return _map(layer, ball, v)

    _agree(ours, theirs, draw, (0.1, 1.0))


def test_residuals_relu_and_the_mean_of_all_pixels():
    def draw(rng, c):
        return _vectors(rng, c, 2, 3, 4, 5), _vectors(rng, c, 2, 3, 4, 5)

    def added(ball, f, x):
        f, x = (ball.expmap(TangentTensor(v, None, ball, man_dim=-1)) for v in (f, x))
        return ball.logmap(None, ball.mobius_add(f, x)).tensor

    def midpoint(ball, v):
        # Not HAvgPool2d: it unfolds first, and so scales the points by a ratio of beta functions.
        x = ball.expmap(TangentTensor(v, None, ball, man_dim=3))
        return ball.logmap(None, ball.midpoint(x, batch_dim=[1, 2])).tensor

    _agree(lambda f, x, c: layers.poincare_residual(f, x, curvature=c), added, draw, (0.1, 1.0))
    _agree(
        lambda v, c: layers.poincare_pool(v, curvature=c),
        midpoint,
        lambda rng, c: draw(rng, c)[:1],
        (0.1, 1.0),
    )
    v, ball = draw(np.random.default_rng(0), 1.0)[0], _ball(1.0)
    relu = _map(hnn.HReLU(ball), ball, torch.tensor(v)).detach()
    np.testing.assert_allclose(layers.poincare_relu(jnp.asarray(v, jnp.float32)), relu, atol=1e-6)


@pytest.mark.parametrize("c", [0.1, 1.0])
def test_vectors_beyond_the_largest_radius_are_cut_at_the_same(c):
    rng, d = np.random.default_rng(4), 4
    v = rng.normal(size=(6, d))
    v *= np.linspace(5.0, 9.0, 6)[:, None] / np.linalg.norm(v, axis=1, keepdims=True) / np.sqrt(c)
    kernel, bias = np.eye(d) / 2, np.zeros(d)
    ball = _ball(c)
    layer = hnn.HLinear(d, d, ball)
    layer = _with(layer, z=_held(Euclidean(), torch.tensor(kernel), 0), bias=torch.tensor(bias))
    theirs = _map(layer, ball, torch.tensor(v)).detach()
    with jax.enable_x64(True):
        dense = layers.PoincareDense(d, curvature=c)
        got = dense.apply(_params(jnp.asarray(kernel), jnp.asarray(bias)), jnp.asarray(v))
        limit = poincare.boundary_eps(jnp.float64)
    length = np.sqrt(c) * np.linalg.norm(got, axis=1)
    assert length[0] < length[-1]
    np.testing.assert_allclose(length[-3:], np.arctanh(1 - limit), rtol=1e-9)
    # Ball coordinates hold 1 - |x| = 1e-5 with a relative error of 1e-11.
    np.testing.assert_allclose(got, theirs, rtol=1e-8)
