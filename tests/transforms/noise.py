"""What the tests of gradient noise share: a key, gradients, comparisons."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from trove_jax.transforms import noise_at

KEY = jax.random.key(3)
drawn = jax.jit(noise_at)


def tree(**extra):
    return {
        "first": {"kernel": jnp.full((6, 5), 0.5), "bias": jnp.full(5, -0.25)},
        "last": {"kernel": jnp.full((5, 3), 2.0)},
        **extra,
    }


def same(a, b):
    a, b = jax.tree.leaves(a), jax.tree.leaves(b)
    return len(a) == len(b) and all(
        np.array_equal(np.asarray(x), np.asarray(y)) for x, y in zip(a, b, strict=True)
    )


@functools.partial(jax.jit, static_argnums=0)
def update(tx, grads, state, params=None):
    # Optax's own rules mix dtypes.
    with jax.numpy_dtype_promotion("standard"):
        return tx.update(grads, state, params)
