"""Laws of initial weights for deep perceptrons: two poor ones, and one that fits the depth."""

import math
from typing import Literal

import jax
import jax.numpy as jnp
from flax import linen as nn
from flax.typing import Initializer


def simple_normal(stddev: float = 0.1) -> Initializer:
    """Draws weights from one normal law whatever the layer's size.

    W ~ N(0, stddev^2). A rectified layer of width n then scales signals by stddev sqrt(n / 2): 0.5
    for 0.1 and 50 units, so that 20 layers let a millionth through.

    Args:
      stddev: standard deviation, 0 or above.

    Returns:
      An initialiser `(key, shape, dtype) -> array`.

    Raises:
      ValueError: `stddev` is negative or not finite.

    Example:
      >>> weights = simple_normal(0.1)(jax.random.key(0), (50, 50), jnp.float32)
      >>> print(weights.std().round(1))
      0.1

    Reference: Neelakantan et al., Adding Gradient Noise Improves Learning for Very Deep Networks,
    2015, section 4.1 ("simple" initialisation).
    """
    if not (math.isfinite(stddev) and stddev >= 0):
        raise ValueError(f"stddev={stddev} must be finite and not negative, such as 0.1")
    return nn.initializers.normal(stddev)


def zeros(key: jax.Array | None, shape: tuple[int, ...], dtype=jnp.float32) -> jax.Array:
    """Sets all weights to zero, from where a deep rectified network without noise learns nothing.

    Every unit of a layer is alike and no gradient reaches a kernel: only the output's bias moves.

    Args:
      key: not used.
      shape: of the weights.
      dtype: of the weights.

    Returns:
      Zeros, `shape`.

    Example:
      >>> print(zeros(None, (2,)))
      [0. 0.]

    Reference: Neelakantan et al., 2015, section 4.1 ("bad" initialisation).
    """
    del key
    return jnp.zeros(shape, dtype)


def sussillo_abbott(activation: Literal["linear", "relu"] = "relu") -> Initializer:
    """Draws weights so that the logarithm of a gradient's length is a random walk without drift.

    W ~ N(0, g^2 / n) with n the fan-in, and
    g = sqrt(2) exp(1.2 / (max(n, 6) - 2.4)) for rectified units, g = exp(1 / (2 n)) for linear.
    The exponential makes up for E log |W x|^2 being below log E |W x|^2 at finite width; without
    it (the law of He et al.) the gradient shrinks by exp(-1.2 / n) in every layer.

    Args:
      activation: of the units that the layers feed.

    Returns:
      An initialiser `(key, shape, dtype) -> array`; the fan-in is the product of all axes of
      `shape` but the last.

    Raises:
      ValueError: `activation` is unknown; on use, a `shape` of fewer than two axes.

    Example:
      >>> weights = sussillo_abbott()(jax.random.key(0), (50, 50), jnp.float32)
      >>> print(weights.shape, bool(0.2 < weights.std() < 0.22))
      (50, 50) True

    Reference: Sussillo & Abbott, Random Walk Initialization for Training Very Deep Feedforward
    Networks, 2014, arXiv 1412.6558 (section 2, the fits for g).
    """
    if activation not in ("linear", "relu"):
        raise ValueError(f'activation={activation!r} is unknown; use "relu" or "linear"')

    def init(key: jax.Array, shape: tuple[int, ...], dtype=jnp.float32) -> jax.Array:
        if len(shape) < 2:
            raise ValueError(f"shape={tuple(shape)} has no fan-in; a kernel [..., inputs, outputs]")
        fan_in = math.prod(shape[:-1])
        if activation == "relu":
            gain = math.sqrt(2) * math.exp(1.2 / (max(fan_in, 6) - 2.4))
        else:
            gain = math.exp(1 / (2 * fan_in))
        return nn.initializers.normal(gain / math.sqrt(fan_in))(key, shape, dtype)

    return init
