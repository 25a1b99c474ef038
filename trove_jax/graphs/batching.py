"""Many graphs side by side as one, filled up to a size that does not change from batch to batch.

Programs are compiled for shapes. Batches of one size, with graphs, nodes and edges that do not
count, share one program.
"""

from collections.abc import Iterator, Sequence
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import jraph
import numpy as np

from trove_jax.graphs.edge_list import Duplicates, Norm, SelfLoops
from trove_jax.graphs.topology import Topology, build
from trove_jax.kernels.numbers import compute_dtype

_REDUCES = ("sum", "mean", "max")


class Budget(NamedTuple):
    """Sizes of a padded batch, all of them with what is padding.

    Attributes:
      n_node: number of nodes, at least one more than the graphs have.
      n_edge: number of edges.
      n_graph: number of graphs, at least one more than there are.
    """

    n_node: int
    n_edge: int
    n_graph: int


class PaddedBatch(NamedTuple):
    """Some graphs of a set as one graph of a fixed size.

    Attributes:
      graph: with features; edges in the order of the graphs that were joined.
      topology: its edges sorted for propagation; `topology.arrange(graph.edges)` puts an array of
        edge features in their order.
      index: place in the set of each graph, `[n_graph]` int32; -1 for padding.
      node_mask: which nodes are not padding, `[n_node]` bool.
    """

    graph: jraph.GraphsTuple
    topology: Topology
    index: np.ndarray
    node_mask: np.ndarray


def batch(graphs: Sequence[jraph.GraphsTuple]) -> jraph.GraphsTuple:
    """Puts graphs side by side, on the host.

    Args:
      graphs: at least one. Nodes, edges and globals are arrays, trees of arrays or None, alike in
        all of them: the same tree, dtypes, and shapes but for the first axis. Globals have one row
        per graph.

    Returns:
      One graph with all nodes and edges, NumPy arrays; features keep their dtypes, indices are
      int32.

    Raises:
      ValueError: no graphs, or the first that is unlike graph 0, or whose arrays do not fit its
        numbers of nodes and edges.

    Example:
      >>> one = jraph.GraphsTuple(
      ...     nodes=np.array([[1.0], [2.0]]), edges=None, globals=None, senders=np.array([0]),
      ...     receivers=np.array([1]), n_node=np.array([2]), n_edge=np.array([1]))
      >>> both = batch([one, one])
      >>> print(both.n_node, both.senders, both.receivers, both.nodes.ravel())
      [2 2] [0 2] [1 3] [1. 2. 1. 2.]
    """
    if not graphs:
        raise ValueError("graphs is empty; at least one is wanted")
    wanted = _description(graphs[0])
    for number, graph in enumerate(graphs):
        found = _description(graph)
        if found != wanted:
            raise ValueError(
                f"graph {number} has {_difference(found, wanted)}, which graph 0 does not have"
            )
        _check_lengths(graph, number)
    return _with_int32(jraph.batch_np([jax.tree.map(np.asarray, graph) for graph in graphs]))


def unbatch(graph: jraph.GraphsTuple, *, padded: bool = False) -> list[jraph.GraphsTuple]:
    """Takes graphs apart that `batch` joined, on the host.

    Args:
      graph: one or many.
      padded: whether `pad` made it; padding is left out then.

    Returns:
      The graphs, in their order, with NumPy arrays; an empty graph stays one.

    Raises:
      ValueError: `padded` without a padding graph.

    Example:
      >>> one = jraph.GraphsTuple(
      ...     nodes=np.array([[1.0], [2.0]]), edges=None, globals=None, senders=np.array([0]),
      ...     receivers=np.array([1]), n_node=np.array([2]), n_edge=np.array([1]))
      >>> parts = unbatch(pad(batch([one, one]), n_node=9, n_edge=4, n_graph=3), padded=True)
      >>> len(parts), parts[1].senders.tolist(), parts[1].nodes.tolist()
      (2, [0], [[1.0], [2.0]])
    """
    graph = jax.tree.map(np.asarray, graph)
    counts = np.asarray(graph.n_node)
    if padded and not counts.any():
        raise ValueError("padded=True, but the graph has no nodes, and padding has at least one")
    last = int(np.flatnonzero(counts)[-1]) if padded else len(counts)
    nodes = [0, *np.cumsum(graph.n_node).tolist()]
    edges = [0, *np.cumsum(graph.n_edge).tolist()]
    return [
        _part(graph, i, slice(nodes[i], nodes[i + 1]), slice(edges[i], edges[i + 1]))
        for i in range(last)
    ]


def pad(graph: jraph.GraphsTuple, *, n_node: int, n_edge: int, n_graph: int) -> jraph.GraphsTuple:
    """Fills graphs up to a size, on the host.

    One further graph has all padding nodes and edges, at least one node; those after it are empty.
    Padding features are 0, and padding edges join the first padding node to itself.
    `topology.build(graph, padded=True)` masks them.

    Args:
      graph: one or many.
      n_node: number of nodes that is wanted, more than there are.
      n_edge: number of edges that is wanted.
      n_graph: number of graphs that is wanted, more than there are.

    Returns:
      The padded graph, NumPy arrays; features keep their dtypes, indices are int32.

    Raises:
      ValueError: a size that is too small.

    Example:
      >>> one = jraph.GraphsTuple(
      ...     nodes=np.array([[1.0], [2.0]]), edges=None, globals=None, senders=np.array([0]),
      ...     receivers=np.array([1]), n_node=np.array([2]), n_edge=np.array([1]))
      >>> print(pad(one, n_node=5, n_edge=3, n_graph=3).n_node)
      [2 3 0]
    """
    have = Budget(int(np.sum(graph.n_node)), int(np.sum(graph.n_edge)), len(graph.n_node))
    for name, size, held, extra in (
        ("n_node", n_node, have.n_node, 1),
        ("n_edge", n_edge, have.n_edge, 0),
        ("n_graph", n_graph, have.n_graph, 1),
    ):
        if size < held + extra:
            raise ValueError(
                f"{name}={size} is too small; the graphs have {held}"
                + (", and padding needs 1 more" if extra else "")
            )
    held = jax.tree.map(np.asarray, graph)
    return _with_int32(jraph.pad_with_graphs(held, n_node, n_edge, n_graph))


def padding_budget(graphs: Sequence[jraph.GraphsTuple], graphs_per_batch: int) -> Budget:
    """The smallest sizes that any `graphs_per_batch` graphs of a set fit into.

    Raises:
      ValueError: no graphs, or `graphs_per_batch` below 1.

    Example:
      >>> sizes = [jraph.GraphsTuple(
      ...     nodes=None, edges=None, globals=None, senders=np.zeros(m, int),
      ...     receivers=np.zeros(m, int), n_node=np.array([n]), n_edge=np.array([m]))
      ...     for n, m in ((3, 0), (1, 4), (2, 2))]
      >>> padding_budget(sizes, 2)
      Budget(n_node=6, n_edge=6, n_graph=3)
    """
    if not graphs:
        raise ValueError("graphs is empty; at least one is wanted")
    if graphs_per_batch < 1:
        raise ValueError(f"graphs_per_batch={graphs_per_batch} must be at least 1")
    nodes, edges = (
        sum(sorted((int(np.sum(size)) for size in sizes), reverse=True)[:graphs_per_batch])
        for sizes in ([g.n_node for g in graphs], [g.n_edge for g in graphs])
    )
    return Budget(nodes + 1, edges, graphs_per_batch + 1)


def padded_batches(
    graphs: Sequence[jraph.GraphsTuple],
    budget: Budget,
    *,
    order: Any = None,
    self_loops: SelfLoops = "none",
    norm: Norm = None,
    duplicates: Duplicates = "keep",
) -> Iterator[PaddedBatch]:
    """Cuts a set of graphs into padded batches, each with as many as fit.

    Args:
      graphs: single graphs, alike as `batch` wants them.
      budget: sizes of every batch, such as `padding_budget` gives.
      order: which graphs, in which order, `[m]` integers; a permutation for training. None: all.
      self_loops: as in `topology.build`.
      norm: as in `topology.build`.
      duplicates: as in `topology.build`.

    Yields:
      Batches of equal shapes, topologies included, so that one program takes all. Graphs stay in
      order, and every one is in a batch.

    Raises:
      ValueError: a graph that does not fit, named by its place in the set, before the first batch;
        an entry that is not a single graph; an index out of range; an unknown option.

    Example:
      >>> one = jraph.GraphsTuple(
      ...     nodes=None, edges=None, globals=None, senders=np.array([0]),
      ...     receivers=np.array([1]), n_node=np.array([2]), n_edge=np.array([1]))
      >>> batches = padded_batches([one, one, one], Budget(n_node=5, n_edge=2, n_graph=3))
      >>> print([each.index.tolist() for each in batches])
      [[0, 1, -1], [2, -1, -1]]
    """
    chosen = np.arange(len(graphs)) if order is None else np.asarray(order)
    if chosen.ndim != 1 or (chosen.size and not np.issubdtype(chosen.dtype, np.integer)):
        raise ValueError(
            f"order has shape {chosen.shape} and dtype {chosen.dtype}; a vector of integers is "
            "wanted"
        )
    if chosen.size and not 0 <= chosen.min() <= chosen.max() < len(graphs):
        raise ValueError(
            f"order has indices from {chosen.min()} to {chosen.max()}; 0 to {len(graphs) - 1} are "
            "wanted"
        )
    groups = _groups(graphs, chosen.tolist(), budget)
    options = {"self_loops": self_loops, "norm": norm, "duplicates": duplicates}
    return (_padded(graphs, group, budget, options) for group in groups)


def pool(
    topology: Topology,
    x: jax.Array,
    *,
    reduce: Literal["sum", "mean", "max"] = "sum",
) -> jax.Array:
    """Reduces what the nodes of each graph hold to one row per graph.

    Args:
      topology: tells which graph each node belongs to.
      x: floating-point `[n, ...]`. Padding nodes are those of a graph of their own, so that NaN in
        them stays in its row.
      reduce: `"sum"`, `"mean"` over nodes, or `"max"`, whose ties share the gradient equally.

    Returns:
      `[n_graph, ...]` in the dtype of `x`, reduced in float32 at least; 0 for a graph without
      nodes.

    Raises:
      ValueError: `x` that is not floating-point or not one row per node; an unknown `reduce`.

    Example:
      >>> one = jraph.GraphsTuple(
      ...     nodes=None, edges=None, globals=None, senders=np.array([0]),
      ...     receivers=np.array([1]), n_node=np.array([2]), n_edge=np.array([1]))
      >>> topology = build(batch([one, one]))
      >>> print(pool(topology, jnp.array([1.0, 5.0, 2.0, 2.0]), reduce="mean"))
      [3. 2.]

    Reference: Xu et al., How Powerful are Graph Neural Networks?, ICLR 2019 (section 4.2, READOUT).
    """
    if reduce not in _REDUCES:
        raise ValueError(f"reduce={reduce!r} is unknown; use one of {_REDUCES}")
    x = jnp.asarray(x)
    if x.ndim == 0 or x.shape[0] != topology.n_node:
        raise ValueError(f"x has shape {x.shape}; ({topology.n_node}, ...) is wanted")
    if not jnp.issubdtype(x.dtype, jnp.floating):
        raise ValueError(f"x has dtype {x.dtype}; a floating-point dtype is wanted")
    graph = jnp.asarray(topology.node_graph)
    found = x.astype(compute_dtype(x))
    size = _segments(jax.ops.segment_sum, jnp.ones_like(graph), graph, topology.n_graph)
    size = size.reshape(-1, *[1] * (x.ndim - 1))
    if reduce == "max":
        out = _segments(jax.ops.segment_max, found, graph, topology.n_graph)
        return jnp.where(size > 0, out, jnp.zeros_like(out)).astype(x.dtype)
    out = _segments(jax.ops.segment_sum, found, graph, topology.n_graph)
    if reduce == "mean":
        out = out / jnp.maximum(size, 1).astype(out.dtype)
    return out.astype(x.dtype)


def _segments(function, values, graph, n_graph):
    return function(values, graph, n_graph, indices_are_sorted=True)


def _groups(graphs, chosen, budget):
    """Places of the graphs of each batch: a batch ends where the next graph would not fit."""
    groups, nodes, edges = [], 0, 0
    for number in chosen:
        graph = graphs[number]
        if len(graph.n_node) != 1:
            raise ValueError(
                f"graph {number} is {len(graph.n_node)} graphs; single ones are wanted, as "
                "`unbatch` gives them"
            )
        n, m = int(graph.n_node[0]), int(graph.n_edge[0])
        if n >= budget.n_node or m > budget.n_edge or budget.n_graph < 2:
            raise ValueError(
                f"graph {number} with {n} nodes and {m} edges does not fit {budget}, of which "
                "1 node and 1 graph are padding; `padding_budget` gives sizes that fit"
            )
        is_full = groups and (
            nodes + n >= budget.n_node
            or edges + m > budget.n_edge
            or len(groups[-1]) + 1 >= budget.n_graph
        )
        if not groups or is_full:
            groups.append([])
            nodes = edges = 0
        groups[-1].append(number)
        nodes, edges = nodes + n, edges + m
    return groups


def _padded(graphs, group, budget, options) -> PaddedBatch:
    graph = pad(batch([graphs[number] for number in group]), **budget._asdict())
    index = np.full(budget.n_graph, -1, np.int32)
    index[: len(group)] = group
    real = int(graph.n_node[: len(group)].sum())
    return PaddedBatch(
        graph=graph,
        topology=build(graph, padded=True, **options),
        index=index,
        node_mask=np.arange(budget.n_node) < real,
    )


def _part(graph, number, nodes, edges) -> jraph.GraphsTuple:
    return jraph.GraphsTuple(
        nodes=jax.tree.map(lambda leaf: leaf[nodes], graph.nodes),
        edges=jax.tree.map(lambda leaf: leaf[edges], graph.edges),
        globals=jax.tree.map(lambda leaf: leaf[number : number + 1], graph.globals),
        senders=graph.senders[edges] - nodes.start,
        receivers=graph.receivers[edges] - nodes.start,
        n_node=graph.n_node[number : number + 1],
        n_edge=graph.n_edge[number : number + 1],
    )


def _with_int32(graph) -> jraph.GraphsTuple:
    """Indices as int32: the sums of jraph are int64."""
    names = ("senders", "receivers", "n_node", "n_edge")
    return graph._replace(**{name: getattr(graph, name).astype(np.int32) for name in names})


def _features(graph):
    return {"nodes": graph.nodes, "edges": graph.edges, "globals": graph.globals}


def _description(graph) -> dict[str, str]:
    """What graphs that are joined have in common, by name."""
    leaves = jax.tree.flatten_with_path(_features(graph))[0]
    return {
        jax.tree_util.keystr(path): f"{np.asarray(leaf).dtype} rows {list(np.shape(leaf)[1:])}"
        for path, leaf in leaves
    }


def _difference(found, wanted) -> str:
    for name in sorted({*found, *wanted}):
        if found.get(name) != wanted.get(name):
            return f"{found.get(name, 'nothing')} at {name}"
    return ""


def _check_lengths(graph, number) -> None:
    sizes = {
        "nodes": int(np.sum(graph.n_node)),
        "edges": int(np.sum(graph.n_edge)),
        "globals": len(graph.n_node),
    }
    ends = {"senders": graph.senders, "receivers": graph.receivers}
    found = [
        (kind, leaf) for kind, tree in _features(graph).items() for leaf in jax.tree.leaves(tree)
    ]
    for kind, leaf in found:
        if len(leaf) != sizes[kind]:
            raise ValueError(
                f"graph {number} has {len(leaf)} rows of {kind}; {sizes[kind]} are wanted"
            )
    for name, values in ends.items():
        if np.shape(values) != (sizes["edges"],):
            raise ValueError(
                f"graph {number} has {name} of shape {np.shape(values)}; ({sizes['edges']},) is "
                "wanted"
            )
