"""A sparse matrix times a dense one, with gradients to both, and seeds that share the matrix.

Written as gather and segment sum, XLA stores a message for every entry before it adds them up: on a
CPU that takes two to three times as long as scipy, and 244 MiB for a million entries of width 64.
"""

import functools
from typing import Any, Literal, get_args

import jax
import jax.numpy as jnp
from jax import lax

from trove_jax.kernels import sparse_forms as forms
from trove_jax.kernels.numbers import compute_dtype
from trove_jax.kernels.sparse_pattern import SparsePattern, sparse_pattern

Implementation = Literal["reference", "bcsr", "chunked"] | None
_IMPLEMENTATIONS = (None, *get_args(get_args(Implementation)[0]))

__all__ = ["Implementation", "SparsePattern", "sparse_pattern", "sparse_product"]


def sparse_product(
    pattern: SparsePattern,
    values: jax.Array,
    x: jax.Array,
    *,
    implementation: Implementation = None,
) -> jax.Array:
    """Multiplies a sparse matrix by a dense one.

    y_i = sum over the entries k of row i of values_k x_(column of k)

    Sums are taken in float32 at least. The gradient to `x` is the product with the transposed
    order, the gradient to `values` one dot product per entry; both have gradients again. Under
    `jax.vmap`, seeds that share `values` become columns of one product if they fit the cache, else
    they follow one another. Forward mode (`jax.jvp`) needs `implementation="reference"`.

    Args:
      pattern: the places of the entries, `e` of them.
      values: floating-point, in the stored order: `[e]`, `[s, e]` for a matrix per seed, or
        `[e, h]` for a matrix per head.
      x: floating-point `[n_columns, f]`, `[s, n_columns, f]` for seeds, or `[n_columns, h, f]` with
        `values` `[e, h]`.
      implementation: `"reference"` (gather and segment sum with JAX's own gradient), `"bcsr"`
        (XLA's kernel, head by head), `"chunked"` (a loop over a few thousand entries) or None: on a
        CPU `"bcsr"`, or `"chunked"` where there are heads or fewer than 5 columns; elsewhere
        segment sums with the gradient rule. Only the choice on a CPU was measured.

    Returns:
      `[n_rows, f]`, `[s, n_rows, f]` or `[n_rows, h, f]` in the dtype of `x`; a row without entries
      is 0.

    Raises:
      ValueError: shapes that do not fit; a dtype that is not floating-point; an unknown
        implementation.

    Example:
      >>> pattern, order = sparse_pattern([0, 0, 2], [1, 2, 0], (3, 3))
      >>> x = jnp.array([[1.0, 0.0], [2.0, 1.0], [0.0, 4.0]])
      >>> print(sparse_product(pattern, jnp.array([1.0, 0.5, 3.0]), x))
      [[2. 3.]
       [0. 0.]
       [3. 0.]]

    Reference: Yang et al., Design Principles for Sparse Matrix Multiplication on the GPU, Euro-Par
    2018 (CSR times dense); its gradient to the values is a sampled dense-dense product.
    """
    values, x = jnp.asarray(values), jnp.asarray(x)
    check_implementation(implementation)
    kind = check_operands(pattern, values, x)
    if kind == "seeds":
        axes = (None, 0 if values.ndim == 2 else None, 0 if x.ndim == 3 else None)
        return jax.vmap(functools.partial(_product, implementation), in_axes=axes)(
            pattern, values, x
        )
    return _product(implementation, pattern, values, x)


def check_implementation(implementation: str | None) -> None:
    """Raises ValueError for an implementation that is unknown."""
    if implementation not in _IMPLEMENTATIONS:
        raise ValueError(
            f"implementation={implementation!r} is unknown; use one of {_IMPLEMENTATIONS}"
        )


def check_operands(pattern: SparsePattern, values: jax.Array, x: jax.Array) -> str:
    """Says whether operands are `"plain"`, have `"seeds"` or `"heads"`; else raises ValueError."""
    n_entries, n_columns = pattern.n_entries, pattern.shape[1]
    for name, array in (("values", values), ("x", x)):
        if not jnp.issubdtype(array.dtype, jnp.floating):
            raise ValueError(f"{name} has dtype {array.dtype}; a floating-point dtype is wanted")
    if values.shape == (n_entries,) and x.ndim == 2 and x.shape[0] == n_columns:
        return "plain"
    if x.ndim == 3 and x.shape[0] == n_columns and values.shape == (n_entries, x.shape[1]):
        return "heads"
    seeds = (values.shape[0] if values.ndim == 2 else None, x.shape[0] if x.ndim == 3 else None)
    has_values = values.ndim in (1, 2) and values.shape[-1] == n_entries
    has_x = x.ndim in (2, 3) and x.shape[-2] == n_columns
    if has_values and has_x and len(set(seeds) - {None}) == 1:
        return "seeds"
    raise ValueError(
        f"values have shape {values.shape} and x {x.shape}; for {n_entries} entries and "
        f"{n_columns} columns, values [e] or [s, e] with x [n, f] or [s, n, f] are wanted, or "
        "values [e, h] with x [n, h, f]"
    )


@functools.partial(jax.jit, static_argnums=0)
def _product(implementation, pattern, values, x) -> jax.Array:
    """Adds an axis of one head where there is none, and computes in float32 at least."""
    out: Any
    has_heads = x.ndim == 3
    dtype, computed = x.dtype, compute_dtype(values, x)
    values, x = values.astype(computed), x.astype(computed)
    if not has_heads:
        values, x = values[:, None], x[:, None]
    if implementation == "reference" or 0 in (pattern.n_entries, x.size):
        out = forms.reference_product(False, pattern, values, x)
    else:
        out = linear(False, implementation, pattern, values, x)
    return (out if has_heads else out[:, 0]).astype(dtype)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def linear(
    transposed: bool, implementation: str | None, pattern: SparsePattern, values, x
) -> jax.Array:
    """The product with the matrix or its transpose: `[e, h]` and `[n, h, f]` to `[m, h, f]`."""
    if implementation is not None:
        return forms.cpu_product(transposed, implementation)(pattern, values, x)
    return lax.platform_dependent(
        pattern,
        values,
        x,
        cpu=forms.cpu_product(transposed, "best"),
        default=functools.partial(forms.reference_product, transposed),
    )


def _linear_fwd(transposed, implementation, pattern, values, x):
    return linear(transposed, implementation, pattern, values, x), (pattern, values, x)


def _linear_bwd(transposed, implementation, saved, g):
    pattern, values, x = saved
    d_x = linear(not transposed, implementation, pattern, values, g)
    d_values = pairs(implementation, pattern, *((x, g) if transposed else (g, x)))
    return None, d_values, d_x


linear.defvjp(_linear_fwd, _linear_bwd)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def pairs(implementation: str | None, pattern: SparsePattern, a, b) -> jax.Array:
    """The dot product of row and column at every entry: `[n, h, f]` and `[m, h, f]` to `[e, h]`."""
    if implementation is not None:
        return forms.cpu_pairs()(pattern, a, b)
    return lax.platform_dependent(
        pattern, a, b, cpu=forms.cpu_pairs(), default=forms.reference_pairs
    )


def _pairs_fwd(implementation, pattern, a, b):
    return pairs(implementation, pattern, a, b), (pattern, a, b)


def _pairs_bwd(implementation, saved, g):
    pattern, a, b = saved
    d_a = linear(False, implementation, pattern, g, b)
    d_b = linear(True, implementation, pattern, g, a)
    return None, d_a, d_b


pairs.defvjp(_pairs_fwd, _pairs_bwd)
