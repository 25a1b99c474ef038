"""Links that are being predicted, taken out of the graph that predicts them."""

import jax
import jax.numpy as jnp

from trove_jax.graphs.edge_list import Norm
from trove_jax.graphs.topology import Topology, mask_edges


def remove_links(topology: Topology, index: jax.Array, *, norm: Norm = None) -> Topology:
    """Takes links out of a graph, in both directions, and normalises what is left.

    A network that sees a link learns to look for it; degrees with the link betray it as well, so
    they are counted anew. No shape changes, so that every batch uses one program.

    Args:
      topology: with weights that are not normalised yet, and each link once (`duplicates="error"`
        or `"unique"` of `topology.from_edges`, which makes both directions of it).
      index: rows of the list of edges that the topology was made from, integer `[b]`. A negative
        one, or one that is not in the graph, removes nothing.
      norm: as in `topology.build`, of what is left.

    Returns:
      The topology with weight 0 and `edge_mask` False at what was removed.

    Raises:
      ValueError: `index` is no vector of integers; an unknown norm.

    Example:
      >>> from trove_jax import graphs
      >>> path = graphs.topology.from_edges([[0, 1], [1, 2]], 3, self_loops="add_remaining")
      >>> print(remove_links(path, jnp.array([1]), norm="rw").weight)
      [0.5 0.5 0.5 0.5 0.  0.  1. ]

    Reference: Wang et al., Neural Common Neighbor with Completion for Link Prediction, ICLR 2024
    (target link removal).
    """
    index = jnp.asarray(index)
    if index.ndim != 1 or not jnp.issubdtype(index.dtype, jnp.integer):
        raise ValueError(
            f"index is {index.dtype} {list(index.shape)}; a vector of rows, integer [b], is wanted"
        )
    # Rows are numbered from 0 and there are at most as many as stored edges; -1 is a self-loop that
    # was added, which has a place of its own that nothing writes to.
    order, count = jnp.asarray(topology.order), topology.n_edge
    places = jnp.where((index < 0) | (index > count), count + 1, index)
    is_target = jnp.zeros(count + 1, jnp.bool_).at[places].set(True, mode="drop")
    keep = ~is_target[order] | (order < 0)
    return mask_edges(topology, keep, norm=norm)
