"""Attention in plain JAX, with local blocks as examples of their own: a reshape, and less work.

Patterns of other kinds go straight to the tiles.
"""

import jax
import jax.numpy as jnp

from trove_jax.kernels.attention_forms import Inputs, Rule
from trove_jax.kernels.attention_rules import within_blocks
from trove_jax.kernels.attention_tiles import tiles, tiles_gradient


def folded(rule: Rule, inputs: Inputs) -> tuple[jax.Array, jax.Array]:
    """Attention, `[b, n, h, e]` and `[b, n, h]`."""
    local = _local(rule, inputs)
    if local is None:
        return tiles(rule, inputs)
    size, inside = local
    output, lse = tiles(inside, _fold_inputs(inputs, size))
    return _unfold(output, inputs.q), _unfold(lse, inputs.q)


def folded_gradient(
    rule: Rule,
    inputs: Inputs,
    output: jax.Array,
    lse: jax.Array,
    d_output: jax.Array,
    d_lse: jax.Array,
) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array | None]:
    """The gradient of `folded` from its results."""
    local = _local(rule, inputs)
    if local is None:
        return tiles_gradient(rule, inputs, output, lse, d_output, d_lse)
    size, inside = local
    # Queries that fill the last block have no cotangent, so they pull nothing back.
    results = (_fold(x, size) for x in (output, lse, d_output, d_lse))
    dq, dk, dv, _ = tiles_gradient(inside, _fold_inputs(inputs, size), *results)
    return _unfold(dq, inputs.q), _unfold(dk, inputs.q), _unfold(dv, inputs.q), None


def _local(rule: Rule, inputs: Inputs) -> tuple[int, Rule] | None:
    """The size of local blocks and the rule inside one, if there is nothing else to heed."""
    is_plain = inputs.q_ids is None and inputs.kv_ids is None and inputs.bias is None
    if not is_plain or rule.bias is not None or inputs.q.shape[1] != inputs.k.shape[1]:
        return None
    found = within_blocks(rule.pattern)
    return None if found is None else (found[0], rule._replace(pattern=found[1]))


def _fold(x: jax.Array, size: int) -> jax.Array:
    """`[b, n, ...]` as `[b * blocks, size, ...]`, the last block filled with zeros."""
    b, n = x.shape[:2]
    blocks = -(-n // size)
    x = jnp.pad(x, ((0, 0), (0, blocks * size - n)) + ((0, 0),) * (x.ndim - 2))
    return x.reshape(b * blocks, size, *x.shape[2:])


def _unfold(x: jax.Array, like: jax.Array) -> jax.Array:
    b, n = like.shape[:2]
    return x.reshape(b, -1, *x.shape[2:])[:, :n]


def _fold_inputs(inputs: Inputs, size: int) -> Inputs:
    (b, n), mask = inputs.q.shape[:2], inputs.kv_mask
    if mask is not None or n % size:
        mask = jnp.ones((b, n), bool) if mask is None else jnp.broadcast_to(mask, (b, n))
        mask = _fold(mask, size)
    q, k, v = (_fold(x, size) for x in inputs[:3])
    return Inputs(q, k, v, None, None, None, mask)
