"""Attention as Pallas kernels for a GPU: one program for a block of queries, or of keys, of a head.

A program holds its own block and its sums in registers, and goes through the blocks that it meets:
all of them, or those on its list. Blocks are lowered by Triton, which wants powers of two.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton

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
_BLOCK = 64
# Triton multiplies no matrices with a side below this.
_LEAST_SIDE = 16


class _Layout(NamedTuple):
    """What is known of a call before tracing."""

    rule: Rule
    sizes: tuple[int, int, int, int]  # b, h, n, m
    block: int
    of_queries: Lists | None
    of_keys: Lists | None
    interpret: bool

    def blocks(self, side: str) -> int:
        """How many blocks queries or keys have."""
        return -(-self.sizes[2 if side == "queries" else 3] // self.block)

    def length(self, side: str) -> int:
        """Their number, filled up to whole blocks."""
        return self.blocks(side) * self.block


def gpu(rule: Rule, inputs: Inputs, *, interpret: bool = False) -> tuple[jax.Array, jax.Array]:
    """Attention, `[b, n, h, e]` and `[b, n, h]`, as one kernel."""
    layout = _layout(rule, inputs, interpret)
    n, e = layout.sizes[2], inputs.v.shape[3]
    queries, keys = (
        [_laid(inputs.q, "queries", layout)],
        [_laid(x, "keys", layout) for x in (inputs.k, inputs.v)],
    )
    width = keys[1].shape[3]

    def program(tile, loop, queries, keys, outs):
        q = queries[0][...]

        def step(column, sums):
            mean, total, peak = sums
            k, v = (ref[_slice(layout, column), :] for ref in keys)
            scores = tile(q, k, None, column)
            highest = jnp.maximum(peak, jnp.max(scores, axis=1))
            weights = jnp.exp(scores - highest[:, None])
            weights = jnp.where(scores > _NOTHING / 2, weights, jnp.zeros_like(weights))
            shrink = jnp.exp(peak - highest)
            mean = mean * shrink[:, None] + _product(weights.astype(v.dtype), v)
            return mean, total * shrink + jnp.sum(weights, axis=1), highest

        nothing = jnp.zeros(layout.block, jnp.float32)
        start = (jnp.zeros((layout.block, width), jnp.float32), nothing, nothing + _NOTHING)
        mean, total, peak = loop(step, start)
        divisor = jnp.where(total > 0, total, jnp.ones_like(total))
        outs[0][...] = (mean / divisor[:, None]).astype(outs[0].dtype)
        outs[1][...] = jnp.where(total > 0, peak + jnp.log(divisor), -jnp.inf)

    outs = [(width, inputs.q.dtype), (None, jnp.dtype(jnp.float32))]
    output, lse = _call(layout, inputs, "queries", queries, keys, outs, program)
    return jnp.swapaxes(output, 1, 2)[:, :n, :, :e], jnp.swapaxes(lse, 1, 2)[:, :n]


def gpu_gradient(
    rule: Rule,
    inputs: Inputs,
    output: jax.Array,
    lse: jax.Array,
    d_output: jax.Array,
    d_lse: jax.Array,
    *,
    interpret: bool = False,
) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array | None]:
    """The gradient as two kernels: one for queries and bias, one for keys and values."""
    layout = _layout(rule, inputs, interpret)
    (_, _, n, m), bias = layout.sizes, inputs.bias
    d, e, dtype = inputs.q.shape[3], inputs.v.shape[3], inputs.q.dtype
    common = row_term(output, lse, d_output, d_lse)
    queries = [
        _laid(inputs.q, "queries", layout),
        _laid(d_output.astype(dtype), "queries", layout),
        _laid(safe_lse(lse), "queries", layout, fill=jnp.inf),
        _laid(common, "queries", layout),
    ]
    keys = [_laid(x, "keys", layout) for x in (inputs.k, inputs.v)]
    width_k, width_v = (x.shape[3] for x in keys)

    def weights_and_gradient(tile, rows, columns, row, column):
        q, d_output, lse, common = rows
        k, v = columns
        weights = jnp.exp(tile(q, k, row, column) - lse[:, None])
        return weights, weights * (_product_of_rows(d_output, v) - common[:, None])

    def of_queries(tile, loop, queries, keys, outs):
        rows = [ref[...] for ref in queries]

        def step(column, sums):
            columns = [ref[_slice(layout, column), :] for ref in keys]
            _, d_scores = weights_and_gradient(tile, rows, columns, None, column)
            if bias is not None:
                outs[1][:, _slice(layout, column)] = d_scores
            return (sums[0] + _product(d_scores.astype(dtype), columns[0]),)

        (dq,) = loop(step, (jnp.zeros((layout.block, width_k), jnp.float32),))
        outs[0][...] = (dq * rule.scale).astype(dtype)

    def of_keys(tile, loop, queries, keys, outs):
        columns = [ref[...] for ref in keys]

        def step(row, sums):
            part = _slice(layout, row)
            rows = [ref[part, :] for ref in queries[:2]] + [ref[part] for ref in queries[2:]]
            weights, d_scores = weights_and_gradient(tile, rows, columns, row, None)
            dk = sums[0] + _product_of_columns(d_scores.astype(dtype), rows[0])
            return dk, sums[1] + _product_of_columns(weights.astype(dtype), rows[1])

        widths = (width_k, width_v)
        sums = loop(step, tuple(jnp.zeros((layout.block, w), jnp.float32) for w in widths))
        outs[0][...] = (sums[0] * rule.scale).astype(dtype)
        outs[1][...] = sums[1].astype(dtype)

    outs = [(width_k, dtype)]
    if bias is not None:
        outs.append((layout.length("keys"), jnp.dtype(jnp.float32)))
    dq, *of_pairs = _call(layout, inputs, "queries", queries, keys, outs, of_queries)
    outs = [(width_k, dtype), (width_v, dtype)]
    dk, dv = _call(layout, inputs, "keys", queries, keys, outs, of_keys)
    d_bias = None
    if bias is not None:
        d_bias = sum_to(of_pairs[0][:, :, :n, :m], bias.shape).astype(bias.dtype)
    dq, dk, dv = (jnp.swapaxes(x, 1, 2) for x in (dq, dk, dv))
    return dq[:, :n, :, :d], dk[:, :m, :, :d], dv[:, :m, :, :e], d_bias


def _layout(rule: Rule, inputs: Inputs, interpret: bool) -> _Layout:
    (b, n, h, d), (_, m, _, e) = inputs.q.shape, inputs.v.shape
    block = _BLOCK if max(d, e) <= 128 else _BLOCK // 2
    plain = inputs.q_ids is None and inputs.kv_ids is None and inputs.bias is None
    of_queries, of_keys = None, None
    if rule.pattern is not None and plain:
        _, of_queries, of_keys = square_lists(rule.pattern, n, m, h, (block,), 0)
    return _Layout(rule, (b, h, n, m), block, of_queries, of_keys, interpret)


def _laid(x: jax.Array, side: str, layout: _Layout, *, fill: float = 0.0) -> jax.Array:
    """`[b, n, h, width]` or `[b, n, h]` by heads, filled up to whole blocks and a power of two."""
    x = jnp.swapaxes(x, 1, 2)
    widths = [(0, 0), (0, 0), (0, layout.length(side) - x.shape[2])]
    if x.ndim == 4:
        widths.append((0, max(_LEAST_SIDE, 1 << (x.shape[3] - 1).bit_length()) - x.shape[3]))
    return jnp.pad(x, widths, constant_values=jnp.asarray(fill, x.dtype))


def _slice(layout, block):
    return pl.ds(block * layout.block, layout.block)


def _extras(layout: _Layout, inputs: Inputs) -> dict[str, tuple[jax.Array, int, int]]:
    """What scores are made of besides queries and keys: arrays, and their axes along each side."""
    _, h, n, m = layout.sizes
    pattern = layout.rule.pattern
    fill_q, fill_kv = layout.length("queries") - n, layout.length("keys") - m
    q_ids, kv_ids = ids_of(inputs)
    extras = {}
    if inputs.q_ids is not None:
        extras["q_ids"] = (jnp.pad(q_ids, ((0, 0), (0, fill_q)))[:, None], 2, -1)
    if inputs.kv_ids is not None or inputs.kv_mask is not None:
        if inputs.kv_mask is not None:
            kv_ids = jnp.where(inputs.kv_mask, kv_ids, jnp.full_like(kv_ids, -1))
        kv_ids = jnp.pad(kv_ids, ((0, 0), (0, fill_kv)), constant_values=-1)
        extras["kv_ids"] = (kv_ids[:, None], -1, 2)
    if pattern is not None and pattern.terms:
        head = jnp.arange(h if pattern.per_head else 1, dtype=jnp.int32)[None, :, None]
        for i, term in enumerate(pattern.looked_up(q_ids[:, None], head)):
            extras[f"term{i}"] = (jnp.pad(term, ((0, 0), (0, 0), (0, fill_q))), 2, -1)
    if inputs.bias is not None:
        bias = inputs.bias
        is_wide = [size > 1 for size in bias.shape[2:]]
        fills = (0, fill_q * is_wide[0]), (0, fill_kv * is_wide[1])
        bias = jnp.pad(bias, ((0, 0), (0, 0), *fills))
        extras["bias"] = (bias, 2 if is_wide[0] else -1, 3 if is_wide[1] else -1)
    return extras


def _call(layout, inputs, outer, queries, keys, outs, program):
    """Runs a program for each block of the outer side."""
    b, h, *_ = layout.sizes
    inner = "keys" if outer == "queries" else "queries"
    lists = layout.of_queries if outer == "queries" else layout.of_keys
    blocks, size = layout.blocks(outer), layout.block
    extras = _extras(layout, inputs)
    names = list(extras)
    sides = [(x, 2 if outer == "queries" else -1) for x in queries]
    sides += [(x, 2 if outer == "keys" else -1) for x in keys]
    sides += [(x, row if outer == "queries" else column) for x, row, column in extras.values()]
    ahead = [] if lists is None else [jnp.asarray(x.ravel()) for x in lists]

    def spec(x, cut):
        """One example and head; along the axis `cut` the block of the program, else everything."""
        shape = [size if axis == cut else x.shape[axis] for axis in range(2, x.ndim)]
        is_wide = [x.shape[0] > 1, x.shape[1] > 1]

        def index(i, j, block):
            lead = (i if is_wide[0] else 0, j if is_wide[1] else 0)
            return *lead, *(block if axis == cut else 0 for axis in range(2, x.ndim))

        return pl.BlockSpec((None, None, *shape), index)

    def kernel(*refs):
        read, refs = refs[: len(ahead)], refs[len(ahead) :]
        q_refs, refs = refs[: len(queries)], refs[len(queries) :]
        k_refs, refs = refs[: len(keys)], refs[len(keys) :]
        given, written = dict(zip(names, refs, strict=False)), refs[len(names) :]
        head, block = pl.program_id(1), pl.program_id(2)

        def loop(step, start):
            if lists is None:
                return lax.fori_loop(0, layout.blocks(inner), step, start)
            per_head, rows, length = lists.chosen.shape
            row = block if per_head == 1 else head * rows + block
            return lax.fori_loop(
                0, read[1][row], lambda i, sums: step(read[0][row * length + i], sums), start
            )

        def tile(q, k, row, column):
            """Scores of a tile; a block that is None is that of this program."""
            return _scores(layout, given, q, k, head, block, row, column)

        program(tile, loop, q_refs, k_refs, written)

    length = layout.length(outer)
    shapes = [(b, h, length) if width is None else (b, h, length, width) for width, _ in outs]
    options: dict[str, Any] = {"interpret": True}
    if not layout.interpret:
        options = {"compiler_params": triton.CompilerParams(num_warps=4, num_stages=2)}
    return pl.pallas_call(
        kernel,
        grid=(b, h, blocks),
        in_specs=[
            *(pl.BlockSpec(x.shape, lambda *_: (0,)) for x in ahead),
            *(spec(x, cut) for x, cut in sides),
        ],
        out_specs=[spec(jax.ShapeDtypeStruct(shape, jnp.float32), 2) for shape in shapes],
        out_shape=[
            jax.ShapeDtypeStruct(shape, dtype)
            for shape, (_, dtype) in zip(shapes, outs, strict=True)
        ],
        **options,
    )(*ahead, *(x for x, _ in sides))


def _scores(layout, given, q, k, head, block, row, column):
    """Scores of a tile, `[queries, keys]`; `_NOTHING` where nothing is seen."""
    size, m = layout.block, layout.sizes[3]
    along = jnp.arange(size, dtype=jnp.int32)
    # A reference holds the block of this program, or everything.
    rows = slice(None) if row is None else _slice(layout, row)
    columns = slice(None) if column is None else _slice(layout, column)
    q_ids = (block if row is None else row) * size + along
    kv_ids = (block if column is None else column) * size + along
    mask = kv_ids < m if m % size else None
    if "q_ids" in given:
        q_ids = given["q_ids"][rows]
    if "kv_ids" in given:
        kv_ids = given["kv_ids"][columns]
        mask = kv_ids >= 0
    looked_up = tuple(ref[rows][:, None] for name, ref in given.items() if name.startswith("term"))
    bias = None
    if "bias" in given:
        ref = given["bias"]
        of_rows, of_columns = ref.shape[0] > 1, ref.shape[1] > 1
        bias = ref[rows if of_rows else 0, columns if of_columns else 0]
        if of_rows != of_columns:
            bias = bias[:, None] if of_rows else bias[None]
    products = _product_of_rows(q, k) * layout.rule.scale
    scores = masked_scores(
        layout.rule,
        products,
        bias,
        q_ids[:, None],
        kv_ids[None],
        head,
        None if mask is None else mask[None],
        looked_up,
    )
    return jnp.maximum(scores, jnp.float32(_NOTHING))


def _dot(a, b, contracted):
    return lax.dot_general(
        a,
        b,
        (contracted, ((), ())),
        precision=lax.Precision.HIGHEST if a.dtype == jnp.float32 else None,
        preferred_element_type=jnp.float32,
    )


def _product(a, b):
    """a b, in float32."""
    return _dot(a, b, ((1,), (0,)))


def _product_of_rows(a, b):
    """a b^T, in float32."""
    return _dot(a, b, ((1,), (1,)))


def _product_of_columns(a, b):
    """a^T b, in float32."""
    return _dot(a, b, ((0,), (0,)))
