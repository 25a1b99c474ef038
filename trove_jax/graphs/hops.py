"""What is near a node: distances in hops, values spread from known nodes, paths of two edges."""

import dataclasses
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np
from scipy import sparse

from trove_jax.graphs.propagation import propagate
from trove_jax.graphs.topology import Topology, from_edges, normalise


def bfs(topology: Topology, sources: jax.Array, cutoff: int | None = None) -> jax.Array:
    """Counts the hops from each source to each node, breadth first; can be compiled.

    The fronts of all sources are columns of one matrix that is propagated until no front moves on:
    O(s e) for each hop, and never an n x n matrix.

    Args:
      topology: paths go from sender to receiver. Weights do not count, masked edges are not there.
      sources: where paths start, `[s]` integers; an index that is no node reaches nothing.
      cutoff: longest path that is looked for, in hops, at least 0; None: any.

    Returns:
      Hops `[s, n]` int32: 0 at the source, -1 where no path of at most `cutoff` hops leads.

    Raises:
      ValueError: `sources` is no vector of integers; a negative `cutoff`.

    Example:
      >>> from trove_jax.graphs import topology
      >>> path = topology.from_edges([[0, 1], [1, 2], [2, 3]], 5)
      >>> print(bfs(path, jnp.array([0, 2])))
      [[ 0  1  2  3 -1]
       [ 2  1  0  1 -1]]
      >>> print(bfs(path, jnp.array([0]), cutoff=1))
      [[ 0  1 -1 -1 -1]]

    Reference: Jin et al., Self-supervised Learning on Graphs, arXiv 2006.10141, 2020 (section 3.1,
    distances of node pairs).
    """
    sources = jnp.asarray(sources)
    if sources.ndim != 1 or not jnp.issubdtype(sources.dtype, jnp.integer):
        raise ValueError(
            f"sources have shape {sources.shape} and dtype {sources.dtype}; a vector of integers "
            "is wanted"
        )
    if cutoff is not None and cutoff < 0:
        raise ValueError(f"cutoff={cutoff} is negative; 0 or more hops, or None, are wanted")
    longest = max(topology.n_node - 1, 0) if cutoff is None else cutoff
    nodes = jnp.arange(topology.n_node, dtype=jnp.int32)
    front = nodes[:, None] == sources.astype(jnp.int32)[None, :]
    ones = topology.masked(jnp.ones(topology.n_edge))

    def goes_on(state):
        hop, front, _ = state
        return (hop < longest) & jnp.any(front)

    def step(state):
        hop, front, hops = state
        # Sums of ones are exact in what is asked of them: whether they are 0.
        arrived = propagate(topology, front.astype(jnp.float32), ones) > 0
        front = arrived & (hops < 0)
        return hop + 1, front, jnp.where(front, hop + 1, hops)

    hops = jnp.where(front, 0, -1).astype(jnp.int32)
    return jax.lax.while_loop(goes_on, step, (jnp.int32(0), front, hops))[2].T


def harmonic(
    topology: Topology, labels: jax.Array, known: jax.Array, *, steps: int = 30
) -> jax.Array:
    """Spreads known values over a graph: every other node takes the mean of its neighbours.

    F <- P F + B from F = 0, where P is D^-1 A with the rows of known nodes 0, and B their values

    As `steps` grows this tends to the harmonic function with the known values, wherever a known
    node can be reached.

    Args:
      topology: a node hears its senders, weighted by `topology.weight`; rows are normalised here.
        Leave self-loops out: a node that hears itself forgets less of where it started, 0.
      labels: values of nodes, floating-point `[n, k]`: one-hot labels, or numbers to interpolate.
        Those of nodes that are not known are not read, and may be NaN.
      known: which nodes have values, `[n]` bool.
      steps: number of iterations, at least 0; 30 in the paper's code.

    Returns:
      `[n, k]` in the dtype of `labels`; 0 where no known node is near enough.

    Raises:
      ValueError: shapes or dtypes that do not fit; negative `steps`.

    Example:
      >>> from trove_jax.graphs import topology
      >>> path = topology.from_edges([[0, 1], [1, 2], [2, 3]], 5)
      >>> values = jnp.array([[6.0], [0.0], [0.0], [0.0], [0.0]])
      >>> known = jnp.array([True, False, False, True, False])
      >>> print([f"{value:.2f}" for value in harmonic(path, values, known, steps=50)[:, 0]])
      ['6.00', '4.00', '2.00', '0.00', '0.00']

    Reference: Zhu, Ghahramani and Lafferty, Semi-Supervised Learning Using Gaussian Fields and
    Harmonic Functions, ICML 2003 (section 2); Jin et al., arXiv 2006.10141 (its use as a guess).
    """
    labels, known = jnp.asarray(labels), jnp.asarray(known)
    size = topology.n_node
    if labels.ndim != 2 or labels.shape[0] != size:
        raise ValueError(f"labels have shape {labels.shape}; ({size}, k) is wanted")
    if not jnp.issubdtype(labels.dtype, jnp.floating):
        raise ValueError(
            f"labels have dtype {labels.dtype}; floating-point values are wanted, one-hot ones for "
            "classes"
        )
    if known.shape != (size,) or known.dtype != jnp.bool_:
        raise ValueError(
            f"known has shape {known.shape} and dtype {known.dtype}; ({size},) bool is wanted"
        )
    if steps < 0:
        raise ValueError(f"steps={steps} is negative")
    weight = normalise(topology, "rw")

    def step(_, values):
        return jnp.where(known[:, None], labels, propagate(topology, values, weight))

    return jax.lax.fori_loop(0, steps, step, jnp.zeros_like(labels))


def two_hop(topology: Topology, *, strict: bool = False) -> Topology:
    """The graph whose edges are the paths of two edges, on the host.

    Its matrix is A A without the diagonal, and without what masked edges would add.

    Args:
      topology: the edges A.
      strict: whether nodes that an edge joins as well are left out, so that pairs of distance 2
        remain. Otherwise an edge that closes a triangle is in both graphs.

    Returns:
      A topology of the same nodes and graphs. Its weights are sums over paths of the products of
      weights, which is their number where weights are 1; a weight may be 0 where those cancel.
      `order` counts its edges.

    Example:
      >>> from trove_jax.graphs import topology
      >>> ends = topology.from_edges([[0, 1], [1, 2], [0, 2], [2, 3]], 4)
      >>> second = two_hop(ends, strict=True)
      >>> print(second.senders, second.receivers, second.weight)
      [3 3 0 1] [0 1 3 3] [1. 1. 1. 1.]
      >>> two_hop(ends).n_edge
      10

    Reference: Jin et al., arXiv 2006.10141 (section 4.2: the context of a node); Zhu et al.,
    Beyond Homophily in Graph Neural Networks, NeurIPS 2020 (strict neighbourhoods, H2GCN).
    """
    size = topology.n_node
    places = (np.asarray(topology.receivers), np.asarray(topology.senders))
    weight = np.asarray(topology.weight, np.float64)
    if topology.edge_mask is not None:
        kept = np.flatnonzero(np.asarray(topology.edge_mask))
        places, weight = (places[0][kept], places[1][kept]), weight[kept]
    # Where paths are and what they weigh are two products: weights may cancel, paths do not.
    links: Any = sparse.coo_matrix((np.ones(len(weight)), places), (size, size)).tocsr()
    weights: Any = sparse.coo_matrix((weight, places), (size, size)).tocsr()
    paths: Any = (links @ links).tocoo()
    keep = paths.row != paths.col
    if strict:
        keep &= ~_has_entries(links, paths.row, paths.col)
    receivers, senders = paths.row[keep], paths.col[keep]
    order = np.lexsort((senders, receivers))
    edges = np.stack([senders[order], receivers[order]], axis=1)
    found = from_edges(
        edges,
        size,
        undirected=False,
        edge_weight=_values_at(weights @ weights, edges[:, 1], edges[:, 0]),
    )
    return dataclasses.replace(
        found, node_graph=cast(Any, topology.node_graph), n_graph=topology.n_graph
    )


def _codes(matrix: Any) -> tuple[np.ndarray, np.ndarray]:
    """Places of the entries of a matrix as ascending numbers, and the entries."""
    matrix = matrix.tocsr()
    matrix.sum_duplicates()
    matrix.sort_indices()
    rows = np.repeat(np.arange(matrix.shape[0]), np.diff(matrix.indptr))
    return rows * np.int64(matrix.shape[1]) + matrix.indices, matrix.data


def _values_at(matrix: Any, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
    """Entries of a sparse matrix, 0 where it has none."""
    codes, data = _codes(matrix)
    wanted = rows * np.int64(matrix.shape[1]) + columns
    if not len(codes):
        return np.zeros(len(wanted))
    at = np.minimum(np.searchsorted(codes, wanted), len(codes) - 1)
    return np.where(codes[at] == wanted, data[at], 0.0)


def _has_entries(matrix: Any, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
    return _values_at(matrix, rows, columns) != 0
