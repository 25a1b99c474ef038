"""Forms of the sparse product and of what its gradient needs, on arrays with an axis of heads.

Everywhere `values` is `[e, h]`, in the stored order of the pattern, and dense arrays are
`[n, h, f]`. Entries of a pattern are in range by construction, so that no form checks them again.
"""

import functools
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import sparse

from trove_jax.kernels.numbers import unknown_ones
from trove_jax.kernels.sparse_pattern import SparsePattern

_NUMBERS_PER_CHUNK = 2**19
_LEAST_CHUNK = 256
_LARGEST_FOLD = 2**22
_COLUMNS_AT_ONCE = 8
_LEAST_BCSR_WIDTH = 5


def side(pattern: SparsePattern, transposed: bool) -> tuple[Any, Any, Any, tuple[int, int]]:
    """Rows, columns and row starts of the matrix or of its transpose, and its shape."""
    if transposed:
        rows, columns = pattern.transposed_columns, pattern.transposed_rows
        return rows, columns, pattern.column_starts, (pattern.shape[1], pattern.shape[0])
    return pattern.rows, pattern.columns, pattern.row_starts, pattern.shape


def in_order(pattern: SparsePattern, transposed: bool, values: jax.Array) -> jax.Array:
    """Stored values in the order of `side`."""
    return gather(values, pattern.to_transposed) if transposed else values


def gather(array: jax.Array, indices: jax.Array) -> jax.Array:
    """Rows of an array at indices that are in range."""
    return jnp.asarray(array).at[indices].get(mode="promise_in_bounds")


def reference_product(transposed: bool, pattern: SparsePattern, values, x) -> jax.Array:
    """Gathers, multiplies, and sums by segments: an `[e, h, f]` array of messages."""
    rows, columns, _, (n_rows, _) = side(pattern, transposed)
    messages = gather(x, columns) * in_order(pattern, transposed, values)[:, :, None]
    return jax.ops.segment_sum(messages, rows, n_rows, indices_are_sorted=True)


def bcsr_product(transposed: bool, pattern: SparsePattern, values, x) -> jax.Array:
    """XLA's own sparse kernel, head by head; float32 and float64 only.

    It takes eight columns at a time and is up to five times slower on a rest, which is filled up.
    """
    _, columns, starts, shape = side(pattern, transposed)

    def one_head(weights, dense):
        matrix = sparse.BCSR(
            (weights, columns, starts), shape=shape, indices_sorted=True, unique_indices=False
        )
        return sparse.bcsr_dot_general(matrix, dense, dimension_numbers=(((1,), (0,)), ((), ())))

    weights = in_order(pattern, transposed, values)
    width = x.shape[2]
    x = filled_up(x)
    if x.shape[1] == 1:
        return one_head(weights[:, 0], x[:, 0])[:, None, :width]
    heads = lax.map(lambda head: one_head(*head), (weights.T, x.swapaxes(0, 1)))
    return heads.swapaxes(0, 1)[:, :, :width]


def filled_up(x: jax.Array) -> jax.Array:
    """Adds columns of zeros, `[..., f]`, up to a multiple of eight."""
    return jnp.pad(x, [(0, 0)] * (x.ndim - 1) + [(0, -x.shape[-1] % _COLUMNS_AT_ONCE)])


def chunked_product(transposed: bool, pattern: SparsePattern, values, x) -> jax.Array:
    """The reference on a few thousand entries at a time, whose messages stay in the cache."""
    rows, columns, _, (n_rows, _) = side(pattern, transposed)
    weights = in_order(pattern, transposed, values)

    def add(total, chunk):
        messages = gather(x, chunk(columns))
        weight = jnp.where(chunk.is_new[:, None], chunk(weights), jnp.zeros((), weights.dtype))
        return scatter(total, chunk(rows)).add(messages * weight[:, :, None], **SORTED)

    start = jnp.zeros((n_rows, *x.shape[1:]), x.dtype)
    return over_chunks(pattern.n_entries, x[0].size, add, start)


def best_product(transposed: bool, pattern: SparsePattern, values, x) -> jax.Array:
    """XLA's kernel, but chunks for heads, and for so few columns that most would be filled up."""
    wide = x.shape[1] == 1 and x.shape[2] >= _LEAST_BCSR_WIDTH
    return (bcsr_product if wide else chunked_product)(transposed, pattern, values, x)


def reference_pairs(pattern: SparsePattern, a, b) -> jax.Array:
    """The product of the row of `a` and the row of `b` at every entry, `[e, h]`."""
    return jnp.sum(gather(a, pattern.rows) * gather(b, pattern.columns), axis=-1)


def chunked_pairs(pattern: SparsePattern, a, b) -> jax.Array:
    """`reference_pairs`, a few thousand entries at a time.

    The sum over features is a product with ones: a plain sum takes four times as long.
    """
    ones = unknown_ones(a[0, 0])[:, None]

    def write(total, chunk):
        terms = gather(a, chunk(pattern.rows)) * gather(b, chunk(pattern.columns))
        found = jnp.matmul(terms, ones, precision="highest")[:, :, 0]
        # The last chunk overlaps the one before it and writes the same numbers again.
        return lax.dynamic_update_slice_in_dim(total, found, chunk.start, axis=0)

    start = jnp.zeros((pattern.n_entries, a.shape[1]), a.dtype)
    return over_chunks(pattern.n_entries, a[0].size, write, start)


SORTED: Any = {"indices_are_sorted": True, "mode": "promise_in_bounds"}


def scatter(array: jax.Array, rows: jax.Array):
    """The rows of an array, to be updated."""
    return array.at[rows]


class Chunk:
    """A window of entries: `chunk(array)` slices one, `is_new` is false for those seen before."""

    def __init__(self, number, size: int, n_entries: int):
        self.start = jnp.minimum(number * size, n_entries - size)
        self.is_new = self.start + jnp.arange(size, dtype=jnp.int32) >= number * size
        self._size = size

    def __call__(self, array):
        return lax.dynamic_slice_in_dim(jnp.asarray(array), self.start, self._size)


def over_chunks(n_entries: int, width: int, step: Callable, start: Any) -> Any:
    """Folds `step(total, chunk)` over windows of entries; `width` numbers belong to an entry."""
    if n_entries == 0:
        return start
    size = min(n_entries, max(_NUMBERS_PER_CHUNK // max(width, 1), _LEAST_CHUNK))
    return lax.fori_loop(
        0,
        -(-n_entries // size),
        lambda number, total: step(total, Chunk(number, size, n_entries)),
        start,
    )


def folding(function: Callable) -> Callable:
    """Gives `function(pattern, values, x)` a rule for `vmap` that never meets a batched kernel.

    Where only `x` differs between seeds it is one product with more columns; transposing that in
    memory costs more than it saves when it leaves the cache. Then, and where values or patterns
    differ, the seeds follow one another.
    """
    mapped = jax.custom_batching.custom_vmap(function)

    @mapped.def_vmap
    def rule(axis_size, in_batched, pattern, values, x):
        pattern_batched, values_batched, _ = in_batched
        alone = values_batched or any(jax.tree.leaves(pattern_batched))
        if alone or math.prod(x.shape[-3:]) * axis_size > _LARGEST_FOLD:
            return one_by_one(mapped, in_batched, (pattern, values, x)), True
        out = mapped(pattern, values, fold(x))
        return unfold(out, axis_size), True

    return mapped


def sequential(function: Callable) -> Callable:
    """Gives a function a rule for `vmap` that takes one after the other."""
    mapped = jax.custom_batching.custom_vmap(function)

    @mapped.def_vmap
    def rule(axis_size, in_batched, *arguments):
        del axis_size
        out = one_by_one(mapped, in_batched, arguments)
        return out, jax.tree.map(lambda _: True, out)

    return mapped


def one_by_one(function: Callable, in_batched, arguments) -> Any:
    """Maps over the leading axis of the arguments that have one, in a loop."""
    leaves, tree = jax.tree.flatten(tuple(arguments))
    batched = jax.tree.leaves(tuple(in_batched))

    def call(mapped):
        rest = iter(mapped)
        filled = [next(rest) if flag else leaf for leaf, flag in zip(leaves, batched, strict=True)]
        return function(*jax.tree.unflatten(tree, filled))

    return lax.map(call, [leaf for leaf, flag in zip(leaves, batched, strict=True) if flag])


def fold(x: jax.Array) -> jax.Array:
    """`[s, ..., f]` to `[..., s * f]`."""
    seeds, width = x.shape[0], x.shape[-1]
    return jnp.moveaxis(x, 0, -2).reshape(*x.shape[1:-1], seeds * width)


def unfold(x: jax.Array, seeds: int) -> jax.Array:
    """`[..., s * f]` to `[s, ..., f]`."""
    return jnp.moveaxis(x.reshape(*x.shape[:-1], seeds, x.shape[-1] // seeds), -2, 0)


@functools.cache
def cpu_product(transposed: bool, implementation: str) -> Callable:
    """The product as `"bcsr"`, `"chunked"` or the `"best"` of them, with a rule for `vmap`."""
    form = {"bcsr": bcsr_product, "chunked": chunked_product, "best": best_product}[implementation]
    return folding(functools.partial(form, transposed))


@functools.cache
def cpu_pairs() -> Callable:
    """`chunked_pairs` with a rule for `vmap`."""
    return sequential(chunked_pairs)
