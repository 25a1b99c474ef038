"""Normal numbers from a threefry key in one fused loop, bit for bit those of `jax.random.normal`.

On a CPU, `jax.random` runs the rounds of threefry as a loop over whole arrays, and each round goes
through memory. Written out, the rounds, the inverse error function and whatever is done with the
number are one loop over the entries, about three times as fast, and no array of random bits exists.
"""

import math
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

_IMPLEMENTATIONS = (None, "reference", "fused")
_ROTATIONS = ((13, 15, 26, 6), (17, 29, 16, 24))
_PARITY = np.uint32(0x1BD11BDA)


def standard_normal(
    key: jax.Array,
    shape: tuple[int, ...],
    *,
    implementation: Literal["reference", "fused"] | None = None,
) -> jax.Array:
    """Draws float32 numbers from N(0, 1), the same bits as `jax.random.normal(key, shape)`.

    sqrt(2) erf^-1(u), u = uniform(-1, 1) from 23 bits of threefry(key, i), i the entry's position

    An entry depends on the key and its own position alone: it is the same on one device and
    sharded over many, whatever `jax_threefry_partitionable` says, and under `jax.vmap`.

    Args:
      key: a typed random key, scalar; of any generator, though only `threefry2x32` has the fused
        form (and only threefry is the same under `jax.vmap`).
      shape: of the result.
      implementation: None (the fused form where there is one), `"reference"`
        (`jax.random.normal`) or `"fused"`.

    Returns:
      float32, `shape`.

    Raises:
      ValueError: an unknown implementation; `"fused"` with a key of another generator or with
        2^32 entries or more.

    Example:
      >>> key = jax.random.key(0)
      >>> bool((standard_normal(key, (3,)) == jax.random.normal(key, (3,))).all())
      True

    Reference: Salmon et al., Parallel Random Numbers: As Easy as 1, 2, 3, SC 2011 (Threefry-2x32,
    20 rounds).
    """
    if implementation not in _IMPLEMENTATIONS:
        raise ValueError(
            f'implementation={implementation!r} is unknown; use "fused", "reference" or None'
        )
    generator, size = jax.random.key_impl(key), math.prod(shape)
    has_fused = generator == "threefry2x32" and size < 2**32
    if implementation == "fused" and not has_fused:
        raise ValueError(
            f'implementation="fused" draws fewer than 2^32 numbers from threefry2x32, not {size} '
            f"from {generator}; leave implementation out"
        )
    if implementation == "reference" or not has_fused:
        return jax.random.normal(key, shape, jnp.float32)
    return _to_normal(threefry_bits(jax.random.key_data(key), shape))


def threefry_bits(words: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    """The bits of `jax.random.bits`: both halves of threefry of each entry's 64-bit position."""
    position = jnp.zeros(shape, jnp.uint32)
    stride = 1
    for axis in reversed(range(len(shape))):
        along = lax.broadcasted_iota(jnp.uint32, shape, axis)
        position = position + along * np.uint32(stride)
        stride *= shape[axis]
    high, low = _threefry(words, jnp.zeros(shape, jnp.uint32), position)
    return high ^ low


def _threefry(words: jax.Array, x: jax.Array, y: jax.Array) -> tuple[jax.Array, jax.Array]:
    keys = (words[0], words[1], words[0] ^ words[1] ^ _PARITY)
    x, y = x + keys[0], y + keys[1]
    for group in range(5):
        for rotation in _ROTATIONS[group % 2]:
            x = x + y
            y = x ^ ((y << np.uint32(rotation)) | (y >> np.uint32(32 - rotation)))
        x = x + keys[(group + 1) % 3]
        y = y + keys[(group + 2) % 3] + np.uint32(group + 1)
    return x, y


def _to_normal(bits: jax.Array) -> jax.Array:
    # 23 bits as the fraction of a number in [1, 2), moved to the open interval (-1, 1).
    fraction = lax.bitcast_convert_type((bits >> np.uint32(9)) | np.uint32(0x3F800000), jnp.float32)
    lowest = np.nextafter(np.float32(-1.0), np.float32(0.0))
    uniform = (fraction - np.float32(1.0)) * (np.float32(1.0) - lowest) + lowest
    return np.float32(math.sqrt(2.0)) * lax.erf_inv(jnp.maximum(lowest, uniform))
