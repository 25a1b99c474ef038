"""What the kinds of self-attention do between their projections: softmax over chosen pairs.

Each core is a Flax module called as `core(x, heads, mask, sample=bool)`, `heads` being what the
layer projected for it, by name, `[b, n, h, d]` each and 0 at padding, and gives what every head
reads, `[b, n, h, d]`.
"""

from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from trove_jax.kernels.attention import attention
from trove_jax.kernels.attention_pattern import Pattern, causal
from trove_jax.kernels.drawn_keys import locally_biased_permutation, unbiased_subset
from trove_jax.kernels.subsampled_attention import subsampled_attention
from trove_jax.layers.attention_types import LongformerAttention, UnbiasedSubsampledAttention

Heads = dict[str, jax.Array]


class PatternCore(nn.Module):
    """Softmax over the keys that a static pattern shows each query.

    Attributes:
      options: `VanillaAttention`, `LocalAttention`, `LongformerAttention`, `BigBirdAttention` or
        `SparseAttention`.
      causal: whether no query meets later keys.
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
        q, k, v = heads["query"], heads["key"], heads["value"]
        _, length, number, width = q.shape
        if getattr(self.options, "strided_blocks", False):
            return self._strided(q, k, v, mask)
        pattern = self._in_order(self.options.pattern(length, number))
        found = attention(q, k, v, pattern=pattern, kv_mask=mask).output
        if not (isinstance(self.options, LongformerAttention) and self.options.separate):
            return found
        count = min(self.options.global_tokens, length)
        if not count:
            return found

        def project(name, x):
            shape = (number, width)
            return nn.DenseGeneral(shape, use_bias=False, dtype=self.dtype, name=name)(x)

        read = attention(
            project("global_query", x[:, :count]),
            project("global_key", x),
            project("global_value", x),
            pattern=self._in_order(None),
            kv_mask=mask,
        )
        return jnp.concatenate([read.output, found[:, count:]], axis=1)

    def _in_order(self, pattern: Pattern | None) -> Pattern | None:
        if not self.causal:
            return pattern
        return causal() if pattern is None else pattern & causal()

    def _strided(self, q, k, v, mask):
        length = q.shape[1]
        size = min(self.options.block, length)
        ids = jnp.arange(length, dtype=jnp.int32)[None]
        places = to_blocks(ids, size, strided=True)
        q_ids = jnp.tile(places, (q.shape[0], 1))
        seen = padded_mask(mask, q, size)
        if seen is not None:
            seen = to_blocks(seen, size, strided=True)
        q, k, v = (to_blocks(a, size, strided=True) for a in (q, k, v))
        found = attention(
            q, k, v, pattern=self._in_order(None), q_ids=q_ids, kv_ids=q_ids, kv_mask=seen
        )
        return from_blocks(found.output, length, strided=True)


class SubsampledCore(nn.Module):
    """Softmax over drawn keys while it samples, over all of them else; no parameters.

    Attributes:
      options: `UnbiasedSubsampledAttention` or `LocalSubsampledAttention`.
      causal: whether no query meets later keys; a query always meets itself then.
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
        del x
        parts = [heads[name] for name in ("query", "key", "value")]
        if not sample or self.options.dense:
            pattern = causal() if self.causal else None
            return attention(*parts, pattern=pattern, kv_mask=mask).output
        if mask is None:
            return self._draw_and_attend(parts, None)
        # The law of the draws counts tokens, so these come first and padding last, in order.
        order = jnp.argsort(~mask, axis=1, stable=True)
        parts = [jnp.take_along_axis(a, order[..., None, None], axis=1) for a in parts]
        # A sequence without tokens reads its first key, which is 0.
        found = self._draw_and_attend(parts, jnp.maximum(mask.sum(axis=1, dtype=jnp.int32), 1))
        return jnp.take_along_axis(found, jnp.argsort(order, axis=1)[..., None, None], axis=1)

    def _draw_and_attend(self, parts, lengths):
        (b, n), options = parts[0].shape[:2], self.options
        if isinstance(options, UnbiasedSubsampledAttention):
            keys = options.keys or max(1, round(options.ratio * n))
            if keys > n:
                raise ValueError(f"keys={keys} is more than the {n} tokens of x; use keys={n}")
            drawn = unbiased_subset(self._key(), n, keys, lengths=self._own(lengths, b, n))
            return self._attend(parts, drawn, lengths, window=None)
        window = min(options.window, n)
        if n % window:
            lengths = jnp.full((b,), n, jnp.int32) if lengths is None else lengths
            parts = [pad_length(a, window) for a in parts]
        total = parts[0].shape[1]
        if options.sigma_over_w == 0:
            drawn = jnp.arange(total, dtype=jnp.int32)
        else:
            sigma = options.sigma_over_w * window
            own = self._own(lengths, b, total)
            drawn = locally_biased_permutation(self._key(), total, sigma, lengths=own)
        return self._attend(parts, drawn, lengths, window=window)[:, :n]

    def _own(self, lengths, b, n):
        """The lengths that make the kernels draw for every example, or None for one draw."""
        if self.options.share == "batch":
            return None
        return jnp.full((b,), n, jnp.int32) if lengths is None else lengths

    def _attend(self, parts, drawn, lengths, window):
        q, k, v = parts
        drawn = drawn if drawn.ndim == 2 else drawn[None]
        found = subsampled_attention(
            q, k, v, drawn, window=window, causal=self.causal, lengths=lengths
        )
        return found.output

    def _key(self):
        if not self.has_rng("ssa"):
            raise ValueError(
                'sampling draws keys from the stream "ssa", which has no random key; apply with '
                'rngs={"ssa": key}, or with sample=False'
            )
        return self.make_rng("ssa")


def pad_length(a: jax.Array, size: int) -> jax.Array:
    """Appends zeros (False) along axis 1 up to a multiple of a size.

    Args:
      a: `[b, n, ...]`.
      size: at least 1.

    Returns:
      `[b, m, ...]`, m the least multiple of `size` that is not below n.

    Example:
      >>> print(pad_length(jnp.ones((1, 3)), 2))
      [[1. 1. 1. 0.]]
    """
    return jnp.pad(a, [(0, 0), (0, -a.shape[1] % size), *[(0, 0)] * (a.ndim - 2)])


def padded_mask(mask: jax.Array | None, like: jax.Array, size: int) -> jax.Array | None:
    """A mask that also tells what `to_blocks` appends; None where there is nothing to tell.

    Args:
      mask: None, or bool `[b, n]`.
      like: `[b, n, ...]`.
      size: tokens of a block.

    Returns:
      bool `[b, n]`, or None.

    Example:
      >>> print(padded_mask(None, jnp.ones((1, 4)), 2), padded_mask(None, jnp.ones((1, 3)), 2))
      None [[ True  True  True]]
    """
    if mask is None and like.shape[1] % size:
        return jnp.ones(like.shape[:2], bool)
    return mask


def to_blocks(a: jax.Array, size: int, *, strided: bool = False) -> jax.Array:
    """Cuts sequences into blocks of equal size, which become examples.

    Args:
      a: `[b, n, ...]`.
      size: tokens of a block; the last one is filled up with zeros.
      strided: whether block i holds the tokens i, i + c, i + 2 c, ... of c blocks.

    Returns:
      `[b * c, size, ...]`, c = ceil(n / size).

    Example:
      >>> print(to_blocks(jnp.arange(4)[None], 2, strided=True))
      [[0 2]
       [1 3]]
    """
    a = pad_length(a, size)
    b, n, *rest = a.shape
    if strided:
        return a.reshape(b, size, n // size, *rest).swapaxes(1, 2).reshape(-1, size, *rest)
    return a.reshape(-1, size, *rest)


def from_blocks(a: jax.Array, length: int, *, strided: bool = False) -> jax.Array:
    """Undoes `to_blocks`.

    Args:
      a: `[b * c, size, ...]`.
      length: n of the sequences, with c = ceil(n / size).
      strided: as in `to_blocks`.

    Returns:
      `[b, n, ...]`.

    Example:
      >>> print(from_blocks(jnp.array([[0, 2], [1, 3]]), 4, strided=True))
      [[0 1 2 3]]
    """
    size, rest = a.shape[1], a.shape[2:]
    blocks = -(-length // size)
    if strided:
        a = a.reshape(-1, blocks, size, *rest).swapaxes(1, 2)
    return a.reshape(-1, blocks * size, *rest)[:, :length]
