"""How a pattern of attention is cut into work, on the host: spans of rows, or lists of live blocks.

Positions are 0, 1, 2, ... here. A plan is made once for each pattern and shape.
"""

import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from trove_jax.kernels.attention_rules import Pattern

# Blocks of queries and keys that are tried, and what a block of keys costs besides its scores: it
# is copied together, and its gradients are added up, as dear as so many more queries.
_BLOCKS = ((64, 64), (128, 64), (128, 128))
_COPYING = 64
_MOST_GROUPS = 4
_SPANS = (1, 2, 4)


class Span(NamedTuple):
    """Queries `[q_start, q_stop)` see no keys but `[kv_start, kv_stop)`."""

    q_start: int
    q_stop: int
    kv_start: int
    kv_stop: int


class Group(NamedTuple):
    """Rows with equally long lists.

    Attributes:
      rows: numbers of the rows, `[g]`.
      lists: what each row refers to, `[heads | 1, g, l]`, -1 where a list is shorter.
    """

    rows: np.ndarray
    lists: np.ndarray


class Plan(NamedTuple):
    """A pattern cut into spans or, where that is less work, into blocks.

    Attributes:
      scores: how many scores of a head are computed.
      spans: what the rows see; empty if there are blocks.
      q_block: queries of a block.
      kv_block: keys of a block.
      groups: for blocks of queries the blocks of keys that they see.
      gathers: for blocks of keys the tiles, in the order of `groups`, that they are seen in.
    """

    scores: int
    spans: tuple[Span, ...] = ()
    q_block: int = 0
    kv_block: int = 0
    groups: tuple[Group, ...] = ()
    gathers: tuple[Group, ...] = ()


def whole(n: int, m: int) -> Plan:
    """The plan that computes every score."""
    return Plan(n * m, (Span(0, n, 0, m),))


@functools.lru_cache(maxsize=64)
def plan(pattern: Pattern, n: int, m: int, heads: int, *, may_block: bool = True) -> Plan:
    """Cuts a pattern so that as few scores as possible are computed.

    Args:
      pattern: the pattern.
      n: number of queries.
      m: number of keys.
      heads: number of heads.
      may_block: whether blocks are allowed; else spans only.

    Returns:
      The plan.

    Example:
      >>> from trove_jax.kernels.attention_pattern import causal, sliding_window
      >>> print(plan(causal(), 256, 256, 1).spans[1])
      Span(q_start=64, q_stop=128, kv_start=0, kv_stop=128)
      >>> thin = plan(sliding_window(32, 32), 4096, 4096, 1)
      >>> print(thin.scores / 4096**2, [group.lists.shape for group in thin.groups])
      0.0615234375 [(1, 2, 3), (1, 30, 4)]
    """
    found = _cut_into_spans(pattern, n, m, heads)
    if not may_block:
        return found
    least = 0.7 * found.scores
    for q_block, kv_block in _BLOCKS:
        live = live_blocks(pattern, n, m, heads, q_block, kv_block)
        if live.size == 0 or live.shape[1] < 2:
            continue
        longest = _longest(live.sum(-1).max(0))
        tiles = int(longest.sum())
        cost = tiles * kv_block * (q_block + _COPYING)
        if cost < least:
            least, found = cost, _cut_into_blocks(live, longest, q_block, kv_block)
    return found


def _cut_into_spans(pattern, n, m, heads):
    """Consecutive rows and the keys from the first to the last that one of them sees."""
    block = 64
    live: Any = live_blocks(pattern, n, m, heads, block, block).any(0)
    best = whole(n, m)
    for ways in _SPANS[1:]:
        if len(live) < ways:
            break
        spans = []
        for rows in np.array_split(np.arange(len(live)), ways):
            seen = np.flatnonzero(live[rows].any(0))
            first, last = (seen[0], seen[-1] + 1) if len(seen) else (0, 0)
            q_start, q_stop = int(rows[0]) * block, min(n, (int(rows[-1]) + 1) * block)
            spans.append(Span(q_start, q_stop, int(first) * block, min(m, int(last) * block)))
        scores = sum((s.q_stop - s.q_start) * (s.kv_stop - s.kv_start) for s in spans)
        if scores < 0.9 * best.scores:
            best = Plan(scores, tuple(spans))
    return best


def _longest(counts: np.ndarray) -> np.ndarray:
    """Rounds the lengths of lists up to a few values, so that the sum of all grows least."""
    values, repeats = np.unique(np.maximum(counts, 1), return_counts=True)
    if len(values) > 64:  # dozens of values would take long, and are no use
        step = -(-int(values[-1]) // 64)
        values, inverse = np.unique(-(-values // step) * step, return_inverse=True)
        repeats = np.bincount(inverse, weights=repeats)
    # cost[i] is the least sum for the first i values; each pass allows one more group.
    upto = np.concatenate([[0], np.cumsum(repeats)])
    starts = np.arange(len(values) + 1)
    cost = np.where(starts == 0, 0.0, np.inf)
    choices = []
    for _ in range(_MOST_GROUPS):
        # The last group takes the values from `start` up to, not with, `stop`.
        options = np.full((len(values) + 1, len(values) + 1), np.inf)
        for stop in range(1, len(values) + 1):
            options[stop, :stop] = cost[:stop] + values[stop - 1] * (upto[stop] - upto[:stop])
        options[0, 0] = 0.0
        choices.append(options.argmin(1))
        cost = options.min(1)
    ends, stop = [], len(values)
    for choice in reversed(choices):
        if stop == 0:
            break
        ends.append(values[stop - 1])
        stop = int(choice[stop])
    ends = np.array(sorted(ends))
    return ends[np.searchsorted(ends, np.maximum(counts, 1))]


def _grouped(rows: Sequence[Sequence[np.ndarray]], lengths: np.ndarray) -> tuple[Group, ...]:
    """Groups rows by the length of list they are given; `rows[head][row]` is what they refer to."""
    groups = []
    for length in np.unique(lengths):
        members = np.flatnonzero(lengths == length)
        lists = np.full((len(rows), len(members), int(length)), -1, np.int32)
        for of_head, filled in zip(rows, lists, strict=True):
            for member, row in zip(members.tolist(), filled, strict=True):
                row[: len(of_head[member])] = of_head[member]
        groups.append(Group(members, lists))
    return tuple(groups)


def _cut_into_blocks(live: np.ndarray, lengths: np.ndarray, q_block: int, kv_block: int) -> Plan:
    rows = [[np.flatnonzero(row) for row in of_head] for of_head in live]
    groups = _grouped(rows, lengths)
    seen: Any = [[[] for _ in range(live.shape[2])] for _ in live]
    tile = 0
    for group in groups:
        for head, lists in enumerate(group.lists):
            for place, key in enumerate(lists.ravel().tolist()):
                if key >= 0:
                    seen[head][key].append(tile + place)
        tile += group.lists[0].size
    columns = [[np.array(places, np.int32) for places in of_head] for of_head in seen]
    counts = np.array([[len(places) for places in of_head] for of_head in columns]).max(0)
    gathers = _grouped(columns, _longest(counts))
    scores = tile * q_block * kv_block
    return Plan(scores, (), q_block, kv_block, groups, gathers)


@functools.lru_cache(maxsize=256)
def live_blocks(
    pattern: Pattern, n: int, m: int, heads: int, q_block: int, kv_block: int
) -> np.ndarray:
    """Which blocks of keys each block of queries may see, at positions 0, 1, 2, ...

    Args:
      pattern: the pattern.
      n: number of queries.
      m: number of keys.
      heads: number of heads.
      q_block: queries of a block; the last block may be shorter.
      kv_block: keys of a block.

    Returns:
      `[heads, ceil(n / q_block), ceil(m / kv_block)]` bool, with 1 for heads if all are alike.
    """
    q_first, kv_first = np.arange(0, n, q_block), np.arange(0, m, kv_block)
    q_last = np.minimum(q_first + q_block, n) - 1
    kv_last = np.minimum(kv_first + kv_block, m) - 1
    head = np.arange(heads if pattern.per_head else 1)
    live = pattern.reaches(
        q_first[None, :, None],
        q_last[None, :, None],
        kv_first[None, None],
        kv_last[None, None],
        head[:, None, None],
    )
    live = np.broadcast_to(live, (len(head), len(q_first), len(kv_first))).copy()
    live.flags.writeable = False
    return live


class Lists(NamedTuple):
    """For each block of one side, the blocks of the other side that it meets.

    Attributes:
      chosen: `[heads | 1, rows, l]` int32; a shorter list repeats its last block.
      counts: lengths of the lists, `[heads | 1, rows]` int32.
    """

    chosen: np.ndarray
    counts: np.ndarray


@functools.lru_cache(maxsize=64)
def square_lists(
    pattern: Pattern, n: int, m: int, heads: int, blocks: tuple[int, ...], per_tile: int
) -> tuple[int, Lists, Lists]:
    """Chooses the size of square blocks, and lists what they meet, for a kernel.

    Args:
      pattern: the pattern.
      n: number of queries.
      m: number of keys.
      heads: number of heads.
      blocks: sizes that are allowed.
      per_tile: what a tile costs besides its scores, in scores.

    Returns:
      size: the size with the least cost.
      of_queries: blocks of keys that blocks of queries see.
      of_keys: blocks of queries that blocks of keys are seen by.

    Example:
      >>> from trove_jax.kernels.attention_pattern import causal
      >>> size, of_queries, of_keys = square_lists(causal(), 300, 300, 1, (128,), 0)
      >>> print(of_queries.chosen.tolist(), of_queries.counts)
      [[[0, 0, 0], [0, 1, 1], [0, 1, 2]]] [[1 2 3]]
    """
    costs = {}
    for size in blocks:
        live = live_blocks(pattern, n, m, heads, size, size)
        costs[size] = int(live.sum()) * (size * size + per_tile) / len(live)
    size = min(blocks, key=lambda size: (costs[size], -size))
    live = live_blocks(pattern, n, m, heads, size, size)
    return size, _lists(live), _lists(live.swapaxes(1, 2))


def _lists(live):
    counts = live.sum(-1)
    order = np.argsort(~live, axis=-1, kind="stable")
    place = np.minimum(
        np.arange(max(1, counts.max(initial=0))), np.maximum(counts - 1, 0)[..., None]
    )
    chosen = np.take_along_axis(order, place, axis=-1) if order.shape[-1] else np.zeros_like(place)
    return Lists(chosen.astype(np.int32), counts.astype(np.int32))
