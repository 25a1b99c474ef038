"""Attention as Pallas kernels for a TPU: one head at a time, queries along the lanes.

Scores lie with keys along the rows and queries along the lanes. What belongs to a query, its
normaliser or its position, is then one row that broadcasts down, and no product needs a transpose:
XLA hands the kernels what they need in both orders. The blocks that a block meets are a list that
is read ahead of the work, so that dead blocks are neither computed nor fetched.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from trove_jax.kernels.attention_forms import (
    Inputs,
    Rule,
    ids_of,
    masked_scores,
    row_term,
    safe_lse,
    sum_to,
)
from trove_jax.kernels.attention_plan import Lists, square_lists

# Less than any score, but finite: the difference of two of them is a number.
_NOTHING = -1e30
_BLOCKS = (128, 256, 512)
# A step of a grid takes as long as this many scores.
_PER_TILE = 2**15


class _Layout(NamedTuple):
    """What is known of a call before tracing."""

    rule: Rule
    sizes: tuple[int, int, int, int]  # b, h, n, m
    block: int
    of_queries: Lists | None
    of_keys: Lists | None
    interpret: bool

    @property
    def rows(self) -> int:
        """Blocks of queries."""
        return -(-self.sizes[2] // self.block)

    @property
    def columns(self) -> int:
        """Blocks of keys."""
        return -(-self.sizes[3] // self.block)


class _Place(NamedTuple):
    """How an array lies: `[b, h, n, width]` in rows, `[b, h, width, n]` in columns."""

    side: str  # "queries", "keys" or, for scores, "both"
    is_rows: bool
    width: int

    def shape(self, layout: _Layout) -> tuple[int, ...]:
        b, h, *_ = layout.sizes
        if self.side == "both":
            return b, h, layout.columns * layout.block, layout.rows * layout.block
        length = (layout.rows if self.side == "queries" else layout.columns) * layout.block
        return (b, h, length, self.width) if self.is_rows else (b, h, self.width, length)

    def spec(self, layout: _Layout, outer: str) -> pl.BlockSpec:
        size = layout.block
        if self.side == "both":
            column, row = _position(layout, outer, "keys"), _position(layout, outer, "queries")
            return pl.BlockSpec(
                (1, 1, size, size), lambda *g: (g[0], g[1], column(*g[1:]), row(*g[1:]))
            )
        at = _position(layout, outer, self.side)
        if self.is_rows:
            return pl.BlockSpec((1, 1, size, self.width), lambda *g: (g[0], g[1], at(*g[1:]), 0))
        return pl.BlockSpec((1, 1, self.width, size), lambda *g: (g[0], g[1], 0, at(*g[1:])))


def _position(layout: _Layout, outer: str, side: str):
    """A function from a place in the grid, and the lists, to the block of a side."""
    lists = layout.of_queries if outer == "queries" else layout.of_keys

    def position(head, block, step, chosen, counts):
        del counts
        if side == outer:
            return block
        if lists is None:
            return step
        per_head, rows, length = lists.chosen.shape
        row = block if per_head == 1 else head * rows + block
        return chosen[row * length + step]

    return position


def _laid(x: jax.Array, side: str, layout: _Layout, *, rows: bool, fill: float = 0.0):
    """Lays `[b, n, h, width]` by heads, and fills up the last block."""
    place = _Place(side, rows, x.shape[3])
    x = jnp.transpose(x, (0, 2, 1, 3) if rows else (0, 2, 3, 1))
    widths = [(0, whole - size) for whole, size in zip(place.shape(layout), x.shape, strict=True)]
    widths = [(0, 0), (0, 0), *widths[2:]]
    return jnp.pad(x, widths, constant_values=jnp.asarray(fill, x.dtype)), place


def tpu(rule: Rule, inputs: Inputs, *, interpret: bool = False) -> tuple[jax.Array, jax.Array]:
    """Attention, `[b, n, h, e]` and `[b, n, h]`, as one kernel."""
    layout = _layout(rule, inputs, interpret)
    n, e, size = layout.sizes[2], inputs.v.shape[3], layout.block
    operands = [
        _laid(inputs.q, "queries", layout, rows=True),
        _laid(inputs.k, "keys", layout, rows=True),
        _laid(inputs.v, "keys", layout, rows=False),
    ]
    outs = [
        (_Place("queries", False, e), inputs.q.dtype),
        (_Place("queries", False, 1), jnp.dtype(jnp.float32)),
    ]

    def start(sums):
        peak, total, mean = sums
        peak[...] = jnp.full(peak.shape, _NOTHING, jnp.float32)
        total[...] = jnp.zeros(total.shape, jnp.float32)
        mean[...] = jnp.zeros(mean.shape, jnp.float32)

    def step(loaded, scores_of, outs, sums):
        (q, k, v), (peak, total, mean) = loaded, sums
        scores = scores_of(q, k)
        highest = jnp.maximum(peak[...], jnp.max(scores, axis=0, keepdims=True))
        weights = jnp.exp(scores - highest)
        weights = jnp.where(scores > _NOTHING / 2, weights, jnp.zeros_like(weights))
        shrink = jnp.exp(peak[...] - highest)
        total[...] = shrink * total[...] + jnp.sum(weights, axis=0, keepdims=True)
        mean[...] = shrink * mean[...] + _product(v, weights.astype(v.dtype))
        peak[...] = highest

    def finish(outs, sums):
        (output, lse), (peak, total, mean) = outs, sums
        seen = total[...] > 0
        divisor = jnp.where(seen, total[...], jnp.ones(total.shape, jnp.float32))
        output[0, 0] = (mean[...] / divisor).astype(output.dtype)
        lse[0, 0] = jnp.where(seen, peak[...] + jnp.log(divisor), -jnp.inf)

    sums = [(1, size), (1, size), (e, size)]
    work = (start, step, finish)
    output, lse = _call(layout, inputs, "queries", operands, outs, sums, work)
    return jnp.transpose(output, (0, 3, 1, 2))[:, :n], jnp.transpose(lse[:, :, 0], (0, 2, 1))[:, :n]


def tpu_gradient(
    rule: Rule,
    inputs: Inputs,
    output: jax.Array,
    lse: jax.Array,
    d_output: jax.Array,
    d_lse: jax.Array,
    *,
    interpret: bool = False,
) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array | None]:
    """The gradient as two kernels: one for queries, one for keys, values and bias."""
    layout = _layout(rule, inputs, interpret)
    (_, _, n, m), size = layout.sizes, layout.block
    q, k, v, bias = inputs[:4]
    d, e = k.shape[3], v.shape[3]
    common = row_term(output, lse, d_output, d_lse)[..., None]
    operands = [
        _laid(q, "queries", layout, rows=True),
        _laid(k, "keys", layout, rows=True),
        _laid(v, "keys", layout, rows=True),
        _laid(d_output.astype(q.dtype), "queries", layout, rows=True),
        _laid(safe_lse(lse)[..., None], "queries", layout, rows=False, fill=jnp.inf),
        _laid(common, "queries", layout, rows=False),
    ]

    def start(sums):
        for total in sums:
            total[...] = jnp.zeros(total.shape, jnp.float32)

    def weights_and_gradient(loaded, scores_of):
        q, k, v, d_output, lse, common = loaded[:6]
        weights = jnp.exp(scores_of(q, k) - lse)
        return weights, weights * (_product_of_rows(v, d_output) - common)

    def step_of_queries(loaded, scores_of, outs, sums):
        _, d_scores = weights_and_gradient(loaded, scores_of)
        sums[0][...] += _product(loaded[6], d_scores.astype(k.dtype))

    def step_of_keys(loaded, scores_of, outs, sums):
        weights, d_scores = weights_and_gradient(loaded, scores_of)
        sums[0][...] += _product(d_scores.astype(q.dtype), loaded[0])
        sums[1][...] += _product(weights.astype(q.dtype), loaded[3])
        if bias is not None:
            outs[2][0, 0] = d_scores

    def finish(outs, sums):
        for out, total, factor in zip(outs, sums, (rule.scale, 1.0), strict=False):
            out[0, 0] = (total[...] * factor).astype(out.dtype)

    (dq,) = _call(
        layout,
        inputs,
        "queries",
        [*operands, _laid(k, "keys", layout, rows=False)],
        [(_Place("queries", False, d), q.dtype)],
        [(d, size)],
        (start, step_of_queries, finish),
    )
    outs = [(_Place("keys", True, d), k.dtype), (_Place("keys", True, e), v.dtype)]
    if bias is not None:
        outs.append((_Place("both", True, size), jnp.dtype(jnp.float32)))
    dk, dv, *of_pairs = _call(
        layout,
        inputs,
        "keys",
        operands,
        outs,
        [(size, d), (size, e)],
        (start, step_of_keys, finish),
    )
    d_bias = None
    if bias is not None:
        d_scores = jnp.swapaxes(of_pairs[0], 2, 3)[:, :, :n, :m]
        d_bias = sum_to(d_scores, bias.shape).astype(bias.dtype)
    dk, dv = (jnp.swapaxes(x, 1, 2)[:, :m] for x in (dk, dv))
    return jnp.transpose(dq, (0, 3, 1, 2))[:, :n], dk, dv, d_bias


def _layout(rule: Rule, inputs: Inputs, interpret: bool) -> _Layout:
    (b, n, h, d), (_, m, _, e) = inputs.q.shape, inputs.v.shape
    sizes = (b, h, n, m)
    # Ten blocks of d channels and four of scores are in the fast memory at a time.
    allowed = tuple(size for size in _BLOCKS if size * max(d, e) <= 2**16) or _BLOCKS[:1]
    plain = inputs.q_ids is None and inputs.kv_ids is None and inputs.bias is None
    if rule.pattern is not None and plain:
        found = square_lists(rule.pattern, n, m, h, allowed, _PER_TILE)
        return _Layout(rule, sizes, *found, interpret)
    fitting = [size for size in allowed if size <= max(n, m)] or allowed[:1]
    return _Layout(rule, sizes, fitting[-1], None, None, interpret)


def _extras(layout: _Layout, inputs: Inputs, outer: str) -> dict[str, tuple[jax.Array, Any]]:
    """What scores are made of besides queries and keys, by name, with its blocks."""
    _, h, n, m = layout.sizes
    size, pattern = layout.block, layout.rule.pattern
    row, column = _position(layout, outer, "queries"), _position(layout, outer, "keys")
    fill_q, fill_kv = layout.rows * size - n, layout.columns * size - m
    q_ids, kv_ids = ids_of(inputs)
    extras = {}

    def at(x, axis, index):
        return index if x.shape[axis] > 1 else 0

    if inputs.q_ids is not None:
        x = jnp.pad(q_ids, ((0, 0), (0, fill_q)))[:, None]
        spec = pl.BlockSpec((1, 1, size), lambda *g: (at(q_ids, 0, g[0]), 0, row(*g[1:])))
        extras["q_ids"] = (x, spec)
    if inputs.kv_ids is not None or inputs.kv_mask is not None:
        if inputs.kv_mask is not None:
            kv_ids = jnp.where(inputs.kv_mask, kv_ids, jnp.full_like(kv_ids, -1))
        x = jnp.pad(kv_ids, ((0, 0), (0, fill_kv)), constant_values=-1)[:, None]
        spec = pl.BlockSpec((1, 1, size), lambda *g: (at(x, 0, g[0]), 0, column(*g[1:])))
        extras["kv_ids"] = (x, spec)
    if pattern is not None and pattern.terms:
        head = jnp.arange(h if pattern.per_head else 1, dtype=jnp.int32)[None, :, None]
        terms = jnp.stack(pattern.looked_up(q_ids[:, None], head), axis=2)
        terms = jnp.pad(terms, ((0, 0), (0, 0), (0, 0), (0, fill_q)))
        spec = pl.BlockSpec(
            (1, 1, pattern.terms, size),
            lambda *g: (at(terms, 0, g[0]), at(terms, 1, g[1]), 0, row(*g[1:])),
        )
        extras["terms"] = (terms, spec)
    if inputs.bias is not None:
        bias = jnp.swapaxes(inputs.bias, 2, 3)
        wide = [size > 1 for size in bias.shape[2:]]
        fills = (0, fill_kv * wide[0]), (0, fill_q * wide[1])
        bias = jnp.pad(bias, ((0, 0), (0, 0), *fills))
        blocks = [size if is_wide else 1 for is_wide in wide]
        spec = pl.BlockSpec(
            (1, 1, *blocks),
            lambda *g: (
                *(at(bias, 0, g[0]), at(bias, 1, g[1])),
                *(at(bias, 2, column(*g[1:])), at(bias, 3, row(*g[1:]))),
            ),
        )
        extras["bias"] = (bias, spec)
    return extras


def _call(layout, inputs, outer, operands, outs, sums, work):
    """Runs `start`, a `step` for each block of the list, and `finish` for each outer block."""
    start, step, finish = work
    b, h, *_ = layout.sizes
    lists = layout.of_queries if outer == "queries" else layout.of_keys
    outer_blocks, steps = layout.rows, layout.columns
    if outer == "keys":
        outer_blocks, steps = steps, outer_blocks
    if lists is None:
        ahead = [jnp.zeros(1, jnp.int32)] * 2
    else:
        steps = lists.chosen.shape[2]
        ahead = [jnp.asarray(x.ravel()) for x in lists]
    extras = _extras(layout, inputs, outer)
    names = list(extras)

    def kernel(chosen, counts, *refs):
        ins, refs = refs[: len(operands)], refs[len(operands) :]
        given, refs = dict(zip(names, refs, strict=False)), refs[len(names) :]
        written, totals = refs[: len(outs)], refs[len(outs) :]
        head, block, number = (pl.program_id(axis) for axis in (1, 2, 3))
        starts = [
            _position(layout, outer, side)(head, block, number, chosen, counts) * layout.block
            for side in ("queries", "keys")
        ]

        def scores_of(q, k):
            return _scores(layout, given, q, k, head, *starts)

        @pl.when(number == 0)
        def _():
            start(totals)

        def act():
            step([ref[0, 0] for ref in ins], scores_of, written, totals)

        if lists is None:
            act()
        else:
            row = block if len(lists.counts) == 1 else head * outer_blocks + block
            pl.when(number < counts[row])(act)

        @pl.when(number == steps - 1)
        def _():
            finish(written, totals)

    return pl.pallas_call(
        kernel,
        grid_spec=pltpu.PrefetchScalarGridSpec(
            num_scalar_prefetch=2,
            grid=(b, h, outer_blocks, steps),
            in_specs=[
                *(place.spec(layout, outer) for _, place in operands),
                *(spec for _, spec in extras.values()),
            ],
            out_specs=[place.spec(layout, outer) for place, _ in outs],
            scratch_shapes=[pltpu.VMEM(shape, jnp.float32) for shape in sums],
        ),
        out_shape=[jax.ShapeDtypeStruct(place.shape(layout), dtype) for place, dtype in outs],
        **_options(layout),
    )(*ahead, *(x for x, _ in operands), *(x for x, _ in extras.values()))


def _options(layout: _Layout) -> dict[str, Any]:
    if layout.interpret:
        return {"interpret": True}
    order = ("parallel", "parallel", "parallel", "arbitrary")
    return {"compiler_params": pltpu.CompilerParams(dimension_semantics=order)}


def _scores(layout, given, q, k, head, q_start, kv_start):
    """Scores of a tile, `[keys, queries]`; `_NOTHING` where nothing is seen."""
    size, m = layout.block, layout.sizes[3]
    q_ids = q_start + lax.broadcasted_iota(jnp.int32, (1, size), 1)
    kv_ids = kv_start + lax.broadcasted_iota(jnp.int32, (size, 1), 0)
    mask: Any = kv_ids < m if m % size else None
    if "q_ids" in given:
        q_ids = given["q_ids"][0]
    if "kv_ids" in given:
        kv_ids = jnp.transpose(jnp.broadcast_to(given["kv_ids"][0], (128, size)))[:, :1]
        mask = kv_ids >= 0
    bias = given["bias"][0, 0] if "bias" in given else None
    looked_up = ()
    if "terms" in given:
        terms = given["terms"][0, 0]
        looked_up = tuple(terms[i : i + 1] for i in range(terms.shape[0]))
    products = _product_of_rows(k, q) * layout.rule.scale
    scores = masked_scores(layout.rule, products, bias, q_ids, kv_ids, head, mask, looked_up)
    return jnp.maximum(scores, jnp.float32(_NOTHING))


def _precision(x):
    return lax.Precision.HIGHEST if x.dtype == jnp.float32 else None


def _product(a, b):
    """a b, in float32."""
    return lax.dot(a, b, precision=_precision(a), preferred_element_type=jnp.float32)


def _product_of_rows(a, b):
    """a b^T, in float32."""
    return lax.dot_general(
        a,
        b,
        (((1,), (1,)), ((), ())),
        precision=_precision(a),
        preferred_element_type=jnp.float32,
    )
