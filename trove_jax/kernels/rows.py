"""One kernel shape for functions of the vectors in a row: read once, reduce, combine, write.

A Moebius addition, what follows the convolution of a Poincare network and its batch normalisation
are all of the same kind: a few vectors of each row are read, their dot products go into a scalar
formula, and a combination of the vectors is written. Written as a *program*, such a function runs
as plain JAX, or as one Pallas kernel on a TPU and on a GPU. So does its gradient: it keeps nothing
but the inputs, and takes the program's VJP where they lie in registers.
"""

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton

Implementation = Literal["reference", "autodiff", "pallas", "interpret_tpu", "interpret_gpu"] | None
_IMPLEMENTATIONS = (None, "reference", "autodiff", "pallas", "interpret_tpu", "interpret_gpu")

# Blocks hold this many numbers in all: 512 KiB in float32, so that inputs, outputs and
# intermediates of two blocks fit the fast memory of a TPU core.
_TPU_BLOCK = 2**17
_TPU_LANES = 128
_GPU_BLOCK = 2**12
_GPU_ROWS = 128


class Axis(NamedTuple):
    """Reductions over the channel axis, wherever a block has it; the axis stays, with length 1."""

    position: int

    def __call__(self, a: jax.Array, b: jax.Array) -> jax.Array:
        """The dot product <a, b> of each row."""
        return jnp.sum(a * b, axis=self.position, keepdims=True)

    def largest(self, a: jax.Array) -> jax.Array:
        """The largest entry of each row."""
        return jnp.max(a, axis=self.position, keepdims=True)


Program = Callable[
    [Axis, tuple[jax.Array, ...], tuple[jax.Array, ...]],
    tuple[tuple[jax.Array, ...], tuple[jax.Array, ...]],
]


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
    (the sum of products over channels) and `dot.largest(a)`. What is one number per row has one
    channel. It must be finite, with finite derivatives, on rows of zeros, and a channel that is
    zero in every input must add nothing to a dot product: rows and channels are padded with zeros.

    The gradient keeps `rows` and `shared` and computes the rest again. It can be differentiated
    again where plain JAX runs; forward mode (`jax.jvp`) needs `implementation="autodiff"`.

    Args:
      program: the function; a module-level function or a frozen dataclass, so that it is the same
        object in every call and is compiled once.
      rows: floating-point arrays `[..., d_i]` that agree in all axes but the last.
      shared: scalars `[]` and vectors `[d]` that all rows share; they get gradients.
      implementation: None (the Pallas kernel on TPU and GPU, plain JAX elsewhere), `"reference"`
        (plain JAX), `"pallas"` (fails on a CPU), `"autodiff"` (plain JAX without the gradient rule)
        or, to test the kernels without their machines, `"interpret_tpu"` and `"interpret_gpu"`.

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
      >>> print(y.round(2).tolist(), total)
      [[0.6, 0.8], [0.0, 1.0]] [3. 6.]
    """
    rows, shared = tuple(map(jnp.asarray, rows)), tuple(map(jnp.asarray, shared))
    _check(rows, shared, implementation)
    if implementation == "autodiff":
        return _plain(program, rows, shared)
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
    return _dispatch(_FORWARD, implementation, program, rows, shared)


def _fused_fwd(program, implementation, rows, shared):
    return _fused(program, implementation, rows, shared), (rows, shared)


def _fused_bwd(program, implementation, saved, cotangents):
    return _dispatch(_BACKWARD, implementation, program, *saved, *cotangents)


_fused.defvjp(_fused_fwd, _fused_bwd)


def _dispatch(ways, implementation, program, *arrays):
    """Calls the plain form, a kernel, or whichever suits the platform that runs it."""
    run = {name: functools.partial(way, program) for name, way in ways.items()}
    if implementation in run:
        return run[implementation](*arrays)
    kernels = {"tpu": run["tpu"], "cuda": run["gpu"], "rocm": run["gpu"]}
    if implementation == "pallas":
        return lax.platform_dependent(*arrays, **kernels)
    return lax.platform_dependent(*arrays, default=run["reference"], **kernels)


# Plain JAX ------------------------------------------------------------------------------------


def _plain(program, rows, shared):
    lead = rows[0].ndim - 1
    dtype = _compute_dtype(rows)
    spread = [a.astype(dtype).reshape((1,) * lead + (-1,)) for a in shared]
    outs, addends = program(Axis(-1), tuple(x.astype(dtype) for x in rows), tuple(spread))
    axes = tuple(range(lead))
    sums = tuple(jnp.sum(a, axis=axes) for a in addends)
    return tuple(y.astype(rows[0].dtype) for y in outs), sums


def _plain_gradient(program, rows, shared, d_outs, d_sums):
    _, pull = jax.vjp(functools.partial(_plain, program), rows, shared)
    return pull((d_outs, d_sums))


def _compute_dtype(rows):
    wide = any(x.dtype == jnp.float64 for x in rows)
    return jnp.dtype(jnp.float64) if wide else jnp.dtype(jnp.float32)


# Pallas ---------------------------------------------------------------------------------------


class _Layout(NamedTuple):
    """How a block lies: with rows along the lanes of a TPU, or row by row for a GPU."""

    name: str
    axis: int  # of the channels
    interpret: bool = False

    def lay(self, x: jax.Array) -> jax.Array:
        """Flattens `[..., d]` to two axes, channels on `axis`."""
        flat = x.reshape(-1, x.shape[-1])
        return flat.T if self.axis == 0 else flat

    def spread(self, a: jax.Array) -> jax.Array:
        """A shared array as two axes, to broadcast along the rows."""
        a = a.reshape(-1)
        width = self.width(a.size)
        a = jnp.pad(a, (0, width - a.size))
        return a[:, None] if self.axis == 0 else a[None, :]

    def shape(self, n: int, d: int) -> tuple[int, int]:
        """The shape of `n` rows of `d` channels."""
        return (d, n) if self.axis == 0 else (n, d)

    def width(self, d: int) -> int:
        """Channels of a block; a GPU wants a power of two."""
        return d if self.axis == 0 else 1 << (d - 1).bit_length()

    def rows(self, count: int, widths: Sequence[int]) -> int:
        """Rows of a block."""
        total = sum(map(self.width, widths))
        if self.axis == 0:
            room = max(_TPU_LANES, _TPU_BLOCK // total // _TPU_LANES * _TPU_LANES)
            return min(room, 2048) if count > min(room, 2048) else count
        return max(1, min(_GPU_ROWS, 1 << int(math.log2(max(1, _GPU_BLOCK // total)))))

    def spec(self, n: int, d: int) -> pl.BlockSpec:
        """Blocks of `n` rows, one after another."""
        where = (lambda i: (0, i)) if self.axis == 0 else (lambda i: (i, 0))
        return pl.BlockSpec(self.shape(n, self.width(d)), where)

    def whole(self, d: int) -> pl.BlockSpec:
        """The same vector for every block."""
        return pl.BlockSpec(self.shape(1, self.width(d)), lambda i: (0, 0))

    def inside(self, ref: Any, block: int, count: int, d: int) -> jax.Array:
        """Which entries of a block exist."""
        shape = ref.shape
        row = lax.broadcasted_iota(jnp.int32, shape, 1 - self.axis) + pl.program_id(0) * block
        mask = row < count
        if self.width(d) != d:
            mask = mask & (lax.broadcasted_iota(jnp.int32, shape, self.axis) < d)
        return mask

    def load(self, ref: Any, mask: jax.Array, dtype: Any) -> jax.Array:
        """Reads a block, zero where nothing exists."""
        if self.axis == 0:
            return jnp.where(mask, ref[...].astype(dtype), jnp.zeros((), dtype))
        return triton.load(ref, mask=mask, other=0.0).astype(dtype)

    def store(self, ref: Any, value: jax.Array, mask: jax.Array) -> None:
        """Writes a block."""
        value = value.astype(ref.dtype)
        if self.axis == 0:
            ref[...] = value
        else:
            triton.store(ref, value, mask=mask)

    @property
    def options(self) -> dict[str, Any]:
        """Arguments of `pallas_call`; on a GPU blocks are lowered by Triton."""
        if self.interpret:
            return {"interpret": True}
        if self.axis == 0:
            return {}
        return {"compiler_params": triton.CompilerParams(num_warps=4, num_stages=2)}


def _pallas(layout, program, rows, shared):
    """The program as one kernel."""
    lead, widths = rows[0].shape[:-1], [x.shape[-1] for x in rows]
    out_widths, sum_widths = _out_widths(program, rows, shared)
    return _run(
        layout,
        functools.partial(_forward_block, program),
        rows,
        (),
        shared,
        (),
        lead=lead,
        block_widths=[*widths, *out_widths],
        outs=[(d, rows[0].dtype) for d in out_widths],
        sums=sum_widths,
    )


def _pallas_gradient(layout, program, rows, shared, d_outs, d_sums):
    """The VJP of the program as one kernel that reads inputs and cotangents."""
    widths = [x.shape[-1] for x in rows]
    d_rows, d_shared = _run(
        layout,
        functools.partial(_backward_block, program),
        rows,
        d_outs,
        shared,
        d_sums,
        lead=rows[0].shape[:-1],
        block_widths=[*widths, *(u.shape[-1] for u in d_outs), *widths],
        outs=[(x.shape[-1], x.dtype) for x in rows],
        sums=[a.size for a in shared],
    )
    return d_rows, tuple(
        g.reshape(a.shape).astype(a.dtype) for g, a in zip(d_shared, shared, strict=True)
    )


def _forward_block(program, dot, inside, rows, d_outs, shared, d_sums):
    del inside, d_outs, d_sums
    return program(dot, rows, shared)


def _backward_block(program, dot, inside, rows, d_outs, shared, d_sums):
    def per_row(rows, shared):
        outs, addends = program(dot, rows, shared)
        return outs, tuple(a * inside for a in addends)

    # Every row gets its own copy of the shared arrays, so that their gradients come out per row
    # and are summed like any other addend.
    def spread(rows, shared):
        return per_row(rows, shared)

    copies = tuple(a + jnp.zeros_like(inside) for a in shared)
    (outs, addends), pull = jax.vjp(spread, rows, copies)
    d_addends = tuple(u + jnp.zeros_like(a) for u, a in zip(d_sums, addends, strict=True))
    del outs
    return pull((d_outs, d_addends))


def _run(
    layout, block_function, rows, more_rows, shared, more_shared, *, lead, block_widths, outs, sums
):
    """Runs a function of blocks over all rows; sums leave each block apart, XLA adds them up."""
    count = math.prod(lead)
    dtype = _compute_dtype(rows)
    block = layout.rows(count, block_widths)
    grid = pl.cdiv(count, block)
    per_row, per_call = [*rows, *more_rows], [*shared, *more_shared]
    row_widths = [x.shape[-1] for x in per_row]
    shared_widths = [a.size for a in per_call]
    channels, lanes = layout.axis, 1 - layout.axis

    def kernel(*refs):
        row_refs, refs = refs[: len(per_row)], refs[len(per_row) :]
        shared_refs, refs = refs[: len(per_call)], refs[len(per_call) :]
        out_refs, sum_refs = refs[: len(outs)], refs[len(outs) :]
        masks = [
            layout.inside(ref, block, count, d) for ref, d in zip(row_refs, row_widths, strict=True)
        ]
        loaded = [layout.load(ref, mask, dtype) for ref, mask in zip(row_refs, masks, strict=True)]
        small = [ref[...].astype(dtype) for ref in shared_refs]
        one = layout.shape(block, 1)
        row = lax.broadcasted_iota(jnp.int32, one, lanes) + pl.program_id(0) * block
        inside = (row < count).astype(dtype)
        values, addends = block_function(
            Axis(channels),
            inside,
            tuple(loaded[: len(rows)]),
            tuple(loaded[len(rows) :]),
            tuple(small[: len(shared)]),
            tuple(small[len(shared) :]),
        )
        for ref, value, (d, _) in zip(out_refs, values, outs, strict=True):
            value = value + jnp.zeros(ref.shape, value.dtype)
            layout.store(ref, value, layout.inside(ref, block, count, d))
        for ref, addend in zip(sum_refs, addends, strict=True):
            total = jnp.sum(addend * inside, axis=lanes, keepdims=True)
            ref[...] = total[None].astype(ref.dtype)

    results = pl.pallas_call(
        kernel,
        grid=(grid,),
        in_specs=[
            *(layout.spec(block, d) for d in row_widths),
            *(layout.whole(d) for d in shared_widths),
        ],
        out_specs=[
            *(layout.spec(block, d) for d, _ in outs),
            *(
                pl.BlockSpec((1, *layout.shape(1, layout.width(d))), lambda i: (i, 0, 0))
                for d in sums
            ),
        ],
        out_shape=[
            *(jax.ShapeDtypeStruct(layout.shape(count, d), kind) for d, kind in outs),
            *(jax.ShapeDtypeStruct((grid, *layout.shape(1, layout.width(d))), dtype) for d in sums),
        ],
        **layout.options,
    )(*map(layout.lay, per_row), *map(layout.spread, per_call))
    written = tuple(
        (y.T if channels == 0 else y).reshape(*lead, d)
        for y, (d, _) in zip(results[: len(outs)], outs, strict=True)
    )
    totals = tuple(
        t.reshape(grid, -1).sum(0)[:d] for t, d in zip(results[len(outs) :], sums, strict=True)
    )
    return written, totals


def _out_widths(program, rows, shared):
    """Channels of each output and each sum."""
    dtype = _compute_dtype(rows)
    outs, addends = jax.eval_shape(
        functools.partial(program, Axis(1)),
        tuple(jax.ShapeDtypeStruct((1, x.shape[-1]), dtype) for x in rows),
        tuple(jax.ShapeDtypeStruct((1, a.size), dtype) for a in shared),
    )
    return [y.shape[1] for y in outs], [a.shape[1] for a in addends]


_LAYOUTS = {
    "tpu": _Layout("tpu", 0),
    "gpu": _Layout("gpu", 1),
    "interpret_tpu": _Layout("tpu", 0, interpret=True),
    "interpret_gpu": _Layout("gpu", 1, interpret=True),
}
_FORWARD = {
    "reference": _plain,
    **{name: functools.partial(_pallas, layout) for name, layout in _LAYOUTS.items()},
}
_BACKWARD = {
    "reference": _plain_gradient,
    **{name: functools.partial(_pallas_gradient, layout) for name, layout in _LAYOUTS.items()},
}
