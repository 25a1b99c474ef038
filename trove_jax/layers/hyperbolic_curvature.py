"""The curvature of a layer: given, shared or trained; and what all Poincare layers check."""

import math
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from trove_jax.kernels.numbers import compute_dtype

Curvature = float | jax.Array


class LearnedCurvature(nn.Module):
    """A curvature that is trained: softplus of the parameter `raw`, which starts at `value`.

    Give the result to several layers, and they share it. A layer with `learn_curvature=True` has
    one of its own.

    Attributes:
      value: c > 0 at the start.

    Example:
      >>> c, variables = LearnedCurvature(0.1).init_with_output(jax.random.key(0))
      >>> print(f"{c:.3f} {variables['params']['raw']:.3f}")
      0.100 -2.252
    """

    value: float = 1.0

    @nn.compact
    def __call__(self) -> jax.Array:
        """Returns c, `[]`."""
        start = inverse_softplus(positive("value", self.value))
        return nn.softplus(self.param("raw", nn.initializers.constant(start), ()))


def check_tangents(v: jax.Array) -> None:
    """Refuses, with a ValueError, what is no floating-point `[..., d]`."""
    if not jnp.issubdtype(v.dtype, jnp.floating):
        raise ValueError(f"v has dtype {v.dtype}; a floating-point dtype is wanted")
    if v.ndim == 0 or v.shape[-1] == 0:
        raise ValueError(f"v has shape {v.shape}; [..., d] with channels last is wanted")


def curvature_of(module: Any, v: jax.Array) -> jax.Array:
    """The curvature of a layer, in the dtype that it computes in."""
    value, dtype = module.curvature, compute_dtype(v)
    if module.learn_curvature:
        value = LearnedCurvature(positive("curvature", value), name="learned_curvature")()
    elif not isinstance(value, jax.Array):
        value = positive("curvature", value)
    return jnp.asarray(value).astype(dtype)


def positive(name: str, value: Any) -> float:
    """A finite number above 0; raises ValueError for anything else, traced values included."""
    if isinstance(value, jax.Array) or not (math.isfinite(value) and value > 0):
        raise ValueError(f"{name}={value} must be a finite number above 0")
    return float(value)


def inverse_softplus(value: float) -> float:
    """log(e^value - 1), whose softplus is `value`."""
    return value + math.log(-math.expm1(-value))


def squares(v: jax.Array) -> jax.Array:
    """|v|^2, `[..., 1]`, in float32 at least."""
    v = v.astype(compute_dtype(v))
    return jnp.sum(v * v, axis=-1, keepdims=True)
