"""Dropout in one fused loop: random bits, comparison and selection, with no array of bits.

On a CPU the mask of a graph's features costs `jax.random` as much as the rest of a training step.
With the rounds of threefry written out, the bits are drawn where they are compared.
"""

import math
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np

from trove_jax.kernels.normal import threefry_bits

_IMPLEMENTATIONS = (None, "reference", "fused")


def dropout(
    key: jax.Array,
    x: jax.Array,
    rate: float,
    *,
    implementation: Literal["reference", "fused"] | None = None,
) -> jax.Array:
    """Sets entries to 0 with a probability, and scales the others so that the mean stays.

    y_i = x_i / (1 - rate) where bits_i < 2^32 (1 - rate), else 0

    An entry's bits are 32 of threefry(key, i), i its position: the same on one device and sharded
    over many, and under `jax.vmap`. A dropped entry may hold anything, NaN too.

    Args:
      key: a typed random key, scalar.
      x: floating-point, any shape.
      rate: probability to drop an entry, in [0, 1); kept to 2^-32.
      implementation: None (the fused form where there is one), `"reference"` (the same draws from
        `jax.random.bits`) or `"fused"` (threefry keys only).

    Returns:
      As `x` in shape and dtype.

    Raises:
      ValueError: `rate` outside [0, 1); `x` not floating-point; an unknown implementation;
        `"fused"` with a key of another generator or with 2^32 entries or more.

    Example:
      >>> y = dropout(jax.random.key(0), jnp.ones(6), 0.5)
      >>> print(sorted(set(y.tolist())))
      [0.0, 2.0]

    Reference: Srivastava et al., Dropout: A Simple Way to Prevent Neural Networks from
    Overfitting, JMLR 2014 (scaled in training instead of in evaluation).
    """
    if implementation not in _IMPLEMENTATIONS:
        raise ValueError(
            f'implementation={implementation!r} is unknown; use "fused", "reference" or None'
        )
    if not 0.0 <= rate < 1.0:
        raise ValueError(f"rate={rate} is no probability to drop an entry; use 0 <= rate < 1")
    if not jnp.issubdtype(x.dtype, jnp.floating):
        raise ValueError(f"x has dtype {x.dtype}; a floating-point dtype is wanted")
    generator = jax.random.key_impl(key)
    has_fused = generator == "threefry2x32" and math.prod(x.shape) < 2**32
    if implementation == "fused" and not has_fused:
        raise ValueError(
            f'implementation="fused" draws fewer than 2^32 entries from threefry2x32, not {x.size} '
            f"from {generator}; leave implementation out"
        )
    threshold = np.uint32(min(round((1.0 - rate) * 2**32), 2**32 - 1))
    if rate == 0.0:
        return x
    if implementation == "reference" or not has_fused:
        bits = jax.random.bits(key, x.shape, jnp.uint32)
    else:
        bits = threefry_bits(jax.random.key_data(key), x.shape)
    scale = jnp.asarray(1.0 / (1.0 - rate), x.dtype)
    return jnp.where(bits < threshold, x * scale, jnp.zeros((), x.dtype))
