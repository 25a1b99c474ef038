"""What depth does to a graph network: smoothing hop by hop, and the gradient that still arrives."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from trove_jax.analysis.smoothness import smoothness
from trove_jax.core import PyTree
from trove_jax.graphs.hop_weights import node_smoothing_level
from trove_jax.graphs.propagation import propagate
from trove_jax.graphs.topology import Topology


class SmoothingCurve(NamedTuple):
    """What propagation does to features, hop by hop, from hop 0.

    Attributes:
      level: node smoothing level, mean over nodes, `[k + 1]`: what is left to tell nodes apart.
      distance: `smoothness(...).graph`, `[k + 1]`: 0 where all nodes are alike.
    """

    level: jax.Array
    distance: jax.Array


def smoothing_curve(
    topology: Topology,
    x: jax.Array,
    hops: int,
    x_inf: jax.Array,
    *,
    sample: int | None = None,
    key: jax.Array | None = None,
) -> SmoothingCurve:
    """Follows features through `hops` hops.

    Args:
      topology: the edges and their weights.
      x: floating-point features, `[n, d]`.
      hops: K, at least 0.
      x_inf: `graphs.stationary_features(topology, x)`.
      sample: as in `smoothness`.
      key: as in `smoothness`.

    Returns:
      `SmoothingCurve`.

    Raises:
      ValueError: as `node_smoothing_level` and `smoothness`; `hops` is negative.

    Example:
      >>> from trove_jax import graphs
      >>> path = graphs.topology.from_edges([[0, 1]], 2, self_loops="add_remaining", norm="rw")
      >>> x = jnp.eye(2)
      >>> curve = smoothing_curve(path, x, 2, graphs.stationary_features(path, x))
      >>> print(curve.distance.round(2))
      [0.71 0.   0.  ]

    Reference: Zhang et al., Evaluating Deep Graph Neural Networks, arXiv 2108.00955, 2021
    (definition 3.1); Liu et al., Towards Deeper Graph Neural Networks, KDD 2020 (equation 4).
    """
    if hops < 0:
        raise ValueError(f"hops={hops} is negative; 0 or more are wanted")

    def look(held):
        level = node_smoothing_level(held, x, x_inf).mean()
        return level, smoothness(held, sample=sample, key=key).graph

    def step(held, _):
        held = propagate(topology, held)
        return held, look(held)

    first = look(x)
    _, rest = jax.lax.scan(step, x, length=hops)
    return SmoothingCurve(
        *(jnp.concatenate([a[None], b]) for a, b in zip(first, rest, strict=True))
    )


def layer_gradient_norms(gradients: PyTree) -> dict[str, jax.Array]:
    """Length of the gradient of each layer: where it vanishes, depth has cut the layer off.

    Args:
      gradients: of the loss to `variables["params"]`, a mapping from layers to pytrees.

    Returns:
      A scalar for each layer, by name.

    Example:
      >>> norms = layer_gradient_norms({"first": {"kernel": jnp.array([3.0, 4.0])}})
      >>> print(norms["first"])
      5.0
    """
    return {
        name: jnp.sqrt(sum(jnp.sum(leaf**2) for leaf in jax.tree.leaves(layer)))
        for name, layer in gradients.items()
    }
