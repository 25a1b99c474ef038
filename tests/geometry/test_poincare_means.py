"""Midpoint and Frechet mean against the hyperboloid, a minimiser and unrolled gradients."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.optimize

from tests.geometry.test_poincare import (
    C,
    D,
    N,
    close,
    draw_points,
    draw_vectors,
    from_hyperboloid,
    to_hyperboloid,
    x64,
)
from trove_jax.geometry import poincare

__all__ = ["x64"]  # a fixture

midpoint = jax.jit(functools.partial(poincare.midpoint, curvature=C), static_argnames="axis")
frechet_mean = jax.jit(functools.partial(poincare.frechet_mean, curvature=C))


def draw_weights(seed):
    return jnp.asarray(np.random.default_rng(seed).uniform(size=N))


def test_midpoint_is_the_centroid_of_the_hyperboloid_and_of_the_klein_ball(x64):
    x, w = draw_points(0), draw_weights(1)
    total = np.sum(np.asarray(w)[:, None] * to_hyperboloid(x), axis=0)
    total /= np.sqrt(total[0] ** 2 - np.sum(total[1:] ** 2))
    close(midpoint(x, w), from_hyperboloid(total))
    klein = np.asarray(2 * x / (1 + C * jnp.sum(x * x, -1, keepdims=True)))
    factor = w / np.sqrt(1 - C * np.sum(klein * klein, -1))
    mean = factor @ klein / factor.sum()
    close(midpoint(x, w), mean / (1 + np.sqrt(1 - C * mean @ mean)))


def test_midpoint_of_two_halves_the_geodesic_and_moves_with_the_ball(x64):
    x, y, a = draw_points(0), draw_points(1), draw_points(2, (1, D))
    half = poincare.expmap(x, poincare.logmap(x, y, curvature=C) / 2, curvature=C)
    close(midpoint(jnp.stack([x, y]), axis=0), half)
    w = draw_weights(3)
    moved = poincare.mobius_add(a, x, curvature=C)
    for mean in (midpoint, frechet_mean):
        want = poincare.mobius_add(a[0], mean(x, w), curvature=C)
        close(mean(moved, w), want, 1e-9)


def test_axes_and_weights_are_broadcast(x64):
    x = draw_points(0, (3, 4, 2, D))
    w = jnp.asarray(np.random.default_rng(1).uniform(size=(4, 1)))
    for mean in (poincare.midpoint, poincare.frechet_mean):
        got = jax.jit(functools.partial(mean, axis=1, curvature=C))(x, w)
        assert got.shape == (3, 2, D)
        one = jax.jit(functools.partial(mean, curvature=C))(x[2, :, 1], w[:, 0])
        close(got[2, 1], one, 1e-11)


def test_hand_derived_gradient_of_the_midpoint(x64):
    x = draw_points(0, largest=0.8)
    u = draw_vectors(1, (D,))
    (dx,) = jax.jit(lambda x, u: jax.vjp(midpoint, x)[1](u))(x, u)
    scale = 2 / (1 - C * jnp.sum(x * x, -1, keepdims=True))
    a, b = jnp.sum(scale - 1), jnp.sum(scale * x, axis=0)
    m = b / a
    big = jnp.sqrt(1 - C * m @ m)
    dm = u / (1 + big) + C * (u @ m) / (big * (1 + big) ** 2) * m
    db, da = dm / a, -(dm @ m) / a
    dl = (x @ db)[:, None] + da
    close(dx, scale * db[None] + C * scale**2 * dl * x)


def test_frechet_mean_minimises_squared_distances(x64):
    x, w = draw_points(0), draw_weights(1)
    objective = jax.jit(
        jax.value_and_grad(lambda y: jnp.sum(w * poincare.dist(y, x, curvature=C) ** 2))
    )
    found = scipy.optimize.minimize(
        lambda y: tuple(map(np.asarray, objective(jnp.asarray(y)))),
        np.zeros(D),
        jac=True,
        tol=1e-12,
    )
    close(frechet_mean(x, w), found.x, 1e-7)
    resultant = jnp.sum(w[:, None] * poincare.logmap(frechet_mean(x, w), x, curvature=C), axis=0)
    close(resultant, np.zeros(D), 1e-10)


def test_frechet_gradient_is_that_of_the_unrolled_iteration(x64):
    x, w = draw_points(0, largest=0.8), draw_weights(1)

    def unrolled(x, w, c):
        # Karcher flow: another iteration than the library's.
        def step(mean, _):
            logs = poincare.logmap(mean, x, curvature=c, implementation="autodiff")
            move = 0.6 * (w @ logs) / jnp.sum(w)
            return poincare.expmap(mean, move, curvature=c, implementation="autodiff"), None

        return jax.lax.scan(step, jnp.zeros(D), None, length=150)[0]

    def implicit(x, w, c):
        return poincare.frechet_mean(x, w, curvature=c)

    u = draw_vectors(2, (D,))

    def gradients(mean):
        pull = jax.jit(lambda *a: jax.vjp(mean, *a)[1](u))
        return jax.jit(mean)(x, w, jnp.asarray(C)), pull(x, w, jnp.asarray(C))

    (got, pulled), (want, wanted) = gradients(implicit), gradients(unrolled)
    close(got, want, 1e-10)
    for g, h in zip(pulled, wanted, strict=True):
        close(g, h, 1e-9)


@functools.partial(jax.jit, static_argnums=0)
def value_and_gradients(mean, x, w):
    value, pull = jax.vjp(lambda x, w, c: mean(x, w, curvature=c), x, w, C)
    return value, pull(jnp.ones_like(value))


MEANS = (poincare.midpoint, poincare.frechet_mean)


@pytest.mark.parametrize("mean", MEANS)
def test_mean_of_equal_points_is_the_point(mean):
    x = jnp.broadcast_to(jnp.array([[0.3, -0.2, 0.9]]), (N, 3))
    value, (slope, of_weights, _) = value_and_gradients(mean, x, jnp.ones(N))
    # Near the boundary a rounding of 6e-8 is divided by 1 - c|x|^2 = 0.3 a few times.
    np.testing.assert_allclose(value, x[0], rtol=3e-6)
    np.testing.assert_allclose(slope, jnp.full_like(x, 1 / N), rtol=1e-4)
    np.testing.assert_allclose(of_weights, jnp.zeros(N), atol=1e-6)


@pytest.mark.parametrize("mean", MEANS)
def test_points_without_weight_reach_neither_value_nor_gradient(mean):
    x, w = draw_points(0), draw_weights(1).at[::3].set(0.0)
    value, gradients = value_and_gradients(mean, x.at[::3].set(jnp.nan), w)
    moved, _ = value_and_gradients(mean, x.at[::3].set(0.1), w)
    np.testing.assert_array_equal(value, moved)
    kept = np.arange(N) % 3 > 0
    np.testing.assert_allclose(value, mean(x[kept], w[kept], curvature=C), atol=1e-6)
    assert all(bool(jnp.all(jnp.isfinite(leaf))) for leaf in gradients)
    np.testing.assert_array_equal(gradients[0][::3], 0)
    value, gradients = value_and_gradients(mean, x, jnp.zeros(N))
    np.testing.assert_array_equal(value, jnp.zeros(D))
    np.testing.assert_array_equal(gradients[0], jnp.zeros_like(x))


@pytest.mark.parametrize("mean", MEANS)
def test_points_at_and_beyond_the_boundary_have_finite_means(mean):
    x = jnp.concatenate([draw_points(0, (8, D), largest=0.999), 5 * draw_points(1, (9, D))])
    value, gradients = value_and_gradients(mean, x, jnp.ones(N))
    assert bool(jnp.all(jnp.isfinite(value)))
    assert C * float(jnp.sum(value * value)) < 1
    assert all(bool(jnp.all(jnp.isfinite(leaf))) for leaf in gradients)


def test_nan_is_not_hidden():
    x = draw_points(0).at[3, 1].set(jnp.nan)
    for mean in (midpoint, frechet_mean):
        assert bool(jnp.any(jnp.isnan(mean(x))))


@pytest.mark.parametrize("mean", MEANS)
def test_wrong_arguments_are_refused(mean):
    x = draw_points(0)
    for call, message in (
        (lambda: mean(x[:0]), r"x has shape \(0, 5\): there is no mean of 0 points along axis -2"),
        (lambda: mean(x, axis=1), "axis=1 of x of shape .* the last one holds the channels"),
        (lambda: mean(x, axis=2), "axis=2 of x of shape"),
        (lambda: mean(x[0]), r"axis=-2 of x of shape \(5,\)"),
        (lambda: mean(x, jnp.ones(3)), r"weights have shape \(3,\), which does not broadcast"),
        (lambda: mean(x, jnp.ones((2, N))), r"weights have shape \(2, 17\), which does not"),
        (lambda: mean(x, jnp.ones(N, jnp.int32)), "weights have dtype int32 and x has float32"),
        (lambda: mean(x.astype(jnp.bfloat16)), "x has dtype bfloat16; points of the ball"),
        (lambda: mean(x, curvature=0.0), r"curvature=0.0 must be a finite number above 0"),
    ):
        with pytest.raises(ValueError, match=message):
            call()
