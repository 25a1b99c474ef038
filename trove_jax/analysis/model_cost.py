"""What a network costs before any step is taken: its parameters, and what its gradient keeps."""

import math
from collections.abc import Callable
from typing import Any

import jax

PyTree = Any


def parameter_count(variables: PyTree) -> int:
    """Number of the parameters of a network.

    Args:
      variables: a Flax module's collections, of which `params` counts, or any pytree of arrays or
        shapes.

    Returns:
      The number of scalars.

    Example:
      >>> shapes = jax.ShapeDtypeStruct((3, 4), "float32"), jax.ShapeDtypeStruct((4,), "float32")
      >>> parameter_count({"params": shapes, "batch_stats": shapes})
      16
    """
    if hasattr(variables, "keys") and "params" in variables:
        variables = variables["params"]
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(variables))


def encoder_parameter_count(
    layers: int, heads: int, *, head_dim: int, width: int, feed_forward: int
) -> int:
    """Number of the parameters of the layers of a Transformer encoder, from their sizes.

    L (4 d H d_h + 2 d m + m + d + 4 d): projections without bias, a feed-forward part with bias,
    and two layer norms in every layer

    The attention part, 4 d H d_h for each layer, is the same for all aspects that have as many
    heads in all.

    Args:
      layers: L.
      heads: H, of each layer.
      head_dim: d_h.
      width: d, of the embedding.
      feed_forward: m.

    Returns:
      The number of scalars; embeddings, the last layer norm and what reads the output out are not
      in it.

    Raises:
      ValueError: a size below 1.

    Example:
      >>> sizes = {"head_dim": 64, "width": 256, "feed_forward": 1024}
      >>> encoder_parameter_count(4, 4, **sizes), encoder_parameter_count(1, 16, **sizes)
      (3154944, 1575168)

    Reference: Brown et al., Wide Attention Is The Way Forward For Transformers?, 2022, arXiv
    2210.00640.
    """
    sizes = {"layers": layers, "heads": heads, "head_dim": head_dim, "width": width}
    for name, size in {**sizes, "feed_forward": feed_forward}.items():
        if size < 1:
            raise ValueError(f"{name}={size} must be at least 1")
    attention = 4 * width * heads * head_dim
    return layers * (attention + 2 * width * feed_forward + feed_forward + 5 * width)


def activation_bytes(function: Callable[..., Any], *arguments: PyTree) -> int:
    """Bytes that reverse differentiation of a function keeps from its forward pass.

    Found from shapes alone: nothing is computed. What is kept is what JAX's differentiation asks
    for, the arguments themselves not counted; a compiler may recompute some of it.

    Args:
      function: of `arguments`, floating-point arrays in and out; bind others with
        `functools.partial`.
      *arguments: pytrees of arrays or of `jax.ShapeDtypeStruct`.

    Returns:
      The number of bytes.

    Example:
      >>> activation_bytes(jax.numpy.sin, jax.ShapeDtypeStruct((100,), "float32"))
      400
    """

    def residuals(*arguments):
        _, pullback = jax.vjp(function, *arguments)
        given = {id(leaf) for leaf in jax.tree.leaves(arguments)}
        kept = {id(leaf): leaf for leaf in jax.tree.leaves(pullback) if hasattr(leaf, "shape")}
        return [leaf for known, leaf in kept.items() if known not in given]

    kept = jax.eval_shape(residuals, *arguments)
    return sum(math.prod(leaf.shape) * leaf.dtype.itemsize for leaf in kept)
