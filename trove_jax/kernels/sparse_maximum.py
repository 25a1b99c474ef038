"""The largest product in every row of a sparse matrix: a sparse product with max for plus.

As a gather and a segment maximum, XLA stores a message for every entry, and the gradient needs a
few such arrays more. In chunks of entries, only the result and the number of its ties are stored.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from trove_jax.kernels import sparse_forms as forms
from trove_jax.kernels.numbers import compute_dtype
from trove_jax.kernels.sparse_pattern import SparsePattern
from trove_jax.kernels.sparse_product import check_operands

_IMPLEMENTATIONS = (None, "reference", "chunked")


def sparse_maximum(
    pattern: SparsePattern,
    values: jax.Array | None,
    x: jax.Array,
    *,
    mask: jax.Array | None = None,
    implementation: str | None = None,
) -> jax.Array:
    """Takes the maximum of `values_k x_(column of k)` over the entries k of every row.

    Entries that tie share the gradient equally. Under `jax.vmap`, seeds that share `values` become
    columns. Forward mode and second derivatives need `implementation="reference"`.

    Args:
      pattern: the places of the entries, `e` of them.
      values: `[e]`, `[s, e]` or `[e, h]` as in `sparse_product`; None: 1.
      x: floating-point `[n_columns, f]`, `[s, n_columns, f]` or `[n_columns, h, f]`.
      mask: False for entries that do not count, `[e]` bool; their values may be NaN.
      implementation: `"reference"` (gather and segment maximum with JAX's own gradient),
        `"chunked"` (a loop over a few thousand entries) or None: chunks on a CPU, elsewhere the
        reference, where nothing was measured.

    Returns:
      The shape of the product, in the dtype of `x`; 0 in rows where no entry counts.

    Raises:
      ValueError: as `sparse_product`; a mask that is not one bool per entry.

    Example:
      >>> from trove_jax.kernels import sparse_pattern
      >>> pattern, _ = sparse_pattern([0, 0, 2], [1, 2, 0], (3, 3))
      >>> print(sparse_maximum(pattern, None, jnp.array([[-1.0], [2.0], [4.0]])).ravel())
      [ 4.  0. -1.]
    """
    x = jnp.asarray(x)
    if implementation not in _IMPLEMENTATIONS:
        raise ValueError(
            f"implementation={implementation!r} is unknown; use one of {_IMPLEMENTATIONS}"
        )
    if mask is not None:
        mask = jnp.asarray(mask)
        if mask.shape != (pattern.n_entries,) or mask.dtype != jnp.bool_:
            raise ValueError(
                f"mask has shape {mask.shape} and dtype {mask.dtype}; ({pattern.n_entries},) bool "
                "is wanted"
            )
    if values is None:
        values = jnp.ones(pattern.n_entries, x.dtype)
    values = jnp.asarray(values)
    kind = check_operands(pattern, values, x)
    if kind == "seeds":
        axes = (None, 0 if values.ndim == 2 else None, 0 if x.ndim == 3 else None, None)
        return jax.vmap(functools.partial(_maximum, implementation), in_axes=axes)(
            pattern, values, x, mask
        )
    return _maximum(implementation, pattern, values, x, mask)


@functools.partial(jax.jit, static_argnums=0)
def _maximum(implementation, pattern, values, x, mask) -> jax.Array:
    """Adds an axis of one head where there is none, and computes in float32 at least."""
    out: Any
    has_heads = x.ndim == 3
    dtype, computed = x.dtype, compute_dtype(values, x)
    values, x = values.astype(computed), x.astype(computed)
    if not has_heads:
        values, x = values[:, None], x[:, None]
    counts = jnp.ones(pattern.n_entries, bool) if mask is None else mask
    values = jnp.where(counts[:, None], values, jnp.zeros((), computed))
    where = (pattern, counts)
    if implementation == "reference" or 0 in (pattern.n_entries, x.size):
        out = reference_maximum(where, values, x)
    else:
        out = _chosen(implementation, where, values, x)
    return (out if has_heads else out[:, 0]).astype(dtype)


def reference_maximum(where, values, x) -> jax.Array:
    """Gathers, multiplies, and takes the maximum by segments, of `[e, h, f]` messages."""
    pattern, counts = where
    messages = _counted(counts, forms.gather(x, pattern.columns) * values[:, :, None], -jnp.inf)
    best = jax.ops.segment_max(messages, pattern.rows, pattern.shape[0], indices_are_sorted=True)
    return _counted(_rows_that_count(where), best, 0.0)


def _chunked_maximum(where, values, x) -> jax.Array:
    """The reference on a few thousand entries at a time."""
    pattern, counts = where

    def raise_to(total, chunk):
        messages = forms.gather(x, chunk(pattern.columns)) * chunk(values)[:, :, None]
        messages = _counted(chunk(counts), messages, -jnp.inf)
        return total.at[chunk(pattern.rows)].max(messages, **forms.SORTED)

    start = jnp.full((pattern.shape[0], *x.shape[1:]), -jnp.inf, x.dtype)
    best = forms.over_chunks(pattern.n_entries, x[0].size, raise_to, start)
    return _counted(_rows_that_count(where), best, 0.0)


def _chunked_gradient(where, values, x, best, g) -> tuple[jax.Array, jax.Array]:
    """Divides `g` among the entries that reached `best`, which are found again."""
    pattern, counts = where
    width = x[0].size

    def ties(chunk):
        messages = forms.gather(x, chunk(pattern.columns)) * chunk(values)[:, :, None]
        return _counted(chunk(counts), messages == forms.gather(best, chunk(pattern.rows)), False)

    def count(total, chunk):
        found = _counted(chunk.is_new, ties(chunk).astype(x.dtype), 0.0)
        return total.at[chunk(pattern.rows)].add(found, **forms.SORTED)

    number = forms.over_chunks(pattern.n_entries, width, count, jnp.zeros_like(best))
    share = g / jnp.maximum(number, jnp.ones((), x.dtype))

    def spread(total, chunk):
        d_values, d_x = total
        flow = forms.gather(share, chunk(pattern.rows))
        is_tie = ties(chunk)
        to_values = jnp.where(is_tie, flow * forms.gather(x, chunk(pattern.columns)), 0)
        to_x = jnp.where(is_tie, flow * chunk(values)[:, :, None], 0)
        to_x = _counted(chunk.is_new, to_x, 0.0)
        return (
            lax.dynamic_update_slice_in_dim(d_values, to_values.sum(-1), chunk.start, axis=0),
            d_x.at[chunk(pattern.columns)].add(to_x, mode="promise_in_bounds"),
        )

    start = (jnp.zeros_like(values), jnp.zeros_like(x))
    return forms.over_chunks(pattern.n_entries, width, spread, start)


def _rows_that_count(where) -> jax.Array:
    pattern, counts = where
    number = jax.ops.segment_sum(
        counts.astype(jnp.int32), pattern.rows, pattern.shape[0], indices_are_sorted=True
    )
    return number > 0


def _counted(counts, array, otherwise) -> jax.Array:
    return jnp.where(counts[:, None, None], array, jnp.asarray(otherwise, array.dtype))


_FORWARD = forms.folding(_chunked_maximum)
_BACKWARD = forms.sequential(_chunked_gradient)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _chosen(implementation, where, values, x) -> Any:
    if implementation == "chunked":
        return _FORWARD(where, values, x)
    return lax.platform_dependent(where, values, x, cpu=_FORWARD, default=reference_maximum)


def _chosen_fwd(implementation, where, values, x):
    best = _chosen(implementation, where, values, x)
    return best, (where, values, x, best)


def _chosen_bwd(implementation, saved, g):
    if implementation == "chunked":
        return None, *_BACKWARD(*saved, g)
    return None, *lax.platform_dependent(*saved, g, cpu=_BACKWARD, default=_reference_gradient)


def _reference_gradient(where, values, x, best, g) -> tuple[jax.Array, jax.Array]:
    del best
    return jax.vjp(functools.partial(reference_maximum, where), values, x)[1](g)


_chosen.defvjp(_chosen_fwd, _chosen_bwd)
