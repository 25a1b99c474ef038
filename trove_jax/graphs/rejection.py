"""Draws that are repeated until they are taken, with shapes that do not depend on how many are."""

from collections.abc import Callable

import jax
import jax.numpy as jnp

# Of what was not taken at once, so much is drawn again at a time: nearly all waiting is for few.
_PART = 16
_LEAST = 64


def draw_until_taken(
    draw: Callable[[jax.Array, jax.Array], tuple[jax.Array, jax.Array]], count: int
) -> jax.Array:
    """Repeats draws for the places whose draw was not taken; can be compiled.

    Args:
      draw: of the number of the try, int32 scalar, and places `[c]` int32, gives values `[c, ...]`
        for them and whether each is taken, `[c]` bool. Every place must be taken at some time.
      count: number of places.

    Returns:
      The values taken, `[count, ...]`.

    Example:
      >>> def below_half(tries, places):
      ...     key = jax.random.fold_in(jax.random.key(0), tries)
      ...     value = jax.random.uniform(key, places.shape)
      ...     return value, value < 0.5
      >>> print(draw_until_taken(below_half, 100).max() < 0.5)
      True
    """
    values, taken = draw(jnp.int32(0), jnp.arange(count, dtype=jnp.int32))
    if not count:
        return values
    size = min(count, max(count // _PART, _LEAST))

    def again(state):
        tries, values, is_open = state
        places = jnp.nonzero(is_open, size=size, fill_value=count)[0].astype(jnp.int32)
        drawn, taken = draw(tries, jnp.minimum(places, count - 1))
        to = jnp.where(taken, places, count)
        values = values.at[to].set(drawn, mode="drop")
        return tries + 1, values, is_open.at[to].set(False, mode="drop")

    start = (jnp.int32(1), values, ~taken)
    return jax.lax.while_loop(lambda state: jnp.any(state[2]), again, start)[1]
