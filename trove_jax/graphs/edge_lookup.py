"""Whether pairs of nodes are joined by an edge, looked up in sorted lists by bisection."""

import jax
import jax.numpy as jnp

from trove_jax.graphs.topology import Topology


def has_edges(topology: Topology, senders: jax.Array, receivers: jax.Array) -> jax.Array:
    """Says for pairs of nodes whether an edge is stored from one to the other; can be compiled.

    Args:
      topology: the edges. Masked ones count as edges here: a link that was removed so that a model
        does not see it is still a link.
      senders: nodes, integers `[...]`; an index that is no node has no edges.
      receivers: nodes, integers of the same shape.

    Returns:
      `[...]` bool.

    Raises:
      ValueError: arrays that are not integers of one shape.

    Example:
      >>> from trove_jax.graphs import topology
      >>> path = topology.from_edges([[0, 1], [1, 2]], 3, undirected=False)
      >>> print(has_edges(path, jnp.array([0, 1, 0]), jnp.array([1, 0, 2])))
      [ True False False]
    """
    senders, receivers = jnp.asarray(senders), jnp.asarray(receivers)
    is_integer = all(jnp.issubdtype(a.dtype, jnp.integer) for a in (senders, receivers))
    if senders.shape != receivers.shape or not is_integer:
        raise ValueError(
            f"senders have shape {senders.shape} and dtype {senders.dtype}, receivers "
            f"{receivers.shape} and {receivers.dtype}; integers of one shape are wanted"
        )
    if not topology.n_edge:
        return jnp.zeros(senders.shape, bool)
    senders, receivers = senders.astype(jnp.int32), receivers.astype(jnp.int32)
    is_node = (senders >= 0) & (senders < topology.n_node)
    starts = jnp.asarray(topology.pattern.column_starts)
    ends = jnp.asarray(topology.pattern.transposed_rows)
    at = jnp.where(is_node, senders, 0)

    def halve(_, state):
        low, high = state
        middle = low + (high - low) // 2
        is_below = ends[jnp.minimum(middle, topology.n_edge - 1)] < receivers
        is_open = low < high
        return (
            jnp.where(is_open & is_below, middle + 1, low),
            jnp.where(is_open & ~is_below, middle, high),
        )

    first, last = starts[at], starts[at + 1]
    # As many halvings as the longest of these lists needs.
    halvings = 32 - jax.lax.clz(jnp.max(last - first, initial=0))
    place, _ = jax.lax.fori_loop(0, halvings, halve, (first, last))
    found = ends[jnp.minimum(place, topology.n_edge - 1)] == receivers
    return is_node & (place < last) & found
