"""Signed distances to hyperplanes of the ball, and the fully connected map made of them."""

import jax
import jax.numpy as jnp

from trove_jax.geometry import poincare_arguments as arguments
from trove_jax.geometry.poincare_arguments import Curvature
from trove_jax.kernels.gyro import gyro_rows
from trove_jax.kernels.rows import Implementation

# The gradient divides by its square, which float32 must hold.
_SHORTEST_NORMAL = 1e-18


def mlr(
    x: jax.Array,
    z: jax.Array,
    r: jax.Array,
    *,
    curvature: Curvature = 1.0,
    implementation: Implementation = None,
) -> jax.Array:
    """Scores points by their signed distance to hyperplanes: multinomial logistic regression.

    v_k = (2 s_k/C) asinh(C lambda_x <x,z_k>/s_k cosh(2 C r_k) - (lambda_x - 1) sinh(2 C r_k)),
    s_k = |z_k|, C = sqrt(c)

    Args:
      x: points, `[..., n]`, float32 or float64; beyond the largest radius they are brought back.
      z: directions of the hyperplanes, columns of `[n, k]`, in the dtype of `x`. A column
        shorter than 1e-18 scores 0 and gets gradient 0.
      r: signed offsets, `[k]`, in the dtype of `x`. Beyond 30/C, five times as far from 0
        as the outermost points, they are cut.
      curvature: c > 0, a number or a scalar array.
      implementation: None (best for this device), `"reference"`, `"autodiff"` or `"pallas"`; of
        what follows the matrix product.

    Returns:
      Logits, `[..., k]`, in the dtype of `x`.

    Raises:
      ValueError: shapes or dtypes that do not fit; half precision or integers; curvature <= 0 or
        not one number; an unknown implementation.

    Example:
      >>> print(mlr(jnp.array([0.5, 0.0]), jnp.eye(2), jnp.zeros(2)).round(4))
      [2.1972 0.    ]

    Reference: Shimizu et al., Hyperbolic Neural Networks++, ICLR 2021, eq. 6.
    """
    return _hyperplanes("mlr", x, z, r, curvature, implementation)


def fc(
    x: jax.Array,
    z: jax.Array,
    r: jax.Array,
    *,
    curvature: Curvature = 1.0,
    implementation: Implementation = None,
) -> jax.Array:
    """Maps points of one ball to another: the point whose coordinates have the scores of `mlr`.

    w_k = sinh(C v_k)/C, y = w/(1 + sqrt(1 + c|w|^2)); z = eye/2 and r = 0 give y = x

    Nothing overflows: large w_k are scaled down together. C v_k is cut at 320, far beyond the
    largest radius, where only the direction of y is left to depend on it.

    Args:
      x: points, `[..., n]`, float32 or float64; beyond the largest radius they are brought back.
      z: directions of the hyperplanes, columns of `[n, m]`, in the dtype of `x`. A column
        shorter than 1e-18 gives coordinate 0 and gets gradient 0.
      r: signed offsets, `[m]`, in the dtype of `x`. Beyond 30/C, five times as far from 0
        as the outermost points, they are cut.
      curvature: c > 0, a number or a scalar array.
      implementation: None (best for this device), `"reference"`, `"autodiff"` or `"pallas"`; of
        what follows the matrix product.

    Returns:
      Points, `[..., m]`, in the dtype of `x`, at most at the largest radius.

    Raises:
      ValueError: shapes or dtypes that do not fit; half precision or integers; curvature <= 0 or
        not one number; an unknown implementation.

    Example:
      >>> print(fc(jnp.array([0.5, 0.0]), 0.5 * jnp.eye(2), jnp.zeros(2)).round(4))
      [0.5 0. ]

    Reference: Shimizu et al., Hyperbolic Neural Networks++, ICLR 2021, eq. 7; van Spengler et al.,
    Poincare ResNet, ICCV 2023 (the identity).
    """
    return _hyperplanes("fc", x, z, r, curvature, implementation)


def _hyperplanes(operation, x, z, r, curvature, implementation):
    (x,) = arguments.points(x=x)
    z, r = jnp.asarray(z), jnp.asarray(r)
    if z.ndim != 2 or z.shape[0] != x.shape[-1] or r.shape != z.shape[1:] or z.shape[1] == 0:
        raise ValueError(
            f"x, z and r have shapes {x.shape}, {z.shape} and {r.shape}; `[..., n]`, `[n, m]` and "
            "`[m]` are wanted, m >= 1"
        )
    if z.dtype != x.dtype or r.dtype != x.dtype:
        raise ValueError(
            f"x, z and r have dtypes {x.dtype}, {z.dtype} and {r.dtype}; one dtype is wanted"
        )
    c = arguments.curvature_of(curvature, x.dtype)
    square = jnp.sum(z * z, axis=0)
    has_normal = square > _SHORTEST_NORMAL**2
    norms = jnp.where(has_normal, jnp.sqrt(jnp.where(has_normal, square, 1.0)), 0.0)
    products = jnp.matmul(x, z, precision="highest")
    return gyro_rows(operation, x, products, norms, r, curvature=c, implementation=implementation)
