"""Attention in plain JAX, tile by tile: scores stay in the cache, and dead tiles are not computed.

A *unit* is one head of one example. Several small units make one step of a loop; a large unit takes
several steps. Nothing larger than the scores of a step is stored, besides inputs and results.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from trove_jax.kernels.attention_forms import (
    Inputs,
    Rule,
    ids_of,
    masked_scores,
    row_term,
    safe_lse,
    sum_to,
)
from trove_jax.kernels.attention_plan import Plan, plan, whole
from trove_jax.kernels.numbers import compute_dtype

# Scores of one step of a loop: 1 MiB in float32, which a core's second cache holds.
_STEP_SCORES = 2**18
# Up to this many scores in all, one batched call is faster than a loop.
_SMALL_SCORES = 2**19


class Unit(NamedTuple):
    """The arrays of one head of one example."""

    q: jax.Array  # [n, d]
    k: jax.Array  # [m, d]
    v: jax.Array  # [m, e]
    q_ids: jax.Array  # [n]
    kv_ids: jax.Array  # [m]
    kv_mask: jax.Array | None  # [m]
    head: jax.Array  # []
    bias: jax.Array | None = None  # [n | 1, m | 1]


class Results(NamedTuple):
    """What the gradient of a unit starts from."""

    lse: jax.Array  # [n], +inf for rows without keys
    common: jax.Array  # [n], `row_term`
    d_output: jax.Array  # [n, e]


# Rows that are added to fill a block: no key is seen, nothing is pulled back.
_NO_RESULTS = Results(np.inf, 0.0, 0.0)  # pyright: ignore[reportArgumentType]


def tiles(rule: Rule, inputs: Inputs) -> tuple[jax.Array, jax.Array]:
    """Attention, `[b, n, h, e]` and `[b, n, h]`, from tiles of scores."""
    (b, n, h, _), e = inputs.q.shape, inputs.v.shape[3]
    cut = _plan(rule, inputs)

    def forward(unit, _):
        return _blocks(rule, cut, unit) if cut.groups else _spans(rule, cut, unit)

    output, lse = _over_units(forward, _units(inputs), None, inputs.bias, h, cut.scores)
    output = jnp.swapaxes(output.reshape(b, h, n, e), 1, 2)
    return output.astype(inputs.q.dtype), jnp.swapaxes(lse.reshape(b, h, n), 1, 2)


def tiles_gradient(
    rule: Rule,
    inputs: Inputs,
    output: jax.Array,
    lse: jax.Array,
    d_output: jax.Array,
    d_lse: jax.Array,
) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array | None]:
    """The gradient of `tiles` from its results."""
    b, _, h, _ = inputs.q.shape
    cut = _plan(rule, inputs)

    def per_unit(x):
        return jnp.swapaxes(x, 1, 2).reshape(b * h, *x.shape[1:2], *x.shape[3:])

    results = Results(
        per_unit(safe_lse(lse)),
        per_unit(row_term(output, lse, d_output, d_lse)),
        per_unit(d_output.astype(lse.dtype)),
    )

    def backward(unit, results):
        if cut.groups:
            return _blocks_gradient(rule, cut, unit, results)
        return _spans_gradient(rule, cut, unit, results)

    found = _over_units(backward, _units(inputs), results, inputs.bias, h, cut.scores)
    dq, dk, dv = (
        jnp.swapaxes(x.reshape(b, h, *x.shape[1:]), 1, 2).astype(inputs.q.dtype) for x in found[:3]
    )
    bias = inputs.bias
    return dq, dk, dv, None if bias is None else found[3].astype(bias.dtype)


def _plan(rule: Rule, inputs: Inputs) -> Plan:
    (_, n, h, _), m = inputs.q.shape, inputs.k.shape[1]
    if rule.pattern is None or inputs.q_ids is not None or inputs.kv_ids is not None:
        return whole(n, m)
    return plan(rule.pattern, n, m, h, may_block=inputs.bias is None)


def _units(inputs: Inputs) -> Unit:
    """All units: arrays with a leading axis of units, 1 where all share one."""
    dtype = compute_dtype(inputs.q, inputs.k, inputs.v)
    b, _, h, _ = inputs.q.shape

    def heads_first(x):
        return jnp.swapaxes(x.astype(dtype), 1, 2).reshape(b * h, x.shape[1], x.shape[3])

    def per_unit(x) -> Any:
        return x if x is None or x.shape[0] == 1 else jnp.repeat(x, h, axis=0)

    q_ids, kv_ids = map(per_unit, ids_of(inputs))
    head = jnp.tile(jnp.arange(h, dtype=jnp.int32), b)
    q, k, v = map(heads_first, inputs[:3])
    return Unit(q, k, v, q_ids, kv_ids, per_unit(inputs.kv_mask), head)


def _over_units(function, units, results, bias, heads, size) -> Any:
    """Runs `function(unit, results)` for all units, of `size` scores each.

    Its arrays get a leading axis of units; but the last of four, the gradient of a bias, is summed
    to the shape of the bias.
    """
    count = len(units.head)
    together = count
    if count * size > _SMALL_SCORES:
        together = _divisor(count, _STEP_SCORES // max(1, size))
    shared = [x is None or x.shape[0] == 1 for x in units]
    own: list[Any] = [None if same else x for x, same in zip(units, shared, strict=True)]
    common: list[Any] = [
        x[0] if same and x is not None else None for x, same in zip(units, shared, strict=True)
    ]

    def place(index):
        """Where the bias of a unit stands."""
        example, head = index // heads, index % heads
        return (
            example if bias.shape[0] > 1 else jnp.zeros_like(index),
            head if bias.shape[1] > 1 else jnp.zeros_like(index),
        )

    def one(index, results, own):
        unit = Unit(*(a if b is None else b for a, b in zip(common, own, strict=True)))
        return function(unit if bias is None else unit._replace(bias=bias[place(index)]), results)

    arrays = (jnp.arange(count, dtype=jnp.int32), results, own)
    if together == count:
        found = jax.vmap(one)(*arrays)
        if len(found) < 4 or bias is None:
            return found
        return *found[:3], sum_to(found[3].reshape(-1, heads, *bias.shape[2:]), bias.shape)

    def step(total, arrays):
        found = jax.vmap(one)(*arrays)
        if total is not None:
            total = total.at[place(arrays[0])].add(found[3])
        return total, found[:3]

    in_steps = jax.tree.map(lambda x: x.reshape(-1, together, *x.shape[1:]), arrays)
    start = None
    if bias is not None and results is not None:
        start = jnp.zeros(bias.shape, units.q.dtype)
    total, found = lax.scan(step, start, in_steps)
    found = jax.tree.map(lambda x: x.reshape(count, *x.shape[2:]), found)
    return found if results is None else (*found, total)


def _divisor(count: int, most: int) -> int:
    """The largest divisor of `count` that is at most `most`, or 1."""
    return next(i for i in range(min(count, max(1, most)), 0, -1) if count % i == 0)


def _spans(rule, cut, unit):
    """Output and normaliser of a unit, one span after another."""
    parts = [_span(rule, _part(unit, span)) for span in cut.spans]
    return tuple(map(jnp.concatenate, zip(*parts, strict=True)))


def _spans_gradient(rule, cut, unit, results):
    """Gradients of q, k, v and bias of a unit."""
    parts = []
    for span in cut.spans:
        rows = Results(*(x[span.q_start : span.q_stop] for x in results))
        parts.append(_span_gradient(rule, _part(unit, span), rows))
    dq, dk, dv, d_bias = zip(*parts, strict=True)
    if len(parts) == 1:
        return dq[0], dk[0], dv[0], d_bias[0]
    dk, dv = (_added(x, cut.spans, (len(unit.k),), (1,)) for x in (dk, dv))
    if unit.bias is not None:
        d_bias = _added(d_bias, cut.spans, unit.bias.shape, (0, 1))
    return jnp.concatenate(dq), dk, dv, None if unit.bias is None else d_bias


def _added(parts, spans, shape, sides):
    """Adds up what belongs to spans of rows (side 0) and keys (side 1), along the first axes."""
    total = jnp.zeros((*shape, *parts[0].shape[len(shape) :]), parts[0].dtype)
    for part, span in zip(parts, spans, strict=True):
        ranges = slice(span.q_start, span.q_stop), slice(span.kv_start, span.kv_stop)
        where = tuple(
            slice(None) if size == 1 else ranges[side]
            for size, side in zip(shape, sides, strict=True)
        )
        total = total.at[where].add(part)
    return total


def _part(unit, span):
    rows, keys = slice(span.q_start, span.q_stop), slice(span.kv_start, span.kv_stop)
    bias = unit.bias
    if bias is not None:
        bias = bias if bias.shape[0] == 1 else bias[rows]
        bias = bias if bias.shape[1] == 1 else bias[:, keys]
    return Unit(
        unit.q[rows],
        *(unit.k[keys], unit.v[keys]),
        *(unit.q_ids[rows], unit.kv_ids[keys]),
        None if unit.kv_mask is None else unit.kv_mask[keys],
        unit.head,
        bias,
    )


def _span(rule, unit):
    """All queries of a unit against all its keys, some rows at a time."""
    n, ways = len(unit.q), _ways(unit)
    if ways == 1:
        return _rows(rule, unit)
    found = lax.map(lambda rows: _rows(rule, unit._replace(**rows)), _rows_in_steps(unit, ways))
    return tuple(x.reshape(-1, *x.shape[2:])[:n] for x in found)


def _span_gradient(rule, unit, results):
    n, ways = len(unit.q), _ways(unit)
    if ways == 1:
        return _rows_gradient(rule, unit, results)
    bias = unit.bias
    is_per_row = bias is not None and bias.shape[0] > 1
    summed = slice(1, 3) if bias is None or is_per_row else slice(1, 4)

    def step(total, arrays):
        rows, results = arrays
        found = _rows_gradient(rule, unit._replace(**rows), results)
        total = tuple(a + b for a, b in zip(total, found[summed], strict=True))
        return total, (found[0], found[3] if is_per_row else None)

    dtype = unit.q.dtype
    sums: Any = (unit.k, unit.v, bias)
    start = tuple(jnp.zeros(x.shape, dtype) for x in sums[: summed.stop - summed.start])
    results = Results(
        *(_split(x, -(-n // ways), fill) for x, fill in zip(results, _NO_RESULTS, strict=True))
    )
    total, rows = lax.scan(step, start, (_rows_in_steps(unit, ways), results))
    dq, d_bias = jax.tree.map(lambda x: x.reshape(-1, x.shape[-1])[:n], rows)
    return dq, total[0], total[1], total[2] if len(total) == 3 else d_bias


def _ways(unit):
    """In how many steps the rows of a unit are taken."""
    return max(1, -(-len(unit.q) * len(unit.k) // _STEP_SCORES))


def _rows_in_steps(unit, ways):
    """What belongs to queries, with a leading axis of steps."""
    size = -(-len(unit.q) // ways)
    rows = {"q": _split(unit.q, size, 0), "q_ids": _split(unit.q_ids, size, 0)}
    if unit.bias is not None and unit.bias.shape[0] > 1:
        rows["bias"] = _split(unit.bias, size, 0)
    return rows


def _split(x, size, fill):
    """Cuts the first axis into blocks of `size`, the last filled up."""
    blocks = -(-len(x) // size)
    widths = [(0, blocks * size - len(x))] + [(0, 0)] * (x.ndim - 1)
    x = jnp.pad(x, widths, constant_values=np.asarray(fill, x.dtype))
    return x.reshape(blocks, size, *x.shape[1:])


def _scores(rule, unit):
    products = (unit.q * rule.scale) @ unit.k.T
    mask = None if unit.kv_mask is None else unit.kv_mask[None]
    return masked_scores(
        rule, products, unit.bias, unit.q_ids[:, None], unit.kv_ids[None], unit.head, mask
    )


def _rows(rule, unit):
    """Output and normaliser of some queries: one tile of scores."""
    scores = _scores(rule, unit)
    peak = jnp.max(scores, axis=1, keepdims=True, initial=-jnp.inf)
    peak = jnp.where(peak == -jnp.inf, jnp.zeros_like(peak), peak)
    weights = jnp.exp(scores - peak)
    # A product, because XLA adds up rows slowly on a CPU.
    total = weights @ jnp.ones((weights.shape[1], 1), weights.dtype)
    output = weights @ unit.v / jnp.where(total > 0, total, jnp.ones_like(total))
    return output, (peak + jnp.log(total))[:, 0]


def _rows_gradient(rule, unit, results):
    """Gradients of q, k, v and bias of one tile."""
    weights = jnp.exp(_scores(rule, unit) - results.lse[:, None])
    d_scores = weights * (results.d_output @ unit.v.T - results.common[:, None])
    scaled = d_scores * rule.scale
    d_bias = None if unit.bias is None else sum_to(d_scores, unit.bias.shape)
    return scaled @ unit.k, scaled.T @ unit.q, weights.T @ results.d_output, d_bias


def _blocks(rule, cut, unit):
    """Output and normaliser of a unit from blocks of queries with lists of blocks of keys."""
    parts = _parts(cut, unit)
    found = [
        _over_rows(lambda row, chosen: _rows(rule, parts(row, chosen)), cut, group, unit.head)
        for group in cut.groups
    ]
    output, lse = (_ordered(x, cut.groups) for x in zip(*found, strict=True))
    n = len(unit.q)
    return output.reshape(-1, output.shape[-1])[:n], lse.reshape(-1)[:n]


def _blocks_gradient(rule, cut, unit, results):
    n, m = len(unit.q), len(unit.k)
    parts = _parts(cut, unit)
    results = Results(
        *(_split(x, cut.q_block, fill) for x, fill in zip(results, _NO_RESULTS, strict=True))
    )

    def one(row, chosen):
        rows = Results(*(x[row] for x in results))
        dq, dk, dv, _ = _rows_gradient(rule, parts(row, chosen), rows)
        return dq, *(x.reshape(-1, cut.kv_block, x.shape[-1]) for x in (dk, dv))

    found = [_over_rows(one, cut, group, unit.head) for group in cut.groups]
    dq, dk, dv = zip(*found, strict=True)
    dq = _ordered(dq, cut.groups)
    of_keys = []
    for of_groups in (dk, dv):
        tiles = jnp.concatenate([x.reshape(-1, *x.shape[2:]) for x in of_groups])
        # Each block of keys fetches the tiles that it was seen in; the last one is zero.
        tiles = jnp.pad(tiles, ((0, 1), (0, 0), (0, 0)))
        sums = [jnp.sum(tiles[_of_head(group, unit.head)], axis=1) for group in cut.gathers]
        total = _ordered(sums, cut.gathers)
        of_keys.append(total.reshape(-1, total.shape[-1])[:m])
    return dq.reshape(-1, dq.shape[-1])[:n], *of_keys, None


def _parts(cut, unit):
    """A function that fetches a block of queries with the blocks of keys that it sees."""
    q, q_ids = (_split(x, cut.q_block, 0) for x in (unit.q, unit.q_ids))
    k, v, kv_ids = (_split(x, cut.kv_block, 0) for x in (unit.k, unit.v, unit.kv_ids))
    exists = unit.kv_mask
    if exists is None:
        exists = jnp.ones(len(unit.k), bool)
    exists = _split(exists, cut.kv_block, False)

    def part(row, chosen):
        mask = exists[chosen] & (chosen >= 0)[:, None]
        keys, values = (x[chosen].reshape(-1, x.shape[-1]) for x in (k, v))
        ids = kv_ids[chosen].reshape(-1)
        return Unit(q[row], keys, values, q_ids[row], ids, mask.reshape(-1), unit.head)

    return part


def _over_rows(function, cut, group, head):
    """Runs `function(row, list)` for all rows of a group."""
    lists = _of_head(group, head)
    size = lists.shape[1] * cut.q_block * cut.kv_block
    together = _divisor(len(group.rows), _STEP_SCORES // size)
    arrays = (jnp.asarray(group.rows, jnp.int32), lists)
    if together == len(group.rows):
        return jax.vmap(function)(*arrays)
    return lax.map(lambda x: function(*x), arrays, batch_size=together)


def _of_head(group, head):
    lists = jnp.asarray(group.lists)
    return lists[0] if len(lists) == 1 else lists[head]


def _ordered(parts, groups):
    """Joins results of groups in the order of rows."""
    rows = np.concatenate([group.rows for group in groups])
    joined = jnp.concatenate(parts)
    return joined if len(groups) == 1 else joined[np.argsort(rows)]
