"""The powers of a sparse matrix times a dense one, all of them, with seeds folded once.

One product after the other would turn the seeds of a `vmap` into columns and back at every power,
which takes longer than the products of a small graph.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from trove_jax.kernels import sparse_forms as forms
from trove_jax.kernels.numbers import compute_dtype
from trove_jax.kernels.sparse_pattern import SparsePattern
from trove_jax.kernels.sparse_product import (
    Implementation,
    check_implementation,
    check_operands,
    linear,
    pairs,
)


def sparse_powers(
    pattern: SparsePattern,
    values: jax.Array,
    x: jax.Array,
    count: int,
    *,
    implementation: Implementation = None,
) -> jax.Array:
    """Multiplies by a square sparse matrix again and again, and keeps every result.

    H_0 = x, H_l = A H_(l-1) for l = 1 to `count`

    Held in float32 at least between the products. The gradient to `x` is Horner's rule with the
    transpose. Seeds under `jax.vmap` are treated as by `sparse_product`.

    Args:
      pattern: the places of the entries of A, square.
      values: floating-point `[e]`, or `[s, e]` for a matrix per seed.
      x: floating-point `[n, f]`, or `[s, n, f]` for seeds.
      count: number of products, at least 0.
      implementation: as in `sparse_product`.

    Returns:
      `[count + 1, n, f]`, or `[count + 1, s, n, f]` for seeds, in the dtype of `x`.

    Raises:
      ValueError: `count` is negative; a matrix that is not square; as `sparse_product`.

    Example:
      >>> from trove_jax.kernels import sparse_pattern
      >>> pattern, _ = sparse_pattern([0, 1], [1, 1], (2, 2))
      >>> print(sparse_powers(pattern, jnp.array([1.0, 2.0]), jnp.array([[0.0], [1.0]]), 3)[..., 0])
      [[0. 1.]
       [1. 2.]
       [2. 4.]
       [4. 8.]]
    """
    values, x = jnp.asarray(values), jnp.asarray(x)
    check_implementation(implementation)
    kind = check_operands(pattern, values, x)
    if count < 0:
        raise ValueError(f"count={count} is negative; 0 or more are wanted")
    if pattern.shape[0] != pattern.shape[1] or kind == "heads":
        raise ValueError(
            f"a matrix of shape {pattern.shape} with values {values.shape} has no powers here; it "
            "must be square, without heads"
        )
    run = functools.partial(_powers, count, implementation)
    if kind == "seeds":
        axes = (None, 0 if values.ndim == 2 else None, 0 if x.ndim == 3 else None)
        return jax.vmap(run, in_axes=axes, out_axes=1)(pattern, values, x)
    return run(pattern, values, x)


@functools.partial(jax.jit, static_argnums=(0, 1))
def _powers(count, implementation, pattern, values, x) -> jax.Array:
    computed = compute_dtype(values, x)
    wide_values, wide_x = values.astype(computed)[:, None], x.astype(computed)[:, None]
    if implementation == "reference" or 0 in (pattern.n_entries, x.size):
        out: Any = _reference_powers(count, pattern, wide_values, wide_x)
    else:
        out = powers(False, count, implementation, pattern, wide_values, wide_x)
    return out[:, :, 0].astype(x.dtype)


def _reference_powers(count, pattern, values, x) -> jax.Array:
    """A scan over products, with JAX's own gradient."""

    def step(held, _):
        held = forms.reference_product(False, pattern, values, held)
        return held, held

    return jnp.concatenate([x[None], lax.scan(step, x, length=count)[1]])


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1, 2))
def powers(transposed: bool, count: int, implementation, pattern, values, x) -> Any:
    """`[e, 1]` and `[n, 1, f]` to `[count + 1, n, 1, f]`."""
    return _by_platform(_form_of_powers, transposed, count, implementation)(pattern, values, x)


def _powers_fwd(transposed, count, implementation, pattern, values, x):
    stack = powers(transposed, count, implementation, pattern, values, x)
    return stack, (pattern, values, stack)


def _powers_bwd(transposed, count, implementation, saved, g):
    pattern, values, stack = saved
    d_x = horner(not transposed, count, implementation, pattern, values, g)
    return None, _to_values(not transposed, implementation, pattern, values, stack, g), d_x


powers.defvjp(_powers_fwd, _powers_bwd)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1, 2))
def horner(transposed: bool, count: int, implementation, pattern, values, stack) -> Any:
    """The sum of A^l times `stack[l]`: `[count + 1, n, 1, f]` to `[n, 1, f]`."""
    return _by_platform(_form_of_horner, transposed, count, implementation)(pattern, values, stack)


def _horner_fwd(transposed, count, implementation, pattern, values, stack):
    out = horner(transposed, count, implementation, pattern, values, stack)
    return out, (pattern, values, stack)


def _horner_bwd(transposed, count, implementation, saved, g):
    pattern, values, stack = saved
    d_stack = powers(not transposed, count, implementation, pattern, values, g)
    d_values = _to_values(transposed, implementation, pattern, values, d_stack, stack)
    return None, d_values, d_stack


horner.defvjp(_horner_fwd, _horner_bwd)


def _to_values(transposed, implementation, pattern, values, held, added) -> jax.Array:
    """The gradient to values: dot products of `held[l - 1]` with Horner's partial sum from l on."""

    def step(carry, arrays):
        total, partial = carry
        before, more = arrays
        # `transposed` says that partial sums are taken with the transpose: they stand at rows.
        ends = (partial, before) if transposed else (before, partial)
        total = total + pairs(implementation, pattern, *ends)
        partial = more + linear(transposed, implementation, pattern, values, partial)
        return (total, partial), None

    start = (jnp.zeros_like(values), added[-1])
    return lax.scan(step, start, (held[:-1], added[:-1]), reverse=True)[0][0]


def _by_platform(form: Callable, transposed, count, implementation) -> Callable:
    if implementation is not None:
        return form(transposed, count, implementation, True)
    return functools.partial(
        lax.platform_dependent,
        cpu=form(transposed, count, "bcsr", True),
        default=form(transposed, count, "reference", False),
    )


_FORMS = {
    "bcsr": forms.bcsr_product,
    "chunked": forms.chunked_product,
    "reference": forms.reference_product,
}


@functools.cache
def _form_of_powers(transposed: bool, count: int, name: str, has_rule: bool) -> Callable:
    product = functools.partial(_FORMS[name], transposed)

    def run(pattern, values, x):
        width = x.shape[-1]
        x = forms.filled_up(x)
        start = jnp.zeros((count + 1, *x.shape), x.dtype).at[0].set(x)

        def step(number, stack):
            held = lax.dynamic_index_in_dim(stack, number, keepdims=False)
            new = product(pattern, values, held)
            return lax.dynamic_update_index_in_dim(stack, new, number + 1, axis=0)

        return lax.fori_loop(0, count, step, start)[..., :width]

    return forms.folding(run) if has_rule else run


@functools.cache
def _form_of_horner(transposed: bool, count: int, name: str, has_rule: bool) -> Callable:
    product = functools.partial(_FORMS[name], transposed)

    def run(pattern, values, stack):
        width = stack.shape[-1]
        last = forms.filled_up(stack[count])

        def step(number, held):
            added = lax.dynamic_index_in_dim(stack, count - 1 - number, keepdims=False)
            return forms.filled_up(added) + product(pattern, values, held)

        return lax.fori_loop(0, count, step, last)[..., :width]

    return forms.folding(run) if has_rule else run
