"""A graph as arrays that a program can use: checked, sorted and normalised once, on the host.

Messages go from sender to receiver, so that the adjacency matrix has a row for every receiver and a
column for every sender.
"""

import dataclasses
from typing import Any, cast

import jax
import jax.numpy as jnp
import jraph
import numpy as np
from flax import struct

from trove_jax.graphs.edge_list import (
    Duplicates,
    EdgeList,
    Norm,
    SelfLoops,
    checked_counts,
    power_of,
)
from trove_jax.kernels import SparsePattern, sparse_pattern

__all__ = ["Topology", "build", "from_edges", "mask_edges", "normalise"]


@struct.dataclass
class Topology:
    """Edges of one graph, or of many side by side, in the order of their receivers.

    A pytree: pass it to compiled functions as an argument. Made by `build` or `from_edges`.

    Attributes:
      pattern: rows are receivers, columns are senders.
      weight: weight of each edge, `[e]` float32; 0 where it is masked.
      order: index of the edge in the arrays that the topology was made from, `[e]` int32; -1 for a
        self-loop that was added.
      edge_mask: False for edges that are padding or removed, `[e]` bool; None: all are there.
      node_graph: graph of each node, `[n]` int32.
      n_node: number of nodes with padding, static.
      n_graph: number of graphs with padding, static.
    """

    pattern: SparsePattern
    weight: jax.Array
    order: jax.Array
    edge_mask: jax.Array | None
    node_graph: jax.Array
    n_node: int = struct.field(pytree_node=False)
    n_graph: int = struct.field(pytree_node=False)

    @property
    def senders(self) -> jax.Array:
        """Sender of each edge, `[e]` int32."""
        return self.pattern.columns

    @property
    def receivers(self) -> jax.Array:
        """Receiver of each edge, ascending, `[e]` int32."""
        return self.pattern.rows

    @property
    def starts(self) -> jax.Array:
        """Edges `starts[i]` to `starts[i + 1]` end at node i, `[n + 1]` int32."""
        return self.pattern.row_starts

    @property
    def n_edge(self) -> int:
        """Number of stored edges with padding, e."""
        return self.pattern.n_entries

    def in_degree(self) -> jax.Array:
        """Number of edges that end at each node, without masked ones, `[n]` int32."""
        if self.edge_mask is None:
            return jnp.diff(jnp.asarray(self.starts))
        return jax.ops.segment_sum(
            jnp.asarray(self.edge_mask).astype(jnp.int32),
            self.receivers,
            self.n_node,
            indices_are_sorted=True,
        )

    def with_weight(self, weight: jax.Array) -> "Topology":
        """The same edges with other weights, `[e]` in the stored order; masked ones stay 0."""
        weight = jnp.asarray(weight)
        if weight.shape != (self.n_edge,):
            raise ValueError(f"weight has shape {weight.shape}; ({self.n_edge},) is wanted")
        return dataclasses.replace(self, weight=self.masked(weight))

    def masked(self, values: jax.Array) -> jax.Array:
        """Values of edges, `[e, ...]`, with 0 (or False) where edges are masked."""
        if self.edge_mask is None:
            return values
        mask = jnp.asarray(self.edge_mask).reshape(-1, *[1] * (values.ndim - 1))
        return jnp.where(mask, values, jnp.zeros((), values.dtype))

    def arrange(self, values: jax.Array, *, loops: float = 0.0) -> jax.Array:
        """Puts values of the caller's edges, `[m, ...]`, into the stored order, `[e, ...]`.

        Args:
          values: one per edge that the topology was made from.
          loops: what self-loops get that were added.
        """
        values, order = jnp.asarray(values), jnp.asarray(self.order)
        if not values.shape[0]:
            return jnp.full((self.n_edge, *values.shape[1:]), loops, values.dtype)
        added = (order < 0).reshape(-1, *[1] * (values.ndim - 1))
        return jnp.where(added, jnp.asarray(loops, values.dtype), values[jnp.maximum(order, 0)])


def build(
    graph: jraph.GraphsTuple,
    *,
    edge_weight: Any = None,
    self_loops: SelfLoops = "none",
    norm: Norm = None,
    duplicates: Duplicates = "keep",
    padded: bool = False,
) -> Topology:
    """Sorts, checks and normalises the edges of a graph, on the host.

    Normalised weights are D^(r-1) A D^-r: the left degrees are the row sums of A (what comes in),
    the right ones its column sums (what goes out), and 0 to a negative power is 0. They are the
    same where A is symmetric; in a directed graph others take the row sums on both sides.

    Args:
      graph: its senders, receivers and numbers of nodes and edges are read, its features are not.
      edge_weight: weight of each edge, `[m]`, finite; None: 1.
      self_loops: `"add_remaining"` gives weight 1 to nodes that have none, `"remove"` takes all
        away. Both before normalisation.
      norm: `"sym"` (r = 1/2), `"rw"` (r = 0: rows sum to 1), `"col"` (r = 1: columns sum to 1), or
        r in [0, 1]; None leaves the weights.
      duplicates: of edges with the same ends, `"keep"` keeps all, `"sum"` joins them with the sum
        of their weights, `"unique"` keeps the first, `"error"` refuses them.
      padded: whether the graph was padded by jraph's `pad_with_graphs`. Its padding edges are
        masked; so are edges that would be taken away, and a self-loop is stored for every node, so
        that equal sizes give equal shapes.

    Returns:
      The topology; its arrays are NumPy arrays until a program uses them.

    Raises:
      ValueError: an index out of range; counts that do not fit the arrays; a weight that is not
        finite; a negative degree under `norm`; duplicates with `"error"`; an unknown option.

    Example:
      >>> graph = jraph.GraphsTuple(
      ...     nodes=None, edges=None, globals=None, senders=np.array([0, 1]),
      ...     receivers=np.array([1, 2]), n_node=np.array([3]), n_edge=np.array([2]))
      >>> topology = build(graph, self_loops="add_remaining", norm="rw")
      >>> print(topology.receivers, topology.senders, topology.weight, topology.order)
      [0 1 1 2 2] [0 0 1 1 2] [1.  0.5 0.5 0.5 0.5] [-1  0 -1  1 -1]

    Reference: Kipf and Welling, Semi-Supervised Classification with Graph Convolutional Networks,
    ICLR 2017 (self-loops and r = 1/2); Zeng et al., GraphSAINT, ICLR 2020, and Zhang et al.,
    Evaluating Deep Graph Neural Networks, 2021 (general r).
    """
    n_nodes = checked_counts("n_node", graph.n_node)
    n_edges = checked_counts("n_edge", graph.n_edge)
    n_node, n_edge = int(n_nodes.sum()), int(n_edges.sum())
    edges = EdgeList.of(
        ("senders", graph.senders), ("receivers", graph.receivers), edge_weight, n_edge, n_node
    )
    real_nodes = n_node
    if padded:
        # The first padding graph has all padding nodes and edges, those after it are empty.
        first = int(np.flatnonzero(n_nodes)[-1]) if n_node else 0
        real_nodes, real_edges = int(n_nodes[:first].sum()), int(n_edges[:first].sum())
        edges = edges.without(np.arange(n_edge) >= real_edges, padded=True)
    return _topology(
        edges.with_self_loops(self_loops, real_nodes, n_node, padded=padded)
        .with_duplicates(duplicates, padded=padded)
        .normalised(power_of(norm), n_node),
        node_graph=np.repeat(np.arange(len(n_nodes), dtype=np.int32), n_nodes),
        n_graph=len(n_nodes),
    )


def from_edges(
    edges: Any,
    n_node: int,
    *,
    undirected: bool = True,
    edge_weight: Any = None,
    self_loops: SelfLoops = "none",
    norm: Norm = None,
    duplicates: Duplicates = "keep",
) -> Topology:
    """`build` for one graph that is given as a list of edges.

    Args:
      edges: rows (sender, receiver), `[m, 2]` integers.
      n_node: number of nodes.
      undirected: whether every row stands for both directions. Both then have the row's weight and
        its index in `order`; a self-loop is there once.
      edge_weight: weight of each row, `[m]`; None: 1.
      self_loops: as in `build`.
      norm: as in `build`.
      duplicates: as in `build`; a row and its reverse are duplicates when `undirected`.

    Raises:
      ValueError: as `build`; edges that are not rows of two.

    Example:
      >>> topology = from_edges([[0, 1], [1, 2]], 3, norm="sym")
      >>> print(topology.receivers, topology.senders, topology.order)
      [0 1 1 2] [1 0 2 1] [0 0 1 1]
      >>> print(topology.weight.round(2))
      [0.71 0.71 0.71 0.71]
    """
    ends = np.asarray(edges)
    if ends.size == 0:
        ends = np.zeros((0, 2), np.int64)
    if ends.ndim != 2 or ends.shape[1] != 2:
        raise ValueError(f"edges have shape {ends.shape}; rows (sender, receiver) are wanted")
    n_node = int(n_node)
    found = EdgeList.of(
        ("edges[:, 0]", ends[:, 0]), ("edges[:, 1]", ends[:, 1]), edge_weight, len(ends), n_node
    )
    if undirected:
        found = found.both_directions()
    return _topology(
        found.with_self_loops(self_loops, n_node, n_node, padded=False)
        .with_duplicates(duplicates, padded=False)
        .normalised(power_of(norm), n_node),
        node_graph=np.zeros(n_node, np.int32),
        n_graph=1,
    )


def _topology(edges: EdgeList, node_graph: np.ndarray, n_graph: int) -> Topology:
    n_node = len(node_graph)
    pattern, order = sparse_pattern(edges.receivers, edges.senders, (n_node, n_node))
    mask = edges.mask[order]
    return Topology(
        pattern=pattern,
        weight=cast(Any, edges.weight[order].astype(np.float32)),
        order=cast(Any, edges.index[order].astype(np.int32)),
        edge_mask=None if edges.mask.all() and not edges.is_padded else cast(Any, mask),
        node_graph=cast(Any, node_graph),
        n_node=n_node,
        n_graph=n_graph,
    )


def normalise(topology: Topology, norm: Norm) -> jax.Array:
    """Normalises the weights that a topology has now; can be compiled and differentiated.

    Args:
      topology: with weights that are not normalised yet.
      norm: as in `build`.

    Returns:
      Weights `[e]`, in the dtype of the topology's. A degree that is not positive counts as 0, and
      what is 0 to a negative power is 0.

    Raises:
      ValueError: an unknown norm.

    Example:
      >>> print(normalise(from_edges([[0, 1], [0, 2]], 3), "rw"))
      [0.5 0.5 1.  1. ]
    """
    power = power_of(norm)
    weight = topology.masked(jnp.asarray(topology.weight))
    if power is None:
        return weight
    scales = jnp.ones_like(weight)
    for ends, exponent in ((topology.receivers, power - 1.0), (topology.senders, -power)):
        if exponent:
            sums = jax.ops.segment_sum(weight, ends, topology.n_node)
            # The inner where keeps the power's infinite slope at 0 out of the gradient.
            positive = jnp.where(sums > 0, sums, jnp.ones((), sums.dtype))
            scale = jnp.where(sums > 0, positive**exponent, jnp.zeros((), sums.dtype))
            scales = scales * scale[jnp.asarray(ends)]
    return weight * scales


def mask_edges(topology: Topology, keep: jax.Array, *, norm: Norm = None) -> Topology:
    """Removes edges without changing a shape, and normalises what is left.

    Args:
      topology: with weights that are not normalised yet.
      keep: False for the edges to remove, `[e]` bool in the stored order. Masked edges stay masked.
      norm: as in `build`; degrees are those of the edges that are left.

    Returns:
      The topology with weight 0 and `edge_mask` False at what was removed.

    Raises:
      ValueError: `keep` is not a bool per edge; an unknown norm.

    Example:
      >>> topology = from_edges([[0, 1], [0, 2]], 3)
      >>> print(mask_edges(topology, topology.order != 1, norm="rw").weight)
      [1. 0. 1. 0.]

    Reference: Wang et al., Neural Common Neighbor with Completion for Link Prediction, ICLR 2024
    (target link removal).
    """
    keep = jnp.asarray(keep)
    if keep.shape != (topology.n_edge,) or keep.dtype != jnp.bool_:
        raise ValueError(
            f"keep has shape {keep.shape} and dtype {keep.dtype}; ({topology.n_edge},) bool is "
            "wanted"
        )
    masked = dataclasses.replace(topology, edge_mask=topology.masked(keep))
    return dataclasses.replace(masked, weight=normalise(masked, norm))
