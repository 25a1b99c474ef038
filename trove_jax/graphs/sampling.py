"""Samples of what sends to some nodes, of sizes that do not depend on the data."""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from trove_jax.graphs.topology import Topology
from trove_jax.kernels import SparsePattern


class NeighbourSample(NamedTuple):
    """Some senders of each of some nodes.

    Attributes:
      nodes: the senders, `[b, fanout]` int32; 0 where `mask` is False.
      edges: the stored edges they were reached by, `[b, fanout]` int32; 0 where masked.
      mask: which are there, `[b, fanout]` bool.
    """

    nodes: jax.Array
    edges: jax.Array
    mask: jax.Array


class SampledTree(NamedTuple):
    """A sample around each of some nodes, as a graph of one tree for each of them.

    A node of the whole graph that is reached twice is in it twice. The first b nodes are the seeds.

    Attributes:
      topology: edges from children to parents; `node_graph` says whose tree a node is in.
      nodes: index in the whole graph of each node, `[m]` int32; 0 where `mask` is False.
      mask: which nodes are there, `[m]` bool.
      edges: stored edge of the whole graph of each edge, `[m - b]` int32; 0 where masked.
    """

    topology: Topology
    nodes: jax.Array
    mask: jax.Array
    edges: jax.Array


def sample_neighbours(
    topology: Topology, key: jax.Array, nodes: jax.Array, fanout: int, *, replace: bool = False
) -> NeighbourSample:
    """Draws senders of nodes uniformly; can be compiled.

    Args:
      topology: a node's senders are drawn from. Weights do not count; an edge that is stored twice
        is drawn from twice.
      key: a random key.
      nodes: `[b]` integers; an index that is no node, such as -1, has no senders.
      fanout: how many to draw for each node, at least 1.
      replace: whether an edge may be drawn again. If not, a node with at most `fanout` edges gets
        all of them, in order, and the rest is masked.

    Returns:
      The sample. A node that nothing arrives at has none.

    Raises:
      ValueError: `fanout` below 1; `nodes` is no vector of integers; a topology with masked edges,
        from which they should be left out instead.

    Example:
      >>> from trove_jax.graphs import topology
      >>> star = topology.from_edges([[1, 0], [2, 0]], 3, undirected=False)
      >>> sample = sample_neighbours(star, jax.random.key(0), jnp.array([0, 1]), 3)
      >>> print(sample.nodes[0], sample.mask[0], sample.mask[1].any())
      [1 2 0] [ True  True False] False

    Reference: Hamilton, Ying and Leskovec, Inductive Representation Learning on Large Graphs,
    NeurIPS 2017 (section 3.1); R. W. Floyd's draw of a subset, CACM 30 (1987) 754.
    """
    nodes = _checked_nodes(nodes)
    if fanout < 1:
        raise ValueError(f"fanout={fanout} must be at least 1")
    _check_unmasked(topology)
    shape = (nodes.shape[0], fanout)
    if not topology.n_edge:
        zeros = jnp.zeros(shape, jnp.int32)
        return NeighbourSample(zeros, zeros, jnp.zeros(shape, bool))
    starts = jnp.asarray(topology.starts)
    is_node = (nodes >= 0) & (nodes < topology.n_node)
    at = jnp.where(is_node, nodes, 0)
    degree = jnp.where(is_node, starts[at + 1] - starts[at], 0)[:, None]
    if replace:
        chosen = jax.random.randint(key, shape, 0, jnp.maximum(degree, 1), jnp.int32)
        mask = jnp.broadcast_to(degree > 0, shape)
    else:
        places = jnp.arange(fanout, dtype=jnp.int32)[None]
        chosen = jnp.where(degree > fanout, _subsets(key, degree, fanout), places)
        mask = places < degree
    edges = jnp.where(mask, starts[at][:, None] + chosen, 0)
    senders = jnp.where(mask, jnp.asarray(topology.senders)[edges], 0)
    return NeighbourSample(senders, edges, mask)


def sample_layers(
    topology: Topology,
    key: jax.Array,
    nodes: jax.Array,
    fanouts: Sequence[int],
    *,
    replace: bool = False,
) -> SampledTree:
    """Draws a tree of senders, senders of senders and so on, around each node; can be compiled.

    The tree is a graph like any other: `model.apply(variables, tree.topology, x[tree.nodes])[:b]`
    is a minibatch. Weights are those of the whole graph, times degree / number drawn, so that every
    sum that a node receives is in expectation what it receives in the whole graph, and equal to it
    where the fanout is no less than the degree (without replacement).

    Args:
      topology: as in `sample_neighbours`; with self-loops, a node may be among its own senders.
      key: a random key.
      nodes: seeds, `[b]` integers; an index that is no node has an empty tree.
      fanouts: numbers drawn for a seed, for each of those, and so on: one for each layer.
      replace: as in `sample_neighbours`.

    Returns:
      Trees of b (1 + f1 + f1 f2 + ...) nodes with those that are masked.

    Raises:
      ValueError: as `sample_neighbours`; no fanouts.

    Example:
      >>> from trove_jax.graphs import topology
      >>> path = topology.from_edges([[0, 1], [1, 2], [2, 3]], 4, undirected=False)
      >>> draw = jax.jit(sample_layers, static_argnums=3)
      >>> tree = draw(path, jax.random.key(0), jnp.array([3, 1]), (1, 1))
      >>> print(tree.nodes, tree.mask)
      [3 1 2 0 1 0] [ True  True  True  True  True False]
      >>> print(tree.topology.senders, tree.topology.receivers)
      [2 3 4 5] [0 1 2 3]

    Reference: Hamilton, Ying and Leskovec, NeurIPS 2017 (algorithm 2).
    """
    nodes = _checked_nodes(nodes)
    if not fanouts:
        raise ValueError("fanouts is empty; one number for each layer is wanted")
    seeds = nodes.shape[0]
    is_node = (nodes >= 0) & (nodes < topology.n_node)
    layers, masks, edges, weights = [jnp.where(is_node, nodes, 0)], [is_node], [], []
    all_weights = jnp.asarray(topology.weight)
    degrees = topology.in_degree()
    for number, fanout in enumerate(fanouts):
        parents = jnp.where(masks[-1], layers[-1], -1)
        layer_key = jax.random.fold_in(key, number)
        sample = sample_neighbours(topology, layer_key, parents, fanout, replace=replace)
        if topology.n_edge:
            weight = all_weights[sample.edges]
            degree = degrees[layers[-1]].astype(weight.dtype)[:, None]
            drawn = jnp.maximum(sample.mask.sum(axis=1, keepdims=True), 1).astype(weight.dtype)
            weight = jnp.where(sample.mask, weight * (degree / drawn), 0.0)
        else:
            weight = jnp.zeros(sample.mask.shape, all_weights.dtype)
        weights.append(weight.ravel())
        layers.append(sample.nodes.ravel())
        masks.append(sample.mask.ravel())
        edges.append(sample.edges.ravel())
    mask = jnp.concatenate(masks)
    trees = Topology(
        pattern=_tree_pattern(seeds, fanouts),
        weight=jnp.concatenate(weights),
        order=jnp.arange(mask.shape[0] - seeds, dtype=jnp.int32),
        edge_mask=mask[seeds:],
        node_graph=_seed_of_each(seeds, fanouts),
        n_node=mask.shape[0],
        n_graph=seeds,
    )
    return SampledTree(trees, jnp.concatenate(layers), mask, jnp.concatenate(edges))


def _subsets(key, degree, fanout):
    """Different numbers below `degree` for each row, uniformly; for rows of `degree` > fanout."""

    def add(i, chosen):
        top = jnp.maximum(degree[:, 0] - fanout, 0) + i
        drawn = jax.random.randint(
            jax.random.fold_in(key, i), top.shape, 0, top + 1, dtype=jnp.int32
        )
        again = jnp.any(chosen == drawn[:, None], axis=1)
        return chosen.at[:, i].set(jnp.where(again, top, drawn))

    start = jnp.full((degree.shape[0], fanout), -1, jnp.int32)
    return jax.lax.fori_loop(0, fanout, add, start)


def _tree_pattern(seeds: int, fanouts: Sequence[int]) -> SparsePattern:
    """Trees numbered layer by layer: children follow each other, in the order of their parents."""
    first, width, size = 0, seeds, seeds
    parents, counts = [], []
    for fanout in fanouts:
        parents.append(first + jnp.repeat(jnp.arange(width, dtype=jnp.int32), fanout))
        counts.append(jnp.full(width, fanout, jnp.int32))
        first, width = size, width * fanout
        size += width
    edges = size - seeds
    rows = jnp.concatenate(parents)
    counts.append(jnp.zeros(width, jnp.int32))
    starts = jnp.concatenate([jnp.zeros(1, jnp.int32), jnp.cumsum(jnp.concatenate(counts))])
    columns = seeds + jnp.arange(edges, dtype=jnp.int32)
    return SparsePattern(
        rows=rows,
        columns=columns,
        row_starts=starts.astype(jnp.int32),
        transposed_rows=rows,
        transposed_columns=columns,
        column_starts=jnp.maximum(jnp.arange(size + 1, dtype=jnp.int32) - seeds, 0),
        to_transposed=jnp.arange(edges, dtype=jnp.int32),
        shape=(size, size),
    )


def _seed_of_each(seeds: int, fanouts: Sequence[int]) -> jax.Array:
    widths = np.cumprod([1, *fanouts]).tolist()
    return jnp.concatenate(
        [jnp.repeat(jnp.arange(seeds, dtype=jnp.int32), width) for width in widths]
    )


def _checked_nodes(nodes: jax.Array) -> jax.Array:
    nodes = jnp.asarray(nodes)
    if nodes.ndim != 1 or not jnp.issubdtype(nodes.dtype, jnp.integer):
        raise ValueError(
            f"nodes have shape {nodes.shape} and dtype {nodes.dtype}; a vector of integers is "
            "wanted"
        )
    return nodes.astype(jnp.int32)


def _check_unmasked(topology: Topology) -> None:
    if topology.edge_mask is not None:
        raise ValueError("topology has masked edges; build it without them to sample from it")
