"""Batch normalisation on the Poincare ball."""

from typing import Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax

from trove_jax import kernels
from trove_jax.geometry import poincare
from trove_jax.kernels import poincare as rows
from trove_jax.kernels.rows import Implementation
from trove_jax.layers.hyperbolic_curvature import (
    Curvature,
    check_tangents,
    curvature_of,
    inverse_softplus,
    squares,
)


class PoincareBatchNorm(nn.Module):
    """Batch normalisation on the Poincare ball: one mean per channel vector, one variance.

    out = exp_b(sqrt(gamma / (sigma^2 + epsilon)) PT_{mu->b}(log_mu(x))), sigma^2 the mean squared
    distance of all rows (examples and pixels) to mu

    The published code evaluates with the statistics of the test batch. Here running ones are kept
    in `batch_stats`: `mean`, which moves along the midpoint of it and the batch's with weights
    `momentum` and 1 - `momentum`, and `var`, which moves likewise on the line.

    Attributes:
      mean: `"midpoint"`, in closed form, or `"frechet"`, the minimiser of the squared distances, by
        iteration (slower; its gradient is implicit).
      momentum: of the running statistics.
      epsilon: added to the variance.
      curvature: c > 0, a number or a scalar array, such as that of `LearnedCurvature`.
      learn_curvature: whether the layer trains a curvature of its own that starts at `curvature`.
      axis_name: name of a mapped axis over which the statistics are averaged (midpoint only).
      implementation: of the kernels; see `kernels.fused_rows`.

    Parameters are `bias` `[d]`, the tangent vector of b, and `scale`, of which gamma is the
    softplus (a plain parameter could turn negative); they start at b = 0 and gamma = 1.

    Example:
      >>> v = 0.1 * jax.random.normal(jax.random.key(0), (64, 8))
      >>> norm = PoincareBatchNorm()
      >>> y, variables = norm.init_with_output(jax.random.key(0), v, train=True)
      >>> print(f"{4 * (y ** 2).sum(-1).mean():.2f}")
      1.00
    """

    mean: Literal["midpoint", "frechet"] = "midpoint"
    momentum: float = 0.9
    epsilon: float = 1e-6
    curvature: Curvature = 0.1
    learn_curvature: bool = False
    axis_name: str | None = None
    implementation: Implementation = None

    @nn.compact
    def __call__(
        self,
        v: jax.Array,
        *,
        train: bool,
        sums: tuple[jax.Array, jax.Array] | None = None,
        relu: bool = False,
    ) -> jax.Array:
        """Applies the layer.

        Args:
          v: tangent vectors at 0, `[..., d]`, floating-point; all axes but the last are rows.
          train: normalise with the statistics of this batch (and update the running ones, if
            `batch_stats` is mutable), else with the running ones.
          sums: what `PoincareConv(...)(..., with_sums=True)` returned with `v`.
          relu: whether the ReLU of the result is returned, in the same pass.

        Returns:
          Tangent vectors at 0, the shape and dtype of `v`.

        Raises:
          ValueError: `v` is not floating-point or has no rows; an unknown mean; a curvature that
            is not above 0.
        """
        check_tangents(v)
        if self.mean not in ("midpoint", "frechet"):
            raise ValueError(f'mean={self.mean!r} is unknown; use "midpoint" or "frechet"')
        if self.mean == "frechet" and self.axis_name is not None:
            raise ValueError(
                f'axis_name={self.axis_name!r} needs mean="midpoint": the Frechet mean is not a '
                "mean of the parts' means"
            )
        if v.size == 0:
            raise ValueError(f"v has shape {v.shape}: there is no mean of 0 rows")
        c = curvature_of(self, v)
        d, dtype = v.shape[-1], c.dtype
        running_mean = self.variable("batch_stats", "mean", jnp.zeros, (d,), dtype)
        running_var = self.variable("batch_stats", "var", jnp.ones, (), dtype)
        bias = self.param("bias", nn.initializers.zeros, (d,), dtype)
        scale = self.param("scale", nn.initializers.constant(inverse_softplus(1.0)), (), dtype)
        if train:
            mean, var = self._statistics(v, sums, c)
        else:
            mean, var = running_mean.value, running_var.value
        if train and not self.is_initializing():
            running_mean.value = _between(running_mean.value, mean, self.momentum, c)
            running_var.value = self.momentum * running_var.value + (1.0 - self.momentum) * var
        spread = jnp.sqrt(nn.softplus(scale) / (var + self.epsilon))
        return rows.normalise(
            v, mean, bias, spread, curvature=c, relu=relu, implementation=self.implementation
        )

    def _statistics(self, v, sums, c):
        """Mean, as a tangent vector at 0, and variance of all rows."""
        count = v.size // v.shape[-1]
        if self.mean == "frechet":
            mean = _frechet_mean(v.reshape(count, -1), c)
        else:
            if sums is None:
                sums = rows.point_sums(v, curvature=c, implementation=self.implementation)
            time, space = sums
            mean = rows.midpoint_of_sums(*self._averaged(time, space), count=count, curvature=c)
        total = rows.squared_distances(v, mean, curvature=c, implementation=self.implementation)
        (var,) = self._averaged(total / count)
        return mean, var

    def _averaged(self, *values):
        if self.axis_name is None or self.is_initializing():
            return values
        return tuple(lax.pmean(a, self.axis_name) for a in values)


def _frechet_mean(v: jax.Array, c: jax.Array) -> jax.Array:
    x = poincare.expmap0(v.astype(c.dtype), curvature=c)
    return poincare.logmap0(poincare.frechet_mean(x, curvature=c), curvature=c)


def _between(a: jax.Array, b: jax.Array, weight: float, c: jax.Array) -> jax.Array:
    """The midpoint of two points with weights `weight` and 1 - `weight`."""
    points = jnp.stack([a, b])
    time, factor = kernels.cosh_and_sinhc(4.0 * c * squares(points))
    weights = jnp.array([[weight], [1.0 - weight]], points.dtype)
    space = jnp.sum(weights * factor * points, axis=0)
    return rows.midpoint_of_sums(jnp.sum(weights * time), space, count=1.0, curvature=c)
