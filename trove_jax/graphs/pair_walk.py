"""Walks through the neighbours of pairs of nodes, without a row of slots per pair.

The lists of a power-law graph are 10 long on average and 1,600 at most, so that an array with a
column for every possible neighbour is nearly empty. Here the lists of all pairs stand one behind
the other, and a loop whose length is known only when it runs takes a few thousand of them at a
time.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from trove_jax.graphs.topology import Topology

_SLOTS = 2**14
_HITS = 2**9
_COLUMNS = 2**6
_KEPT = 16


class NeighbourLists(NamedTuple):
    """The senders of every receiver.

    Attributes:
      starts: the list of node i begins at `starts[i]`, `[n + 1]` int32.
      owners: node whose list a neighbour is in, `[e]` int32.
      nodes: neighbours, ascending within a list, `[e]` int32; one may stand there repeatedly.
      mask: False for those that do not count, `[e]` bool; None: all count.
    """

    starts: jax.Array
    owners: jax.Array
    nodes: jax.Array
    mask: jax.Array | None


def neighbour_lists(topology: Topology) -> NeighbourLists:
    """The neighbours of a topology without weights."""
    mask = None if topology.edge_mask is None else jnp.asarray(topology.edge_mask)
    return NeighbourLists(
        jnp.asarray(topology.starts),
        jnp.asarray(topology.receivers),
        jnp.asarray(topology.senders),
        mask,
    )


def set_sizes(lists: NeighbourLists) -> jax.Array:
    """Number of different neighbours of every node, `[n]` int32."""
    starts, owners, nodes, _ = lists
    edges = jnp.arange(nodes.shape[0], dtype=jnp.int32)
    is_first = _is_first(lists, edges, nodes, _take(starts, owners))
    size = starts.shape[0] - 1
    return jax.ops.segment_sum(is_first.astype(jnp.int32), owners, size, indices_are_sorted=True)


class Hits(NamedTuple):
    """What a walk found, as far as there was room for it.

    Attributes:
      pair: numbers of pairs, ascending, `[k]` int32.
      node: the common neighbour of each, `[k]` int32.
      count: how many were found, scalar int32.
    """

    pair: jax.Array
    node: jax.Array
    count: jax.Array


def common_hits(lists: NeighbourLists, pairs: jax.Array) -> Hits:
    """Finds common neighbours and keeps some for every pair on average."""
    room = (-(-len(pairs) * _KEPT // _HITS) + 1) * _HITS

    def step(total, pair, node, is_hit):
        # What does not count stands behind, and the next block covers it.
        at = (total.count,)
        return Hits(
            lax.dynamic_update_slice(total.pair, pair, at),
            lax.dynamic_update_slice(total.node, node, at),
            total.count + jnp.sum(is_hit, dtype=jnp.int32),
        )

    none = jnp.zeros(room, jnp.int32)
    return over_hits(lists, pairs, step, Hits(none, none, jnp.int32(0)), common=True)


def over_kept(
    hits: Hits, lists: NeighbourLists, pairs: jax.Array, step: Callable, start: Callable
) -> Any:
    """`over_hits` for common neighbours, from `start()` on; walks again only if some are lost."""

    def again():
        return over_hits(lists, pairs, step, start(), common=True)

    def kept():
        def block(number, total):
            first = number * _HITS
            is_hit = first + jnp.arange(_HITS, dtype=jnp.int32) < hits.count
            pair, node = (
                lax.dynamic_slice_in_dim(array, first, _HITS) for array in (hits.pair, hits.node)
            )
            return step(total, pair, node, is_hit)

        return lax.fori_loop(0, -(-hits.count // _HITS), block, start())

    # The last block must not have been moved forward to fit.
    return lax.cond(hits.count <= hits.pair.shape[0] - _HITS, kept, again)


class _Walk(NamedTuple):
    """What is walked for each pair, `[b]` int32 each."""

    offset: jax.Array
    start: jax.Array
    length: jax.Array
    other_start: jax.Array
    other_end: jax.Array


def over_hits(
    lists: NeighbourLists, pairs: jax.Array, step: Callable, total: Any, *, common: bool
) -> Any:
    """Folds `step(total, pair, node, is_hit)` over neighbours of pairs, a few hundred at a time.

    Args:
      lists: the neighbours; at least one.
      pairs: nodes i and j, `[b, 2]` int32, b at least 1. A node out of range has no neighbours.
      step: gets numbers of pairs, ascending, their neighbours, ascending for a pair, and whether
        they count, three vectors of the same length.
      total: what the first step gets.
      common: whether the neighbours are in both lists; else they are in that of i alone.

    Returns:
      What the last step returned.
    """
    walk = _walk_of(lists, pairs, common)
    n_slots = walk.offset[-1] + jnp.maximum(walk.length[-1], 1)

    def chunk(number, total):
        pair, node, is_hit = _slots(lists, walk, number * _SLOTS, n_slots, common)
        seen = _running_sum(is_hit.astype(jnp.int32))

        def hits(block, total):
            wanted = block * _HITS + 1 + jnp.arange(_HITS, dtype=jnp.int32)
            at = jnp.minimum(jnp.searchsorted(seen, wanted), _SLOTS - 1)
            return step(total, _take(pair, at), _take(node, at), wanted <= seen[-1])

        return lax.fori_loop(0, -(-seen[-1] // _HITS), hits, total)

    return lax.fori_loop(0, -(-n_slots // _SLOTS), chunk, total)


def _walk_of(lists: NeighbourLists, pairs: jax.Array, common: bool) -> _Walk:
    """Takes the shorter list for common neighbours and that of i otherwise.

    A pair whose list is empty has one slot, so that a chunk never meets more pairs than slots.
    """
    n_node = lists.starts.shape[0] - 1
    is_node = (pairs >= 0) & (pairs < n_node)
    nodes = jnp.where(is_node, pairs, 0)
    start = _take(lists.starts, nodes)
    end = jnp.where(is_node, _take(lists.starts, nodes + 1), start)
    if common:
        is_longer = end[:, 0] - start[:, 0] > end[:, 1] - start[:, 1]
        start = jnp.where(is_longer[:, None], start[:, ::-1], start)
        end = jnp.where(is_longer[:, None], end[:, ::-1], end)
    length = end[:, 0] - start[:, 0]
    slots = jnp.maximum(length, 1)
    return _Walk(jnp.cumsum(slots) - slots, start[:, 0], length, start[:, 1], end[:, 1])


def _slots(lists: NeighbourLists, walk: _Walk, first, n_slots, common: bool):
    """Pair, node and whether it is a hit, for the slots from `first` on, `[_SLOTS]` each."""
    n_pairs = walk.offset.shape[0]
    slot = first + jnp.arange(_SLOTS, dtype=jnp.int32)
    window = min(n_pairs, _SLOTS)
    before = jnp.searchsorted(walk.offset, first, side="right").astype(jnp.int32) - 1
    before = jnp.minimum(before, n_pairs - window)
    begins = lax.dynamic_slice_in_dim(walk.offset, before, window) - first
    marks = jnp.zeros(_SLOTS, jnp.int32).at[jnp.maximum(begins, 0)]
    pair = before - 1 + _running_sum(marks.add(1, indices_are_sorted=True, mode="drop"))
    within = slot - _take(walk.offset, pair)
    is_there = (slot < n_slots) & (within < _take(walk.length, pair))
    edge = jnp.where(is_there, _take(walk.start, pair) + within, 0)
    node = _take(lists.nodes, edge)
    is_there &= _is_first(lists, edge, node, _take(walk.start, pair))
    start, end = _take(walk.other_start, pair), _take(walk.other_end, pair)
    return pair, node, is_there & (_is_listed(lists, node, start, end) == common)


def _is_first(lists: NeighbourLists, edge, node, start) -> jax.Array:
    """Whether an edge counts and none before it in the list has the same node and counts."""

    def is_same(at):
        return (at >= start) & (_take(lists.nodes, jnp.maximum(at, 0)) == node)

    before = edge - 1
    if lists.mask is None:
        return ~is_same(before)
    mask = lists.mask

    def is_masked(at):
        return is_same(at) & ~_take(mask, jnp.maximum(at, 0))

    before = lax.while_loop(
        lambda at: jnp.any(is_masked(at)), lambda at: jnp.where(is_masked(at), at - 1, at), before
    )
    return _take(mask, edge) & ~is_same(before)


def _is_listed(lists: NeighbourLists, node, start, end) -> jax.Array:
    """Whether a list that goes from `start` to `end` has the node, by bisection."""
    last = lists.nodes.shape[0] - 1

    top = jnp.maximum(end, 1)

    def advance(number, at):
        further = at + lax.shift_left(jnp.int32(1), rounds - 1 - number)
        is_less = _take(lists.nodes, jnp.minimum(further, top) - 1) < node
        return jnp.where(is_less & (further <= end), further, at)

    rounds = 32 - lax.clz(jnp.max(end - start))
    at = lax.fori_loop(0, rounds, advance, start)

    def is_same(at):
        return (at < end) & (_take(lists.nodes, jnp.minimum(at, last)) == node)

    if lists.mask is None:
        return is_same(at)
    mask = lists.mask

    def is_masked(at):
        return is_same(at) & ~_take(mask, jnp.minimum(at, last))

    at = lax.while_loop(
        lambda at: jnp.any(is_masked(at)), lambda at: jnp.where(is_masked(at), at + 1, at), at
    )
    return is_same(at)


def _running_sum(x: jax.Array) -> jax.Array:
    """`jnp.cumsum`, which takes eight times as long on a CPU, of a vector of `_SLOTS` numbers."""
    columns = x.reshape(-1, _COLUMNS).T

    def add(total, column):
        total = total + column
        return total, total

    _, sums = lax.scan(add, jnp.zeros_like(columns[0]), columns)
    return (sums + (jnp.cumsum(sums[-1]) - sums[-1])[None]).T.ravel()


def _take(array: jax.Array, at: jax.Array) -> jax.Array:
    return array.at[at].get(mode="promise_in_bounds", wrap_negative_indices=False)
