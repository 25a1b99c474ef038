"""The Poincare ball of curvature -c: points, tangent vectors and the maps between them.

A point is a vector x `[..., d]` with c|x|^2 < 1; the metric at x is lambda_x^2 times the Euclidean
one, lambda_x = 2/(1 - c|x|^2). All functions take the channels in the last axis, and broadcast the
others. Points are float32 or float64; tangent vectors may also be in half precision.

Near the boundary numbers run out of digits. Points beyond the largest radius (1 - eps)/sqrt(c),
eps = `boundary_eps(dtype)`, are therefore brought back to it first, and so are results: the
gradient is then that of the projection, without a radial part. Everything is finite, value and
gradient, also at 0 and for equal points; NaN stays NaN.

Reverse mode differentiates in x, v and curvature; for forward mode pass
`implementation="autodiff"`.
"""

import jax
import jax.numpy as jnp
import numpy as np

from trove_jax.geometry import poincare_arguments as arguments
from trove_jax.geometry.poincare_arguments import Curvature
from trove_jax.geometry.poincare_layers import fc, mlr
from trove_jax.geometry.poincare_means import frechet_mean, midpoint
from trove_jax.kernels.gyro import boundary_eps, gyro_rows
from trove_jax.kernels.rows import Implementation

__all__ = [
    "boundary_eps",
    "check_points",
    "clip_tangent",
    "conformal",
    "dist",
    "expmap",
    "expmap0",
    "fc",
    "frechet_mean",
    "gyration",
    "logmap",
    "logmap0",
    "midpoint",
    "mlr",
    "mobius_add",
    "mobius_scale",
    "project",
    "transport",
]


def mobius_add(
    x: jax.Array,
    y: jax.Array,
    *,
    curvature: Curvature = 1.0,
    implementation: Implementation = None,
) -> jax.Array:
    """Adds two points of the ball; the translation of y by x.

    [(1 + 2c<x,y> + c|y|^2) x + (1 - c|x|^2) y] / (1 + 2c<x,y> + c^2 |x|^2 |y|^2)

    Args:
      x: points, `[..., d]`, float32 or float64.
      y: points, `[..., d]`, broadcast against `x`.
      curvature: c > 0, a number or a scalar array.
      implementation: None (best for this device), `"reference"`, `"autodiff"` or `"pallas"`.

    Returns:
      Points, `[..., d]`, in the dtype of `x`. Inputs and results beyond the largest radius are
      brought back to it.

    Raises:
      ValueError: half precision or integers; dtypes or channels that differ; axes that do not
        broadcast; curvature <= 0 or not one number; an unknown implementation.

    Example:
      >>> print(np.asarray(mobius_add(jnp.array([0.5, 0.0]), jnp.array([0.5, 0.0]))).round(3))
      [0.8 0. ]

    Reference: Ganea et al., Hyperbolic Neural Networks, NeurIPS 2018, eq. 4.
    """
    x, y = arguments.points(x=x, y=y)
    c = arguments.curvature_of(curvature, x.dtype)
    return gyro_rows("mobius_add", x, y, curvature=c, implementation=implementation)


def mobius_scale(
    k: float | jax.Array,
    x: jax.Array,
    *,
    curvature: Curvature = 1.0,
    implementation: Implementation = None,
) -> jax.Array:
    """Moves points along the geodesic through 0, to k times their distance.

    tanh(k atanh(C|x|)) x / (C|x|), C = sqrt(c)

    Args:
      k: a number, a scalar array, or one number a point, `[...]`, broadcast against the leading
        axes of `x`.
      x: points, `[..., d]`, float32 or float64.
      curvature: c > 0, a number or a scalar array.
      implementation: None (best for this device), `"reference"`, `"autodiff"` or `"pallas"`.

    Returns:
      Points, `[..., d]`, in the dtype of `x`. Inputs and results beyond the largest radius are
      brought back to it.

    Raises:
      ValueError: what `mobius_add` refuses; `k` of another floating-point dtype.

    Example:
      >>> print(np.asarray(mobius_scale(2.0, jnp.array([0.5, 0.0]))).round(3))
      [0.8 0. ]

    Reference: Ganea et al., Hyperbolic Neural Networks, NeurIPS 2018, section 2.
    """
    (x,) = arguments.points(x=x)
    c = arguments.curvature_of(curvature, x.dtype)
    if not isinstance(k, jax.Array):
        k = jnp.asarray(np.asarray(k).astype(x.dtype))
    if k.dtype != x.dtype:
        raise ValueError(f"k has dtype {k.dtype} and x has {x.dtype}; convert one to the other's")
    if k.ndim:
        k = k[..., None]
    return gyro_rows("mobius_scale", k, x, curvature=c, implementation=implementation)


def expmap0(
    v: jax.Array, *, curvature: Curvature = 1.0, implementation: Implementation = None
) -> jax.Array:
    """Maps tangent vectors at 0 to points.

    tanh(C|v|) v / (C|v|), C = sqrt(c); the point is 2|v| away from 0

    Args:
      v: tangent vectors at 0, `[..., d]`, any floating-point dtype.
      curvature: c > 0, a number or a scalar array.
      implementation: None (best for this device), `"reference"`, `"autodiff"` or `"pallas"`.

    Returns:
      Points, `[..., d]`, float32 (float64 for float64), at most at the largest radius.

    Raises:
      ValueError: integers; curvature <= 0 or not one number; an unknown implementation.

    Example:
      >>> print(np.asarray(expmap0(jnp.array([1.0, 0.0]))).round(3))
      [0.762 0.   ]

    Reference: Ganea et al., Hyperbolic Neural Networks, NeurIPS 2018, lemma 2.
    """
    v = _at_least_float32(arguments.vectors("v", v))
    c = arguments.curvature_of(curvature, v.dtype)
    return gyro_rows("expmap0", v, curvature=c, implementation=implementation)


def logmap0(
    y: jax.Array, *, curvature: Curvature = 1.0, implementation: Implementation = None
) -> jax.Array:
    """Maps points to tangent vectors at 0, the inverse of `expmap0`.

    atanh(C|y|) y / (C|y|), C = sqrt(c)

    Args:
      y: points, `[..., d]`, float32 or float64; beyond the largest radius they are brought back.
      curvature: c > 0, a number or a scalar array.
      implementation: None (best for this device), `"reference"`, `"autodiff"` or `"pallas"`.

    Returns:
      Tangent vectors at 0, `[..., d]`, in the dtype of `y`.

    Raises:
      ValueError: what `mobius_add` refuses.

    Example:
      >>> print(np.asarray(logmap0(jnp.array([0.5, 0.0]))).round(3))
      [0.549 0.   ]

    Reference: Ganea et al., Hyperbolic Neural Networks, NeurIPS 2018, lemma 2.
    """
    (y,) = arguments.points(y=y)
    c = arguments.curvature_of(curvature, y.dtype)
    return gyro_rows("logmap0", y, curvature=c, implementation=implementation)


def expmap(
    x: jax.Array,
    v: jax.Array,
    *,
    curvature: Curvature = 1.0,
    implementation: Implementation = None,
) -> jax.Array:
    """Walks from x along the geodesic that starts with velocity v.

    x (+) tanh(C lambda_x |v|/2) v / (C|v|), C = sqrt(c)

    Args:
      x: points, `[..., d]`, float32 or float64.
      v: tangent vectors at `x`, `[..., d]`, any floating-point dtype up to that of `x`.
      curvature: c > 0, a number or a scalar array.
      implementation: None (best for this device), `"reference"`, `"autodiff"` or `"pallas"`.

    Returns:
      Points, `[..., d]`, in the dtype of `x`. Points and results beyond the largest radius are
      brought back to it.

    Raises:
      ValueError: what `mobius_add` refuses.

    Example:
      >>> print(np.asarray(expmap(jnp.array([0.5, 0.0]), jnp.array([0.2, 0.0]))).round(3))
      [0.673 0.   ]

    Reference: Ganea et al., Hyperbolic Neural Networks, NeurIPS 2018, lemma 2.
    """
    (x,) = arguments.points(x=x)
    v = arguments.tangents("v", v, x)
    arguments.check_channels({"x": x, "v": v})
    c = arguments.curvature_of(curvature, x.dtype)
    return gyro_rows("expmap", x, v, curvature=c, implementation=implementation)


def logmap(
    x: jax.Array,
    y: jax.Array,
    *,
    curvature: Curvature = 1.0,
    implementation: Implementation = None,
) -> jax.Array:
    """Finds the tangent vector at x that leads to y, the inverse of `expmap`.

    2/(C lambda_x) atanh(C|z|) z/|z|, z = (-x) (+) y, C = sqrt(c)

    Args:
      x: points, `[..., d]`, float32 or float64.
      y: points, `[..., d]`, broadcast against `x`.
      curvature: c > 0, a number or a scalar array.
      implementation: None (best for this device), `"reference"`, `"autodiff"` or `"pallas"`.

    Returns:
      Tangent vectors at `x`, `[..., d]`, in the dtype of `x`; 0 where the points are equal.
      Points beyond the largest radius are brought back to it first.

    Raises:
      ValueError: what `mobius_add` refuses.

    Example:
      >>> print(np.asarray(logmap(jnp.array([0.5, 0.0]), jnp.array([0.8, 0.0]))).round(3))
      [0.412 0.   ]

    Reference: Ganea et al., Hyperbolic Neural Networks, NeurIPS 2018, lemma 2.
    """
    x, y = arguments.points(x=x, y=y)
    c = arguments.curvature_of(curvature, x.dtype)
    return gyro_rows("logmap", x, y, curvature=c, implementation=implementation)


def dist(
    x: jax.Array,
    y: jax.Array,
    *,
    curvature: Curvature = 1.0,
    implementation: Implementation = None,
) -> jax.Array:
    """Measures the geodesic distance of points.

    (2/C) atanh(C |(-x) (+) y|) = (2/C) asinh(C|x - y| / sqrt((1 - c|x|^2)(1 - c|y|^2)))

    Args:
      x: points, `[..., d]`, float32 or float64.
      y: points, `[..., d]`, broadcast against `x`.
      curvature: c > 0, a number or a scalar array.
      implementation: None (best for this device), `"reference"`, `"autodiff"` or `"pallas"`.

    Returns:
      Distances, `[...]`, in the dtype of `x`; where the points are equal 0 with gradient 0. Points
      beyond the largest radius are brought back to it first.

    Raises:
      ValueError: what `mobius_add` refuses.

    Example:
      >>> print(f"{dist(jnp.array([0.5, 0.0]), jnp.array([0.0, 0.0])):.4f}")
      1.0986

    Reference: Ganea et al., Hyperbolic Neural Networks, NeurIPS 2018, eq. 8.
    """
    x, y = arguments.points(x=x, y=y)
    c = arguments.curvature_of(curvature, x.dtype)
    return gyro_rows("dist", x, y, curvature=c, implementation=implementation)[..., 0]


def gyration(
    u: jax.Array,
    v: jax.Array,
    w: jax.Array,
    *,
    curvature: Curvature = 1.0,
    implementation: Implementation = None,
) -> jax.Array:
    """Turns w by the rotation that makes Moebius addition associative.

    u (+) (v (+) w) = (u (+) v) (+) gyr[u, v] w

    Args:
      u: points, `[..., d]`, float32 or float64.
      v: points, `[..., d]`.
      w: any vectors, points or tangents, `[..., d]`, any floating-point dtype up to that of `u`.
      curvature: c > 0, a number or a scalar array.
      implementation: None (best for this device), `"reference"`, `"autodiff"` or `"pallas"`.

    Returns:
      Vectors of the length of `w`, `[..., d]`, in the dtype of `u`. `u` and `v` beyond the largest
      radius are brought back to it first.

    Raises:
      ValueError: what `mobius_add` refuses.

    Example:
      >>> u, v, w = jnp.array([0.5, 0.0]), jnp.array([0.0, 0.5]), jnp.array([0.0, 1.0])
      >>> print(np.asarray(gyration(u, v, w)).round(3))
      [0.471 0.882]

    Reference: Ungar, A Gyrovector Space Approach to Hyperbolic Geometry, 2008, eq. 1.27.
    """
    u, v = arguments.points(u=u, v=v)
    w = arguments.tangents("w", w, u)
    arguments.check_channels({"u": u, "v": v, "w": w})
    c = arguments.curvature_of(curvature, u.dtype)
    return gyro_rows("gyration", u, v, w, curvature=c, implementation=implementation)


def transport(
    x: jax.Array,
    y: jax.Array,
    w: jax.Array,
    *,
    curvature: Curvature = 1.0,
    implementation: Implementation = None,
) -> jax.Array:
    """Carries tangent vectors in parallel from x to y along their geodesic.

    (lambda_x / lambda_y) gyr[y, -x] w

    Args:
      x: points, `[..., d]`, float32 or float64.
      y: points, `[..., d]`.
      w: tangent vectors at `x`, `[..., d]`, any floating-point dtype up to that of `x`.
      curvature: c > 0, a number or a scalar array.
      implementation: None (best for this device), `"reference"`, `"autodiff"` or `"pallas"`.

    Returns:
      Tangent vectors at `y`, `[..., d]`, in the dtype of `x`. Points beyond the largest radius
      are brought back to it first.

    Raises:
      ValueError: what `mobius_add` refuses.

    Example:
      >>> x, y, w = jnp.zeros(2), jnp.array([0.5, 0.0]), jnp.array([0.0, 1.0])
      >>> print(np.asarray(transport(x, y, w)).round(3))
      [0.   0.75]

    Reference: Ganea et al., Hyperbolic Neural Networks, NeurIPS 2018, theorem 4 (from 0); Ungar
    2008 (any two points).
    """
    x, y = arguments.points(x=x, y=y)
    w = arguments.tangents("w", w, x)
    arguments.check_channels({"x": x, "y": y, "w": w})
    c = arguments.curvature_of(curvature, x.dtype)
    return gyro_rows("transport", x, y, w, curvature=c, implementation=implementation)


def project(
    x: jax.Array, *, curvature: Curvature = 1.0, implementation: Implementation = None
) -> jax.Array:
    """Brings vectors outside the ball to its largest radius; leaves the others as they are.

    x min(1, (1 - eps)/(C|x|)), eps = 4e-3 for float32 and 1e-5 for float64, C = sqrt(c)

    Args:
      x: vectors, `[..., d]`, float32 or float64.
      curvature: c > 0, a number or a scalar array.
      implementation: None (best for this device), `"reference"`, `"autodiff"` or `"pallas"`.

    Returns:
      Points, `[..., d]`, in the dtype of `x`. The gradient has no radial part where x moved.

    Raises:
      ValueError: what `mobius_add` refuses.

    Example:
      >>> print(np.asarray(project(jnp.array([[3.0, 0.0], [0.5, 0.0]]))).round(3))
      [[0.996 0.   ]
       [0.5   0.   ]]
    """
    (x,) = arguments.points(x=x)
    c = arguments.curvature_of(curvature, x.dtype)
    return gyro_rows("project", x, curvature=c, implementation=implementation)


def conformal(
    x: jax.Array, *, curvature: Curvature = 1.0, implementation: Implementation = None
) -> jax.Array:
    """Computes by how much lengths at x exceed Euclidean ones.

    lambda_x = 2 / (1 - c|x|^2)

    Args:
      x: points, `[..., d]`, float32 or float64; beyond the largest radius they are brought back.
      curvature: c > 0, a number or a scalar array.
      implementation: None (best for this device), `"reference"`, `"autodiff"` or `"pallas"`.

    Returns:
      lambda_x, `[...]`, in the dtype of `x`.

    Raises:
      ValueError: what `mobius_add` refuses.

    Example:
      >>> print(f"{conformal(jnp.array([0.5, 0.0])):.4f}")
      2.6667
    """
    (x,) = arguments.points(x=x)
    c = arguments.curvature_of(curvature, x.dtype)
    return gyro_rows("conformal", x, curvature=c, implementation=implementation)[..., 0]


def clip_tangent(
    v: jax.Array, *, curvature: Curvature = 1.0, implementation: Implementation = None
) -> jax.Array:
    """Shortens tangent vectors at 0 to those of the largest radius.

    v min(1, atanh(1 - eps)/(C|v|)), C = sqrt(c): logmap0(project(expmap0(v))) without the detour

    Args:
      v: tangent vectors at 0, `[..., d]`, any floating-point dtype.
      curvature: c > 0, a number or a scalar array.
      implementation: None (best for this device), `"reference"`, `"autodiff"` or `"pallas"`.

    Returns:
      Tangent vectors at 0, `[..., d]`, in the dtype of `v`; eps is that of float32 for half
      precision.

    Raises:
      ValueError: integers; curvature <= 0 or not one number; an unknown implementation.

    Example:
      >>> print(np.asarray(clip_tangent(jnp.array([[5.0, 0.0], [1.0, 0.0]]))).round(3))
      [[3.106 0.   ]
       [1.    0.   ]]
    """
    v = arguments.vectors("v", v)
    c = arguments.curvature_of(curvature, _at_least_float32(v).dtype)
    return gyro_rows("clip_tangent", v, curvature=c, implementation=implementation)


def check_points(x: jax.Array, *, curvature: Curvature = 1.0) -> None:
    """Refuses vectors that are not inside the ball; reads the values, so not under `jax.jit`.

    Args:
      x: vectors, `[..., d]`, float32 or float64.
      curvature: c > 0, a number or a scalar array.

    Raises:
      ValueError: NaN, or C|x| >= 1: with the number of such points and the largest C|x|; what
        `mobius_add` refuses.

    Example:
      >>> check_points(jnp.array([[0.5, 0.0], [0.9, 0.9]]))
      Traceback (most recent call last):
        ...
      ValueError: 1 of 2 points of x lie outside the ball of curvature -1: the largest sqrt(c)|x| \
is 1.27279, below 1 is wanted; project(x, curvature=1) brings them back
    """
    (x,) = arguments.points(x=x)
    c = float(arguments.curvature_of(curvature, x.dtype))
    radii = np.sqrt(c) * np.linalg.norm(np.asarray(x, np.float64), axis=-1)
    missing = int(np.isnan(radii).sum())
    if missing:
        raise ValueError(f"{missing} of {radii.size} points of x hold NaN")
    outside = int((radii >= 1).sum())
    if outside:
        raise ValueError(
            f"{outside} of {radii.size} points of x lie outside the ball of curvature -{c:g}: the "
            f"largest sqrt(c)|x| is {radii.max():g}, below 1 is wanted; project(x, "
            f"curvature={c:g}) brings them back"
        )


def _at_least_float32(v: jax.Array) -> jax.Array:
    return v.astype(jnp.float32) if jnp.finfo(v.dtype).bits < 32 else v
