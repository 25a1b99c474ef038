"""Attention whose scores are products of features, in time and memory linear in the length.

Without a softmax over pairs, keys and values are first summed into one matrix for each head. The
causal form goes through the sequence in chunks: pairs within a chunk meet as in dense attention,
and a running sum carries what came before it.
"""

import functools

import jax
import jax.numpy as jnp
from jax import lax

from trove_jax.kernels.numbers import compute_dtype


def linear_attention(
    q_features: jax.Array,
    k_features: jax.Array,
    v: jax.Array,
    *,
    causal: bool = False,
    kv_mask: jax.Array | None = None,
    q_mask: jax.Array | None = None,
    chunk: int = 64,
    epsilon: float = 0.0,
) -> jax.Array:
    """Averages values with weights that are products of features.

    o_i = sum_j w_ij v_j / (epsilon + sum_j w_ij), w_ij = <f_i, g_j>, over all j or those up to i

    Sums are float32 (float64 for float64 input). A row whose divisor is 0, such as one without
    keys, is 0. The backward pass of the causal form computes each chunk again: it keeps the input
    and one matrix `[r, e]` for each head and chunk.

    Args:
      q_features: f >= 0, floating-point `[b, n, h, r]`.
      k_features: g >= 0, `[b, m, h, r]`.
      v: `[b, m, h, e]`.
      causal: whether key j is seen by the queries i >= j alone; needs n = m.
      kv_mask: which keys there are, bool `[b, m]` or `[1, m]`; what a masked one holds, NaN too,
        reaches neither output nor gradient.
      q_mask: which queries there are, bool `[b, n]` or `[1, n]`; the output of the others is 0,
        and what they hold reaches no gradient.
      chunk: positions that meet as in dense attention, in the causal form; time and memory of a
        step grow with its square.
      epsilon: at least 0.

    Returns:
      `[b, n, h, e]`, in the dtype of `v`.

    Raises:
      ValueError: shapes that do not fit, an array that is not floating-point, a mask of another
        shape or that is not bool, causal with n != m, `chunk` below 1, a negative `epsilon`.

    Example:
      >>> ones = jnp.ones((1, 3, 1, 2))
      >>> v = jnp.array([2.0, 4.0, 9.0]).reshape(1, 3, 1, 1)
      >>> print(linear_attention(ones, ones, v, causal=True).ravel())
      [2. 3. 5.]

    Reference: Katharopoulos et al., Transformers are RNNs: Fast Autoregressive Transformers with
    Linear Attention, ICML 2020 (equations 5 and 9); Choromanski et al., Rethinking Attention with
    Performers, ICLR 2021.
    """
    _check(q_features, k_features, v, kv_mask, q_mask, causal, chunk, epsilon)
    q, k, values = (
        x.astype(compute_dtype(q_features, k_features, v)) for x in (q_features, k_features, v)
    )
    if kv_mask is not None:
        k, values = _masked(k, kv_mask), _masked(values, kv_mask)
    if q_mask is not None:
        q = _masked(q, q_mask)
    summed, divisor = _up_to(q, k, values, chunk) if causal else _over_all(q, k, values)
    divisor = divisor[..., None] + epsilon
    # The division itself is guarded: an infinite derivative times 0 would be NaN.
    is_zero = divisor == 0
    average = summed / jnp.where(is_zero, 1.0, divisor)
    return jnp.where(is_zero, 0.0, average).astype(v.dtype)


def _over_all(q, k, v):
    """Weighted sums and sums of weights over all keys: keys meet values before queries do."""
    summed = jnp.einsum("bnhr,bhre->bnhe", q, jnp.einsum("bmhr,bmhe->bhre", k, v))
    return summed, jnp.einsum("bnhr,bhr->bnh", q, k.sum(1))


def _up_to(q, k, v, chunk):
    """The same over the keys up to each query."""
    (b, n, h, r), e = q.shape, v.shape[-1]
    chunk = max(min(chunk, n), 1)
    before = jnp.tril(jnp.ones((1, 1, chunk, chunk), bool))

    @functools.partial(jax.checkpoint, prevent_cse=False)
    def step(carried, inputs):
        values, weights = carried
        q, k, v = inputs
        scores = jnp.where(before, jnp.einsum("bnhr,bmhr->bhnm", q, k), 0.0)
        summed = jnp.einsum("bhnm,bmhe->bnhe", scores, v) + jnp.einsum("bnhr,bhre->bnhe", q, values)
        divisor = scores.sum(-1).swapaxes(1, 2) + jnp.einsum("bnhr,bhr->bnh", q, weights)
        values = values + jnp.einsum("bmhr,bmhe->bhre", k, v)
        return (values, weights + k.sum(1)), (summed, divisor)

    start = jnp.zeros((b, h, r, e), q.dtype), jnp.zeros((b, h, r), q.dtype)
    chunks = [_to_chunks(x, chunk) for x in (q, k, v)]
    _, found = lax.scan(step, start, chunks)
    summed, divisor = (x.swapaxes(0, 1).reshape(b, -1, *x.shape[3:])[:, :n] for x in found)
    return summed, divisor


def _to_chunks(x, chunk):
    """`[chunks, b, chunk, ...]`, the last chunk filled up with zeros."""
    b, n, *rest = x.shape
    x = jnp.pad(x, ((0, 0), (0, -n % chunk), (0, 0), (0, 0)))
    return x.reshape(b, -(-n // chunk), chunk, *rest).swapaxes(0, 1)


def _masked(x, mask):
    return jnp.where(mask[:, :, None, None], x, 0.0)


def _check(q, k, v, kv_mask, q_mask, causal, chunk, epsilon):
    for name, x in (("q_features", q), ("k_features", k), ("v", v)):
        if x.ndim != 4 or not jnp.issubdtype(x.dtype, jnp.floating):
            raise ValueError(
                f"{name} has shape {x.shape} and dtype {x.dtype}; floating-point "
                "[batch, length, heads, width] is wanted"
            )
    (b, n, h, r), m = q.shape, k.shape[1]
    if k.shape != (b, m, h, r) or v.shape[:3] != (b, m, h):
        raise ValueError(
            f"q_features {q.shape}, k_features {k.shape} and v {v.shape} do not fit: "
            "[b, n, h, r], [b, m, h, r] and [b, m, h, e] are wanted"
        )
    for name, mask, length in (("kv_mask", kv_mask, m), ("q_mask", q_mask, n)):
        if mask is None:
            continue
        if mask.shape not in ((b, length), (1, length)) or mask.dtype != jnp.bool_:
            raise ValueError(
                f"{name} has shape {mask.shape} and dtype {mask.dtype}; bool "
                f"{(b, length)} or {(1, length)} is wanted"
            )
    if causal and n != m:
        raise ValueError(f"causal with {n} queries and {m} keys; as many keys as queries is wanted")
    if chunk < 1:
        raise ValueError(f"chunk={chunk} must be at least 1")
    if epsilon < 0:
        raise ValueError(f"epsilon={epsilon} must be at least 0")
