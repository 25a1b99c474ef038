"""The ball and its layers against HypLL, values and gradients.

HypLL's tensors hold points of the ball with the channels second; ours tangent vectors at 0 with
the channels last. Every test maps the one to the other around HypLL's layer, in torch, so that the
gradients that are compared are those of the same function.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from trove_jax.geometry import poincare

torch = pytest.importorskip("torch", reason="needs the extra bench")
hypll = pytest.importorskip("hypll", reason="needs the extra bench")

from hypll.manifolds.poincare_ball import Curvature, PoincareBall  # noqa: E402
from hypll.tensors import ManifoldTensor  # noqa: E402

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
