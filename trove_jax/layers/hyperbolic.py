"""Layers of networks on the Poincare ball.

A point x of the ball is kept as its tangent vector v = log_0(x): every layer takes and returns
tangent vectors at 0, channels last, so that layers compose like Euclidean ones and bfloat16 is
enough to store them. Sums over a receptive field, norms and formulas are in float32 (float64 for
float64). Vectors longer than atanh(1 - eps)/C are brought back to it (eps = 4e-3, float64: 1e-5).

Reference: van Spengler et al., Poincare ResNet, ICCV 2023; Shimizu et al., Hyperbolic Neural
Networks++, ICLR 2021.
"""

import math
from collections.abc import Sequence
from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax.linen.linear import canonicalize_padding
from jax import lax

from trove_jax import kernels
from trove_jax.kernels import poincare as rows
from trove_jax.kernels.numbers import compute_dtype
from trove_jax.kernels.rows import Implementation
from trove_jax.layers.hyperbolic_curvature import (
    Curvature,
    check_tangents,
    curvature_of,
    squares,
)
from trove_jax.layers.hyperbolic_initializers import concatenation_scale, half_identity

Initializer = nn.initializers.Initializer
_ZEROS = nn.initializers.zeros


class PoincareDense(nn.Module):
    """The fully connected layer of HNN++ on tangent vectors at 0.

    w_k = sinh(C v_k(x))/C,  y = w / (1 + sqrt(1 + c|w|^2)), with v_k the scores of `PoincareMLR`;
    at kernel I/2 and bias 0 it is the identity.

    Attributes:
      features: outputs, m.
      curvature: c > 0, a number or a scalar array, such as that of `LearnedCurvature`.
      learn_curvature: whether the layer trains a curvature of its own that starts at `curvature`.
      kernel_init: law of the kernel z `[d, m]` at the start.
      use_bias: whether the hyperplanes have offsets r, which start at 0.
      implementation: of the kernels; see `kernels.fused_rows`.

    Example:
      >>> y, variables = PoincareDense(3).init_with_output(jax.random.key(0), jnp.ones((2, 3)))
      >>> print(y[0].round(4), jax.tree.map(jnp.shape, variables["params"]))
      [1. 1. 1.] {'bias': (3,), 'kernel': (3, 3)}
    """

    features: int
    curvature: Curvature = 0.1
    learn_curvature: bool = False
    kernel_init: Initializer = half_identity()
    use_bias: bool = True
    implementation: Implementation = None

    @nn.compact
    def __call__(self, v: jax.Array) -> jax.Array:
        """Applies the layer.

        Args:
          v: tangent vectors at 0, `[..., d]`, floating-point.

        Returns:
          Tangent vectors at 0, `[..., features]`, in the dtype of `v`.

        Raises:
          ValueError: `v` is not floating-point or has no channels; a curvature that is not above 0.
        """
        check_tangents(v)
        c = curvature_of(self, v)
        kernel, norms, bias = _hyperplanes(self, (v.shape[-1], self.features), v)
        products = jnp.matmul(v, kernel.astype(v.dtype), precision="highest")
        return rows.conv_epilogue(
            products,
            squares(v),
            norms,
            bias,
            curvature=c,
            implementation=self.implementation,
        )


class PoincareConv(nn.Module):
    """The convolution on the Poincare ball, on tangent vectors at 0, for images.

    The pixels of a receptive field are joined by beta-concatenation (as tangent vectors, times
    rho = B(K d/2, 1/2) / B(d/2, 1/2) for K taps of d channels) and go through `PoincareDense`.
    Neither the field nor a point of the ball is ever stored: one convolution, one sum of |v|^2 over
    the window, and one pass over the result do all. Padding is the origin.

    Attributes:
      features: output channels.
      kernel_size: window, two sizes.
      strides: one number, or one per axis.
      padding: `"SAME"`, `"VALID"`, a number of pixels, or a pair per axis.
      curvature: c > 0, a number or a scalar array, such as that of `LearnedCurvature`.
      learn_curvature: whether the layer trains a curvature of its own that starts at `curvature`.
      kernel_init: law of the kernel `[height, width, d, features]` at the start.
      use_bias: whether the hyperplanes have offsets, which start at 0.
      implementation: of the kernels; see `kernels.fused_rows`.

    Example:
      >>> layer = PoincareConv(8, strides=2)
      >>> y, variables = layer.init_with_output(jax.random.key(0), jnp.ones((1, 8, 8, 3)))
      >>> y.shape, jax.tree.map(jnp.shape, variables["params"])
      ((1, 4, 4, 8), {'bias': (8,), 'kernel': (3, 3, 3, 8)})
    """

    features: int
    kernel_size: Sequence[int] = (3, 3)
    strides: int | Sequence[int] = 1
    padding: Any = "SAME"
    curvature: Curvature = 0.1
    learn_curvature: bool = False
    kernel_init: Initializer = half_identity()
    use_bias: bool = True
    implementation: Implementation = None

    @nn.compact
    def __call__(self, v: jax.Array, *, with_sums: bool = False) -> Any:
        """Applies the layer.

        Args:
          v: tangent vectors at 0, `[b, height, width, d]`, floating-point.
          with_sums: whether to return, as a pair, also the sums that a `PoincareBatchNorm` behind
            this layer needs: give them to it, and it saves a pass.

        Returns:
          Tangent vectors at 0, `[b, out_height, out_width, features]`, in the dtype of `v`.

        Raises:
          ValueError: `v` is not a floating-point batch of images; window and padding leave no
            output; a curvature that is not above 0.
        """
        check_tangents(v)
        if v.ndim != 4 or len(self.kernel_size) != 2:
            raise ValueError(
                f"v has shape {v.shape} and kernel_size={self.kernel_size}; images "
                "[b, height, width, d] and two sizes are wanted"
            )
        window = tuple(self.kernel_size)
        strides = (self.strides,) * 2 if isinstance(self.strides, int) else tuple(self.strides)
        padding = canonicalize_padding(self.padding, 2)
        if isinstance(padding, str):
            padding = lax.padtype_to_pads(v.shape[1:3], window, strides, padding)
        space = [n + sum(p) - k for n, p, k in zip(v.shape[1:3], padding, window, strict=True)]
        if min(space) < 0:
            raise ValueError(
                f"kernel_size={window} with padding={self.padding} leaves no output of images of "
                f"{v.shape[1]}x{v.shape[2]} pixels; pad more, or take a smaller window"
            )
        c = curvature_of(self, v)
        kernel, norms, bias = _hyperplanes(self, (*window, v.shape[-1], self.features), v)
        rho = concatenation_scale(v.shape[-1], math.prod(window))
        products = kernels.conv_general_dilated(
            v,
            (rho * kernel).astype(v.dtype),
            strides,
            padding,
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
        )
        field = lax.reduce_window(
            rho**2 * squares(v),
            np.zeros((), norms.dtype),  # a traced zero would make a sum that has no gradient
            lax.add,
            (1, *window, 1),
            (1, *strides, 1),
            ((0, 0), *padding, (0, 0)),
        )
        return rows.conv_epilogue(
            products,
            field,
            norms,
            bias,
            curvature=c,
            sums=with_sums,
            implementation=self.implementation,
        )


class PoincareMLR(nn.Module):
    """Multinomial logistic regression on the Poincare ball: scores of classes.

    v_k = (2|z_k|/C) asinh(C lambda_x <x, z_k>/|z_k| cosh(2C r_k) - (lambda_x - 1) sinh(2C r_k)),
    the signed distance to a hyperplane, times the length of its normal.

    Attributes:
      classes: outputs, k.
      curvature: c > 0, a number or a scalar array, such as that of `LearnedCurvature`.
      learn_curvature: whether the layer trains a curvature of its own that starts at `curvature`.
      kernel_init: law of the normals `[d, k]` at the start.
      use_bias: whether the hyperplanes have offsets, which start at 0.
      implementation: of the kernels; see `kernels.fused_rows`.

    Example:
      >>> layer = PoincareMLR(2, kernel_init=half_identity())
      >>> scores, _ = layer.init_with_output(jax.random.key(0), jnp.array([[0.01, 0.02]]))
      >>> print(scores.round(3))
      [[0.02 0.04]]

    Reference: Shimizu et al., Hyperbolic Neural Networks++, ICLR 2021 (section 3.1).
    """

    classes: int
    curvature: Curvature = 0.1
    learn_curvature: bool = False
    kernel_init: Initializer = nn.initializers.lecun_normal()
    use_bias: bool = True
    implementation: Implementation = None

    @property
    def features(self) -> int:
        """The classes, under the name that other layers have for their outputs."""
        return self.classes

    @nn.compact
    def __call__(self, v: jax.Array) -> jax.Array:
        """Applies the layer.

        Args:
          v: tangent vectors at 0, `[..., d]`, floating-point.

        Returns:
          Scores, `[..., k]`, float32 or wider.

        Raises:
          ValueError: `v` is not floating-point or has no channels; a curvature that is not above 0.
        """
        check_tangents(v)
        c = curvature_of(self, v)
        kernel, norms, bias = _hyperplanes(self, (v.shape[-1], self.classes), v)
        products = jnp.matmul(v.astype(c.dtype), kernel, precision="highest")
        return rows.hyperplane_scores(
            products,
            squares(v),
            norms,
            bias,
            curvature=c,
            implementation=self.implementation,
        )


def poincare_residual(
    f: jax.Array, x: jax.Array, *, curvature: Curvature, implementation: Implementation = None
) -> jax.Array:
    """Adds a branch and a shortcut: log_0(exp_0(f) (+) exp_0(x)).

    Moebius addition does not commute: the branch comes first, as in the published code.

    Args:
      f: tangent vectors at 0, `[..., d]`.
      x: likewise, of the same shape and dtype.
      curvature: c > 0.
      implementation: of the kernels; see `kernels.fused_rows`.

    Returns:
      Tangent vectors at 0, `[..., d]`.

    Raises:
      ValueError: shapes or dtypes that differ, or are not floating-point.

    Example:
      >>> v = jnp.array([[0.5, 0.0]])
      >>> print(poincare_residual(v, v, curvature=0.1).round(4))
      [[1. 0.]]
    """
    check_tangents(f)
    if f.shape != x.shape or f.dtype != x.dtype:
        raise ValueError(
            f"f has shape {f.shape} and dtype {f.dtype}, x has {x.shape} and {x.dtype}; they must "
            "agree"
        )
    return rows.residual(f, x, curvature=curvature, implementation=implementation)


def poincare_relu(v: jax.Array) -> jax.Array:
    """Applies exp_0 relu log_0, which is the ReLU of the tangent vector.

    Args:
      v: tangent vectors at 0, `[..., d]`.

    Returns:
      Tangent vectors at 0, `[..., d]`.

    Example:
      >>> print(poincare_relu(jnp.array([-1.0, 2.0])))
      [0. 2.]
    """
    return nn.relu(v)


def poincare_pool(
    v: jax.Array, *, curvature: Curvature, pool: Literal["midpoint", "tangent"] = "midpoint"
) -> jax.Array:
    """Averages over all pixels.

    Args:
      v: tangent vectors at 0, `[b, height, width, d]`.
      curvature: c > 0.
      pool: `"midpoint"` of the points, or the Euclidean mean of the `"tangent"` vectors (as in the
        published code).

    Returns:
      Tangent vectors at 0, `[b, d]`.

    Raises:
      ValueError: an unknown pool; no pixels.

    Example:
      >>> v = jnp.zeros((1, 1, 2, 2)).at[0, 0, 0, 0].set(0.5)
      >>> print(poincare_pool(v, curvature=1.0).round(4))
      [[0.25 0.  ]]
    """
    check_tangents(v)
    if v.ndim != 4 or 0 in v.shape[1:3]:
        raise ValueError(f"v has shape {v.shape}; [b, height, width, d] with pixels is wanted")
    if pool == "tangent":
        return jnp.mean(v, axis=(1, 2))
    if pool != "midpoint":
        raise ValueError(f'pool={pool!r} is unknown; use "midpoint" or "tangent"')
    dtype = compute_dtype(v)
    c = jnp.asarray(curvature).astype(dtype)
    time, factor = kernels.cosh_and_sinhc(4.0 * c * squares(v))
    space = jnp.sum(factor * v.astype(dtype), axis=(1, 2))
    count = v.shape[1] * v.shape[2]
    time = jnp.sum(time, axis=(1, 2, 3))
    return rows.midpoint_of_sums(time, space, count=count, curvature=c).astype(v.dtype)


def _hyperplanes(module: Any, shape: tuple[int, ...], v: jax.Array):
    """Unit normals, their lengths before, and offsets; from the parameters of a layer."""
    dtype = compute_dtype(v)
    kernel = module.param("kernel", module.kernel_init, shape).astype(dtype)
    if module.use_bias:
        bias = module.param("bias", _ZEROS, (module.features,)).astype(dtype)
    else:
        bias = jnp.zeros((module.features,), dtype)
    squared = jnp.sum(kernel**2, axis=tuple(range(kernel.ndim - 1)))
    has_normal = squared > 0.0
    inverse = lax.rsqrt(jnp.where(has_normal, squared, 1.0))
    norms = jnp.where(has_normal, squared * inverse, 0.0)
    return kernel * inverse.reshape((1,) * (kernel.ndim - 1) + (-1,)), norms, bias
