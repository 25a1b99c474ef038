"""The hot operations of a Poincare network, row by row, on tangent vectors at 0.

Each is one program of `fused_rows`: on TPU and GPU one kernel that reads its inputs once, with a
gradient that keeps nothing but them. `poincare_programs` has the formulas.

Reference: van Spengler et al., Poincare ResNet, ICCV 2023; Shimizu et al., Hyperbolic Neural
Networks++, ICLR 2021; Law et al., Lorentzian Distance Learning, ICML 2019.
"""

from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from trove_jax.kernels import poincare_programs as programs
from trove_jax.kernels.hyperbolic_functions import asinhc
from trove_jax.kernels.numbers import compute_dtype
from trove_jax.kernels.rows import Implementation, fused_rows

Curvature = float | jax.Array


def conv_epilogue(
    products: jax.Array,
    squares: jax.Array,
    norms: jax.Array,
    bias: jax.Array,
    *,
    curvature: Curvature,
    sums: bool = False,
    implementation: Implementation = None,
) -> Any:
    """Turns the linear part of a Poincare layer into tangent vectors: everything behind a conv.

    p_k = 2 s_k asinh(sinh(2C|x|)/|x| T_k cosh(2C r_k) - cosh(2C|x|) sinh(2C r_k)),
    N = |sinh p|,  out = asinh(N)/(2C N) sinh p

    With T = <x, z_k>/s_k this is log_0 of the fully connected layer of HNN++ at exp_0(x), x the
    (concatenated, rescaled) receptive field.

    Args:
      products: T, `[..., m]`.
      squares: |x|^2, `[..., 1]`.
      norms: s_k = |z_k|, `[m]`.
      bias: r, `[m]`.
      curvature: c > 0.
      sums: whether to return the sums that `point_sums` would take of the result, too.
      implementation: see `fused_rows`.

    Returns:
      Tangent vectors at 0, `[..., m]`, in the dtype of `products`, at most atanh(1 - eps)/C long
      (eps = 4e-3 in float32, 1e-5 in float64), as are the x. With `sums`, a pair of them and
      `(sum t, sum s)`. |p| beyond 80 (600 in float64) counts as 80.

    Raises:
      ValueError: what `fused_rows` refuses.

    Example:
      >>> x, square, half = jnp.array([[3.0, 4.0]]), jnp.array([[25.0]]), jnp.full(2, 0.5)
      >>> print(conv_epilogue(x, square, half, jnp.zeros(2), curvature=0.1).round(4))
      [[3. 4.]]
    """
    c = _scalar(curvature, products)
    steepest = lax.stop_gradient(jnp.max(norms))
    farthest = lax.stop_gradient(jnp.max(norms * jnp.abs(bias)))
    (out,), found = fused_rows(
        programs.Epilogue(sums),
        (products, squares),
        (norms, bias, c, steepest, farthest),
        implementation=implementation,
    )
    return (out, _as_sums(found)) if sums else out


def hyperplane_scores(
    products: jax.Array,
    squares: jax.Array,
    norms: jax.Array,
    bias: jax.Array,
    *,
    curvature: Curvature,
    implementation: Implementation = None,
) -> jax.Array:
    """Scores points by hyperplanes: the signed distance, times the length of the normal.

    v_k = (2 s_k/C) asinh(sinh(2C|x|)/|x| T_k cosh(2C r_k) - cosh(2C|x|) sinh(2C r_k))

    Args:
      products: T, `[..., m]`, as in `conv_epilogue`.
      squares: |x|^2, `[..., 1]`.
      norms: s, `[m]`.
      bias: r, `[m]`.
      curvature: c > 0.
      implementation: see `fused_rows`.

    Returns:
      `[..., m]` in the dtype of `products`.

    Example:
      >>> one = jnp.ones((1, 1))
      >>> print(hyperplane_scores(one, one, one[0], 0 * one[0], curvature=0.1).round(4))
      [[4.]]
    """
    shared = (norms, bias, _scalar(curvature, products))
    (scores,), _ = fused_rows(
        programs.Scores(), (products, squares), shared, implementation=implementation
    )
    return scores


def point_sums(
    v: jax.Array, *, curvature: Curvature, implementation: Implementation = None
) -> tuple[jax.Array, jax.Array]:
    """Sums the coordinates of points on the hyperboloid, which `midpoint_of_sums` needs.

    t = cosh(2C|v|),  s = sinh(2C|v|)/(2C|v|) v

    Args:
      v: tangent vectors at 0, `[..., d]`.
      curvature: c > 0.
      implementation: see `fused_rows`.

    Returns:
      sum t `[]` and sum s `[d]` over all rows, float32 or wider.

    Example:
      >>> time, space = point_sums(jnp.zeros((5, 2)), curvature=1.0)
      >>> print(time, space)
      5.0 [0. 0.]
    """
    _, sums = fused_rows(
        programs.Sums(), (v,), (_scalar(curvature, v),), implementation=implementation
    )
    return _as_sums(sums)


def midpoint_of_sums(
    time: jax.Array, space: jax.Array, *, count: float | jax.Array, curvature: Curvature
) -> jax.Array:
    """The midpoint of points from their sums, as a tangent vector at 0.

    (t, s) / sqrt(t^2 - 4c|s|^2) is the centroid on the hyperboloid.

    Args:
      time: sum of t, `[...]`, from `point_sums`; weighted sums give the weighted midpoint.
      space: sum of s, `[..., d]`.
      count: of the points, or the sum of their weights, > 0.
      curvature: c > 0.

    Returns:
      `[..., d]`.

    Example:
      >>> time, space = point_sums(jnp.array([[0.5, 0.0], [0.0, 0.0]]), curvature=1.0)
      >>> print(midpoint_of_sums(time, space, count=2, curvature=1.0).round(4))
      [0.25 0.  ]
    """
    c = _scalar(curvature, space)
    time, space = time / count, space / count
    # A mean of points is at least 1 long; rounding must not make it shorter.
    squared = jnp.maximum(time**2 - 4.0 * c * jnp.sum(space**2, axis=-1), 1.0)
    space = space / jnp.sqrt(squared)[..., None]
    return asinhc(4.0 * c * jnp.sum(space**2, axis=-1, keepdims=True)) * space


def squared_distances(
    v: jax.Array, mean: jax.Array, *, curvature: Curvature, implementation: Implementation = None
) -> jax.Array:
    """Sums the squared distances of points to one point, all as tangent vectors at 0.

    Args:
      v: `[..., d]`.
      mean: `[d]`.
      curvature: c > 0.
      implementation: see `fused_rows`.

    Returns:
      sum of d(exp_0 v, exp_0 mean)^2 over all rows, `[]`, float32 or wider.

    Example:
      >>> print(squared_distances(jnp.array([[3.0, 4.0]]), jnp.zeros(2), curvature=0.1).round(2))
      100.0
    """
    c = _scalar(curvature, v)
    mean = mean.astype(c.dtype)
    boost = programs.boost_of(jnp.sum(mean * mean), c)
    _, (total,) = fused_rows(
        programs.Spread(), (v,), (mean, boost.sinhc, boost.bend, c), implementation=implementation
    )
    return total[0]


def normalise(
    v: jax.Array,
    mean: jax.Array,
    bias: jax.Array,
    scale: jax.Array,
    *,
    curvature: Curvature,
    relu: bool = False,
    implementation: Implementation = None,
) -> jax.Array:
    """Moves points from around one mean to around another and scales their distances to it.

    exp_b(k PT_{m->b} log_m(x)) = b (+) gyr[b, -m](k (x) ((-m) (+) x))

    Args:
      v: the points x as tangent vectors at 0, `[..., d]`.
      mean: m as a tangent vector at 0, `[d]`, within `conv_epilogue`'s bound.
      bias: b likewise, `[d]`.
      scale: k, `[]`.
      curvature: c > 0.
      relu: whether max(., 0) of the result is returned.
      implementation: see `fused_rows`.

    Returns:
      Tangent vectors at 0, `[..., d]`, in the dtype of `v`. Points at tangent vectors (of the
      input, of k log_m(x) and of the result) beyond atanh(1 - eps)/C are brought back to it.

    Example:
      >>> v, zero = jnp.array([[0.5, 0.0]]), jnp.zeros(2)
      >>> print(normalise(v, zero, zero, 0.5 * jnp.ones(()), curvature=1.0).round(4))
      [[0.25 0.  ]]
    """
    c = _scalar(curvature, v)
    mean, bias, scale = (jnp.asarray(a, c.dtype) for a in (mean, bias, scale))
    shared = (mean, bias, scale, c, *programs.linear_forms(mean, bias, c))
    (out,), _ = fused_rows(programs.Normalise(relu), (v,), shared, implementation=implementation)
    return out


def residual(
    x: jax.Array,
    y: jax.Array,
    *,
    curvature: Curvature,
    relu: bool = False,
    implementation: Implementation = None,
) -> jax.Array:
    """Adds points, all as tangent vectors at 0: log_0(exp_0(x) (+) exp_0(y)).

    Args:
      x: `[..., d]`.
      y: `[..., d]`, the same shape.
      curvature: c > 0.
      relu: whether max(., 0) of the result is returned.
      implementation: see `fused_rows`.

    Returns:
      `[..., d]` in the dtype of `x`, within `conv_epilogue`'s bound, as x and y are.

    Example:
      >>> x = jnp.array([[0.5, 0.0]])
      >>> print(residual(x, x, curvature=1.0).round(4))
      [[1. 0.]]
    """
    c = _scalar(curvature, x)
    (out,), _ = fused_rows(programs.Residual(relu), (x, y), (c,), implementation=implementation)
    return out


def _scalar(curvature: Curvature, like: jax.Array) -> jax.Array:
    """The curvature in the precision that rows are computed in."""
    return jnp.asarray(curvature).astype(compute_dtype(like))


def _as_sums(found):
    (time,), space = found
    return time, space
