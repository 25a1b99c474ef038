"""Cores of self-attention that compare queries with something else than single keys.

Blocks mixed of all blocks, sums along the sequence, products of features, weights without a
comparison. Called as the cores of `attention_cores`.
"""

import math
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from trove_jax.kernels.attention import attention
from trove_jax.kernels.linear_attention import linear_attention
from trove_jax.kernels.numbers import compute_dtype
from trove_jax.layers.attention_cores import Heads, from_blocks, padded_mask, to_blocks
from trove_jax.layers.attention_types import PerformerAttention

# The logarithm of a weight of nothing: finite, so that differences are.
_NOTHING = -1e9


class SinkhornCore(nn.Module):
    """Softmax within a block, plus softmax over a block mixed of all blocks.

    Attributes:
      options: a `SinkhornAttention`.
      causal: always False.
      dtype: of the computation; None: that of the parameters.
    """

    options: Any
    causal: bool = False
    dtype: Any = None

    @nn.compact
    def __call__(
        self, x: jax.Array, heads: Heads, mask: jax.Array | None, *, sample: bool = False
    ) -> jax.Array:
        """Applies the core; see the head of the file."""
        del sample
        b, length = x.shape[:2]
        size = min(self.options.block, self.options.length or self.options.block)
        q, k, v = (to_blocks(heads[name], size) for name in ("query", "key", "value"))
        seen = padded_mask(mask, x, size)
        blocks = -(-length // size)
        if seen is None:
            seen = jnp.ones((b, length), bool)
        seen = to_blocks(seen, size)
        own = attention(q, k, v, kv_mask=seen).output
        by_block = (b, blocks, size, *k.shape[2:])
        seen_by_block = seen.reshape(by_block[:3])
        weights = self._weights(k.reshape(by_block), seen_by_block.any(axis=2), length, size)
        weights = weights.astype(k.dtype)
        mixed = [
            jnp.einsum("bhst,bsphd->btphd", weights, a.reshape(by_block)).reshape(a.shape)
            for a in (k, v)
        ]
        # A place of a mixed block holds something if any block has a token there.
        somewhere = jnp.broadcast_to(seen_by_block.any(axis=1, keepdims=True), by_block[:3])
        other = attention(q, *mixed, kv_mask=somewhere.reshape(seen.shape)).output
        return from_blocks(own + other, length)

    def _weights(self, k, present, length, size):
        """R of the blocks that have tokens, `[b, h, s, t]` float32, 0 elsewhere."""
        longest = fixed_length(self, "sorting", self.options.length, length, axis=1, unit=size)
        sorting = self.param(
            "sorting", nn.initializers.lecun_normal(), (k.shape[-1], -(-longest // size))
        )
        dtype = compute_dtype(k)
        found = k.sum(axis=2, dtype=dtype)
        log_r = jnp.einsum("bshd,dt->bhst", found, sorting[:, : k.shape[1]].astype(dtype))
        pairs = present[:, None, :, None] & present[:, None, None, :]
        log_r = jnp.where(pairs, log_r, _NOTHING)
        is_softmax = self.options.normalisation == "softmax"
        for axis in (2,) if is_softmax else (3, 2) * self.options.iterations:
            log_r = log_r - jax.nn.logsumexp(log_r, axis=axis, keepdims=True)
            log_r = jnp.where(pairs, log_r, _NOTHING)
        return jnp.where(pairs, jnp.exp(log_r), 0.0)


class LinformerCore(nn.Module):
    """Softmax over sums of keys along the sequence.

    Attributes:
      options: a `LinformerAttention`.
      causal: always False.
      dtype: of the computation; None: that of the parameters.
    """

    options: Any
    causal: bool = False
    dtype: Any = None

    @nn.compact
    def __call__(
        self, x: jax.Array, heads: Heads, mask: jax.Array | None, *, sample: bool = False
    ) -> jax.Array:
        """Applies the core; see the head of the file."""
        del mask, sample
        length = x.shape[1]
        longest = fixed_length(self, "sums", self.options.length, length)
        init = nn.initializers.lecun_normal()
        sums = self.param("sums", init, (longest, self.options.rank))
        # Keys and values at padding are 0, and add nothing.
        k, v = (
            jnp.einsum("bnhd,nr->brhd", heads[name], sums[:length].astype(heads[name].dtype))
            for name in ("key", "value")
        )
        return attention(heads["query"], k, v).output


class FeatureCore(nn.Module):
    """Weights that are products of features of a query and a key.

    Attributes:
      options: a `PerformerAttention` or a `LinearAttention`.
      causal: whether no query meets later keys.
      dtype: not used; cores take the same attributes.
    """

    options: Any
    causal: bool = False
    dtype: Any = None

    @nn.compact
    def __call__(
        self, x: jax.Array, heads: Heads, mask: jax.Array | None, *, sample: bool = False
    ) -> jax.Array:
        """Applies the core; see the head of the file."""
        del x, sample
        q, k = heads["query"], heads["key"]
        # Features are sums of many terms, and epsilon is lost in half precision.
        q, k = (a.astype(compute_dtype(a)) for a in (q, k))
        if not isinstance(self.options, PerformerAttention):
            q, k = nn.elu(q) + 1, nn.elu(k) + 1
            return linear_attention(
                q,
                k,
                heads["value"],
                causal=self.causal,
                kv_mask=mask,
                epsilon=self.options.epsilon,
            )
        rows = self.variable("frozen", "rows", self._draw_rows, q.shape[-1]).value.astype(q.dtype)
        q, k = self._random_features(rows, q, (3,)), self._random_features(rows, k, (1, 3))
        return linear_attention(q, k, heads["value"], causal=self.causal, kv_mask=mask)

    def _draw_rows(self, width):
        return orthogonal_rows(self.make_rng("params"), self.options.features, width)

    def _random_features(self, rows, a, axes):
        if self.options.kind == "relu":
            return nn.relu(jnp.einsum("bnhd,rd->bnhr", a, rows)) + self.options.epsilon
        a = a / a.shape[-1] ** 0.25
        exponent = jnp.einsum("bnhd,rd->bnhr", a, rows)
        exponent = exponent - (a * a).sum(axis=-1, keepdims=True) / 2
        # One constant for each query, and one for all keys: it cancels.
        largest = jax.lax.stop_gradient(exponent.max(axis=axes, keepdims=True))
        return jnp.exp(exponent - largest) + self.options.epsilon


class SynthesizerCore(nn.Module):
    """Weights from parameters, or from the query's token alone.

    Attributes:
      options: a `SynthesizerAttention`.
      causal: whether no query meets later keys.
      dtype: not used; cores take the same attributes.
    """

    options: Any
    causal: bool = False
    dtype: Any = None

    @nn.compact
    def __call__(
        self, x: jax.Array, heads: Heads, mask: jax.Array | None, *, sample: bool = False
    ) -> jax.Array:
        """Applies the core; see the head of the file."""
        del sample
        v, options = heads["value"], self.options
        (_, length), number = x.shape[:2], v.shape[2]
        wide = compute_dtype(v)
        if options.kind == "dense":
            q = nn.relu(heads["query"]).astype(wide)
            longest = fixed_length(self, "places", options.length, length, axis=1)
            init = nn.initializers.lecun_normal()
            places = self.param("places", init, (q.shape[-1], longest))
            logits = jnp.einsum("bnhd,dm->bhnm", q, places[:, :length].astype(wide))
        else:
            longest = fixed_length(self, "left", options.length, length, axis=1)
            # Logits of variance 1, as those of scaled queries and keys.
            init = nn.initializers.normal(options.rank**-0.25)
            left = self.param("left", init, (number, longest, options.rank))
            right = self.param("right", init, (number, options.rank, longest))
            logits = jnp.einsum("hnr,hrm->hnm", left[:, :length], right[:, :, :length])
            logits = logits.astype(wide)[None]
        seen = jnp.ones((1, 1, length, length), bool)
        if self.causal:
            seen = jnp.tril(seen)
        if mask is not None:
            seen = seen & mask[:, None, None, :]
        # Rows without keys: weights of 0, not of 0 / 0.
        logits = jnp.where(seen, logits, _NOTHING)
        weights = jnp.where(seen, jax.nn.softmax(logits), 0.0).astype(v.dtype)
        if weights.shape[0] != v.shape[0]:
            return jnp.einsum("hnm,bmhd->bnhd", weights[0], v)
        return jnp.einsum("bhnm,bmhd->bnhd", weights, v)


def fixed_length(
    core: nn.Module, name: str, wanted: int | None, length: int, *, axis: int = 0, unit: int = 1
) -> int:
    """The longest sequence that a parameter serves.

    Args:
      core: the module that owns it, bound.
      name: of the parameter.
      wanted: what the options say; None: as it was initialised, or `length` at initialisation.
      length: of the sequence at hand, n.
      axis: along which it counts the sequence.
      unit: tokens that one entry along it stands for.

    Returns:
      Number of tokens.

    Raises:
      ValueError: the sequence is longer.
    """
    longest = length if wanted is None else wanted
    if wanted is None and core.has_variable("params", name):
        longest = core.get_variable("params", name).shape[axis] * unit
    if length > longest:
        kind = type(core.options).__name__  # pyright: ignore[reportAttributeAccessIssue]
        raise ValueError(
            f"x has length {length}, but {kind} has parameters for {longest}; build it with "
            f"length={length}"
        )
    return longest


def orthogonal_rows(key: jax.Array, count: int, width: int) -> jax.Array:
    """Draws normal vectors that are orthogonal to each other in blocks as large as possible.

    Directions are rows of Haar-distributed orthogonal matrices; lengths are those of independent
    normal vectors, so that each row alone is standard normal.

    Args:
      key: a random key.
      count: number of rows, r.
      width: d.

    Returns:
      float32 `[r, d]`.

    Example:
      >>> rows = orthogonal_rows(jax.random.key(0), 4, 2)
      >>> print(jnp.abs(rows[0] @ rows[1]) < 1e-5)
      True

    Reference: Choromanski et al., Rethinking Attention with Performers, ICLR 2021 (section 2.4).
    """
    blocks = math.ceil(count / width)
    directions, lengths = jax.random.split(key)
    square = jax.random.normal(directions, (blocks, width, width), jnp.float32)
    q, r = jnp.linalg.qr(square)
    # Without the sign, QR's convention would favour directions.
    q = q * jnp.sign(jnp.diagonal(r, axis1=1, axis2=2))[:, None, :]
    norms = jnp.linalg.norm(jax.random.normal(lengths, (count, width), jnp.float32), axis=1)
    return q.swapaxes(1, 2).reshape(-1, width)[:count] * norms[:, None]
