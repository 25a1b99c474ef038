"""Walks along the edges of a graph, drawn inside compiled functions."""

import jax
import jax.numpy as jnp

from trove_jax.graphs.topology import Topology


def random_walks(topology: Topology, key: jax.Array, starts: jax.Array, length: int) -> jax.Array:
    """Draws walks that take each edge out of a node with the same probability.

    Args:
      topology: walks go from sender to receiver. Weights do not count; an edge that is stored
        twice is twice as likely.
      key: a random key.
      starts: where the walks begin, `[w]` integers.
      length: number of nodes of a walk, the first one included.

    Returns:
      Nodes `[w, length]` int32. A walk stays at a node that no edge leaves.

    Raises:
      ValueError: `length` below 1; `starts` is no vector of integers; a topology with masked edges,
        from which they should be left out instead.

    Example:
      >>> from trove_jax.graphs import topology
      >>> path = topology.from_edges([[0, 1], [1, 2]], 4, undirected=False)
      >>> print(random_walks(path, jax.random.key(0), jnp.array([0, 3]), 4))
      [[0 1 2 2]
       [3 3 3 3]]

    Reference: Perozzi et al., DeepWalk: Online Learning of Social Representations, KDD 2014
    (section 4.2.1).
    """
    if length < 1:
        raise ValueError(f"length={length} must be at least 1")
    starts = jnp.asarray(starts)
    if starts.ndim != 1 or not jnp.issubdtype(starts.dtype, jnp.integer):
        raise ValueError(
            f"starts have shape {starts.shape} and dtype {starts.dtype}; a vector of integers is "
            "wanted"
        )
    if topology.edge_mask is not None:
        raise ValueError("topology has masked edges; build it without them to walk on it")
    starts = starts.astype(jnp.int32)
    if not topology.n_edge:
        return jnp.repeat(starts[:, None], length, axis=1)
    first = jnp.asarray(topology.pattern.column_starts)
    ends = jnp.asarray(topology.pattern.transposed_rows)

    def step(node, uniform):
        degree = first[node + 1] - first[node]
        # Rounding may lift the product to the degree itself.
        chosen = (uniform * degree.astype(uniform.dtype)).astype(jnp.int32)
        edge = first[node] + jnp.minimum(chosen, degree - 1)
        following = jnp.where(degree > 0, ends[jnp.clip(edge, 0, topology.n_edge - 1)], node)
        return following, following

    uniforms = jax.random.uniform(key, (length - 1, starts.shape[0]))
    _, rest = jax.lax.scan(step, starts, uniforms)
    return jnp.concatenate([starts[None], rest]).T
