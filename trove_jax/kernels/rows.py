"""One kernel shape for functions of the vectors in a row: read once, reduce, combine, write.

A Moebius addition, what follows the convolution of a Poincare network and its batch normalisation
are all of the same kind: a few vectors of each row are read, their dot products go into a scalar
formula, and a combination of the vectors is written. Written as a *program*, such a function runs
as plain JAX, or as one Pallas kernel on a TPU and on a GPU. So does its gradient: it keeps nothing
but the inputs, and takes the program's VJP where they lie in registers.
"""

import functools
from collections.abc import Sequence
from typing import Literal, get_args

import jax
import jax.numpy as jnp
from jax import lax

from trove_jax.kernels.on_mesh import by_rows
from trove_jax.kernels.rows_pallas import LAYOUTS, pallas, pallas_gradient
from trove_jax.kernels.rows_plain import (
    Axis,
    Program,
    blocks,
    blocks_gradient,
    plain,
    plain_gradient,
)

Implementation = (
    Literal["reference", "blocks", "pallas", "autodiff", "interpret_tpu", "interpret_gpu"] | None
)
_IMPLEMENTATIONS = (None, *get_args(get_args(Implementation)[0]))

__all__ = ["Axis", "Implementation", "Program", "fused_rows"]


def fused_rows(
    program: Program,
    rows: Sequence[jax.Array],
    shared: Sequence[jax.Array] = (),
    *,
    implementation: Implementation = None,
) -> tuple[tuple[jax.Array, ...], tuple[jax.Array, ...]]:
    """Applies a program to every row.

    `program(dot, rows, shared)` returns `(outs, addends)`. It sees one block of rows, with the
    channels along an axis that it does not know: it may use elementwise arithmetic, `dot(a, b)`
    (the sum of products over channels) and `dot.combine(coefficients, vectors)`, which is faster on
    a CPU than the same written out. What is one number per row has one channel. It must be finite,
    with finite derivatives, on rows of zeros, and a channel that is zero in every input must add
    nothing to a dot product: rows and channels are padded with zeros.

    The gradient keeps `rows` and `shared` and computes the rest again. It has a gradient too, in
    plain JAX; forward mode (`jax.jvp`) needs `implementation="autodiff"`.

    Args:
      program: the function; a module-level function or a frozen dataclass, so that it is the same
        object in every call and is compiled once.
      rows: floating-point arrays `[..., d_i]` that agree in all axes but the last.
      shared: scalars `[]` and vectors `[d]` that all rows share; they get gradients.
      implementation: None (the Pallas kernel on TPU and GPU, blocks on a CPU), `"reference"`
        (plain JAX), `"blocks"` (plain JAX in a loop over blocks of rows that fit the cache),
        `"pallas"` (fails on a CPU), `"autodiff"` (plain JAX without the gradient rule) or, to test
        the kernels without their machines, `"interpret_tpu"` and `"interpret_gpu"`.

    Returns:
      outs: `[..., d]` each, in the dtype of `rows[0]`.
      sums: the addends summed over all rows, `[d]` each, float32 (float64 for float64 rows).

    Raises:
      ValueError: no row; leading axes that differ; a shared array with more than one axis; a dtype
        that is not floating-point; an unknown implementation.

    Example:
      >>> def normalised(dot, rows, shared):
      ...     (x,) = rows
      ...     return (x / jnp.sqrt(dot(x, x) + 1e-12),), (x,)
      >>> (y,), (total,) = fused_rows(normalised, (jnp.array([[3.0, 4.0], [0.0, 2.0]]),))
      >>> print(y[1], total)
      [0. 1.] [3. 6.]
    """
    rows, shared = tuple(map(jnp.asarray, rows)), tuple(map(jnp.asarray, shared))
    _check(rows, shared, implementation)
    if implementation == "autodiff":
        return plain(program, rows, shared)
    return _fused(program, implementation, rows, shared)


def _check(rows, shared, implementation):
    if implementation not in _IMPLEMENTATIONS:
        raise ValueError(
            f"implementation={implementation!r} is unknown; use one of {_IMPLEMENTATIONS}"
        )
    if not rows or any(x.ndim < 1 or x.shape[:-1] != rows[0].shape[:-1] for x in rows):
        raise ValueError(
            f"rows have shapes {[x.shape for x in rows]}; at least one is wanted, and all axes but "
            "the last must agree"
        )
    if any(a.ndim > 1 for a in shared):
        raise ValueError(
            f"shared has shapes {[a.shape for a in shared]}; only scalars and vectors can be shared"
        )
    for name, arrays in (("rows", rows), ("shared", shared)):
        for a in arrays:
            if not jnp.issubdtype(a.dtype, jnp.floating):
                raise ValueError(f"{name} has dtype {a.dtype}; a floating-point dtype is wanted")


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _fused(program, implementation, rows, shared):
    return _run(False, implementation, program, rows, shared)


def _fused_fwd(program, implementation, rows, shared):
    return _fused(program, implementation, rows, shared), (rows, shared)


def _fused_bwd(program, implementation, saved, cotangents) -> tuple:
    return _gradient(program, implementation, *saved, *cotangents)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _gradient(program, implementation, rows, shared, d_outs, d_sums) -> tuple:
    return _run(True, implementation, program, rows, shared, d_outs, d_sums)


def _gradient_fwd(program, implementation, *arrays):
    return _gradient(program, implementation, *arrays), arrays


def _gradient_bwd(program, implementation, arrays, cotangents):
    # The gradient of the gradient runs as plain JAX everywhere.
    del implementation
    return jax.vjp(functools.partial(plain_gradient, program), *arrays)[1](cotangents)


_gradient.defvjp(_gradient_fwd, _gradient_bwd)
_fused.defvjp(_fused_fwd, _fused_bwd)


@functools.partial(jax.jit, static_argnums=(0, 1, 2))
def _run(is_gradient, implementation, program, *arrays):
    """Calls the plain form, a kernel, or whichever suits the platform that runs it.

    Under `jit`, so that layers of the same shapes are traced once: that is four forms each time.
    """
    ways = _BACKWARD if is_gradient else _FORWARD
    run = {name: functools.partial(way, program) for name, way in ways.items()}
    run |= {name: by_rows(run[name]) for name in LAYOUTS}
    if implementation in run:
        return run[implementation](*arrays)
    kernels = {"tpu": run["tpu"], "cuda": run["gpu"], "rocm": run["gpu"]}
    if implementation == "pallas":
        return lax.platform_dependent(*arrays, **kernels)
    return lax.platform_dependent(*arrays, default=run["reference"], cpu=run["blocks"], **kernels)


_FORWARD = {
    "reference": plain,
    "blocks": blocks,
    **{name: functools.partial(pallas, layout) for name, layout in LAYOUTS.items()},
}
_BACKWARD = {
    "reference": plain_gradient,
    "blocks": blocks_gradient,
    **{name: functools.partial(pallas_gradient, layout) for name, layout in LAYOUTS.items()},
}
