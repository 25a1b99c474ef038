"""What several kernels need of numbers: the dtype to compute in, and ones that stay ones."""

import jax
import jax.numpy as jnp
from jax import lax


def compute_dtype(*arrays: jax.Array) -> jnp.dtype:
    """What a kernel computes in: float32, or float64 if any of its arrays is."""
    wide = any(x.dtype == jnp.float64 for x in arrays)
    return jnp.dtype(jnp.float64) if wide else jnp.dtype(jnp.float32)


def unknown_ones(like: jax.Array) -> jax.Array:
    """Ones that the compiler does not know to be ones, so that a product with them stays one.

    On a CPU, XLA turns a product with known ones into a sum, and joins a sum with what makes its
    terms, in a loop that it does not vectorise.
    """
    signed = jnp.int64 if like.dtype == jnp.float64 else jnp.int32
    bits = lax.population_count(lax.bitcast_convert_type(like, signed))
    return jnp.where(bits >= jnp.zeros_like(bits), jnp.ones_like(like), jnp.zeros_like(like))
