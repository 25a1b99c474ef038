"""Row programs as Pallas kernels: rows along the lanes of a TPU, row by row on a GPU.

A block of rows is read once. Rows of the last block that do not exist, and channels that pad to a
power of two, are zero. Sums leave each block apart, and XLA adds them up: no atomics, no order.
"""

import functools
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton

from trove_jax.kernels.numbers import compute_dtype
from trove_jax.kernels.rows_plain import Axis

# Blocks hold this many numbers in all: 512 KiB in float32, so that inputs, outputs and
# intermediates of two blocks fit the fast memory of a TPU core.
_TPU_BLOCK = 2**17
_TPU_LANES = 128
_GPU_BLOCK = 2**12
_GPU_ROWS = 128


class Layout(NamedTuple):
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


def pallas(layout, program, rows, shared):
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


def pallas_gradient(layout, program, rows, shared, d_outs, d_sums):
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
    # Every row gets its own copy of the shared arrays, so that their gradients come out per row
    # and are summed like any other addend.
    copies = tuple(a + jnp.zeros_like(inside) for a in shared)
    (_, addends), pull = jax.vjp(functools.partial(program, dot), rows, copies)
    return pull(
        (d_outs, tuple(u + jnp.zeros_like(a) for u, a in zip(d_sums, addends, strict=True)))
    )


def _run(
    layout, block_function, rows, more_rows, shared, more_shared, *, lead, block_widths, outs, sums
):
    """Runs a function of blocks over all rows; sums leave each block apart, XLA adds them up."""
    count = math.prod(lead)
    dtype = compute_dtype(*rows)
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
    dtype = compute_dtype(*rows)
    outs, addends = jax.eval_shape(
        functools.partial(program, Axis(1)),
        tuple(jax.ShapeDtypeStruct((1, x.shape[-1]), dtype) for x in rows),
        tuple(jax.ShapeDtypeStruct((1, a.size), dtype) for a in shared),
    )
    return [y.shape[1] for y in outs], [a.shape[1] for a in addends]


LAYOUTS = {
    "tpu": Layout("tpu", 0),
    "gpu": Layout("gpu", 1),
    "interpret_tpu": Layout("tpu", 0, interpret=True),
    "interpret_gpu": Layout("gpu", 1, interpret=True),
}
