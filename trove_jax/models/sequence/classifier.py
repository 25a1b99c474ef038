"""Token sequences to logits: of each next token, of a class, and of a pair of sequences."""

from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp

from trove_jax.layers.attention_types import attention_options
from trove_jax.layers.sparse_features import SparseDropout
from trove_jax.models.inputs import as_logits, check_dense, check_sizes
from trove_jax.models.sequence.encoder import Encoder
from trove_jax.models.sequence.tokens import accept_tokens, read
from trove_jax.models.sequence.transformer import sinusoidal_positions

Pool = Literal["mean", "cls"]
Positions = Literal["sinusoidal", "learned"]
Interaction = Literal["nli", "concat"]


class Decoder(nn.Module):
    """Embedded tokens through causal blocks to logits of the next token, at every position.

    The layers are called `embedding`, `positions` (learned ones), `encoder/block_0/...` (see
    `Encoder`) and `output`.

    Attributes:
      vocabulary: number of tokens, v.
      aspect: layers, and heads of each.
      head_dim: size of a head.
      width: size d of the embedding.
      feed_forward: width of the hidden layer of each block.
      context: the largest length that it accepts.
      attention: a name in `layers.ATTENTION_TYPES`, or the options of a kind; not Linformer or
        Sinkhorn attention, which are never causal.
      positions: `"sinusoidal"` or `"learned"`.
      dropout_rate: of embeddings, attention and layers, in [0, 1); above 0, training needs a key
        in the stream `dropout`.
      dtype: dtype of the computation; None: that of the parameters (float32).

    Example:
      >>> model = Decoder(5, aspect=(1, 2), head_dim=4, width=8, feed_forward=16, context=6)
      >>> y, _ = model.init_with_output(jax.random.key(0), jnp.array([[0, 1, 2]]))
      >>> y.shape
      (1, 3, 5)

    Reference: Hussain et al., The Information Pathways Hypothesis, KDD 2023 (language models).
    """

    vocabulary: int
    aspect: tuple[int, int]
    head_dim: int
    width: int
    feed_forward: int
    context: int
    attention: Any = "vanilla"
    positions: Positions = "sinusoidal"
    dropout_rate: float = 0.1
    dtype: Any = None

    @nn.compact
    def __call__(
        self,
        tokens: jax.Array,
        mask: jax.Array | None = None,
        *,
        train: bool = False,
        sample: bool | None = None,
    ) -> jax.Array:
        """Applies the network.

        Args:
          tokens: integer `[b, t]`, t up to `context`; one that is not below `vocabulary` makes
            outputs NaN.
          mask: which positions hold a token, bool `[b, t]`; None: all. The outputs elsewhere mean
            nothing.
          train: draw the dropout.
          sample: whether subsampled kinds draw keys, from the stream `ssa`; None: as `train`.

        Returns:
          Logits, `[b, t, v]`, float32 or wider.

        Raises:
          ValueError: `tokens` or `mask` is no such array; an attribute is out of range.
        """
        states = _encode(self, tokens, mask, causal=True, train=train, sample=sample)
        return as_logits(nn.Dense(self.vocabulary, dtype=self.dtype, name="output")(states))


class Classifier(nn.Module):
    """Embedded tokens through blocks of any depth and kind to the logits of a sequence.

    The layers are called `embedding`, `positions` (learned ones), `encoder/block_0/...` (see
    `Encoder`), `head` and `output`.

    Attributes:
      vocabulary: number of tokens.
      outputs: k.
      aspect: layers, and heads of each.
      head_dim: size of a head.
      width: size d of the embedding.
      feed_forward: width of the hidden layer of each block, and of the head's.
      context: the largest length that it accepts.
      attention: a name in `layers.ATTENTION_TYPES`, or the options of a kind.
      pool: what the head reads: the `"mean"` over tokens, or a learned token `"cls"` that stands
        in front of the others.
      positions: `"sinusoidal"` or `"learned"`.
      dropout_rate: of embeddings, attention and layers, in [0, 1); above 0, training needs a key
        in the stream `dropout`.
      dtype: dtype of the computation; None: that of the parameters (float32).

    Example:
      >>> model = Classifier(5, 2, aspect=(1, 4), head_dim=4, width=8, feed_forward=16, context=6)
      >>> tokens = jnp.array([[1, 2, 3], [4, 0, 0]])
      >>> y, _ = model.init_with_output(jax.random.key(0), tokens, tokens > 0)
      >>> y.shape
      (2, 2)

    Reference: Brown et al., Wide Attention Is The Way Forward For Transformers?, 2022, arXiv
    2210.00640; Tay et al., Long Range Arena, ICLR 2021 (d 256, m 1024, 16 heads of size 64).
    """

    vocabulary: int
    outputs: int
    aspect: tuple[int, int]
    head_dim: int
    width: int
    feed_forward: int
    context: int
    attention: Any = "vanilla"
    pool: Pool = "mean"
    positions: Positions = "sinusoidal"
    dropout_rate: float = 0.1
    dtype: Any = None

    @nn.compact
    def __call__(
        self,
        tokens: jax.Array,
        mask: jax.Array | None = None,
        *,
        train: bool = False,
        sample: bool | None = None,
    ) -> jax.Array:
        """Applies the network.

        Args:
          tokens: integer `[b, t]`, t up to `context`; one that is not below `vocabulary` makes
            outputs NaN.
          mask: which positions hold a token, bool `[b, t]`; None: all. A sequence without tokens
            gives what the head makes of 0, or of its token `"cls"`.
          train: draw the dropout.
          sample: whether subsampled kinds draw keys, from the stream `ssa`; None: as `train`.

        Returns:
          Logits, `[b, k]`, float32 or wider.

        Raises:
          ValueError: `tokens` or `mask` is no such array; an attribute is out of range; `"cls"`
            with a kind under which the first token sees no other.
        """
        check_sizes(outputs=self.outputs)
        pooled = _pooled(self, tokens, mask, train=train, sample=sample)
        return _head(self, pooled)


class Matcher(nn.Module):
    """Two sequences through one encoder to the logits of the pair.

    Both become vectors u and v with the same parameters; the head reads [u, v, u v, u - v] or
    [u, v]. The layers are called as those of `Classifier`.

    Attributes:
      vocabulary: number of tokens.
      outputs: k.
      aspect: layers, and heads of each.
      head_dim: size of a head.
      width: size d of the embedding.
      feed_forward: width of the hidden layer of each block, and of the head's.
      context: the largest length that it accepts.
      interaction: what the head reads: `"nli"` (products and differences too) or `"concat"`.
      attention: a name in `layers.ATTENTION_TYPES`, or the options of a kind.
      pool: as `Classifier`.
      positions: `"sinusoidal"` or `"learned"`.
      dropout_rate: as `Classifier`.
      dtype: dtype of the computation; None: that of the parameters (float32).

    Example:
      >>> model = Matcher(5, 2, aspect=(1, 4), head_dim=4, width=8, feed_forward=16, context=6)
      >>> one, two = jnp.array([[1, 2, 3]]), jnp.array([[4, 1]])
      >>> y, _ = model.init_with_output(jax.random.key(0), one, two)
      >>> y.shape
      (1, 2)

    Reference: Tay et al., Long Range Arena, ICLR 2021 (section 2.2.4, document matching).
    """

    vocabulary: int
    outputs: int
    aspect: tuple[int, int]
    head_dim: int
    width: int
    feed_forward: int
    context: int
    interaction: Interaction = "nli"
    attention: Any = "vanilla"
    pool: Pool = "mean"
    positions: Positions = "sinusoidal"
    dropout_rate: float = 0.1
    dtype: Any = None

    @nn.compact
    def __call__(
        self,
        first: jax.Array,
        second: jax.Array,
        first_mask: jax.Array | None = None,
        second_mask: jax.Array | None = None,
        *,
        train: bool = False,
        sample: bool | None = None,
    ) -> jax.Array:
        """Applies the network.

        Args:
          first: tokens, integer `[b, t]`, t up to `context`.
          second: tokens, integer `[b, t']`, t' up to `context`.
          first_mask: which positions of `first` hold a token, bool `[b, t]`; None: all.
          second_mask: likewise, `[b, t']`.
          train: draw the dropout.
          sample: whether subsampled kinds draw keys, from the stream `ssa`; None: as `train`.

        Returns:
          Logits, `[b, k]`, float32 or wider.

        Raises:
          ValueError: batches of different sizes; otherwise as `Classifier`.
        """
        check_sizes(outputs=self.outputs)
        if self.interaction not in ("nli", "concat"):
            raise ValueError(f'interaction={self.interaction!r} is unknown; use "nli" or "concat"')
        accept_tokens(first, first_mask, longest=self.context)
        accept_tokens(second, second_mask, longest=self.context)
        if first.shape[0] != second.shape[0]:
            raise ValueError(
                f"first has {first.shape[0]} sequences and second {second.shape[0]}; pairs are "
                "wanted"
            )
        # One batch, the shorter sequences padded, so that the encoder runs once.
        length = max(first.shape[1], second.shape[1])
        masks = [first_mask, second_mask]
        if first.shape[1] != second.shape[1] or any(mask is not None for mask in masks):
            masks = [
                jnp.ones(tokens.shape, bool) if mask is None else mask
                for tokens, mask in zip((first, second), masks, strict=True)
            ]
            mask = jnp.concatenate([_lengthened(mask, length) for mask in masks])
        else:
            mask = None
        second = second.astype(first.dtype)
        tokens = jnp.concatenate([_lengthened(first, length), _lengthened(second, length)])
        pooled = _pooled(self, tokens, mask, train=train, sample=sample)
        u, v = pooled[: first.shape[0]], pooled[first.shape[0] :]
        parts = [u, v, u * v, u - v] if self.interaction == "nli" else [u, v]
        return _head(self, jnp.concatenate(parts, axis=-1))


# What the networks of this file share. Layers are made in the module that calls, `model`.


def _encode(model, tokens, mask, *, causal, train, sample, cls=False):
    """States of the tokens, `[b, t, d]`, or `[b, t + 1, d]` with one in front of them."""
    check_sizes(vocabulary=model.vocabulary, width=model.width, context=model.context)
    check_dense(norm=None, dropout_rate=model.dropout_rate)
    if model.positions not in ("sinusoidal", "learned"):
        raise ValueError(f'positions={model.positions!r} is unknown; use "sinusoidal" or "learned"')
    tokens = accept_tokens(tokens, mask, longest=model.context)
    draw = nn.initializers.normal
    embedding = nn.Embed(
        model.vocabulary,
        model.width,
        dtype=model.dtype,
        embedding_init=draw(1.0),
        name="embedding",
    )
    x, context = embedding(tokens), model.context
    if cls:
        first = model.param("cls", draw(1.0), (model.width,), jnp.float32).astype(x.dtype)
        first = jnp.broadcast_to(first, (x.shape[0], 1, model.width))
        x, context = jnp.concatenate([first, x], axis=1), context + 1
        if mask is not None:
            mask = jnp.pad(mask, ((0, 0), (1, 0)), constant_values=True)
    length = x.shape[1]
    if model.positions == "learned":
        table = nn.Embed(
            context, model.width, dtype=model.dtype, embedding_init=draw(0.02), name="positions"
        )
        places = table(jnp.arange(length))
    else:
        places = sinusoidal_positions(length, model.width)
    x = SparseDropout(model.dropout_rate)(x + places.astype(x.dtype)[None], deterministic=not train)
    encoder = Encoder(
        model.aspect,
        model.head_dim,
        model.width,
        model.feed_forward,
        attention=attention_options(model.attention, length=context),
        causal=causal,
        dropout_rate=model.dropout_rate,
        dtype=model.dtype,
        name="encoder",
    )
    return encoder(x, mask, train=train, sample=sample)


def _pooled(model, tokens, mask, *, train, sample):
    if model.pool not in ("mean", "cls"):
        raise ValueError(f'pool={model.pool!r} is unknown; use "mean" or "cls"')
    if model.pool == "mean":
        states = _encode(model, tokens, mask, causal=False, train=train, sample=sample)
        return read(states, mask, "mean")
    if getattr(attention_options(model.attention), "lra_causal", False):
        raise ValueError(
            'pool="cls" reads the first position, which sees no other under lra_causal=True; use '
            'pool="mean"'
        )
    states = _encode(model, tokens, mask, causal=False, train=train, sample=sample, cls=True)
    return states[:, 0]


def _head(model, pooled):
    h = nn.relu(nn.Dense(model.feed_forward, dtype=model.dtype, name="head")(pooled))
    return as_logits(nn.Dense(model.outputs, dtype=model.dtype, name="output")(h))


def _lengthened(a, length):
    return jnp.pad(a, ((0, 0), (0, length - a.shape[1])))
