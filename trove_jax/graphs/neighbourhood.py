"""The part of a graph around some nodes, as a graph of its own."""

import dataclasses
from typing import Any, NamedTuple, cast

import numpy as np

from trove_jax.graphs.topology import Topology, from_edges


class Neighbourhood(NamedTuple):
    """The part of a graph that reaches some nodes within a number of hops.

    Attributes:
      topology: the edges among `nodes`, renumbered, with the weights of the whole graph. Its
        `order` counts the stored edges of the whole topology, so that `topology.arrange` takes
        arrays of those.
      nodes: index in the whole graph of each node, ascending, `[m]` int32.
      hops: how far each is from the nearest seed, `[m]` int32.
      seeds: place of each seed among `nodes`, `[b]` int32.
    """

    topology: Topology
    nodes: np.ndarray
    hops: np.ndarray
    seeds: np.ndarray


def khop_neighbourhood(topology: Topology, seeds: Any, hops: int) -> Neighbourhood:
    """Takes out everything that reaches some nodes within a number of hops, on the host.

    Exact: a network of at most `hops` propagations gives the seeds what it gives them in the whole
    graph, for weights are not normalised anew.

    Args:
      topology: messages go from sender to receiver, and so do paths to the seeds. Masked edges are
        left out.
      seeds: nodes, `[b]` integers; repeated ones are found once.
      hops: longest path to a seed, at least 0; 1 has the senders of the seeds.

    Returns:
      The part, with all edges among its nodes. Its size depends on the data: `batching.pad` fills
      up parts that many programs would be compiled for.

    Raises:
      ValueError: `seeds` is no vector of integers in range; negative `hops`.

    Example:
      >>> from trove_jax.graphs import topology
      >>> path = topology.from_edges([[i, i + 1] for i in range(6)], 7)
      >>> part = khop_neighbourhood(path, [3], 1)
      >>> print(part.nodes, part.hops, part.seeds, part.topology.senders, part.topology.receivers)
      [2 3 4] [1 0 1] [1] [1 0 2 1] [0 1 1 2]

    Reference: Zhang and Chen, Link Prediction Based on Graph Neural Networks, NeurIPS 2018
    (enclosing subgraphs).
    """
    found = np.asarray(seeds)
    if found.size == 0 and found.ndim == 1:
        found = found.astype(np.int64)
    if found.ndim != 1 or found.dtype.kind not in "iu":
        raise ValueError(
            f"seeds have shape {found.shape} and dtype {found.dtype}; a vector of integers is "
            "wanted"
        )
    if found.size and not 0 <= found.min() <= found.max() < topology.n_node:
        raise ValueError(
            f"seeds go from {found.min()} to {found.max()}; 0 to {topology.n_node - 1} is wanted"
        )
    if hops < 0:
        raise ValueError(f"hops={hops} is negative")
    senders = np.asarray(topology.senders)
    kept = None if topology.edge_mask is None else np.asarray(topology.edge_mask)
    distance = np.full(topology.n_node, -1, np.int32)
    distance[found] = 0
    front = np.unique(found)
    for hop in range(1, hops + 1):
        edges = edges_into(topology, front)
        if kept is not None:
            edges = edges[kept[edges]]
        reached = np.unique(senders[edges])
        front = reached[distance[reached] < 0]
        if not len(front):
            break
        distance[front] = hop
    nodes = np.flatnonzero(distance >= 0)
    edges = edges_into(topology, nodes)
    inside = distance[senders[edges]] >= 0
    edges = edges[inside if kept is None else inside & kept[edges]]
    place = np.zeros(topology.n_node, np.int64)
    place[nodes] = np.arange(len(nodes))
    ends = np.stack([senders[edges], np.asarray(topology.receivers)[edges]], axis=1)
    part = from_edges(
        place[ends], len(nodes), undirected=False, edge_weight=np.asarray(topology.weight)[edges]
    )
    order = edges[np.asarray(part.order)] if len(edges) else edges
    part = dataclasses.replace(
        part,
        order=cast(Any, order.astype(np.int32)),
        node_graph=cast(Any, np.asarray(topology.node_graph)[nodes]),
        n_graph=topology.n_graph,
    )
    return Neighbourhood(
        part, nodes.astype(np.int32), distance[nodes], place[found].astype(np.int32)
    )


def edges_into(topology: Topology, nodes: np.ndarray) -> np.ndarray:
    """Stored edges that end at some nodes, in the order of the nodes."""
    starts = np.asarray(topology.starts).astype(np.int64)
    counts = starts[nodes + 1] - starts[nodes]
    ends = np.cumsum(counts)
    total = int(ends[-1]) if len(ends) else 0
    return np.repeat(starts[nodes] - (ends - counts), counts) + np.arange(total)
