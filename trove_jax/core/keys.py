"""Random keys and the order of examples, both functions of a run's key and a count.

Nothing random is stored: a step's noise is drawn from `(key, step)` and an epoch's order from
`(key, epoch)`. A resumed run therefore draws what the straight run would have drawn.
"""

import jax
import jax.numpy as jnp

from trove_jax.core.pytrees import is_key
from trove_jax.core.task import PyTree

_INIT, _ORDER, _NOISE, _OPTIMISER = 0, 1, 2, 3


def seed_keys(seeds: int, *, root: int = 0) -> jax.Array:
    """Makes one key per seed; seed `i` gets the same key however many seeds there are.

    Args:
      seeds: number of seeds, at least 1.
      root: an integer that names the family of seeds.

    Returns:
      Typed keys, `[s]`.

    Raises:
      ValueError: `seeds` is below 1.
    """
    if seeds < 1:
        raise ValueError(f"seeds={seeds} leaves nothing to train; use at least 1")
    return jax.vmap(lambda i: jax.random.fold_in(jax.random.key(root), i))(jnp.arange(seeds))


def init_key(key: jax.Array) -> jax.Array:
    """The key that initial variables are drawn from."""
    return jax.random.fold_in(key, _INIT)


def step_key(key: jax.Array, step: jax.Array) -> jax.Array:
    """The key of everything that one step draws: augmentation, dropout, noise."""
    return jax.random.fold_in(jax.random.fold_in(key, _NOISE), step)


def epoch_order(key: jax.Array, epoch: jax.Array, size: int) -> jax.Array:
    """The order in which an epoch visits the examples: a permutation, `[size]` int32."""
    return jax.random.permutation(
        jax.random.fold_in(jax.random.fold_in(key, _ORDER), epoch), jnp.arange(size)
    )


def give_own_keys(opt_state: PyTree, key: jax.Array) -> PyTree:
    """Makes the random keys in a fresh optimiser state those of the run that `key` names.

    A rule like `transforms.gradient_noise` puts one key of its own into the state of every run;
    the words of the run's key are folded into it, so that each seed draws its own noise.

    Args:
      opt_state: a pytree; typed keys in it may have any shape and generator.
      key: the run's key, typed, scalar.

    Returns:
      The same tree with other keys.
    """
    words = jax.random.key_data(jax.random.fold_in(key, _OPTIMISER)).ravel()

    def fold(stored):
        for word in words:
            stored = jax.random.fold_in(stored, word)
        return stored

    def own(leaf):
        if not is_key(leaf):
            return leaf
        return jax.vmap(fold)(leaf.reshape(-1)).reshape(leaf.shape)

    return jax.tree.map(own, opt_state)
