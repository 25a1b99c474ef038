"""Pairs without a link, drawn uniformly inside a compiled program and without a second try."""

from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp
import numpy as np

# The largest n for which n (n - 1) / 2 pairs have numbers in int32.
_LARGEST = 65536


class NonLinks(NamedTuple):
    """The pairs of nodes that have no link, as what is missing between those that have one.

    Pairs i < j are numbered by j (j - 1) / 2 + i. Made by `non_links`.

    Attributes:
      gaps: for each link, in the order of numbers, how many pairs without a link come before it,
        `[m]` int32, ascending.
      count: number of pairs without a link, int32 scalar.
    """

    gaps: jax.Array
    count: jax.Array


def non_links(links: Any, n_node: int) -> NonLinks:
    """Prepares the pairs without a link for drawing, on the host.

    Args:
      links: rows of two nodes in any direction, integer `[m, 2]`. Repetitions count once and
        self-loops not at all: a node and itself are never a pair.
      n_node: number of nodes, n.

    Returns:
      What `draw_non_links` draws from.

    Raises:
      ValueError: `links` are no rows of two; an index out of range; more than 65,536 nodes; every
        pair has a link.

    Example:
      >>> found = non_links([[0, 1], [2, 1]], 3)
      >>> print(found.gaps, found.count)
      [0 1] 1
    """
    ends = np.asarray(links)
    if ends.size == 0:
        ends = np.zeros((0, 2), np.int64)
    if ends.ndim != 2 or ends.shape[1] != 2 or ends.dtype.kind not in "iu":
        raise ValueError(f"links is {ends.dtype} {list(ends.shape)}; integers [m, 2] are wanted")
    if ends.size and not 0 <= ends.min() <= ends.max() < n_node:
        raise ValueError(f"links name node {ends.max()} or a negative one; n_node={n_node}")
    if n_node > _LARGEST:
        raise ValueError(
            f"n_node={n_node} is too large: pairs of more than {_LARGEST} nodes have no number in "
            "int32; draw pairs with jax.random.randint and leave out links"
        )
    ends = np.sort(ends.astype(np.int64), axis=1)
    ends = ends[ends[:, 0] != ends[:, 1]]
    numbers = np.unique(ends[:, 1] * (ends[:, 1] - 1) // 2 + ends[:, 0])
    count = n_node * (n_node - 1) // 2 - len(numbers)
    if count < 1:
        raise ValueError(f"all {len(numbers)} pairs of {n_node} nodes have a link; none is left")
    gaps = (numbers - np.arange(len(numbers))).astype(np.int32)
    return NonLinks(cast(Any, gaps), cast(Any, np.int32(count)))


def draw_non_links(key: jax.Array, absent: NonLinks, count: int) -> jax.Array:
    """Draws pairs without a link, uniformly and with replacement.

    The r-th pair without a link is pair r + #{links with at most r such pairs before them}, so that
    no draw has to be thrown away.

    Args:
      key: a typed random key.
      absent: of `non_links`.
      count: number of pairs, b.

    Returns:
      Pairs, the smaller index first, `[b, 2]` int32.

    Example:
      >>> print(draw_non_links(jax.random.key(0), non_links([[0, 1], [2, 1]], 3), 2))
      [[0 2]
       [0 2]]
    """
    rank = jax.random.randint(key, (count,), 0, absent.count, jnp.int32)
    number = rank + jnp.searchsorted(jnp.asarray(absent.gaps), rank, side="right").astype(jnp.int32)
    # The root of a float is at most one off, above or below.
    root = jnp.sqrt(2.0 * number.astype(jnp.float32) + 0.25) + 0.5
    large = root.astype(jnp.int32)
    large = large - (_triangle(large) > number).astype(jnp.int32)
    large = large + (_triangle(large + 1) <= number).astype(jnp.int32)
    return jnp.stack([number - _triangle(large), large], axis=1)


def _triangle(j: jax.Array) -> jax.Array:
    """j (j - 1) / 2 without leaving int32: one of the factors is even, and is halved first."""
    half = jnp.where(j % 2 == 0, j // 2, (j - 1) // 2)
    return half * jnp.where(j % 2 == 0, j - 1, j)
