"""Gyrovector operations on rows of points of the Poincare ball, one kernel each.

Every expression of k vectors is a combination of them whose coefficients depend on their dot
products alone (`rows.fused_rows`). Two choices keep the coefficients accurate up to the boundary.
Distances come from differences of vectors: with e = x + y,

    x (+) y = [(1 - c|x|^2) e + c|e|^2 x] / D,   D = (1 - c|x|^2)(1 - c|y|^2) + c|e|^2

has no term that cancels another in D, and c|x (+) y|^2 = c|e|^2 / D. And a point beyond the largest
radius (1 - eps)/sqrt(c) is first brought back to it, with the gradient of that projection, so that
1 - c|x|^2 is never zero.
"""

import dataclasses
import functools
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from trove_jax.kernels.hyperbolic_functions import asinh, asinhc, atanhc, sinh, tanhc
from trove_jax.kernels.rows import Axis, Implementation, fused_rows

# 1 - C|x| of the outermost points: half of the digits of 1 - c|x|^2 survive there.
_BOUNDARY_EPS = {"float32": 4e-3, "float64": 1e-5}
# Squared distances below it are zero.
_TINY = 1e-37
# exp of it fits float32 when squared and summed over channels.
_LARGEST_EXPONENT = 30.0
# Five times as far from 0 as the outermost points.
_LARGEST_OFFSET = 60.0
# exp of a quarter of it fits float32 when summed over channels.
_LARGEST_ANGLE = 320.0


def boundary_eps(dtype: Any) -> float:
    """Says how far from the boundary the outermost points stay: C|x| <= 1 - eps.

    Args:
      dtype: float32 or float64.

    Returns:
      4e-3 for float32, 1e-5 for float64, the values of geoopt and of the published code.

    Raises:
      ValueError: another dtype; in half precision no number near 1 tells points apart.

    Example:
      >>> boundary_eps(jnp.float32)
      0.004
    """
    name = jnp.dtype(dtype).name
    if name not in _BOUNDARY_EPS:
        raise ValueError(
            f"dtype={name} cannot hold points of the ball; use float32 or float64, or keep "
            "tangent vectors at 0 instead of points"
        )
    return _BOUNDARY_EPS[name]


def gyro_rows(
    operation: str,
    *operands: jax.Array,
    curvature: jax.Array,
    implementation: Implementation = None,
) -> jax.Array:
    """Applies an operation of the ball to every row, as one kernel with its own gradient rule.

    Operands that have no axis but the channels, where others have more, are shared by all rows:
    they are read once. Checks of dtypes and ranges are the business of `geometry.poincare`.

    Args:
      operation: `"project"`, `"conformal"`, `"expmap0"`, `"logmap0"`, `"clip_tangent"` (one
        operand), `"mobius_scale"` (k as `[]` or `[..., 1]`, x), `"mobius_add"`, `"expmap"`,
        `"logmap"`, `"dist"` (two), `"gyration"`, `"transport"` (three), `"mlr"` and `"fc"`
        (x, <x, z_k>, |z_k|, r_k).
      operands: arrays `[..., d]` of one floating-point dtype; leading axes are broadcast.
      curvature: c > 0, `[]`.
      implementation: as in `fused_rows`.

    Returns:
      `[..., d]`, or `[..., 1]` for `"conformal"` and `"dist"`, in the dtype of the operands.

    Raises:
      ValueError: an unknown operation; leading axes that do not broadcast; what `fused_rows`
        refuses.

    Example:
      >>> x, y = jnp.array([[0.5, 0.0], [0.0, 0.0]]), jnp.array([0.5, 0.0])
      >>> print(np.asarray(gyro_rows("mobius_add", x, y, curvature=jnp.array(1.0))).round(3))
      [[0.8 0. ]
       [0.5 0. ]]

    Reference: van Spengler et al., Poincare ResNet, ICCV 2023; Ungar, A Gyrovector Space Approach
    to Hyperbolic Geometry, 2008.
    """
    if operation not in _OPERATIONS:
        raise ValueError(f"operation={operation!r} is unknown; use one of {sorted(_OPERATIONS)}")
    try:
        lead = np.broadcast_shapes(*(a.shape[:-1] for a in operands))
    except ValueError:
        raise ValueError(
            f"operands of {operation} have shapes {[a.shape for a in operands]}; all axes but the "
            "last must broadcast"
        ) from None
    is_shared = tuple(a.ndim == 0 or (a.ndim == 1 and lead != ()) for a in operands)
    rows = [
        jnp.broadcast_to(a, (*lead, a.shape[-1]))
        for a, alone in zip(operands, is_shared, strict=True)
        if not alone
    ]
    shared = [a for a, alone in zip(operands, is_shared, strict=True) if alone]
    program = _Program(_OPERATIONS[operation], is_shared)
    return _apply(program, implementation, rows, [*shared, curvature])


@functools.partial(jax.jit, static_argnums=(0, 1))
def _apply(program, implementation, rows, shared):
    (out,), _ = fused_rows(program, rows, shared, implementation=implementation)
    return out


@dataclasses.dataclass(frozen=True)
class _Program:
    """A formula as a program of rows: puts the operands back in order."""

    formula: Callable[..., jax.Array]
    is_shared: tuple[bool, ...]

    def __call__(self, dot, rows, shared):
        from_rows, from_shared = iter(rows), iter(shared)
        operands = [next(from_shared if alone else from_rows) for alone in self.is_shared]
        return (self.formula(dot, *operands, next(from_shared)),), ()


def bounded(x: jax.Array, q: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Brings a point with c|x|^2 = q to the largest radius if it is beyond; also returns q there.

    For use inside a program of rows: x times a number per row.
    """
    largest = 1.0 - boundary_eps(q.dtype)
    is_beyond = q > largest**2
    scale = jnp.where(is_beyond, largest / jnp.sqrt(jnp.where(is_beyond, q, 1.0)), 1.0)
    return x * scale, jnp.where(is_beyond, largest**2, q)


def _point(dot: Axis, x: jax.Array, c: jax.Array) -> tuple[jax.Array, jax.Array]:
    """A point within the largest radius and its gap 1 - c|x|^2."""
    x, q = bounded(x, c * dot(x, x))
    return x, 1.0 - q


def _add(dot, x, y, x_gap, y_gap, c):
    """x (+) y from the gaps 1 - c|x|^2 and 1 - c|y|^2."""
    e = x + y
    q = c * dot(e, e)
    total = x_gap * y_gap + q
    return bounded((x_gap * e + q * x) / total, q / total)[0]


def _difference(dot, x, y, c):
    """Both points, their gaps, d = y - x and c|d|^2."""
    (x, x_gap), (y, y_gap) = _point(dot, x, c), _point(dot, y, c)
    d = y - x
    return x, x_gap, y_gap, d, c * dot(d, d)


def _project(dot, x, c):
    return _point(dot, x, c)[0]


def _conformal(dot, x, c):
    return 2.0 / _point(dot, x, c)[1]


def _expmap0(dot, v, c):
    q = c * dot(v, v)
    scale = tanhc(q)
    return bounded(v * scale, q * scale * scale)[0]


def _logmap0(dot, y, c):
    y, q = bounded(y, c * dot(y, y))
    return y * atanhc(q)


def _clip_tangent(dot, v, c):
    largest = math.atanh(1.0 - boundary_eps(v.dtype))
    q = c * dot(v, v)
    is_beyond = q > largest**2
    return v * jnp.where(is_beyond, largest / jnp.sqrt(jnp.where(is_beyond, q, 1.0)), 1.0)


def _mobius_scale(dot, k, x, c):
    x, q = bounded(x, c * dot(x, x))
    stretch = k * atanhc(q)
    q = stretch * stretch * q
    scale = tanhc(q)
    return bounded(x * (stretch * scale), q * scale * scale)[0]


def _mobius_add(dot, x, y, c):
    (x, x_gap), (y, y_gap) = _point(dot, x, c), _point(dot, y, c)
    return _add(dot, x, y, x_gap, y_gap, c)


def _expmap(dot, x, v, c):
    x, gap = _point(dot, x, c)
    q = c * dot(v, v) / (gap * gap)
    scale = tanhc(q)
    return _add(dot, x, v * (scale / gap), gap, 1.0 - q * scale * scale, c)


def _logmap(dot, x, y, c):
    x, x_gap, y_gap, d, q = _difference(dot, x, y, c)
    gaps = x_gap * y_gap
    scale = x_gap * asinhc(q / gaps) / jnp.sqrt((gaps + q) * gaps)
    return (x_gap * d - q * x) * scale


def _dist(dot, x, y, c):
    _, x_gap, y_gap, d, q = _difference(dot, x, y, c)
    square = dot(d, d)
    is_apart = square > _TINY
    length = jnp.where(is_apart, jnp.sqrt(jnp.where(is_apart, square, 1.0)), 0.0)
    # NaN is not hidden: it is not apart, but the gaps carry it.
    gaps = x_gap * y_gap
    return 2.0 * length * asinhc(q / gaps) / jnp.sqrt(gaps)


def _turn(dot, e, v, w, v_gap, total, c):
    """gyr[u, v] w from e = u + v, the gap of v and D = gap_u gap_v + c|e|^2."""
    ew, vw, ev = c * dot(e, w), c * dot(v, w), c * dot(e, v)
    along_e = vw * (v_gap + 2.0 * ev) - ew * (1.0 - v_gap)
    along_v = -ew * v_gap - vw * c * dot(e, e)
    return w + (2.0 / total) * (along_e * e + along_v * v)


def _gyration(dot, u, v, w, c):
    (u, u_gap), (v, v_gap) = _point(dot, u, c), _point(dot, v, c)
    e = u + v
    return _turn(dot, e, v, w, v_gap, u_gap * v_gap + c * dot(e, e), c)


def _transport(dot, x, y, w, c):
    x, x_gap, y_gap, d, q = _difference(dot, x, y, c)
    return (y_gap / x_gap) * _turn(dot, d, -x, w, x_gap, x_gap * y_gap + q, c)


def _angle(dot, x, products, norms, r, c):
    """asinh(alpha_k): C times the signed distance to hyperplane k is 2 |z_k| times it."""
    q = c * dot(x, x)
    products, q = bounded(products, q)
    root = jnp.sqrt(c)
    turn = jnp.clip(2.0 * root * r, -_LARGEST_OFFSET, _LARGEST_OFFSET)
    power = jnp.exp(turn)
    cosh = 0.5 * (power + 1.0 / power)
    has_normal = norms > 0.0
    along = jnp.where(has_normal, products / jnp.where(has_normal, norms, 1.0), 0.0)
    return asinh((2.0 * root * along * cosh - (1.0 + q) * sinh(turn)) / (1.0 - q))


def _mlr(dot, x, products, norms, r, c):
    return (2.0 / jnp.sqrt(c)) * norms * _angle(dot, x, products, norms, r, c)


def _fc(dot, x, products, norms, r, c):
    p = 2.0 * norms * _angle(dot, x, products, norms, r, c)
    p = jnp.clip(p, -_LARGEST_ANGLE, _LARGEST_ANGLE)
    size = jnp.abs(p)
    # All sinh(p_k) are divided by e^shift, so that none overflows; the result does not change. The
    # shift is the largest |p_k| to within 4 log m, less what float32 can square.
    root = jnp.exp(size / 8.0) - 1.0
    shift = 4.0 * jnp.log1p(dot(root, root)) - _LARGEST_EXPONENT
    shift = jax.lax.stop_gradient(jnp.maximum(shift, 0.0))
    unit = jnp.exp(-shift)
    far = 0.5 * (jnp.exp(size - shift) - jnp.exp(-size - shift))
    near = unit * sinh(jnp.clip(p, -1.0, 1.0))
    s = jnp.where(size < 1.0, near, jnp.where(p < 0.0, -far, far))
    square = dot(s, s)
    total = unit + jnp.sqrt(unit * unit + square)
    y, _ = bounded(s / total, square / (total * total))
    return y / jnp.sqrt(c)


_OPERATIONS: dict[str, Callable[..., jax.Array]] = {
    "clip_tangent": _clip_tangent,
    "conformal": _conformal,
    "dist": _dist,
    "expmap": _expmap,
    "expmap0": _expmap0,
    "fc": _fc,
    "gyration": _gyration,
    "logmap": _logmap,
    "logmap0": _logmap0,
    "mlr": _mlr,
    "mobius_add": _mobius_add,
    "mobius_scale": _mobius_scale,
    "project": _project,
    "transport": _transport,
}
