"""Attention in plain JAX: the reference with its gradient, and the same in tiles that fit a cache.

All forms share one signature: `forward(rule, inputs) -> (output, lse)` and
`backward(rule, inputs, output, lse, d_output, d_lse) -> (dq, dk, dv, d_bias)`.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from trove_jax.kernels.attention_rules import Pattern
from trove_jax.kernels.numbers import compute_dtype


class Rule(NamedTuple):
    """What is known of an attention before tracing; hashable."""

    pattern: Pattern | None
    bias: Callable[[Any, Any, Any], Any] | None
    scale: float


class Inputs(NamedTuple):
    """The arrays of an attention; ids that are None are 0, 1, 2, ..."""

    q: jax.Array  # [b, n, h, d]
    k: jax.Array  # [b, m, h, d]
    v: jax.Array  # [b, m, h, e]
    bias: jax.Array | None  # [b | 1, h | 1, n | 1, m | 1]
    q_ids: jax.Array | None  # [b | 1, n]
    kv_ids: jax.Array | None  # [b | 1, m]
    kv_mask: jax.Array | None  # [b | 1, m]


def masked_scores(
    rule: Rule,
    products: jax.Array,
    bias: Any,
    q_ids: Any,
    kv_ids: Any,
    head: Any,
    kv_mask: Any,
    looked_up: tuple[Any, ...] = (),
) -> jax.Array:
    """Adds biases to the scaled products of a tile; -inf where a query does not see a key.

    All arrays have the rank of `products` and broadcast with it; `bias` and `kv_mask` may be None.
    `looked_up` is what the pattern knows of the queries, where it cannot be looked up here.
    """
    scores = products
    if rule.bias is not None:
        scores = scores + jnp.asarray(rule.bias(q_ids, kv_ids, head)).astype(scores.dtype)
    if bias is not None:
        scores = scores + bias.astype(scores.dtype)
    visible = kv_mask
    if rule.pattern is not None:
        known = (looked_up,) if looked_up else ()
        seen = rule.pattern.visible(q_ids, kv_ids, head, *known)
        visible = seen if visible is None else visible & seen
    if visible is None:
        return scores
    return jnp.where(visible, scores, jnp.asarray(-jnp.inf, scores.dtype))


def safe_lse(lse: jax.Array) -> jax.Array:
    """The normaliser, with +inf for rows without keys: exp(score - lse) is then 0, never NaN."""
    return jnp.where(lse == -jnp.inf, jnp.asarray(jnp.inf, lse.dtype), lse)


def row_term(output: jax.Array, lse: jax.Array, d_output: jax.Array, d_lse: jax.Array) -> jax.Array:
    """What every score of a row loses in the gradient: sum(dO * O) - d_lse, `[b, n, h]`."""
    dtype = lse.dtype
    product = jnp.sum(output.astype(dtype) * d_output.astype(dtype), axis=-1)
    return product - jnp.where(lse == -jnp.inf, jnp.zeros_like(d_lse), d_lse)


def ids_of(inputs: Inputs) -> tuple[jax.Array, jax.Array]:
    """Positions of queries `[b | 1, n]` and keys `[b | 1, m]`."""
    q_ids, kv_ids = inputs.q_ids, inputs.kv_ids
    if q_ids is None:
        q_ids = jnp.arange(inputs.q.shape[1], dtype=jnp.int32)[None]
    if kv_ids is None:
        kv_ids = jnp.arange(inputs.k.shape[1], dtype=jnp.int32)[None]
    return q_ids, kv_ids


def sum_to(x: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    """Sums over the axes that were broadcast from `shape`."""
    axes = tuple(i for i, size in enumerate(shape) if size == 1 and x.shape[i] != 1)
    return jnp.sum(x, axis=axes, keepdims=True)


def reference(rule: Rule, inputs: Inputs) -> tuple[jax.Array, jax.Array]:
    """Attention with all scores at once."""
    dtype = compute_dtype(inputs.q, inputs.k, inputs.v)
    scores = _all_scores(rule, inputs, dtype)
    peak = jnp.max(scores, axis=-1, keepdims=True, initial=-jnp.inf)
    peak = jnp.where(peak == -jnp.inf, jnp.zeros_like(peak), peak)
    weights = jnp.exp(scores - peak)
    total = jnp.sum(weights, axis=-1, keepdims=True)
    output = jnp.einsum("bhnm,bmhe->bhne", weights, inputs.v.astype(dtype))
    output = output / jnp.where(total > 0, total, jnp.ones_like(total))
    lse = (peak + jnp.log(total))[..., 0]
    return jnp.swapaxes(output, 1, 2).astype(inputs.q.dtype), jnp.swapaxes(lse, 1, 2)


def reference_gradient(
    rule: Rule,
    inputs: Inputs,
    output: jax.Array,
    lse: jax.Array,
    d_output: jax.Array,
    d_lse: jax.Array,
) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array | None]:
    """The gradient of `reference` from its results."""
    q, k, v, bias = inputs[:4]
    dtype = compute_dtype(q, k, v)
    scores = _all_scores(rule, inputs, dtype)
    weights = jnp.exp(scores - jnp.swapaxes(safe_lse(lse), 1, 2)[..., None])
    pulled = jnp.einsum("bnhe,bmhe->bhnm", d_output.astype(dtype), v.astype(dtype))
    common = jnp.swapaxes(row_term(output, lse, d_output, d_lse), 1, 2)[..., None]
    d_scores = weights * (pulled - common)
    scaled = d_scores * rule.scale
    dq = jnp.einsum("bhnm,bmhd->bnhd", scaled, k.astype(dtype))
    dk = jnp.einsum("bhnm,bnhd->bmhd", scaled, q.astype(dtype))
    dv = jnp.einsum("bhnm,bnhe->bmhe", weights, d_output.astype(dtype))
    d_bias = None if bias is None else sum_to(d_scores, bias.shape).astype(bias.dtype)
    return dq.astype(q.dtype), dk.astype(k.dtype), dv.astype(v.dtype), d_bias


def _all_scores(rule, inputs, dtype):
    q, k, _, bias, _, _, kv_mask = inputs
    q_ids, kv_ids = ids_of(inputs)
    products = jnp.einsum("bnhd,bmhd->bhnm", q.astype(dtype) * rule.scale, k.astype(dtype))
    head = jnp.arange(q.shape[2], dtype=jnp.int32)[None, :, None, None]
    mask = None if kv_mask is None else kv_mask[:, None, None]
    return masked_scores(
        rule, products, bias, q_ids[:, None, :, None], kv_ids[:, None, None], head, mask
    )
