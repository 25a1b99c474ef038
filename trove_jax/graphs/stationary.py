"""What propagation tends to when it goes on for ever, on every connected part of a graph."""

import jax
import jax.numpy as jnp
import numpy as np
from scipy import sparse

from trove_jax.graphs.topology import Topology
from trove_jax.kernels.numbers import compute_dtype


def components(topology: Topology) -> np.ndarray:
    """Numbers the connected parts of a graph, on the host; directions do not matter.

    Args:
      topology: the edges; masked ones connect nothing, weights of 0 do.

    Returns:
      The part of each node, `[n]` int32, from 0.

    Example:
      >>> from trove_jax.graphs import topology
      >>> print(components(topology.from_edges([[0, 1], [2, 3]], 5)))
      [0 0 1 1 2]
    """
    senders, receivers = np.asarray(topology.senders), np.asarray(topology.receivers)
    if topology.edge_mask is not None:
        kept = np.asarray(topology.edge_mask)
        senders, receivers = senders[kept], receivers[kept]
    size = topology.n_node
    if not size:
        return np.zeros(0, np.int32)
    adjacency = sparse.coo_matrix((np.ones(len(senders)), (receivers, senders)), (size, size))
    return sparse.csgraph.connected_components(adjacency, directed=False)[1].astype(np.int32)


def stationary_features(
    topology: Topology, x: jax.Array, component: jax.Array | None = None
) -> jax.Array:
    """The limit of features that are averaged again and again with self-loops.

    x_inf of a part C = sum over u in C of (deg(u) + 1) / (2 m_C + n_C) x_u

    with n_C nodes and m_C undirected edges: the row that every node of C tends to under the
    row-normalised operator. The limit of the symmetric one has a further factor sqrt(deg(v) + 1).

    Args:
      topology: an undirected graph, both directions stored. Edges count once whatever their weight;
        self-loops and masked edges do not count.
      x: floating-point features `[n, f]`.
      component: `components(topology)`, which compiled functions must be given; None: found here.

    Returns:
      `[n, f]` in the dtype of `x`, summed in float32 at least.

    Raises:
      ValueError: shapes that do not fit.

    Example:
      >>> from trove_jax.graphs import topology
      >>> path = topology.from_edges([[0, 1], [1, 2]], 4)
      >>> print(stationary_features(path, jnp.array([[7.0], [0.0], [0.0], [5.0]])).ravel())
      [2. 2. 2. 5.]

    Reference: Zhang et al., Evaluating Deep Graph Neural Networks, arXiv 2108.00955, 2021
    (stationary state of section 3).
    """
    x = jnp.asarray(x)
    if x.ndim != 2 or x.shape[0] != topology.n_node:
        raise ValueError(f"x has shape {x.shape}; ({topology.n_node}, f) is wanted")
    part = jnp.asarray(components(topology) if component is None else component)
    if part.shape != (topology.n_node,):
        raise ValueError(f"component has shape {part.shape}; ({topology.n_node},) is wanted")
    found = x.astype(compute_dtype(x))
    senders, receivers = jnp.asarray(topology.senders), jnp.asarray(topology.receivers)
    counts = topology.masked((senders != receivers).astype(found.dtype))
    degree = 1 + jax.ops.segment_sum(counts, receivers, topology.n_node, indices_are_sorted=True)
    sums = jax.ops.segment_sum(degree[:, None] * found, part, topology.n_node)
    total = jax.ops.segment_sum(degree, part, topology.n_node)
    return (sums[part] / total[part][:, None]).astype(x.dtype)
