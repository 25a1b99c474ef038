"""Selects an exact number of smallest entries of arrays, without sorting them.

Counting passes find the threshold bit by bit, and only if entries tie with it a second search
finds the position up to which ties are taken. Every pass is an elementwise comparison and a sum:
it needs no copy of the arrays, costs the same under `vmap`, and on a mesh becomes one small
reduction instead of the gathering of a distributed sort.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp

_EXCLUDED = 0xFFFFFFFF
_KEY_BITS = 31


def magnitude_keys(values: jax.Array) -> jax.Array:
    """Maps floating numbers to integers that are ordered as their magnitudes.

    The bit pattern of |x| read as an integer: order-preserving, exact, and NaN ranks above
    infinity.

    Args:
      values: any shape; float32, float16 or bfloat16.

    Returns:
      `[size]`, uint32, below 2^31.

    Raises:
      ValueError: another dtype.

    Example:
      >>> magnitude_keys(jnp.array([-2.0, 0.5])) > magnitude_keys(jnp.array([1.0, -1.0]))
      Array([ True, False], dtype=bool)
    """
    if values.dtype not in (jnp.float32, jnp.float16, jnp.bfloat16):
        raise ValueError(
            f"values have dtype {values.dtype}, want float32, float16 or bfloat16; "
            "convert with .astype(jnp.float32)"
        )
    magnitudes = jnp.abs(values.reshape(-1).astype(jnp.float32))
    return jax.lax.bitcast_convert_type(magnitudes, jnp.uint32)


def select_smallest(
    keys: Sequence[jax.Array],
    eligible: Sequence[jax.Array],
    counts: jax.Array,
    *,
    groups: Sequence[int],
    whole_ties: bool = False,
) -> list[jax.Array]:
    """Marks, in each group of arrays, the entries with the smallest keys.

    Args:
      keys: one array per leaf, `[n_i]`, uint32 below 2^31.
      eligible: one array per leaf, `[n_i]`, bool; the others are never marked.
      counts: how many entries to mark, `[groups]`, int32.
      groups: for every leaf the group in which it is ranked, 0 to len(counts) - 1.
      whole_ties: mark all entries that tie with the last marked one, so more than `counts`.
        Otherwise ties are broken by position: earlier leaves first, then flattened index.

    Returns:
      One array per leaf, `[n_i]`, bool; exactly min(counts[g], eligible entries) are marked in
      group g unless `whole_ties`.

    Example:
      >>> keys = [jnp.array([3, 1, 1, 2], jnp.uint32)]
      >>> select_smallest(keys, [jnp.ones(4, bool)], jnp.array([1]), groups=[0])
      [Array([False,  True, False, False], dtype=bool)]
    """
    total = counts.shape[0]
    excluded = jnp.uint32(_EXCLUDED)
    keys = [jnp.where(e, k, excluded) for k, e in zip(keys, eligible, strict=True)]
    starts, offsets = [0] * total, []
    for key, group in zip(keys, groups, strict=True):
        offsets.append(starts[group])
        starts[group] += key.shape[0]

    def count(marks: Sequence[jax.Array]) -> jax.Array:
        sums = [jnp.zeros((), jnp.int32)] * total
        for mark, group in zip(marks, groups, strict=True):
            sums[group] = sums[group] + jnp.sum(mark, dtype=jnp.int32)
        return jnp.stack(sums)

    def below(threshold: jax.Array) -> list[jax.Array]:
        return [key < threshold[group] for key, group in zip(keys, groups, strict=True)]

    def ties(threshold: jax.Array) -> list[jax.Array]:
        return [key == threshold[group] for key, group in zip(keys, groups, strict=True)]

    def before(position: jax.Array) -> list[jax.Array]:
        return [
            jnp.arange(key.shape[0], dtype=jnp.uint32) + jnp.uint32(offset) < position[group]
            for key, offset, group in zip(keys, offsets, groups, strict=True)
        ]

    def key_step(step: jax.Array, threshold: jax.Array) -> jax.Array:
        bit = jnp.uint32(1) << (jnp.uint32(_KEY_BITS - 1) - step.astype(jnp.uint32))
        return jnp.where(count(below(threshold | bit)) < counts, threshold | bit, threshold)

    # The largest threshold with fewer than `counts` keys below it: the last key to be marked.
    threshold = jax.lax.fori_loop(0, _KEY_BITS, key_step, jnp.zeros(total, jnp.uint32))
    if whole_ties:
        positive = counts > 0
        return [
            (key <= threshold[group]) & (key != excluded) & positive[group]
            for key, group in zip(keys, groups, strict=True)
        ]

    wanted = counts - count(below(threshold))
    index_bits = max(*starts, 1).bit_length()

    def index_step(step: jax.Array, position: jax.Array) -> jax.Array:
        bit = jnp.uint32(1) << (jnp.uint32(index_bits - 1) - step.astype(jnp.uint32))
        marks = [t & b for t, b in zip(ties(threshold), before(position | bit), strict=True)]
        return jnp.where(count(marks) <= wanted, position | bit, position)

    # Distinct weights leave nothing to break: then the loop is left at once, all ties in.
    unresolved = jnp.any(count(ties(threshold)) > wanted)
    everywhere = jnp.full(total, (1 << index_bits) - 1, jnp.uint32)
    position = jax.lax.fori_loop(
        0,
        jnp.where(unresolved, index_bits, 0),
        index_step,
        jnp.where(unresolved, jnp.zeros_like(everywhere), everywhere),
    )
    return [
        low | (tie & early)
        for low, tie, early in zip(below(threshold), ties(threshold), before(position), strict=True)
    ]
