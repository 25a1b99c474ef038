"""Variables of a network without running its initialiser, which takes seconds to compile."""

import jax
import jax.numpy as jnp
import numpy as np


def shapes(model, shape):
    """Shapes and dtypes of a network's variables for inputs `shape`, without any computation."""
    inputs = jax.ShapeDtypeStruct(shape, jnp.float32)
    return jax.eval_shape(model.init, jax.random.key(0), inputs)


def count(tree):
    """Number of entries of a tree."""
    return sum(leaf.size for leaf in jax.tree.leaves(tree))


def random_variables(model, shape, seed=0):
    """NumPy draws: kernels scaled by their fan-in, all else positive and away from 0 and 1."""
    rng = np.random.default_rng(seed)

    def draw(path, leaf):
        if path[-1].key == "kernel":
            scale = np.sqrt(2 / np.prod(leaf.shape[:-1]))
            return scale * rng.normal(size=leaf.shape).astype(np.float32)
        return (0.5 + rng.random(leaf.shape)).astype(np.float32)

    return jax.tree_util.tree_map_with_path(
        lambda path, leaf: jnp.asarray(draw(path, leaf), jnp.float32), shapes(model, shape)
    )
