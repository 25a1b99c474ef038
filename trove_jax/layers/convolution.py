"""Flax's convolution layers on top of the convolution of `kernels`."""

from typing import Any

import flax.linen as nn

from trove_jax.kernels import conv_general_dilated


class Conv(nn.Conv):
    """`flax.linen.Conv` with the convolution of `trove_jax.kernels` plugged in.

    Same arguments, same parameters, same results. On a CPU its gradient is as fast inside
    `lax.scan` and `lax.map` as outside, which Flax's own is not.
    """

    conv_general_dilated: Any = conv_general_dilated
