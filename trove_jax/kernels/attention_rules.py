"""The rules of positions behind the patterns of attention, for pairs and for whole blocks.

A rule is evaluated where it is needed, in a tile of scores, never as an N x N array. What it says
of whole blocks of positions decides, on the host, which tiles are computed at all.
"""

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

# Integers, NumPy or JAX arrays of integers.
Ids = Any


@dataclasses.dataclass(frozen=True)
class Pattern:
    """Base of all patterns: which pairs of a query and a key are visible.

    A subclass defines `visible`; `reaches` only saves work, and may say True where nothing is seen.
    """

    @property
    def per_head(self) -> bool:
        """Whether heads see different pairs."""
        return False

    @property
    def terms(self) -> int:
        """How many numbers `looked_up` finds for a query."""
        return 0

    def looked_up(self, q_ids: Ids, head: Ids) -> tuple[Any, ...]:
        """What `visible` needs to know of queries from tables, arrays like `q_ids`.

        Kernels cannot look anything up: they are given these numbers.
        """
        del q_ids, head
        return ()

    def visible(
        self, q_ids: Ids, kv_ids: Ids, head: Ids, looked_up: Sequence[Any] | None = None
    ) -> Any:
        """Says which pairs are visible.

        Args:
          q_ids: positions of queries, integers >= 0, NumPy or JAX.
          kv_ids: positions of keys; arrays have the same number of axes and broadcast.
          head: number of the head, an integer or an array that broadcasts with them.
          looked_up: what `looked_up(q_ids, head)` returns, if it is known.

        Returns:
          Booleans of the broadcast shape (that of the ids, where the head makes no difference).
        """
        raise NotImplementedError(f"{type(self).__name__} defines no method visible")

    def reaches(
        self, q_first: Ids, q_last: Ids, kv_first: Ids, kv_last: Ids, head: Ids
    ) -> np.ndarray:
        """Says for ranges of positions, both ends included, whether any pair may be visible."""
        shapes = [np.shape(a) for a in (q_first, q_last, kv_first, kv_last, head)]
        return np.ones(np.broadcast_shapes(*shapes), bool)

    def __and__(self, other: "Pattern") -> "Pattern":
        return _Both(self, other)

    def __or__(self, other: "Pattern") -> "Pattern":
        return _Either(self, other)


@dataclasses.dataclass(frozen=True)
class _Pair(Pattern):
    first: Pattern
    second: Pattern

    def __post_init__(self):
        for part in (self.first, self.second):
            if not isinstance(part, Pattern):
                raise ValueError(f"a pattern was combined with {part!r}; combine two patterns")

    @property
    def per_head(self) -> bool:
        return self.first.per_head or self.second.per_head

    @property
    def terms(self) -> int:
        return self.first.terms + self.second.terms

    def looked_up(self, q_ids, head):
        return self.first.looked_up(q_ids, head) + self.second.looked_up(q_ids, head)

    def _both_visible(self, q_ids, kv_ids, head, looked_up):
        if looked_up is None:
            looked_up = self.looked_up(q_ids, head)
        count = self.first.terms
        seen = []
        for part, known in ((self.first, looked_up[:count]), (self.second, looked_up[count:])):
            # A pattern without tables need not have the fourth argument.
            seen.append(part.visible(q_ids, kv_ids, head, *((known,) if part.terms else ())))
        return seen


@dataclasses.dataclass(frozen=True)
class _Both(_Pair):
    def visible(self, q_ids, kv_ids, head, looked_up=None):
        first, second = self._both_visible(q_ids, kv_ids, head, looked_up)
        return first & second

    def reaches(self, q_first, q_last, kv_first, kv_last, head):
        ranges = (q_first, q_last, kv_first, kv_last, head)
        return self.first.reaches(*ranges) & self.second.reaches(*ranges)


@dataclasses.dataclass(frozen=True)
class _Either(_Pair):
    def visible(self, q_ids, kv_ids, head, looked_up=None):
        first, second = self._both_visible(q_ids, kv_ids, head, looked_up)
        return first | second

    def reaches(self, q_first, q_last, kv_first, kv_last, head):
        ranges = (q_first, q_last, kv_first, kv_last, head)
        return self.first.reaches(*ranges) | self.second.reaches(*ranges)


@dataclasses.dataclass(frozen=True)
class Causal(Pattern):
    """See `attention_pattern.causal`."""

    def visible(self, q_ids, kv_ids, head, looked_up=None):
        return kv_ids <= q_ids

    def reaches(self, q_first, q_last, kv_first, kv_last, head):
        return _host(kv_first) <= _host(q_last)


@dataclasses.dataclass(frozen=True)
class LocalBlocks(Pattern):
    """See `attention_pattern.local_blocks`."""

    size: int

    def visible(self, q_ids, kv_ids, head, looked_up=None):
        return _quotient(q_ids, self.size) == _quotient(kv_ids, self.size)

    def reaches(self, q_first, q_last, kv_first, kv_last, head):
        return _overlap(q_first, q_last, kv_first, kv_last, self.size)


def within_blocks(pattern: Pattern | None) -> tuple[int, Pattern | None] | None:
    """The size of local blocks and the pattern inside each, if a pattern is that and no more."""
    if isinstance(pattern, LocalBlocks):
        return pattern.size, None
    if isinstance(pattern, _Both):
        for blocks, rest in ((pattern.first, pattern.second), (pattern.second, pattern.first)):
            # What depends on distances alone is the same inside every block.
            if isinstance(blocks, LocalBlocks) and isinstance(rest, Causal | SlidingWindow):
                return blocks.size, rest
    return None


@dataclasses.dataclass(frozen=True)
class SlidingWindow(Pattern):
    """See `attention_pattern.sliding_window`."""

    before: int
    after: int

    def visible(self, q_ids, kv_ids, head, looked_up=None):
        return (kv_ids >= q_ids - self.before) & (kv_ids <= q_ids + self.after)

    def reaches(self, q_first, q_last, kv_first, kv_last, head):
        starts_early = _host(kv_first) <= _host(q_last) + self.after
        return starts_early & (_host(kv_last) >= _host(q_first) - self.before)


@dataclasses.dataclass(frozen=True)
class GlobalTokens(Pattern):
    """See `attention_pattern.global_tokens`."""

    count: int

    def visible(self, q_ids, kv_ids, head, looked_up=None):
        return (q_ids < self.count) | (kv_ids < self.count)

    def reaches(self, q_first, q_last, kv_first, kv_last, head):
        return (_host(q_first) < self.count) | (_host(kv_first) < self.count)


@dataclasses.dataclass(frozen=True)
class FixedBlocks(Pattern):
    """See `attention_pattern.fixed_blocks`."""

    block: int
    summary: int

    def visible(self, q_ids, kv_ids, head, looked_up=None):
        place = _remainder(kv_ids, self.block)
        is_summary = (place >= self.block - self.summary) | (place == 0)
        return (_quotient(q_ids, self.block) == _quotient(kv_ids, self.block)) | is_summary

    def reaches(self, q_first, q_last, kv_first, kv_last, head):
        # The summary of a block and the first of the next are `summary + 1` keys that end at a
        # multiple of `block`; the last such run that begins before kv_last must end in the range.
        ends = (_host(kv_last) + self.summary) // self.block * self.block
        has_summary = ends >= _host(kv_first)
        return _overlap(q_first, q_last, kv_first, kv_last, self.block) | has_summary


@dataclasses.dataclass(frozen=True)
class BigBird(Pattern):
    """See `attention_pattern.big_bird`."""

    length: int
    block: int
    window: int
    random: int
    seed: int
    heads: int | None

    @property
    def per_head(self) -> bool:
        return self.heads is not None

    @property
    def terms(self) -> int:
        return self.random

    def looked_up(self, q_ids, head):
        if self.random == 0:
            return ()
        last = (self.length - 1) // self.block
        on_device = isinstance(q_ids, jax.Array) or isinstance(head, jax.Array)
        xp = jnp if on_device else np
        place = xp.clip(q_ids // self.block, 0, last)
        if self.heads is not None:
            place = place + head * (last + 1)
        table = _random_blocks(self).reshape(-1, self.random)
        return tuple(xp.asarray(column)[place] for column in table.T)

    def _blocks_visible(self, q_block, kv_block, drawn):
        last = (self.length - 1) // self.block
        seen = (q_block == 0) | (q_block == last) | (kv_block == 0) | (kv_block == last)
        seen = seen | (abs(q_block - kv_block) <= self.window)
        for one in drawn:
            seen = seen | (one == kv_block)
        return seen

    def visible(self, q_ids, kv_ids, head, looked_up=None):
        if looked_up is None:
            looked_up = self.looked_up(q_ids, head)
        q_blocks, kv_blocks = _quotient(q_ids, self.block), _quotient(kv_ids, self.block)
        return self._blocks_visible(q_blocks, kv_blocks, looked_up)

    def reaches(self, q_first, q_last, kv_first, kv_last, head):
        q_blocks = _host(q_first) // self.block, _host(q_last) // self.block
        kv_blocks = _host(kv_first) // self.block, _host(kv_last) // self.block
        shape = np.broadcast_shapes(
            *map(np.shape, (*q_blocks, *kv_blocks, _host(head) if self.per_head else 0))
        )
        reached = np.zeros(shape, bool)
        for i in range(int((q_blocks[1] - q_blocks[0]).max(initial=0)) + 1):
            for j in range(int((kv_blocks[1] - kv_blocks[0]).max(initial=0)) + 1):
                q_block = np.minimum(q_blocks[0] + i, q_blocks[1])
                kv_block = np.minimum(kv_blocks[0] + j, kv_blocks[1])
                drawn = self.looked_up(q_block * self.block, _host(head))
                reached |= self._blocks_visible(q_block, kv_block, drawn)
        return reached


@functools.lru_cache(maxsize=64)
def _random_blocks(pattern: BigBird) -> np.ndarray:
    """The random key blocks of each query block, `[heads or 1, blocks, random]` int32.

    They are drawn from the blocks that are not seen anyway; a query block that has too few of
    those is given itself instead.
    """
    blocks = (pattern.length - 1) // pattern.block + 1
    rng = np.random.default_rng(pattern.seed)
    table = np.empty((pattern.heads or 1, blocks, pattern.random), np.int32)
    for of_head in table:
        for q_block, row in enumerate(of_head):
            others = np.arange(1, blocks - 1)
            others = others[np.abs(others - q_block) > pattern.window]
            drawn = rng.permutation(others)[: pattern.random]
            row[:] = q_block
            row[: len(drawn)] = drawn
    return table


def _quotient(ids: Ids, size: int) -> Any:
    """`ids // size` for numbers that are not negative; the operator takes a TPU many steps."""
    return lax.div(ids, lax.full_like(ids, size)) if isinstance(ids, jax.Array) else ids // size


def _remainder(ids: Ids, size: int) -> Any:
    return lax.rem(ids, lax.full_like(ids, size)) if isinstance(ids, jax.Array) else ids % size


def _host(x: Ids) -> np.ndarray:
    return np.asarray(x)


def _overlap(q_first, q_last, kv_first, kv_last, size):
    """Whether two ranges touch a common block of `size` positions."""
    starts_early = _host(kv_first) // size <= _host(q_last) // size
    return starts_early & (_host(kv_last) // size >= _host(q_first) // size)
