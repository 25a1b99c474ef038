"""Which keys a query may see, as small rules of positions that combine by `&` and `|`.

A pattern is a frozen dataclass: it is hashable, so that it can be a static argument of a compiled
function. A new kind of pattern is a subclass of `Pattern` that defines `visible`.

    longformer = sliding_window(256, 256) | global_tokens(1)
    strictly_past = causal() & fixed_blocks(128, 32)
"""

import numpy as np

from trove_jax.kernels.attention_rules import (
    BigBird,
    Causal,
    FixedBlocks,
    GlobalTokens,
    LocalBlocks,
    Pattern,
    SlidingWindow,
)

__all__ = [
    "Pattern",
    "big_bird",
    "causal",
    "fixed_blocks",
    "global_tokens",
    "local_blocks",
    "sliding_window",
]


def causal() -> Pattern:
    """A query sees the keys at its own position and before.

    Returns:
      The pattern.

    Example:
      >>> ids = np.arange(3)
      >>> print(causal().visible(ids[:, None], ids[None], 0).astype(int))
      [[1 0 0]
       [1 1 0]
       [1 1 1]]
    """
    return Causal()


def local_blocks(size: int) -> Pattern:
    """A query sees the keys of its own block; blocks of `size` positions do not overlap.

    Args:
      size: positions of a block, >= 1; the last block may be shorter.

    Returns:
      The pattern.

    Raises:
      ValueError: a size that is not positive.

    Example:
      >>> ids = np.arange(4)
      >>> print(local_blocks(2).visible(ids[:, None], ids[None], 0).astype(int))
      [[1 1 0 0]
       [1 1 0 0]
       [0 0 1 1]
       [0 0 1 1]]
    """
    return LocalBlocks(_at_least("size", size, 1))


def sliding_window(before: int, after: int) -> Pattern:
    """A query sees itself, `before` keys before it and `after` keys after it.

    Args:
      before: number of earlier keys, >= 0.
      after: number of later keys, >= 0.

    Returns:
      The pattern.

    Raises:
      ValueError: a negative number.

    Example:
      >>> ids = np.arange(4)
      >>> print(sliding_window(1, 0).visible(ids[:, None], ids[None], 0).astype(int))
      [[1 0 0 0]
       [1 1 0 0]
       [0 1 1 0]
       [0 0 1 1]]

    Reference: Beltagy et al., Longformer: The Long-Document Transformer, 2020, section 3.1.
    """
    return SlidingWindow(_at_least("before", before, 0), _at_least("after", after, 0))


def global_tokens(count: int) -> Pattern:
    """The first `count` queries see every key, and the first `count` keys are seen by all.

    Args:
      count: number of global positions, >= 0.

    Returns:
      The pattern.

    Raises:
      ValueError: a negative number.

    Example:
      >>> ids = np.arange(3)
      >>> print(global_tokens(1).visible(ids[:, None], ids[None], 0).astype(int))
      [[1 1 1]
       [1 0 0]
       [1 0 0]]

    Reference: Beltagy et al., Longformer: The Long-Document Transformer, 2020, section 3.1.
    """
    return GlobalTokens(_at_least("count", count, 0))


def fixed_blocks(block: int, summary: int) -> Pattern:
    """A query sees its own block, and of every block the first and the last `summary` keys.

    Args:
      block: positions of a block, >= 1.
      summary: keys at the end of each block that all queries see, from 0 to `block`.

    Returns:
      The pattern; without an order of time: combine it with `causal()` for that.

    Raises:
      ValueError: a number out of range.

    Example:
      >>> ids = np.arange(6)
      >>> print(fixed_blocks(3, 1).visible(ids[:, None], ids[None], 0).astype(int)[0])
      [1 1 1 1 0 1]

    Reference: Child et al., Generating Long Sequences with Sparse Transformers, 2019, section 4.2.
    """
    block = _at_least("block", block, 1)
    if _at_least("summary", summary, 0) > block:
        raise ValueError(f"summary={summary} is more than block={block}; use at most {block}")
    return FixedBlocks(block, summary)


def big_bird(
    length: int,
    block: int = 64,
    window: int = 1,
    random: int = 3,
    seed: int = 0,
    heads: int | None = None,
) -> Pattern:
    """A block of queries sees the first and last block, its neighbours and a few random blocks.

    The first and the last block of queries see everything. Random blocks are drawn once, on the
    host, from the blocks that are not seen anyway.

    Args:
      length: number of positions, >= 1; the last block may be shorter.
      block: positions of a block, >= 1.
      window: blocks seen on either side of the query's own, >= 0.
      random: random blocks seen, >= 0.
      seed: seed of the draw.
      heads: number of heads that draw for themselves; None for one draw that all share.

    Returns:
      The pattern, for positions below `length`.

    Raises:
      ValueError: a number out of range.

    Example:
      >>> ids = np.arange(8)
      >>> print(big_bird(8, block=1, random=1).visible(ids[:, None], ids[None], 0).astype(int)[3])
      [1 1 1 1 1 0 0 1]

    Reference: Zaheer et al., Big Bird: Transformers for Longer Sequences, NeurIPS 2020, section 2.
    """
    return BigBird(
        _at_least("length", length, 1),
        _at_least("block", block, 1),
        _at_least("window", window, 0),
        _at_least("random", random, 0),
        _at_least("seed", seed, 0),
        None if heads is None else _at_least("heads", heads, 1),
    )


def _at_least(name: str, value: int, least: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < least:
        raise ValueError(f"{name}={value!r}; an integer >= {least} is wanted")
    return int(value)
