"""The few hot operations: a plain reference, faster forms, and one rule that picks by platform."""

from trove_jax.kernels import attention_pattern, poincare
from trove_jax.kernels.attention import Attended, attention
from trove_jax.kernels.convolution import conv_general_dilated, conv_transpose
from trove_jax.kernels.drawn_keys import (
    locally_biased_permutation,
    product_permutation_2d,
    unbiased_subset,
    window_order,
)
from trove_jax.kernels.dropout import dropout
from trove_jax.kernels.gyro import gyro_rows
from trove_jax.kernels.hyperbolic_functions import (
    asinh,
    asinhc,
    atanhc,
    cosh_and_sinhc,
    cosh_sqrt,
    sinh,
    sinhc,
    tanhc,
)
from trove_jax.kernels.linear_attention import linear_attention
from trove_jax.kernels.normal import standard_normal
from trove_jax.kernels.rows import fused_rows
from trove_jax.kernels.sparse_maximum import sparse_maximum
from trove_jax.kernels.sparse_powers import sparse_powers
from trove_jax.kernels.sparse_product import SparsePattern, sparse_pattern, sparse_product
from trove_jax.kernels.subsampled_attention import subsampled_attention

__all__ = [
    "Attended",
    "SparsePattern",
    "asinh",
    "asinhc",
    "atanhc",
    "attention",
    "attention_pattern",
    "conv_general_dilated",
    "conv_transpose",
    "cosh_and_sinhc",
    "cosh_sqrt",
    "dropout",
    "fused_rows",
    "gyro_rows",
    "linear_attention",
    "locally_biased_permutation",
    "poincare",
    "product_permutation_2d",
    "sinh",
    "sinhc",
    "sparse_maximum",
    "sparse_pattern",
    "sparse_powers",
    "sparse_product",
    "standard_normal",
    "subsampled_attention",
    "tanhc",
    "unbiased_subset",
    "window_order",
]
