"""Pairs of nodes without an edge in the given direction, for graphs of any size."""

import jax
import jax.numpy as jnp

from trove_jax.graphs.edge_lookup import has_edges
from trove_jax.graphs.rejection import draw_until_taken
from trove_jax.graphs.topology import Topology


def negative_edges(
    topology: Topology, key: jax.Array, count: int, *, self_loops: bool = False
) -> jax.Array:
    """Draws pairs of nodes that no edge joins, uniformly and with replacement; can be compiled.

    Where at least half of the pairs are surely free, pairs that have an edge are drawn again until
    none has. Where not, the free pairs are counted, in memory of the size of the edges, and drawn
    by their number: a graph that lacks a single edge gives that one.

    Args:
      topology: pairs that an edge joins from first to second are left out; so are those of masked
        edges, which are links that a model should not see. All nodes count, padding and those of
        different graphs too: take a single graph that is not padded.
      key: a random key.
      count: number of pairs, b. In an undirected graph a pair may come in either direction;
        `draw_non_links` gives it in one.
      self_loops: whether a node and itself may be drawn, where there is no such edge.

    Returns:
      Rows (sender, receiver), `[b, 2]` int32; -1 in all of them where every pair has an edge.

    Raises:
      ValueError: a negative `count`; a graph without nodes.

    Example:
      >>> from trove_jax.graphs import topology
      >>> triangle = topology.from_edges([[0, 1], [1, 2], [2, 0]], 3, undirected=False)
      >>> pairs = negative_edges(triangle, jax.random.key(0), 50)
      >>> sorted({tuple(pair) for pair in pairs.tolist()})
      [(0, 2), (1, 0), (2, 1)]
    """
    size = topology.n_node
    if count < 0:
        raise ValueError(f"count={count} is negative")
    if not size:
        raise ValueError("the graph has no nodes to draw pairs from")
    taken = topology.n_edge + (0 if self_loops else size)
    if 2 * taken > size * size:
        return _by_number(topology, key, count, self_loops)

    def draw(tries, places):
        shape = (*places.shape, 2)
        pairs = jax.random.randint(jax.random.fold_in(key, tries), shape, 0, size, jnp.int32)
        is_wrong = has_edges(topology, pairs[:, 0], pairs[:, 1])
        if not self_loops:
            is_wrong = is_wrong | (pairs[:, 0] == pairs[:, 1])
        return pairs, ~is_wrong

    return draw_until_taken(draw, count)


def _by_number(topology, key, count, self_loops):
    """The free pairs of a graph that has an edge for many of its pairs; n^2 is O(e) here."""
    size = topology.n_node
    free = jnp.ones((size, size), bool)
    free = free.at[jnp.asarray(topology.senders), jnp.asarray(topology.receivers)].set(False)
    if not self_loops:
        free = free & ~jnp.eye(size, dtype=bool)
    before = jnp.cumsum(free.ravel().astype(jnp.int32))
    rank = jax.random.randint(key, (count,), 0, jnp.maximum(before[-1], 1), jnp.int32)
    number = jnp.searchsorted(before, rank, side="right").astype(jnp.int32)
    pairs = jnp.stack([number // size, number % size], axis=1)
    return jnp.where(before[-1] > 0, pairs, -1)
