"""How kernels of Poincare layers start."""

import math
from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from scipy.special import betaln

Initializer = nn.initializers.Initializer


def half_identity() -> Initializer:
    """Starts a kernel at half of the (truncated) identity, at which a dense layer is the identity.

    The rows of a convolution kernel are counted channel by channel, and in a channel tap by tap, as
    in the published code: output k reads tap k mod taps of channel k div taps.

    Returns:
      An initialiser of kernels `[*window, d, features]`.

    Example:
      >>> print(half_identity()(jax.random.key(0), (3, 2)).tolist())
      [[0.5, 0.0], [0.0, 0.5], [0.0, 0.0]]

    Reference: van Spengler et al., Poincare ResNet, ICCV 2023 (section 3.3).
    """

    def init(key: jax.Array, shape: Sequence[int], dtype: Any = jnp.float32) -> jax.Array:
        del key
        *window, channels, features = shape
        eye = 0.5 * jnp.eye(math.prod(window) * channels, features, dtype=dtype)
        return jnp.moveaxis(eye.reshape(channels, *window, features), 0, -2)

    return init


def centre_tap() -> Initializer:
    """Starts a convolution at the identity on the tap in the middle, which keeps small norms.

    The receptive field of K taps enters with the factor rho = B(K d/2, 1/2) / B(d/2, 1/2); the
    kernel is 1/(2 rho) times the identity at the centre and 0 elsewhere.

    Returns:
      An initialiser of kernels `[*window, d, features]`.

    Example:
      >>> kernel = centre_tap()(jax.random.key(0), (3, 3, 4, 4))
      >>> print(kernel[1, 1, 0, 0].round(3), kernel[0, 0, 0, 0])
      1.585 0.0
    """

    def init(key: jax.Array, shape: Sequence[int], dtype: Any = jnp.float32) -> jax.Array:
        del key
        *window, channels, features = shape
        scale = 0.5 / concatenation_scale(channels, math.prod(window))
        centre = tuple(size // 2 for size in window)
        identity = scale * jnp.eye(channels, features, dtype=dtype)
        return jnp.zeros(tuple(shape), dtype).at[centre].set(identity)

    return init


def hnn_normal() -> Initializer:
    """Starts a kernel with normal numbers of variance 1/(2 n m), at which deep stacks collapse.

    Returns:
      An initialiser of kernels `[*window, d, features]`; n is the product of window and d, and m
      is `features`.

    Example:
      >>> kernel = hnn_normal()(jax.random.key(0), (64, 64))
      >>> print(f"{kernel.std() * 64 * 2 ** 0.5:.1f}")
      1.0

    Reference: Shimizu et al., Hyperbolic Neural Networks++, ICLR 2021 (appendix C).
    """

    def init(key: jax.Array, shape: Sequence[int], dtype: Any = jnp.float32) -> jax.Array:
        scale = (2.0 * math.prod(shape)) ** -0.5
        return scale * jax.random.normal(key, tuple(shape), dtype)

    return init


def concatenation_scale(channels: int, taps: int) -> float:
    """rho = B(n/2, 1/2) / B(n_i/2, 1/2) for `taps` vectors of n_i = `channels` numbers."""
    return math.exp(betaln(taps * channels / 2, 0.5) - betaln(channels / 2, 0.5))
