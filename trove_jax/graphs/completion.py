"""What pairs would share if the graph were complete: weighted sums over their neighbours.

A pair has few such neighbours on average and hundreds at most. They stand one behind the other in
one list, and loops go through as much of it as is in use.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from trove_jax.graphs.intersection import (
    Neighbours,
    common_neighbour_counts,
    neighbour_difference,
)
from trove_jax.graphs.propagation import propagate
from trove_jax.graphs.topology import Topology
from trove_jax.kernels.numbers import compute_dtype

_DENSE_BYTES = 2**30


def difference_sum(
    topology: Topology,
    pairs: jax.Array,
    x: jax.Array,
    weigh: Callable[[jax.Array], jax.Array],
    *,
    limit: int,
    block: int = 4096,
    key: jax.Array | None = None,
    common: jax.Array | None = None,
) -> jax.Array:
    """Adds up what neighbours of one end of a pair hold, by how well they would fit the other end.

    s_ij = sum over u in N(i) \\ N(j) of w(j, u) x_u + sum over u in N(j) \\ N(i) of w(i, u) x_u

    Has a gradient to `x`; weights have none.

    Args:
      topology: a graph with both directions of every link, each once, and without self-loops;
        masked edges are none.
      pairs: nodes i and j, integer `[b, 2]`.
      x: floating-point `[n, f]`.
      weigh: takes pairs (end, neighbour), int32 `[block, 2]`, to their weights, floating-point
        `[block]`. It is called inside a loop, and also with pairs that do not count.
      limit: neighbours of each end that are taken at most. Where there are more, the weights of
        those taken are multiplied by count / limit.
      block: pairs that are weighed at a time.
      key: with a random key, each neighbour has the same chance of being taken; None: the first.
      common: numbers of common neighbours, `[b]`, where they are known already.

    Returns:
      `[b, f]` in the dtype of `x`, summed in float32 at least.

    Raises:
      ValueError: `limit` or `block` below 1; pairs or `x` of another shape.

    Example:
      >>> from trove_jax import graphs
      >>> path = graphs.topology.from_edges([[0, 1], [1, 2], [2, 3]], 4)
      >>> x = jnp.array([[1.0], [2.0], [4.0], [8.0]])
      >>> half = lambda pairs: jnp.full(len(pairs), 0.5)
      >>> print(difference_sum(path, jnp.array([[0, 3], [1, 3]]), x, half, limit=2))
      [[3. ]
       [0.5]]

    Reference: Wang et al., Neural Common Neighbor with Completion for Link Prediction, ICLR 2024
    (common neighbour completion).
    """
    if limit < 1 or block < 1:
        raise ValueError(f"limit={limit}, block={block}; at least 1 is wanted")
    if x.ndim != 2 or x.shape[0] != topology.n_node:
        raise ValueError(f"x has shape {x.shape}; [{topology.n_node}, f] is wanted")
    dtype = compute_dtype(x)
    count = pairs.shape[0]
    if not (count and topology.n_edge):
        return jnp.zeros((count, x.shape[1]), x.dtype)
    pairs = pairs.astype(jnp.int32)
    both = jnp.concatenate([pairs, pairs[:, ::-1]])
    found, mask = neighbour_difference(topology, both, limit, key=key)
    kept = mask.sum(axis=1, dtype=jnp.int32)
    ends = jnp.cumsum(kept)
    total = ends[-1]
    if common is None:
        common = common_neighbour_counts(topology, pairs)
    degree = topology.in_degree()[both[:, 0]]
    missing = degree - jnp.concatenate([common, common]).astype(jnp.int32)
    share = missing.astype(dtype) / jnp.maximum(kept, 1).astype(dtype)
    blocks = -(-2 * count * limit // block)

    def fill(number, entries):
        place = number * block + jnp.arange(block, dtype=jnp.int32)
        row = jnp.minimum(jnp.searchsorted(ends, place, side="right"), 2 * count - 1)
        row = row.astype(jnp.int32)
        # Places behind the last one in use are clipped, and weigh nothing.
        slot = jnp.clip(place - ends[row] + kept[row], 0, limit - 1)
        node = found[row, slot]
        weight = weigh(jnp.stack([both[row, 1], node], axis=1)).astype(dtype) * share[row]
        weight = jnp.where(place < total, weight, jnp.zeros((), dtype))
        new = (row % count, node, weight)
        return tuple(
            lax.dynamic_update_slice(whole, part, (number * block,))
            for whole, part in zip(entries, new, strict=True)
        )

    empty = jnp.zeros(blocks * block, jnp.int32)
    entries = (empty, empty, jnp.zeros(blocks * block, dtype))
    entries = lax.stop_gradient(lax.fori_loop(0, -(-total // block), fill, entries))
    row, node, weight = entries
    out: Any = _entry_sum(min(block, 512), count, row, node, weight, total, x.astype(dtype))
    return out.astype(x.dtype)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _entry_sum(block: int, n_rows: int, row, column, weight, total, x) -> jax.Array:
    """y_r = sum over the first `total` entries of row r of weight x_column, by blocks."""

    def add(number, out):
        part = [lax.dynamic_slice(a, (number * block,), (block,)) for a in (row, column, weight)]
        return out.at[part[0]].add(part[2][:, None] * x[part[1]])

    out = jnp.zeros((n_rows, x.shape[1]), x.dtype)
    return lax.fori_loop(0, -(-total // block), add, out)


def _entry_sum_fwd(block, n_rows, row, column, weight, total, x):
    out = _entry_sum(block, n_rows, row, column, weight, total, x)
    return out, (row, column, weight, total, jnp.zeros((x.shape[0], 0), jnp.bool_))


def _entry_sum_bwd(block, n_rows, saved, g):
    del n_rows
    row, column, weight, total, like = saved
    d_x = _entry_sum(block, like.shape[0], column, row, weight, total, g)
    return None, None, jnp.zeros_like(weight), None, d_x


_entry_sum.defvjp(_entry_sum_fwd, _entry_sum_bwd)


def weighted_neighbour_sum(neighbours: Neighbours, weight: jax.Array, x: jax.Array) -> jax.Array:
    """Adds up what some neighbours of pairs hold, with a weight for each pair and neighbour.

    s_p = sum over k of w_pk x_(index_pk)

    One neighbour of every pair after the other, so that no array is larger than the sum; the
    gradient reads `x` again instead of keeping what was read.

    Args:
      neighbours: nodes and mask, `[b, m]`; weights that are masked may be NaN.
      weight: floating-point `[b, m]`.
      x: floating-point `[n, f]`.

    Returns:
      `[b, f]` in the dtype of `x`, summed in float32 at least.

    Raises:
      ValueError: shapes that do not fit; a dtype that is not floating-point.

    Example:
      >>> found = Neighbours(jnp.array([[1, 2], [0, 0]]), jnp.array([[True, True], [True, False]]))
      >>> weight = jnp.array([[0.5, 1.0], [2.0, jnp.nan]])
      >>> print(weighted_neighbour_sum(found, weight, jnp.array([[1.0], [2.0], [4.0]])).ravel())
      [5. 2.]

    Reference: Wang et al., ICLR 2024 (equation of NCNC).
    """
    index, mask = (jnp.asarray(array) for array in neighbours)
    weight, x = jnp.asarray(weight), jnp.asarray(x)
    if weight.shape != index.shape or mask.shape != index.shape or index.ndim != 2:
        raise ValueError(
            f"weight has shape {weight.shape}, mask {mask.shape} and index {index.shape}; the "
            "same (b, m) is wanted"
        )
    if x.ndim != 2:
        raise ValueError(f"x has shape {x.shape}; (n, f) is wanted")
    for name, array in (("weight", weight), ("x", x)):
        if not jnp.issubdtype(array.dtype, jnp.floating):
            raise ValueError(f"{name} has dtype {array.dtype}; a floating-point dtype is wanted")
    dtype = compute_dtype(weight, x)
    weight = jnp.where(mask, weight, jnp.zeros((), weight.dtype)).astype(dtype)
    if not x.size:
        return jnp.zeros((index.shape[0], x.shape[1]), x.dtype)

    @jax.checkpoint
    def add(total, column):
        at, share = column
        return total + share[:, None] * x[at].astype(dtype), None

    start = jnp.zeros((index.shape[0], x.shape[1]), dtype)
    return lax.scan(add, start, (index.T, weight.T))[0].astype(x.dtype)


def two_hop_sum(topology: Topology, pairs: jax.Array, x: jax.Array) -> jax.Array:
    """Adds up what nodes hold that are a neighbour of one end and two hops from the other.

    s_ij = sum over u in N(i) and N2(j) of x_u + sum over u in N2(i) and N(j) of x_u

    N2(i) are the nodes at the end of a walk of two edges from i: neighbours of i may be among them,
    and i itself is where it has a neighbour. Both adjacency matrices are made dense.

    Args:
      topology: as in `difference_sum`.
      pairs: nodes i and j, integer `[b, 2]`.
      x: floating-point `[n, f]`.

    Returns:
      `[b, f]` in the dtype of `x`.

    Raises:
      ValueError: the matrices take more than 1 GiB; `x` of another shape.

    Example:
      >>> from trove_jax import graphs
      >>> path = graphs.topology.from_edges([[0, 1], [1, 2], [2, 3]], 4)
      >>> x = jnp.array([[1.0], [2.0], [4.0], [8.0]])
      >>> print(two_hop_sum(path, jnp.array([[0, 3], [0, 2]]), x))
      [[6.]
       [0.]]

    Reference: Wang et al., ICLR 2024 (NCN2 of the ablation).
    """
    n, count = topology.n_node, pairs.shape[0]
    if x.ndim != 2 or x.shape[0] != n:
        raise ValueError(f"x has shape {x.shape}; [{n}, f] is wanted")
    n_bytes = 4 * (3 * n * n + 3 * count * n)
    if n_bytes > _DENSE_BYTES:
        raise ValueError(
            f"{n} nodes and {count} pairs take {n_bytes} bytes; at most {_DENSE_BYTES} are "
            "allowed: use fewer pairs or another kind of head"
        )
    dtype = compute_dtype(x)
    present = topology.masked(jnp.ones(topology.n_edge, dtype))
    near = jnp.zeros((n, n), dtype).at[topology.receivers, topology.senders].max(present)
    far = (propagate(topology, near, present) > 0).astype(dtype)
    first, second = pairs[:, 0], pairs[:, 1]
    chosen = near[first] * far[second] + far[first] * near[second]
    return (chosen @ x.astype(dtype)).astype(x.dtype)
