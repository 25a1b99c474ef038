"""The few hot operations: a plain reference, faster forms, and one rule that picks by platform."""

from trove_jax.kernels.convolution import conv_general_dilated, conv_transpose
from trove_jax.kernels.normal import standard_normal

__all__ = ["conv_general_dilated", "conv_transpose", "standard_normal"]
