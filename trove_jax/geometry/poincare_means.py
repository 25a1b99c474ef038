"""Means of points of the ball: the midpoint in closed form, and the Frechet mean by iteration."""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from trove_jax.geometry import poincare_arguments as arguments
from trove_jax.geometry.poincare_arguments import Curvature
from trove_jax.kernels.gyro import bounded, gyro_rows
from trove_jax.kernels.hyperbolic_functions import asinhc, tanhc
from trove_jax.kernels.rows import Implementation, fused_rows

# Where a further step moves the mean by less than this part of the radius, in the metric at it.
_TOLERANCE = {"float32": 1e-6, "float64": 1e-12}
_MAX_STEPS = 1000


def midpoint(
    x: jax.Array,
    weights: jax.Array | None = None,
    *,
    axis: int = -2,
    curvature: Curvature = 1.0,
    implementation: Implementation = None,
) -> jax.Array:
    """Averages points in closed form: the gyromidpoint, or centroid of the hyperboloid.

    m = sum_i w_i lambda_i x_i / sum_i w_i (lambda_i - 1),  mu = m / (1 + sqrt(1 - c|m|^2))

    Args:
      x: points, `[..., n, ..., d]`, float32 or float64; beyond the largest radius they are brought
        back.
      weights: w >= 0 in the dtype of `x`, broadcast against `x.shape[:-1]`; None means ones. A
        point of weight 0 counts for nothing and may hold anything. If all weights are 0, the mean
        is 0.
      axis: of the points that are averaged; not the last one.
      curvature: c > 0, a number or a scalar array.
      implementation: None (best for this device), `"reference"`, `"autodiff"` or `"pallas"`.

    Returns:
      Points, the shape of `x` without `axis`, in its dtype.

    Raises:
      ValueError: no points; an axis that is not there or is the last; weights that do not
        broadcast; half precision or integers; curvature <= 0 or not one number; an unknown
        implementation.

    Example:
      >>> print(np.asarray(midpoint(jnp.array([[0.5, 0.0], [0.5, 0.0], [0.0, 0.0]]))).round(3))
      [0.344 0.   ]

    Reference: Ungar, A Gyrovector Space Approach to Hyperbolic Geometry, 2008, section 6;
    Law et al., Lorentzian Distance Learning, ICML 2019 (the centroid).
    """
    x, weights, c = _prepare(x, weights, axis, curvature)
    mean = functools.partial(_midpoint, implementation=implementation)
    return _over_batch(mean, x, weights, c)


def frechet_mean(
    x: jax.Array,
    weights: jax.Array | None = None,
    *,
    axis: int = -2,
    curvature: Curvature = 1.0,
    implementation: Implementation = None,
) -> jax.Array:
    """Averages points by the least sum of squared distances.

    argmin_mu sum_i w_i d(x_i, mu)^2

    Each step takes the midpoint under the weights w_i theta_i/sinh(theta_i), theta_i = sqrt(c)
    d(x_i, mu): it minimises a bound of the sum from above, so no step makes it larger. The
    iteration ends below 1e-6 (float32) or 1e-12 (float64), or after 1000 steps. The gradient is
    that of the minimum (implicit function theorem), not of the steps.

    Args:
      x: points, `[..., n, ..., d]`, float32 or float64; beyond the largest radius they are brought
        back.
      weights: w >= 0 in the dtype of `x`, broadcast against `x.shape[:-1]`; None means ones. A
        point of weight 0 counts for nothing and may hold anything. If all weights are 0, the mean
        is 0.
      axis: of the points that are averaged; not the last one.
      curvature: c > 0, a number or a scalar array.
      implementation: None (best for this device), `"reference"` or `"pallas"`.

    Returns:
      Points, the shape of `x` without `axis`, in its dtype.

    Raises:
      ValueError: what `midpoint` refuses.

    Example:
      >>> print(np.asarray(frechet_mean(jnp.array([[0.5, 0.0], [0.0, 0.0]]))).round(3))
      [0.268 0.   ]

    Reference: Lou et al., Differentiating through the Frechet Mean, ICML 2020 (algorithm 1, in the
    form of reweighted midpoints, and theorem 5.2).
    """
    x, weights, c = _prepare(x, weights, axis, curvature)
    mean = functools.partial(_frechet_mean, implementation)
    return _over_batch(mean, x, weights, c)


class _Sums(NamedTuple):
    """sum w lambda x, sum w (lambda - 1) and sum w over points."""

    vector: jax.Array
    scalar: jax.Array
    weight: jax.Array


def _prepare(x, weights, axis, curvature):
    """Points as `[..., n, d]`, weights as `[..., n, 1]`."""
    (x,) = arguments.points(x=x)
    if not -x.ndim <= axis < x.ndim or axis % x.ndim == x.ndim - 1:
        raise ValueError(
            f"axis={axis} of x of shape {x.shape} is not an axis of points; the last one holds the "
            "channels"
        )
    if x.shape[axis] == 0:
        raise ValueError(f"x has shape {x.shape}: there is no mean of 0 points along axis {axis}")
    c = arguments.curvature_of(curvature, x.dtype)
    axis %= x.ndim
    if weights is None:
        weights = jnp.ones(x.shape[:-1], x.dtype)
    weights = jnp.asarray(weights)
    if weights.dtype != x.dtype:
        raise ValueError(
            f"weights have dtype {weights.dtype} and x has {x.dtype}; convert one to the other's"
        )
    try:
        fits = np.broadcast_shapes(weights.shape, x.shape[:-1]) == x.shape[:-1]
    except ValueError:
        fits = False
    if not fits:
        raise ValueError(
            f"weights have shape {weights.shape}, which does not broadcast to {x.shape[:-1]}, the "
            "shape of x without channels"
        )
    weights = jnp.broadcast_to(weights, x.shape[:-1])[..., None]
    # A point without weight must reach neither value nor gradient.
    x = jnp.where(weights == 0, 0.0, x)
    return jnp.moveaxis(x, axis, -2), jnp.moveaxis(weights, axis, -2), c


def _over_batch(mean, x, weights, c):
    for _ in range(x.ndim - 2):
        mean = jax.vmap(mean, in_axes=(0, 0, None))
    return mean(x, weights, c)


def _midpoint(x, weights, c, *, implementation):
    _, sums = fused_rows(_midpoint_program, (x, weights), (c,), implementation=implementation)
    return _normalised(_Sums(*sums), c)


def _normalised(sums: _Sums, c: jax.Array) -> jax.Array:
    """The point of the ball that the sums mean."""
    b, (a,), (weight,) = sums
    # On the hyperboloid a sum of points is at least as long as the sum of their weights; without
    # that bound, rounding could make the square negative for points that lie together.
    square, least = a * a - c * jnp.sum(b * b), weight * weight
    root = jnp.sqrt(jnp.where(square > least, square, jnp.where(least > 0, least, 1.0)))
    # NaN among the points is in b, and stays.
    mean = b / (a + root)
    return bounded(mean, c * jnp.sum(mean * mean))[0]


def _midpoint_program(dot, rows, shared):
    (x, weight), (c,) = rows, shared
    return (), _summands(*bounded(x, c * dot(x, x)), weight)


def _summands(x, q, weight):
    gap = 1.0 - q
    return (2.0 * weight / gap) * x, weight * (1.0 + q) / gap, weight


def _step_program(dot, rows, shared):
    """The summands under the weights of one step from `mean`."""
    (x, weight), (mean, c) = rows, shared
    (x, q), (mean, mean_q) = bounded(x, c * dot(x, x)), bounded(mean, c * dot(mean, mean))
    d = x - mean
    ratio = c * dot(d, d) / ((1.0 - q) * (1.0 - mean_q))
    # theta/sinh(theta) with sinh(theta/2)^2 = ratio.
    return (), _summands(x, q, weight * asinhc(ratio) / jnp.sqrt(1.0 + ratio))


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _frechet_mean(implementation, x, weights, c):
    tolerance = _TOLERANCE[x.dtype.name]

    def step(mean):
        _, sums = fused_rows(_step_program, (x, weights), (mean, c), implementation=implementation)
        return _normalised(_Sums(*sums), c)

    def goes_on(state):
        count, _, moved = state
        return (count < _MAX_STEPS) & (moved > tolerance)

    def advance(state):
        count, mean, _ = state
        following = step(mean)
        change = following - mean
        gap = 1.0 - c * jnp.sum(mean * mean)
        return count + 1, following, jnp.sqrt(c * jnp.sum(change * change)) / gap

    start = _midpoint(x, weights, c, implementation=implementation)
    state = (jnp.zeros((), jnp.int32), start, jnp.full((), jnp.inf, x.dtype))
    return lax.while_loop(goes_on, advance, state)[1]


def _frechet_fwd(implementation, x, weights, c):
    mean = _frechet_mean(implementation, x, weights, c)
    return mean, (x, weights, c, mean)


def _frechet_bwd(implementation, saved, cotangent):
    """At the minimum G = sum w log_mu(x) is 0, so that d mu = H^-1 dG with H = -dG/d mu.

    H = sum w (theta coth(theta) (1 - u u') + u u'), u = log_mu(x)/|log_mu(x)|
    """
    x, weights, c, mean = saved

    def resultant(x, weights, c):
        logs = gyro_rows("logmap", mean, x, curvature=c, implementation=implementation)
        return jnp.sum(weights * logs, axis=0), logs

    _, pull, logs = jax.vjp(resultant, x, weights, c, has_aux=True)
    square = jnp.sum(logs * logs, axis=-1, keepdims=True)
    gap = 1.0 - c * jnp.sum(mean * mean)
    stretch = 1.0 / tanhc(c * square * (2.0 / gap) ** 2)
    direction = logs / jnp.sqrt(jnp.where(square > 0, square, 1.0))
    weighted = (weights * (1.0 - stretch)) * direction
    hessian = jnp.matmul(weighted.T, direction, precision="highest")
    diagonal = jnp.sum(weights * stretch)
    # Without any weight there is no minimum, and no gradient.
    hessian = hessian + jnp.where(diagonal > 0, diagonal, 1.0) * jnp.eye(x.shape[-1], dtype=x.dtype)
    return pull(jnp.linalg.solve(hessian, cotangent))


_frechet_mean.defvjp(_frechet_fwd, _frechet_bwd)
