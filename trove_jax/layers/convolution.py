"""Flax's convolution layers on top of the convolution of `kernels`."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.linen.linear import canonicalize_padding

from trove_jax import kernels


class Conv(nn.Conv):
    """`flax.linen.Conv` with the convolution of `trove_jax.kernels` plugged in.

    Same arguments, parameters and results. On a CPU its gradient is as fast inside `lax.scan` and
    `lax.map` as outside, which that of Flax's layer is not.

    Example:
      >>> layer = Conv(features=4, kernel_size=(3, 3), strides=2)
      >>> y, variables = layer.init_with_output(jax.random.key(0), jnp.ones((1, 8, 8, 3)))
      >>> y.shape, jax.tree.map(jnp.shape, variables)
      ((1, 4, 4, 4), {'params': {'bias': (4,), 'kernel': (3, 3, 3, 4)}})
    """

    conv_general_dilated: Any = kernels.conv_general_dilated


class ConvTranspose(nn.ConvTranspose):
    """`flax.linen.ConvTranspose` on the transposed convolution of `trove_jax.kernels`.

    Same arguments, parameters and results.

    Example:
      >>> layer = ConvTranspose(features=4, kernel_size=(3, 3), strides=(2, 2))
      >>> y, variables = layer.init_with_output(jax.random.key(0), jnp.ones((1, 8, 8, 3)))
      >>> y.shape, jax.tree.map(jnp.shape, variables)
      ((1, 16, 16, 4), {'params': {'bias': (4,), 'kernel': (3, 3, 3, 4)}})
    """

    @nn.compact
    def __call__(self, inputs: jax.Array) -> jax.Array:
        """Applies the layer.

        Args:
          inputs: `[..., *space, d]`; axes in front of space are one batch.

        Returns:
          `[..., *out, features]`.
        """
        kernel_size = (
            (self.kernel_size,) if isinstance(self.kernel_size, int) else tuple(self.kernel_size)
        )
        rank = len(kernel_size)
        strides = _per_axis(self.strides, rank)
        lead = inputs.shape[: -rank - 1]
        x = inputs.reshape(-1, *inputs.shape[-rank - 1 :])
        channels = (x.shape[-1], self.features)
        shape = kernel_size + (channels[::-1] if self.transpose_kernel else channels)
        if self.mask is not None and self.mask.shape != shape:
            raise ValueError(
                f"mask has shape {self.mask.shape}, the kernel {shape}; make them equal"
            )
        kernel = self.param("kernel", self.kernel_init, shape, self.param_dtype)
        if self.mask is not None:
            kernel = kernel * self.mask
        bias = None
        if self.use_bias:
            bias = self.param("bias", self.bias_init, (self.features,), self.param_dtype)
        x, kernel, bias = self.promote_dtype(x, kernel, bias, dtype=self.dtype)
        assert x is not None
        assert kernel is not None
        padding = canonicalize_padding(self.padding, rank)
        y = kernels.conv_transpose(
            x,
            kernel,
            strides,
            "VALID" if padding == "CIRCULAR" else padding,
            rhs_dilation=_per_axis(self.kernel_dilation, rank),
            transpose_kernel=self.transpose_kernel,
            precision=self.precision,
            preferred_element_type=self.preferred_element_type,
        )
        if padding == "CIRCULAR":
            periods = [n * s for n, s in zip(x.shape[1:-1], strides, strict=True)]
            y = _wrap(y, periods, extra_left=not self.transpose_kernel)
        if bias is not None:
            y = y + bias.reshape((1,) * (y.ndim - 1) + (-1,))
        return y.reshape(*lead, *y.shape[1:])


def _per_axis(value: Any, rank: int) -> tuple[int, ...]:
    if value is None:
        return (1,) * rank
    return (value,) * rank if isinstance(value, int) else tuple(value)


def _wrap(y: jax.Array, periods: list[int], *, extra_left: bool) -> jax.Array:
    """Folds what lies beyond a period back into it, axis by axis.

    Padded to an even number of periods around the centre, so that the origin stays in place; an
    odd entry goes to the left or to the right, as in Flax.
    """
    for axis, period in enumerate(periods, 1):
        gap = -(y.shape[axis] - period) % (2 * period)
        room = ((gap + 1) // 2, gap // 2) if extra_left else (gap // 2, (gap + 1) // 2)
        widths = [(0, 0)] * y.ndim
        widths[axis] = room
        y = jnp.pad(y, widths)
        y = y.reshape(*y.shape[:axis], -1, period, *y.shape[axis + 1 :]).sum(axis)
    return y
