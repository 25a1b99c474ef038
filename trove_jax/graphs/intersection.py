"""Neighbours that two nodes share, and those that only one of them has.

N(i) are the senders of the edges that end at node i, each counted once. In link prediction the
graph is undirected, with both directions stored and without self-loops: a self-loop makes a node
its own neighbour, and an end of a link a common neighbour of the two.
"""

import functools
from typing import Any, Literal, NamedTuple, get_args

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from trove_jax.graphs.pair_walk import (
    Hits,
    NeighbourLists,
    common_hits,
    neighbour_lists,
    over_hits,
    over_kept,
)
from trove_jax.graphs.topology import Topology
from trove_jax.kernels import sparse_forms as forms
from trove_jax.kernels.numbers import compute_dtype

Implementation = Literal["dense", "sparse"] | None
_IMPLEMENTATIONS = (None, *get_args(get_args(Implementation)[0]))
_DENSE_BYTES = 2**28


class Neighbours(NamedTuple):
    """Some nodes for every pair.

    Attributes:
      index: nodes, `[b, m]` int32; 0 where `mask` is False.
      mask: whether there is a node, True from the left, `[b, m]` bool.
    """

    index: jax.Array
    mask: jax.Array


def common_neighbours(
    topology: Topology,
    pairs: jax.Array,
    max_degree: int,
    *,
    key: jax.Array | None = None,
) -> Neighbours:
    """The nodes that are neighbours of both nodes of a pair.

    N(i) with N(j), at most m of them

    Lists of any length are searched; `max_degree` bounds what is found, not what is read. How many
    were left out is `common_neighbour_counts(topology, pairs) - mask.sum(1)`.

    Args:
      topology: edges; masked ones do not count, weights do not matter, and edges that are stored
        repeatedly count once.
      pairs: nodes i and j, `[b, 2]` integers. A negative number stands for no node, which has no
        neighbours, so that batches can be filled up.
      max_degree: m, at least 1.
      key: with a random key, each neighbour of a pair has the same chance of being among those that
        are kept; None: the first m are kept.

    Returns:
      Nodes in ascending order, or in that order from a random one on where some are left out.

    Raises:
      ValueError: pairs that are no integers `[b, 2]`; a number beyond the nodes in a NumPy array
        (in a program it stands for no node); `max_degree` below 1.

    Example:
      >>> from trove_jax.graphs import topology
      >>> square = topology.from_edges([[0, 1], [1, 2], [2, 3], [3, 0]], 4)
      >>> found = common_neighbours(square, np.array([[0, 2], [0, 1]]), 2)
      >>> print(found.index[0], found.mask)
      [1 3] [[ True  True]
             [False False]]

    Reference: Wang et al., Neural Common Neighbor with Completion for Link Prediction, ICLR 2024.
    """
    return _found(topology, pairs, max_degree, key, common=True)


def neighbour_difference(
    topology: Topology,
    pairs: jax.Array,
    max_degree: int,
    *,
    key: jax.Array | None = None,
) -> Neighbours:
    """The nodes that are neighbours of the first node of a pair and not of the second.

    N(i) without N(j), at most m of them

    The second node is among them where there is an edge between the two. How many were left out is
    `neighbour_difference_counts(topology, pairs) - mask.sum(1)`.

    Args:
      topology: as in `common_neighbours`.
      pairs: as in `common_neighbours`.
      max_degree: m, at least 1.
      key: as in `common_neighbours`.

    Returns:
      As `common_neighbours`.

    Raises:
      ValueError: as `common_neighbours`.

    Example:
      >>> from trove_jax.graphs import topology
      >>> path = topology.from_edges([[0, 1], [1, 2], [2, 3]], 4)
      >>> print(neighbour_difference(path, np.array([[1, 3]]), 2))
      Neighbours(index=Array([[0, 0]], dtype=int32), mask=Array([[ True, False]], dtype=bool))

    Reference: Wang et al., ICLR 2024 (completion).
    """
    return _found(topology, pairs, max_degree, key, common=False)


def common_neighbour_counts(topology: Topology, pairs: jax.Array) -> jax.Array:
    """The number of nodes that are neighbours of both nodes of a pair.

    Args:
      topology: as in `common_neighbours`.
      pairs: as in `common_neighbours`.

    Returns:
      `[b]` int32.

    Raises:
      ValueError: as `common_neighbours`.

    Example:
      >>> from trove_jax.graphs import topology
      >>> square = topology.from_edges([[0, 1], [1, 2], [2, 3], [3, 0]], 4)
      >>> print(common_neighbour_counts(square, np.array([[0, 2], [0, 1]])))
      [2 0]
    """
    return _counts(topology, pairs, common=True)


def neighbour_difference_counts(topology: Topology, pairs: jax.Array) -> jax.Array:
    """The number of nodes that are neighbours of the first node of a pair and not of the second.

    Args:
      topology: as in `common_neighbours`.
      pairs: as in `common_neighbours`.

    Returns:
      `[b]` int32.

    Raises:
      ValueError: as `common_neighbours`.

    Example:
      >>> from trove_jax.graphs import topology
      >>> path = topology.from_edges([[0, 1], [1, 2], [2, 3]], 4)
      >>> print(neighbour_difference_counts(path, np.array([[1, 3], [1, 2]])))
      [1 2]
    """
    return _counts(topology, pairs, common=False)


def common_neighbour_sum(
    topology: Topology,
    pairs: jax.Array,
    x: jax.Array,
    *,
    implementation: Implementation = None,
) -> jax.Array:
    """Adds up what the common neighbours of pairs hold.

    s_ij = sum over u in N(i) and N(j) of x_u

    All of them count, whatever their number. Has a gradient to `x`, and that has one again. Under
    `jax.vmap`, seeds that share graph and pairs become columns of one sum; others follow one
    another.

    Args:
      topology: as in `common_neighbours`.
      pairs: as in `common_neighbours`.
      x: floating-point `[n, f]`, or `[s, n, f]` for seeds.
      implementation: `"sparse"` walks the shorter list of a pair and looks its nodes up in the
        other; `"dense"` makes the adjacency matrix and multiplies its rows, `n * n + 5 b n` bytes;
        None: `"sparse"` on a CPU; elsewhere `"dense"` if it takes at most 256 MiB. The two were
        not measured beside each other.

    Returns:
      `[b, f]` or `[s, b, f]` in the dtype of `x`, summed in float32 at least; 0 without a common
      neighbour.

    Raises:
      ValueError: as `common_neighbours`; an `x` of another shape or that is not floating-point;
        `"dense"` that takes more than 256 MiB; an unknown implementation.

    Example:
      >>> from trove_jax.graphs import topology
      >>> square = topology.from_edges([[0, 1], [1, 2], [2, 3], [3, 0]], 4)
      >>> x = jnp.array([[1.0], [2.0], [4.0], [8.0]])
      >>> print(common_neighbour_sum(square, np.array([[0, 2], [0, 1]]), x).ravel())
      [10.  0.]

    Reference: Wang et al., Neural Common Neighbor with Completion for Link Prediction, ICLR 2024
    (equation of NCN).
    """
    if implementation not in _IMPLEMENTATIONS:
        raise ValueError(
            f"implementation={implementation!r} is unknown; use one of {_IMPLEMENTATIONS}"
        )
    pairs = checked_pairs(pairs, topology.n_node)
    x = jnp.asarray(x)
    if x.ndim not in (2, 3) or x.shape[-2] != topology.n_node:
        raise ValueError(
            f"x has shape {x.shape}; ({topology.n_node}, f) or (s, {topology.n_node}, f) is wanted"
        )
    if not jnp.issubdtype(x.dtype, jnp.floating):
        raise ValueError(f"x has dtype {x.dtype}; a floating-point dtype is wanted")
    n_bytes = topology.n_node**2 + 5 * len(pairs) * topology.n_node
    if implementation == "dense" and n_bytes > _DENSE_BYTES:
        raise ValueError(
            f"implementation='dense' takes {n_bytes} bytes for {topology.n_node} nodes and "
            f"{len(pairs)} pairs; at most {_DENSE_BYTES} are allowed: use 'sparse' or fewer pairs"
        )
    found = x.astype(compute_dtype(x))
    lists = neighbour_lists(topology)
    if not (topology.n_edge and x.size and len(pairs)):
        out = jnp.zeros((*x.shape[:-2], len(pairs), x.shape[-1]), found.dtype)
    elif implementation is None:
        default = _dense_sum if n_bytes <= _DENSE_BYTES else _sparse_sum
        out = lax.platform_dependent(lists, pairs, found, cpu=_sparse_sum, default=default)
    else:
        form = _dense_sum if implementation == "dense" else _sparse_sum
        out = form(lists, pairs, found)
    return out.astype(x.dtype)


def checked_pairs(pairs: Any, n_node: int) -> jax.Array:
    """Pairs as `[b, 2]` int32, or the ValueError of `common_neighbours`."""
    if isinstance(pairs, list | tuple):
        pairs = np.asarray(pairs)
    if pairs.ndim != 2 or pairs.shape[1] != 2 or not jnp.issubdtype(pairs.dtype, jnp.integer):
        raise ValueError(
            f"pairs have shape {pairs.shape} and dtype {pairs.dtype}; integers (b, 2) are wanted"
        )
    if isinstance(pairs, np.ndarray):
        outside = np.flatnonzero((pairs >= n_node).any(axis=1))
        if outside.size:
            raise ValueError(
                f"pairs[{outside[0]}] is {pairs[outside[0]].tolist()}; numbers below {n_node} are "
                f"wanted ({outside.size} of {len(pairs)} are out of range)"
            )
    return jnp.asarray(pairs, jnp.int32)


def _counts(topology: Topology, pairs: Any, *, common: bool) -> jax.Array:
    pairs = checked_pairs(pairs, topology.n_node)
    if not (topology.n_edge and len(pairs)):
        return jnp.zeros(len(pairs), jnp.int32)
    return _sparse_counts(common)(neighbour_lists(topology), pairs)


def _found(
    topology: Topology, pairs: Any, max_degree: int, key: jax.Array | None, *, common: bool
) -> Neighbours:
    pairs = checked_pairs(pairs, topology.n_node)
    if max_degree < 1:
        raise ValueError(f"max_degree={max_degree} must be at least 1")
    if not (topology.n_edge and len(pairs)):
        index = jnp.zeros((len(pairs), max_degree), jnp.int32)
        return Neighbours(index, jnp.zeros(index.shape, bool))
    lists = neighbour_lists(topology)
    count = first = jnp.zeros(len(pairs), jnp.int32)
    if key is not None:
        count = _sparse_counts(common)(lists, pairs)
        drawn = jax.random.uniform(key, count.shape) * count.astype(jnp.float32)
        # Rounding may lift the product to the count itself.
        first = jnp.clip(drawn.astype(jnp.int32), 0, jnp.maximum(count - 1, 0))
        first = jnp.where(count > max_degree, first, 0)
    index, seen = _sparse_index(common, max_degree)(lists, pairs, first, count)
    kept = jnp.minimum(seen, max_degree)
    return Neighbours(index, jnp.arange(max_degree, dtype=jnp.int32)[None] < kept[:, None])


@functools.cache
def _sparse_counts(common: bool) -> Any:
    def counts(lists: NeighbourLists, pairs):
        def step(total, pair, node, is_hit):
            del node
            return total.at[pair].add(is_hit.astype(jnp.int32), **forms.SORTED)

        return over_hits(lists, pairs, step, jnp.zeros(len(pairs), jnp.int32), common=common)

    return jax.jit(forms.sequential(counts))


@functools.cache
def _sparse_index(common: bool, size: int) -> Any:
    """Numbers the hits of every pair and writes hit `first` and those after it, in a circle."""

    def index(lists: NeighbourLists, pairs, first, count):
        def step(total, pair, node, is_hit):
            found, seen = total
            place = jnp.arange(pair.shape[0], dtype=jnp.int32)
            is_new = jnp.concatenate([jnp.ones(1, bool), pair[1:] != pair[:-1]])
            begin = jax.lax.cummax(jnp.where(is_new, place, 0))
            rank = seen[pair] + place - begin - first[pair]
            slot = jnp.where(rank < 0, rank + count[pair], rank)
            slot = jnp.where(is_hit, slot, size)
            seen = seen.at[pair].add(is_hit.astype(jnp.int32), **forms.SORTED)
            return found.at[pair, slot].set(node, mode="drop"), seen

        start = (jnp.zeros((len(pairs), size), jnp.int32), jnp.zeros(len(pairs), jnp.int32))
        return over_hits(lists, pairs, step, start, common=common)

    return jax.jit(forms.sequential(index))


@jax.jit
def _dense_sum(lists: NeighbourLists, pairs, x) -> jax.Array:
    n_node = lists.starts.shape[0] - 1
    is_there = True if lists.mask is None else lists.mask
    adjacency = jnp.zeros((n_node, n_node), bool).at[lists.owners, lists.nodes].max(is_there)
    is_node = (pairs >= 0) & (pairs < n_node)
    rows = [adjacency[pairs[:, end]] & is_node[:, end, None] for end in (0, 1)]
    return jnp.matmul((rows[0] & rows[1]).astype(x.dtype), x, precision="highest")


@jax.jit
def _sparse_sum(lists: NeighbourLists, pairs, x) -> jax.Array:
    state = _State(lists, _sparse_hits()(lists, pairs))
    gather = functools.partial(_moved, False)
    if x.ndim == 3:
        return jax.vmap(gather, in_axes=(None, None, 0))(state, pairs, x)
    return gather(state, pairs, x)


class _State(NamedTuple):
    lists: NeighbourLists
    hits: Hits


@functools.cache
def _sparse_hits() -> Any:
    return forms.sequential(common_hits)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _moved(transposed: bool, state: _State, pairs, x) -> jax.Array:
    """Rows of common neighbours, added up at their pairs; transposed, of pairs at neighbours."""
    return _linear(transposed)(state, pairs, x)


def _moved_fwd(transposed, state, pairs, x):
    return _moved(transposed, state, pairs, x), (state, pairs)


def _moved_bwd(transposed, saved, g):
    return None, None, _moved(not transposed, *saved, g)


_moved.defvjp(_moved_fwd, _moved_bwd)


@functools.cache
def _linear(transposed: bool) -> Any:
    def linear(state: _State, pairs, x):
        def step(total, pair, node, is_hit):
            source, target = (pair, node) if transposed else (node, pair)
            rows = jnp.where(is_hit[:, None], forms.gather(x, source), jnp.zeros((), x.dtype))
            return total.at[target].add(rows, mode="promise_in_bounds")

        def start():
            size = state.lists.starts.shape[0] - 1 if transposed else len(pairs)
            return jnp.zeros((size, x.shape[1]), x.dtype)

        return over_kept(state.hits, state.lists, pairs, step, start)

    return forms.folding(linear)
