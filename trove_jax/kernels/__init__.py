"""The few hot operations: a plain reference, faster forms, and one rule that picks by platform."""

from trove_jax.kernels.convolution import conv_general_dilated, conv_transpose
from trove_jax.kernels.gyro import gyro_rows
from trove_jax.kernels.hyperbolic_functions import (
    asinh,
    asinhc,
    atanhc,
    cosh_sqrt,
    sinh,
    sinhc,
    tanhc,
)
from trove_jax.kernels.normal import standard_normal

__all__ = [
    "asinh",
    "asinhc",
    "atanhc",
    "conv_general_dilated",
    "conv_transpose",
    "cosh_sqrt",
    "gyro_rows",
    "sinh",
    "sinhc",
    "standard_normal",
    "tanhc",
]
