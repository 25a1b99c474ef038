"""The Poincare ball against closed forms, its identities, and the gradients derived by hand."""

import functools
import types

import jax
import jax.numpy as jnp
import jax.test_util
import numpy as np
import pytest

from tests.contracts import ArrayContract, cases, holds
from trove_jax.geometry import poincare

C = 0.75  # curvature of most tests
N, D = 17, 5
# That the kernels agree with the plain form is the business of tests/kernels/test_gyro.py.
PLAIN = {"implementation": "reference"}
NAMES = [name for name in poincare.__all__ if name not in ("boundary_eps", "check_points")]
ball = types.SimpleNamespace(
    **{
        name: jax.jit(functools.partial(getattr(poincare, name), curvature=C, **PLAIN))
        for name in NAMES
    }
)


@pytest.fixture
def x64():
    with jax.enable_x64(True):
        yield


def draw_points(seed, shape=(N, D), c=C, largest=0.95):
    rng = np.random.default_rng(seed)
    direction = rng.normal(size=shape)
    direction /= np.linalg.norm(direction, axis=-1, keepdims=True)
    radius = largest / np.sqrt(c) * rng.uniform(size=(*shape[:-1], 1))
    return jnp.asarray(direction * radius)


def draw_vectors(seed, shape=(N, D)):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape))


def dot(a, b):
    return jnp.sum(a * b, axis=-1, keepdims=True)


def close(got, want, tolerance=1e-12):
    np.testing.assert_allclose(got, want, rtol=tolerance, atol=tolerance)


def to_hyperboloid(x, c=C):
    """(time, space) of points on the hyperboloid t^2 - |s|^2 = 1."""
    x = np.sqrt(c) * np.asarray(x, np.float64)
    q = np.sum(x * x, axis=-1, keepdims=True)
    return np.concatenate([(1 + q) / (1 - q), 2 * x / (1 - q)], axis=-1)


def from_hyperboloid(h, c=C):
    return h[..., 1:] / (1 + h[..., :1]) / np.sqrt(c)


# Values ---------------------------------------------------------------------------------------


def test_formulas_of_the_card(x64):
    x, y, v = draw_points(0), draw_points(1), draw_vectors(2)
    root, xx, yy, xy = np.sqrt(C), dot(x, x), dot(y, y), dot(x, y)
    total = 1 + 2 * C * xy + C**2 * xx * yy
    sum_ = ((1 + 2 * C * xy + C * yy) * x + (1 - C * xx) * y) / total
    close(ball.mobius_add(x, y), sum_)
    norm = jnp.sqrt(xx)
    k = -1.7
    scaled = jnp.tanh(k * jnp.arctanh(root * norm)) * x / (root * norm)
    close(ball.mobius_scale(k, x), scaled)
    size = jnp.sqrt(dot(v, v))
    close(ball.expmap0(v), jnp.tanh(root * size) * v / (root * size))
    close(ball.logmap0(x), jnp.arctanh(root * norm) * x / (root * norm))
    close(ball.conformal(x), 2 / (1 - C * xx[:, 0]))
    u, w = x, v
    uw, vw, uv = dot(u, w), dot(y, w), dot(u, y)
    a = -(C**2) * uw * yy + C * vw + 2 * C**2 * uv * vw
    b = -(C**2) * vw * xx - C * uw
    turned = w + 2 * (a * u + b * y) / (1 + 2 * C * uv + C**2 * xx * yy)
    close(ball.gyration(u, y, w), turned)


def test_distance_is_that_of_the_hyperboloid(x64):
    x, y = draw_points(0), draw_points(1)
    product = to_hyperboloid(x) * to_hyperboloid(y)
    want = np.arccosh(product[:, 0] - product[:, 1:].sum(-1)) / np.sqrt(C)
    close(ball.dist(x, y), want, 1e-11)


def test_exponential_and_logarithm_undo_each_other(x64):
    x, y, v = draw_points(0), draw_points(1), draw_vectors(2)
    close(ball.logmap0(ball.expmap0(v)), v, 1e-10)
    close(ball.expmap0(ball.logmap0(x)), x)
    v = v / ball.conformal(x)[:, None]
    close(ball.logmap(x, ball.expmap(x, v)), v, 1e-10)
    close(ball.expmap(x, ball.logmap(x, y)), y)
    doubled = ball.mobius_scale(2.5, x)
    close(ball.mobius_scale(1 / 2.5, doubled), x, 1e-10)


def test_exponential_walks_the_length_of_the_tangent(x64):
    x, v = draw_points(0), 0.3 * draw_vectors(1)
    length = ball.conformal(x) * jnp.linalg.norm(v, axis=-1)
    length = jnp.minimum(length, 4.0)
    v = v * (length / ball.conformal(x) / jnp.linalg.norm(v, axis=-1))[:, None]
    close(ball.dist(x, ball.expmap(x, v)), length, 1e-10)


def test_addition_is_a_gyrogroup(x64):
    u, v, w = draw_points(0), draw_points(1), draw_points(2)

    def add(x, y):
        return ball.mobius_add(x, y)

    close(add(-u, add(u, v)), v, 1e-11)
    close(add(u, jnp.zeros(D)), u)
    close(add(u, add(v, w)), add(add(u, v), ball.gyration(u, v, w)), 1e-11)
    close(add(u, v), ball.gyration(u, v, add(v, u)), 1e-11)


def test_translations_and_transport_are_isometries(x64):
    a, x, y = draw_points(0), draw_points(1), draw_points(2)
    v, w = draw_vectors(3), draw_vectors(4)
    moved = [ball.mobius_add(a, z) for z in (x, y)]
    close(ball.dist(*moved), ball.dist(x, y), 1e-10)
    turned = [ball.gyration(x, y, z) for z in (v, w)]
    close(dot(*turned), dot(v, w))
    carried = [ball.transport(x, y, z) for z in (v, w)]
    scale = ball.conformal(x) / ball.conformal(y)
    close(dot(*carried)[:, 0], scale**2 * dot(v, w)[:, 0], 1e-11)
    # The geodesic's own direction stays its direction, there and back.
    along = ball.transport(x, y, ball.logmap(x, y))
    close(along, -ball.logmap(y, x), 1e-11)
    back = ball.transport(y, x, carried[0])
    close(back, v, 1e-11)
    close(ball.transport(jnp.zeros(D), y, v), (1 - C * dot(y, y)) * v)


def test_hyperplane_scores_are_signed_distances(x64):
    x, z, r = draw_points(0), draw_vectors(1, (D, 4)), 0.4 * draw_vectors(2, (4,))
    root, norms = np.sqrt(C), np.linalg.norm(z, axis=0)
    for k in range(4):
        normal = z[:, k] / norms[k]
        through = np.tanh(root * r[k]) / root * normal
        from_plane = ball.mobius_add(-through, x)
        gap = 1 - C * dot(from_plane, from_plane)
        sine = 2 * root * dot(from_plane, normal[None]) / gap
        want = 2 * norms[k] * np.arcsinh(sine[:, 0]) / root
        close(ball.mlr(x, z, r)[:, k], want, 1e-11)


def test_fully_connected_map(x64):
    x, z, r = draw_points(0), 0.4 * draw_vectors(1, (D, 4)), 0.2 * draw_vectors(2, (4,))
    close(ball.fc(x, 0.5 * jnp.eye(D), jnp.zeros(D)), x)
    y = ball.fc(x, z, r)
    assert bool(jnp.all(C * dot(y, y) < poincare.boundary_eps(jnp.float64) ** 0))
    # Its coordinates are distances from the axes' hyperplanes.
    scores = ball.mlr(x, z, r)
    close(ball.mlr(y, 0.5 * jnp.eye(4), jnp.zeros(4)), scores, 1e-9)
    w = jnp.sinh(np.sqrt(C) * scores) / np.sqrt(C)
    close(y, w / (1 + jnp.sqrt(1 + C * dot(w, w))), 1e-10)


def test_fully_connected_map_of_large_scores_is_finite_and_at_the_boundary():
    x, z = draw_points(0), draw_vectors(1, (D, 4))

    @jax.jit
    def value_and_gradient(z):
        y, back = jax.vjp(lambda z: ball.fc(x, z, jnp.ones(4)), z)
        return y, back(jnp.ones_like(y))[0]

    for factor in (3.0, 100.0, 1e4, 1e10):
        y, gradient = value_and_gradient(factor * z)
        assert bool(jnp.all(jnp.isfinite(y)))
        assert bool(jnp.all(jnp.isfinite(gradient)))
        if factor > 50:
            close(np.sqrt(C) * jnp.linalg.norm(y, axis=-1), np.full(N, 0.996), 1e-5)


def test_radius_of_the_projection_and_of_the_clipped_tangent():
    for dtype, radius, tangent in (("float32", 0.996, 3.1063), ("float64", 1 - 1e-5, 6.1030)):
        with jax.enable_x64(dtype == "float64"):
            far = jnp.asarray([[30.0, -40.0], [0.1, 0.2]], dtype)
            x = ball.project(far)
            want = np.array([[0.6, -0.8], [0.1, 0.2]]) * [[radius / np.sqrt(C)], [1]]
            np.testing.assert_allclose(x, want, rtol=3e-7)
            v = ball.clip_tangent(far)
            want = np.array([[0.6, -0.8], [0.1, 0.2]]) * [[tangent / np.sqrt(C)], [1]]
            np.testing.assert_allclose(v, want, rtol=2e-5)
            np.testing.assert_array_equal(x[1], far[1])
            np.testing.assert_array_equal(v[1], far[1])
            # What lies beyond is treated as if it lay there.
            y = jnp.asarray([[0.1, 0.3], [-0.2, 0.4]], dtype)
            for function in (ball.mobius_add, ball.dist, ball.logmap):
                got, want = function(far, y), function(x, y)
                np.testing.assert_allclose(got, want, rtol=1e-3 * poincare.boundary_eps(dtype))


# Gradients ------------------------------------------------------------------------------------


def pull(function, *arguments, seed=9):
    u = draw_vectors(seed, jax.eval_shape(function, *arguments).shape)
    return u, jax.jit(lambda u, *a: jax.vjp(function, *a)[1](u))(u, *arguments)


def add_vjp(x, y, u, c):
    xx, yy, xy = dot(x, x), dot(y, y), dot(x, y)
    ux, uy = dot(u, x), dot(u, y)
    total, a, b = 1 + 2 * c * xy + c**2 * xx * yy, 1 + 2 * c * xy + c * yy, 1 - c * xx
    q = (a * ux + b * uy) / total
    dx = a / total * u - 2 * c / total * ((c * yy * q + uy) * x + (q - ux) * y)
    dy = b / total * u + 2 * c / total * ((ux - q) * x + (ux - c * xx * q) * y)
    dc = ((2 * xy + yy) * ux - xx * uy - 2 * q * (xy + c * xx * yy)) / total
    return dx, dy, dc


def test_hand_derived_gradient_of_addition(x64):
    x, y = draw_points(0), draw_points(1)
    u, (dx, dy, dc) = pull(lambda x, y, c: poincare.mobius_add(x, y, curvature=c, **PLAIN), x, y, C)
    want = add_vjp(x, y, u, C)
    close(dx, want[0])
    close(dy, want[1])
    close(dc, want[2].sum())


def test_hand_derived_gradients_at_the_origin(x64):
    v, y = 0.7 * draw_vectors(0), draw_points(1)
    u, (dv, dc) = pull(lambda v, c: poincare.expmap0(v, curvature=c, **PLAIN), v, C)
    s = jnp.sqrt(C * dot(v, v))
    f, slope = jnp.tanh(s) / s, 1 / jnp.cosh(s) ** 2
    close(dv, f * u + (slope - f) / dot(v, v) * dot(u, v) * v)
    close(dc, jnp.sum(dot(u, v) * (slope - f) / (2 * C)))
    u, (dy, dc) = pull(lambda y, c: poincare.logmap0(y, curvature=c, **PLAIN), y, C)
    s = jnp.sqrt(C * dot(y, y))
    f, slope = jnp.arctanh(s) / s, 1 / (1 - s * s)
    close(dy, f * u + (slope - f) / dot(y, y) * dot(u, y) * y, 1e-11)
    close(dc, jnp.sum(dot(u, y) * (slope - f) / (2 * C)), 1e-11)


def test_hand_derived_gradients_of_scale_and_projection(x64):
    x = draw_points(0)
    u, (dx, dc) = pull(lambda x, c: poincare.conformal(x, curvature=c, **PLAIN), x, C)
    u, scale = u[:, None], 2 / (1 - C * dot(x, x))
    close(dx, C * scale**2 * x * u)
    close(dc, jnp.sum(scale**2 * dot(x, x) * u / 2))
    far = 3 * draw_vectors(1)
    u, (dx,) = pull(lambda x: ball.project(x), far)
    norm, radius = jnp.linalg.norm(far, axis=-1, keepdims=True), (1 - 1e-5) / np.sqrt(C)
    assert bool(jnp.all(norm > radius))
    close(dx, radius / norm * (u - dot(u, far) * far / norm**2))


def test_hand_derived_gradient_of_the_exponential(x64):
    x, v = draw_points(0, largest=0.7), 0.3 * draw_vectors(1)
    u, (dx, dv, dc) = pull(lambda x, v, c: poincare.expmap(x, v, curvature=c, **PLAIN), x, v, C)
    root, gap, size = np.sqrt(C), 1 - C * dot(x, x), jnp.sqrt(dot(v, v))
    p = root * size / gap
    tanh, slope = jnp.tanh(p), 1 / jnp.cosh(p) ** 2
    want_x, ut, want_c = add_vjp(x, tanh * v / (root * size), u, C)
    u = ut
    want_x += 2 * C * dot(u, v) * slope / gap**2 * x
    want_v = tanh / (root * size) * u
    want_v += (slope / (size**2 * gap) - tanh / (root * size**3)) * dot(u, v) * v
    want_c += dot(u, v) / (2 * C) * (slope * (2 - gap) / gap**2 - tanh / (root * size))
    close(dx, want_x)
    close(dv, want_v)
    close(dc, want_c.sum())


def test_hand_derived_gradient_of_the_logarithm(x64):
    x, y = draw_points(0, largest=0.8), draw_points(1, largest=0.8)
    u, (dx, dy, dc) = pull(lambda x, y, c: poincare.logmap(x, y, curvature=c, **PLAIN), x, y, C)
    z = ball.mobius_add(-x, y)
    gap, zz = 1 - C * dot(x, x), dot(z, z)
    s = jnp.sqrt(C * zz)
    f, slope, uz = jnp.arctanh(s) / s, 1 / (1 - s * s), dot(u, z)
    want_x = -2 * C * uz * f * x
    want_c = uz / (2 * C) * (gap * slope - (2 - gap) * f)
    minus_x, want_y, through = add_vjp(-x, y, gap * f * u + uz * gap * (slope - f) / zz * z, C)
    close(dx, want_x - minus_x, 1e-11)
    close(dy, want_y, 1e-11)
    close(dc, jnp.sum(want_c + through), 1e-11)


def test_hand_derived_gradient_of_the_fully_connected_map(x64):
    m = 4
    x, z, r = draw_points(0, largest=0.7), 0.3 * draw_vectors(1, (D, m)), draw_vectors(2, (m,))
    r = 0.1 * r
    u, (dx, dz, dr) = pull(lambda x, z, r: ball.fc(x, z, r), x, z, r)
    root, norms, t = np.sqrt(C), jnp.linalg.norm(z, axis=0)[None], x @ z
    cosh, sinh = jnp.cosh(2 * root * r)[None], jnp.sinh(2 * root * r)[None]
    scale = 2 / (1 - C * dot(x, x))
    alpha = root * scale * t / norms * cosh - (scale - 1) * sinh
    v = 2 * norms / root * jnp.arcsinh(alpha)
    w = jnp.sinh(root * v) / root
    big = jnp.sqrt(1 + C * dot(w, w))
    dw = u / (1 + big) - C * dot(u, w) / (big * (1 + big) ** 2) * w
    dv = jnp.sqrt(1 + C * w**2) * dw
    da = 2 * norms / root * dv / jnp.sqrt(1 + alpha**2)
    dt = root * scale * cosh / norms * da
    ds = v * dv / norms - root * scale * t * cosh / norms**2 * da
    close(dr, jnp.sum(2 * root * (root * scale * t * sinh / norms - (scale - 1) * cosh) * da, 0))
    dl = jnp.sum((root * t * cosh / norms - sinh) * da, axis=-1, keepdims=True)
    close(dx, dt @ z.T + C * scale**2 * dl * x)
    close(dz, x.T @ dt + jnp.sum(ds, axis=0)[None] * z / norms)


@pytest.mark.parametrize(
    ("function", "count"),
    [
        (poincare.dist, 2),
        (poincare.gyration, 3),
        (poincare.transport, 3),
        (lambda k, x, **options: poincare.mobius_scale(k[:, 0], x, **options), 2),
        (lambda x, **options: poincare.clip_tangent(9 * x, **options), 1),
        (lambda x, z, r, **options: poincare.mlr(x, z[:3].T, r[0, :3], **options), 3),
    ],
)
def test_gradients_against_finite_differences(x64, function, count):
    operands = [draw_points(i, largest=0.8) for i in range(count)]
    jax.test_util.check_grads(
        jax.jit(lambda *a: function(*a[:-1], curvature=a[-1], **PLAIN)),
        (*operands, jnp.asarray(C)),
        order=1,
        modes=("rev",),
        rtol=1e-6,
    )


def test_gradients_at_the_origin_and_at_equal_points_are_exact():
    zero, u = jnp.zeros(3), jnp.array([1.0, -2.0, 0.5])
    x = jnp.array([0.3, 0.1, -0.2])
    gap = float(1 - C * jnp.sum(x * x))
    # name -> function, where, and by how much the result moves with a small v
    moves = {
        "expmap0": (lambda v: ball.expmap0(v), zero, 1.0),
        "logmap0": (lambda v: ball.logmap0(v), zero, 1.0),
        "project": (lambda v: ball.project(v), zero, 1.0),
        "clip_tangent": (lambda v: ball.clip_tangent(v), zero, 1.0),
        "mobius_scale": (lambda v: ball.mobius_scale(3.0, v), zero, 3.0),
        "mobius_add": (lambda v: ball.mobius_add(x, v), zero, gap),
        "expmap": (lambda v: ball.expmap(x, v), zero, 1.0),
        "logmap": (lambda v: ball.logmap(x, v), x, 1.0),
    }

    @jax.jit
    def gradients():
        moved = {
            name: jax.grad(lambda v, f=function: jnp.sum(u * f(v)))(at)
            for name, (function, at, _) in moves.items()
        }
        distance = jax.grad(lambda x, y: ball.dist(x, y), argnums=(0, 1))(x, x)
        curvature = jax.grad(lambda c: jnp.sum(poincare.expmap0(zero, curvature=c, **PLAIN)))(C)
        normal = jax.grad(lambda z: jnp.sum(poincare.mlr(x, z, jnp.zeros(2))))(jnp.zeros((3, 2)))
        return moved, (distance, curvature, normal)

    moved, none = gradients()
    for name, (_, _, factor) in moves.items():
        np.testing.assert_allclose(moved[name], factor * u, rtol=1e-6, err_msg=name)
    for leaf in jax.tree.leaves(none):
        np.testing.assert_array_equal(leaf, jnp.zeros_like(leaf))


def test_curvature_may_be_learned_under_jit_and_differentiated_twice():
    x, y = draw_points(0), draw_points(1)

    @jax.jit
    def total(c):
        return jnp.sum(poincare.dist(x, y, curvature=c, **PLAIN) ** 2)

    slope = jax.jit(jax.grad(total))
    h = 1e-2
    difference = (slope(C + h) - slope(C - h)) / (2 * h)
    np.testing.assert_allclose(jax.grad(slope)(C), difference, rtol=1e-2)


# Arguments ------------------------------------------------------------------------------------


def test_operands_are_broadcast():
    x, y = draw_points(0, (2, 3, D)), draw_points(1, (D,))
    want = ball.mobius_add(x, jnp.broadcast_to(y, x.shape))
    for got in (
        ball.mobius_add(x, y),
        ball.mobius_add(x, y[None, None]),
    ):
        assert got.shape == want.shape
        np.testing.assert_allclose(got, want, atol=1e-6)
    gradient = jax.jit(jax.grad(lambda y: jnp.sum(ball.dist(y, x))))
    each = gradient(jnp.broadcast_to(y, x.shape))
    gradient = gradient(y)
    np.testing.assert_allclose(gradient, each.sum((0, 1)), rtol=1e-5, atol=1e-5)
    k = jnp.array([[1.0, 2.0, 3.0]])
    scaled = ball.mobius_scale(k, x)
    np.testing.assert_allclose(scaled[1, 2], ball.mobius_scale(3.0, x[1, 2]), atol=1e-6)


def test_half_precision_tangents_give_float32_points():
    v = draw_vectors(0).astype(jnp.bfloat16)
    x = draw_points(1)
    wide = v.astype(jnp.float32)
    assert poincare.expmap0(v).dtype == jnp.float32
    np.testing.assert_array_equal(poincare.expmap0(v), poincare.expmap0(wide))
    assert poincare.clip_tangent(10 * v).dtype == jnp.bfloat16
    for function in (poincare.expmap, lambda x, v: poincare.transport(x, x, v)):
        got = function(x, v)
        assert got.dtype == jnp.float32
        np.testing.assert_array_equal(got, function(x, wide))


def test_nan_is_not_hidden():
    x, y = draw_points(0), draw_points(1)
    x = x.at[3, 2].set(jnp.nan)
    for function in (ball.mobius_add, ball.dist, ball.logmap, ball.expmap):
        bad = jnp.isnan(function(x, y)).reshape(N, -1).any(-1)
        np.testing.assert_array_equal(bad, np.arange(N) == 3)
    for function in (ball.project, ball.expmap0, ball.logmap0, ball.conformal):
        bad = jnp.isnan(function(x)).reshape(N, -1).any(-1)
        np.testing.assert_array_equal(bad, np.arange(N) == 3)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda x: poincare.mobius_add(x, x, curvature=0), "curvature=0 must be a finite number"),
        (lambda x: poincare.expmap0(x, curvature=-1.0), "curvature=-1.0 must be a finite number"),
        (lambda x: poincare.expmap0(x, curvature=np.nan), "curvature=nan must be a finite number"),
        (lambda x: poincare.project(x, curvature=jnp.ones(3)), r"curvature has shape \(3,\)"),
        (lambda x: poincare.project(x, curvature=jnp.array(1)), "curvature has .* dtype int32"),
        (lambda x: poincare.logmap0(x.astype(jnp.bfloat16)), "y has dtype bfloat16; points of"),
        (lambda x: poincare.dist(x, x.astype(jnp.float16)), "y has dtype float16; points of"),
        (lambda x: poincare.dist(x, x.astype(jnp.int32)), "y has dtype int32; a floating"),
        (lambda x: poincare.expmap(x, x[:, :2]), "must agree in the last axis"),
        (lambda x: poincare.expmap(x, x[:2]), "must broadcast in all axes but the last"),
        (lambda x: poincare.expmap0(x[0, 0]), r"v has shape \(\); `\[..., d\]`"),
        (lambda x: poincare.expmap0(x[:, :0]), r"v has shape \(17, 0\); `\[..., d\]`"),
        (lambda x: poincare.mobius_scale(jnp.array(2), x), "k has dtype int32 and x has float32"),
        (lambda x: poincare.mlr(x, jnp.ones((4, 2)), jnp.ones(2)), r"`\[n, m\]` and `\[m\]`"),
        (lambda x: poincare.fc(x, jnp.ones((D, 2)), jnp.ones(3)), r"`\[n, m\]` and `\[m\]`"),
        (
            lambda x: poincare.fc(x, jnp.ones((D, 2), jnp.bfloat16), jnp.ones(2)),
            "dtypes float32, bfloat16 and float32",
        ),
        (lambda x: poincare.expmap0(x, implementation="fast"), "implementation='fast' is unknown"),
        (lambda x: poincare.boundary_eps("bfloat16"), "dtype=bfloat16 cannot hold points"),
    ],
)
def test_wrong_arguments_are_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call(draw_points(0))


def test_dtypes_of_points_must_agree(x64):
    x = draw_points(0)
    with pytest.raises(ValueError, match="x has dtype float64 and y has float32"):
        poincare.dist(x, x.astype(jnp.float32))
    with pytest.raises(ValueError, match="v has dtype float64 and the points have float32"):
        poincare.expmap(x.astype(jnp.float32), x)


def test_check_points_counts_what_is_outside():
    x = draw_points(0)
    poincare.check_points(x, curvature=C)
    bad = x.at[:2].set(jnp.ones(D))
    with pytest.raises(ValueError, match=r"2 of 17 points .* is 1.93649, .*project\(x, curvature"):
        poincare.check_points(bad, curvature=C)
    poincare.check_points(ball.project(bad), curvature=C)
    with pytest.raises(ValueError, match="1 of 17 points of x hold NaN"):
        poincare.check_points(x.at[4, 1].set(jnp.nan), curvature=C)


def _rows(count):
    def draw(rng, n):
        return tuple(
            (0.4 * rng.normal(size=(n, 3))).clip(-0.5, 0.5).astype(np.float32) for _ in range(count)
        )

    return draw


@jax.jit
def _all_operations(x, y, w):
    one = ("clip_tangent", "conformal", "expmap0", "logmap0", "project")
    two = ("dist", "expmap", "logmap", "mobius_add")
    three = ("gyration", "transport")
    return {
        name: getattr(ball, name)(*operands)
        for names, operands in ((one, (x,)), (two, (x, y)), (three, (x, y, w)))
        for name in names
    }


_PROPERTIES = ("vmap", "float64", "empty", "permutation")
CONTRACTS = {
    "all operations": ArrayContract(_all_operations, _rows(3), _PROPERTIES, equivariant=True)
}


@pytest.mark.parametrize(("name", "check"), cases(CONTRACTS))
def test_contract(name, check):
    assert holds(CONTRACTS[name], check)
