"""Attention to drawn keys: a subset that all queries share, or a window of a permutation for each.

Only sources move. Keys and values are gathered, the queries stay, and so does the output. A window
of queries meets a window of drawn keys and nothing else, so that all windows together are one batch
of small dense attentions, and the gradient of the gathering is a gathering by the inverse.
"""

import math
import warnings
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from trove_jax.kernels import attention_pattern
from trove_jax.kernels.attention import Attended, Implementation, attention
from trove_jax.kernels.drawn_keys import check_lengths, known_values
from trove_jax.kernels.numbers import compute_dtype

Bias = jax.Array | Callable[[jax.Array, jax.Array, jax.Array], jax.Array]


def subsampled_attention(
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    drawn: jax.Array,
    *,
    window: int | None = None,
    causal: bool = False,
    bias: Bias | None = None,
    lengths: jax.Array | None = None,
    keep_self: bool | None = None,
    pad: bool = False,
    implementation: Implementation = None,
) -> Attended:
    """Attends to the keys that were drawn, and to no others.

    o_i = sum over j in S(i) of softmax_j(q_i . k_j / sqrt(d) + bias_ij) v_j

    Without `window`, S(i) holds all of `drawn`, a subset of the keys. With it, `drawn` is a
    permutation, and the queries w i .. w i + w - 1 see the keys drawn[w i .. w i + w - 1]: each
    query sees w keys, and each key is seen by w queries. The softmax is over S(i) alone and needs
    no correction for what was left out. A new draw is due for every layer and every step.

    Reverse-mode derivatives of the first order only.

    Args:
      q: queries, floating-point `[b, n, h, d]`.
      k: keys, `[b, m, h, d]`; what tells positions apart must already be in them.
      v: values, `[b, m, h, e]`.
      drawn: positions of keys, integers `[b, m']`, or `[1, m']` for a draw that the batch shares:
        from `unbiased_subset` (ascending and distinct) without a window, from
        `locally_biased_permutation` (m' = m = n) with one.
      window: w, which divides n; None for a subset.
      causal: whether query i sees the keys j <= i alone, by original positions.
      bias: added to the scores before the softmax, by original positions: `[b, h, n, m]`, where b
        and h may be 1, or an elementwise function of query, key and head, hashable. An array gets
        its gradient.
      lengths: how many keys are valid, integers `[]`, `[1]` or `[b]`, the same as for the draw; the
        others are not seen, and what they hold, NaN too, reaches nothing.
      keep_self: whether i is in S(i) in any case (needs m = n); None for whether `causal`.
      pad: whether to fill up n to a multiple of `window` with positions that are not seen.
      implementation: of `kernels.attention`.

    Returns:
      output: `[b, n, h, e]`, in the dtype of `q`; 0 in a row whose S(i) is empty.
      lse: logarithm of the softmax's divisor, float32 `[b, n, h]`; -inf in such a row.

    Raises:
      ValueError: shapes that do not fit; `drawn` that is no array of integers; a window that does
        not divide n, without `pad`; more keys drawn than there are; keep_self with m != n; a length
        outside 1..m. Under `jax.enable_checks`, `drawn` that is no permutation or no ascending
        subset, where it is known before compilation.

    Warns:
      UserWarning: causal without keep_self: the first queries may see no key.

    Example:
      >>> q, v = jnp.zeros((1, 4, 1, 2)), jnp.arange(4.0).reshape(1, 4, 1, 1)
      >>> drawn = jnp.array([[0, 2, 1, 3]])
      >>> print(subsampled_attention(q, q, v, drawn, window=2).output.ravel())
      [1. 1. 2. 2.]
      >>> print(subsampled_attention(q, q, v, drawn[:, :2]).output.ravel())
      [1. 1. 1. 1.]

    Reference: Hussain et al., The Information Pathways Hypothesis: Transformers are Dynamic
    Self-Ensembles, KDD 2023. That a causal query always sees itself is ours.
    """
    drawn = jnp.asarray(drawn)
    bias = bias if bias is None or callable(bias) else jnp.asarray(bias)
    keep_self = causal if keep_self is None else keep_self
    _check(q, k, v, drawn, window, bias, keep_self)
    if causal and not keep_self:
        warnings.warn(
            "causal with keep_self=False: queries whose drawn keys are all later see none, and "
            "their output is 0",
            stacklevel=2,
        )
    drawn = drawn.astype(jnp.int32)
    if lengths is not None:
        lengths = check_lengths(lengths, k.shape[1]).reshape(-1)
        if lengths.size not in (1, q.shape[0]):
            raise ValueError(f"lengths has {lengths.size} entries for a batch of {q.shape[0]}")
    n = q.shape[1]
    if window is not None and n % window:
        if not pad:
            raise ValueError(
                f"window={window} does not divide n={n}; use a divisor, or pad=True to fill up "
                f"the last window with {-n % window} positions that are not seen"
            )
        q, k, v, drawn, bias, lengths = _padded(q, k, v, drawn, bias, lengths, -n % window)
    options = {"causal": causal, "bias": bias, "lengths": lengths, "implementation": implementation}
    if window is None:
        found = _attend_to_subset(q, k, v, drawn, **options)
    else:
        found = _attend_in_windows(q, k, v, drawn, window, **options)
    if keep_self:
        found = _with_self(found, q, k, v, bias, lengths, _sees_itself(drawn, window, q.shape[1]))
    return Attended(found.output[:, :n], found.lse[:, :n])


def _attend_to_subset(q, k, v, drawn, *, causal, bias, lengths, implementation):
    if isinstance(bias, jax.Array):
        index = drawn[:, None, None, :]
        bias = jnp.take_along_axis(bias, index, axis=-1, mode="promise_in_bounds")
    by_position = causal or callable(bias)
    return attention(
        q,
        _take(k, drawn),
        _take(v, drawn),
        pattern=attention_pattern.causal() if causal else None,
        bias=bias,
        kv_ids=drawn if by_position else None,
        kv_mask=None if lengths is None else drawn < lengths[:, None],
        implementation=implementation,
    )


def _attend_in_windows(q, k, v, drawn, window, *, causal, bias, lengths, implementation):
    """Folds windows into the batch."""
    b, n, h, _ = q.shape
    count = n // window

    def fold(x):
        """`[b | 1, n, ...]` to `[b * count, window, ...]`."""
        return jnp.broadcast_to(x, (b, *x.shape[1:])).reshape(b * count, window, *x.shape[2:])

    if isinstance(bias, jax.Array):
        windows = bias.reshape(*bias.shape[:2], count, window, n)
        index = drawn.reshape(-1, 1, count, 1, window)
        windows = jnp.take_along_axis(windows, index, axis=-1, mode="promise_in_bounds")
        windows = jnp.broadcast_to(windows, (b, *windows.shape[1:])).swapaxes(1, 2)
        bias = windows.reshape(b * count, -1, window, window)
    by_position = causal or callable(bias)
    found = attention(
        fold(q),
        fold(_permute(k, drawn)),
        fold(_permute(v, drawn)),
        pattern=attention_pattern.causal() if causal else None,
        bias=bias,
        q_ids=fold(jnp.arange(n, dtype=jnp.int32)[None]) if by_position else None,
        kv_ids=fold(drawn) if by_position else None,
        kv_mask=None if lengths is None else fold(drawn < lengths[:, None]),
        implementation=implementation,
    )
    return Attended(found.output.reshape(b, n, h, -1), found.lse.reshape(b, n, h))


def _sees_itself(drawn, window, n):
    """Whether each query's own key is among those it sees, bool `[b | 1, n]`."""
    if window is None:
        return jax.vmap(lambda row: jnp.zeros(n, bool).at[row].set(True))(drawn)
    places = jnp.arange(n, dtype=jnp.int32)[None]
    return _inverse(drawn) // window == places // window


def _with_self(found, q, k, v, bias, lengths, inside):
    """One more step of the softmax in each row that does not hold its own key yet."""
    n, h, d = q.shape[1:]
    ids = jnp.arange(n, dtype=jnp.int32)
    add = ~inside
    if lengths is not None:
        valid = ids[None] < lengths[:, None]
        add = add & valid
        # Guarded here: NaN behind the end would pass through the product to the gradient.
        k, v = (jnp.where(valid[:, :, None, None], x, jnp.zeros((), x.dtype)) for x in (k, v))
    dtype = compute_dtype(q, k, v)
    scores = jnp.sum(q.astype(dtype) * k.astype(dtype), -1) / math.sqrt(d)
    if isinstance(bias, jax.Array):
        own = jnp.diagonal(bias, axis1=2, axis2=3).swapaxes(1, 2)
        scores = scores + own.astype(dtype)
    elif bias is not None:
        heads = jnp.arange(h, dtype=jnp.int32)[None, None]
        own = jnp.asarray(bias(ids[None, :, None], ids[None, :, None], heads), dtype)
        scores = scores + jnp.broadcast_to(own, (1, n, h))
    scores = jnp.where(add[:, :, None], scores, -jnp.inf)
    lse = found.lse.astype(dtype)
    top = jax.lax.stop_gradient(jnp.maximum(lse, scores))
    top = jnp.where(jnp.isfinite(top), top, 0.0)
    before, own = jnp.exp(lse - top), jnp.exp(scores - top)
    total = before + own
    is_empty = total == 0
    total = jnp.where(is_empty, 1.0, total)
    output = found.output.astype(dtype) * (before / total)[..., None]
    output = output + v.astype(dtype) * (own / total)[..., None]
    lse = jnp.where(is_empty, -jnp.inf, top + jnp.log(total))
    return Attended(output.astype(q.dtype), lse.astype(found.lse.dtype))


def _take(x, drawn):
    """Rows of each example: `x` `[b, m, ...]`, ascending `drawn` `[b | 1, m']`."""

    def rows(x, drawn):
        return x.at[drawn].get(
            mode="promise_in_bounds", unique_indices=True, indices_are_sorted=True
        )

    if drawn.shape[0] == 1:
        return jax.vmap(rows, (0, None))(x, drawn[0])
    return jax.vmap(rows)(x, drawn)


@jax.custom_vjp
def _permute(x, drawn):
    """Rows of each example in another order. Its gradient is a gather, not a sum of scattered rows.

    `x` `[b, n, ...]`; permutations `drawn` `[b | 1, n]`.
    """

    def rows(x, drawn):
        return x.at[drawn].get(mode="promise_in_bounds", unique_indices=True)

    if drawn.shape[0] == 1:
        return jax.vmap(rows, (0, None))(x, drawn[0])
    return jax.vmap(rows)(x, drawn)


def _permute_fwd(x, drawn):
    return _permute(x, drawn), drawn


def _permute_bwd(drawn, cotangent):
    return _permute(cotangent, _inverse(drawn)), None


_permute.defvjp(_permute_fwd, _permute_bwd)


def _inverse(drawn):
    """Rank of each position, `[b | 1, n]`."""
    ranks = jnp.arange(drawn.shape[1], dtype=jnp.int32)
    return jax.vmap(lambda row: jnp.zeros_like(ranks).at[row].set(ranks, unique_indices=True))(
        drawn
    )


def _padded(q, k, v, drawn, bias, lengths, extra):
    """Everything with `extra` more positions, none of which is a valid key."""
    n = q.shape[1]
    if lengths is None:
        lengths = jnp.full((1,), n, jnp.int32)
    q, k, v = (jnp.pad(x, ((0, 0), (0, extra), (0, 0), (0, 0))) for x in (q, k, v))
    behind = jnp.arange(n, n + extra, dtype=jnp.int32)[None]
    behind = jnp.broadcast_to(behind, (drawn.shape[0], extra))
    if isinstance(bias, jax.Array):
        bias = jnp.pad(bias, ((0, 0), (0, 0), (0, extra), (0, extra)))
    return q, k, v, jnp.concatenate([drawn, behind], 1), bias, lengths


def _check(q, k, v, drawn, window, bias, keep_self):
    for name, x in (("q", q), ("k", k), ("v", v)):
        if x.ndim != 4 or not jnp.issubdtype(x.dtype, jnp.floating):
            raise ValueError(
                f"{name} has shape {x.shape} and dtype {x.dtype}; floating-point "
                "[batch, length, heads, width] is wanted"
            )
    (b, n, h, d), m = q.shape, k.shape[1]
    if k.shape != (b, m, h, d) or v.shape[:3] != (b, m, h):
        raise ValueError(
            f"q {q.shape}, k {k.shape} and v {v.shape} do not fit: "
            "[b, n, h, d], [b, m, h, d] and [b, m, h, e] are wanted"
        )
    if drawn.ndim != 2 or not jnp.issubdtype(drawn.dtype, jnp.integer):
        raise ValueError(
            f"drawn has shape {drawn.shape} and dtype {drawn.dtype}; integers [b, m'] or [1, m'] "
            "are wanted"
        )
    if drawn.shape[0] not in (1, b) or drawn.shape[1] > m:
        raise ValueError(f"drawn has shape {drawn.shape}; {b} or 1 rows of at most {m} are wanted")
    if window is not None and (not 1 <= window <= n or n != m or drawn.shape[1] != n):
        raise ValueError(
            f"window={window} with {n} queries, {m} keys and {drawn.shape[1]} drawn; a window "
            f"within 1..{n} of a permutation of as many keys as queries is wanted"
        )
    if keep_self and n != m:
        raise ValueError(
            f"{n} queries and {m} keys with keep_self=True (the default if causal); as many keys "
            "as queries are wanted"
        )
    if isinstance(bias, jax.Array) and (
        bias.ndim != 4
        or bias.shape[2:] != (n, m)
        or bias.shape[0] not in (1, b)
        or bias.shape[1] not in (1, h)
    ):
        raise ValueError(
            f"bias has shape {bias.shape}; {(b, h, n, m)} is wanted, for all keys and not those "
            f"drawn, with 1 in place of {b} and {h} to share it"
        )
    if jax.config.jax_enable_checks:  # pyright: ignore[reportAttributeAccessIssue]
        _check_drawn(known_values(drawn), window, m)


def _check_drawn(drawn, window, m):
    """Looks at the positions themselves, unless they are not known yet (None)."""
    if drawn is None:
        return
    if window is not None and (np.sort(drawn, axis=1) != np.arange(m)).any():
        raise ValueError(f"drawn is no permutation of 0..{m - 1}: it leaves keys out")
    outside = (drawn < 0) | (drawn >= m)
    if window is None and (outside.any() or (np.diff(drawn, axis=1) <= 0).any()):
        raise ValueError(f"drawn is no ascending subset of 0..{m - 1}; sort it")
