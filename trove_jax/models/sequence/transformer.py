"""Transformers of token sequences: encoders, and decoders without an encoder."""

from collections.abc import Callable
from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp

from trove_jax.models.inputs import as_logits, check_dense, check_sizes
from trove_jax.models.sequence.tokens import Readout, accept_tokens, check_readout, read


class TransformerBlock(nn.Module):
    """Self-attention and two dense layers, each with a skip connection and layer normalisation.

    x <- N(x + D(A(x))), x <- N(x + D(W' relu(W x + c) + c')), or with `norm_first`
    x <- x + D(A(N(x))), x <- x + D(W' relu(W N(x) + c) + c'); A is attention of several heads, D
    dropout (in A also on the attention weights), N layer normalisation (epsilon 1e-5). The layers
    are called `attention`, `attention_norm`, `feed_0`, `feed_1` and `feed_norm`.

    Attributes:
      heads: number of heads; a divisor of d.
      feed_forward: width of the hidden layer.
      norm_first: whether N comes before A and W, not behind the sums.
      dropout_rate: of D, in [0, 1).
      dtype: dtype of the computation; None: that of the parameters (float32).

    Example:
      >>> block = TransformerBlock(heads=2, feed_forward=16)
      >>> y, variables = block.init_with_output(jax.random.key(0), jnp.ones((1, 3, 8)))
      >>> y.shape
      (1, 3, 8)

    Reference: Vaswani et al., Attention Is All You Need, NeurIPS 2017 (section 3.1);
    `norm_first`: Xiong et al., On Layer Normalization in the Transformer Architecture, ICML 2020.
    """

    heads: int
    feed_forward: int
    norm_first: bool = False
    dropout_rate: float = 0.0
    dtype: Any = None

    @nn.compact
    def __call__(
        self, x: jax.Array, mask: jax.Array | None = None, *, train: bool = False
    ) -> jax.Array:
        """Applies the block.

        Args:
          x: `[b, t, d]`, floating-point.
          mask: which keys each query sees, bool, broadcast against `[b, heads, t, t]`; None: all.
          train: draw the dropout.

        Returns:
          `[b, t, d]`.

        Raises:
          ValueError: `x` is not such an array, or `heads` does not divide d; an attribute is out
            of range.
        """
        check_sizes(heads=self.heads, feed_forward=self.feed_forward)
        check_dense(norm=None, dropout_rate=self.dropout_rate)
        if x.ndim != 3 or not jnp.issubdtype(x.dtype, jnp.floating):
            raise ValueError(f"x is {x.dtype} {x.shape}, want floating-point [b, t, d]")
        width = x.shape[-1]
        check_heads(self.heads, width)
        drop = nn.Dropout(self.dropout_rate, deterministic=not train)
        attention = nn.MultiHeadDotProductAttention(
            self.heads,
            dropout_rate=self.dropout_rate,
            broadcast_dropout=False,
            deterministic=not train,
            dtype=self.dtype,
            name="attention",
        )
        attention_norm = nn.LayerNorm(epsilon=1e-5, dtype=self.dtype, name="attention_norm")
        feed_norm = nn.LayerNorm(epsilon=1e-5, dtype=self.dtype, name="feed_norm")

        def feed(x):
            return feed_forward(x, self.feed_forward, nn.relu, drop, dtype=self.dtype)

        if self.norm_first:
            x = x + drop(attention(attention_norm(x), mask=mask))
            return x + drop(feed(feed_norm(x)))
        x = attention_norm(x + drop(attention(x, mask=mask)))
        return feed_norm(x + drop(feed(x)))


class Transformer(nn.Module):
    """Blocks of self-attention on top of embedded tokens and positions.

    With `causal=False` an encoder, with `causal=True` a decoder without an encoder. The layers are
    called `embedding`, `positions` (learned ones), `block_0/attention`, `block_0/feed_0`, ...,
    `final_norm` (with `norm_first`) and `output`.

    It has v d + depth (4 d^2 + 4 d + 4 d + 2 d f + f + d) + (d + 1) k parameters (v tokens, width
    d, hidden width f, k outputs), learned positions n d more and a final normalisation 2 d more.

    Attributes:
      vocabulary: number of tokens, v.
      outputs: k.
      width: size d of the embedding.
      heads: heads of each attention; a divisor of d.
      depth: number of blocks.
      feed_forward: width f of the hidden layer of each block.
      context: the largest length n that it accepts.
      causal: whether a position sees only itself and those before it.
      positions: `"sinusoidal"` or `"learned"`.
      norm_first: whether layers are normalised before they are applied, not after the sums.
      readout: `"all"` (a prediction at every position), or that of the `"last"` token or of the
        `"mean"` over tokens.
      dropout_rate: of embeddings, attention weights and layers, in [0, 1); above 0, training
        needs a key in the stream `dropout`.
      dtype: dtype of the computation; None: that of the parameters (float32).

    Example:
      >>> model = Transformer(vocabulary=3, outputs=2, width=8, heads=2, depth=1, feed_forward=16,
      ...                     readout="mean")
      >>> tokens = jnp.array([[0, 1, 1, 2], [1, 2, 2, 2]])
      >>> y, variables = model.init_with_output(jax.random.key(0), tokens, tokens != 2)
      >>> y.shape, list(variables["params"])
      ((2, 2), ['embedding', 'block_0', 'output'])

    Reference: Vaswani et al., Attention Is All You Need, NeurIPS 2017; as target and guide in
    Subramaniam et al., Training the Untrainable, NeurIPS 2025 (d 512, 16 heads, 4 layers, f 2048).
    """

    vocabulary: int
    outputs: int
    width: int = 512
    heads: int = 16
    depth: int = 4
    feed_forward: int = 2048
    context: int = 256
    causal: bool = False
    positions: Literal["sinusoidal", "learned"] = "sinusoidal"
    norm_first: bool = False
    readout: Readout = "all"
    dropout_rate: float = 0.1
    dtype: Any = None

    @nn.compact
    def __call__(
        self, tokens: jax.Array, mask: jax.Array | None = None, *, train: bool = False
    ) -> jax.Array:
        """Applies the network.

        Args:
          tokens: integer `[b, t]`, t up to `context`; one that is not below `vocabulary` makes
            outputs NaN.
          mask: which positions hold a token, bool `[b, t]`; None: all. No other position is
            attended to, and the outputs there mean nothing.
          train: draw the dropout.

        Returns:
          Outputs, `[b, t, k]` for the readout "all", else `[b, k]`, float32 or wider.

        Raises:
          ValueError: `tokens` or `mask` is no such array; an attribute is out of range, or `heads`
            does not divide `width`.
        """
        check_sizes(
            vocabulary=self.vocabulary,
            outputs=self.outputs,
            width=self.width,
            heads=self.heads,
            depth=self.depth,
            feed_forward=self.feed_forward,
            context=self.context,
        )
        if self.positions not in ("sinusoidal", "learned"):
            raise ValueError(
                f'positions={self.positions!r} is unknown; use "sinusoidal" or "learned"'
            )
        check_dense(norm=None, dropout_rate=self.dropout_rate)
        check_heads(self.heads, self.width)
        check_readout(self.readout)
        tokens = accept_tokens(tokens, mask, longest=self.context)
        x = nn.Embed(self.vocabulary, self.width, dtype=self.dtype, name="embedding")(tokens)
        x = x + self._positions(tokens.shape[1]).astype(x.dtype)[None]
        x = nn.Dropout(self.dropout_rate, deterministic=not train)(x)
        seen = None if mask is None else mask[:, None, None, :]
        if self.causal:
            order = nn.make_causal_mask(tokens[:1], dtype=jnp.bool_)
            seen = order if seen is None else seen & order
        for i in range(self.depth):
            block = TransformerBlock(
                self.heads,
                self.feed_forward,
                norm_first=self.norm_first,
                dropout_rate=self.dropout_rate,
                dtype=self.dtype,
                name=f"block_{i}",
            )
            x = block(x, seen, train=train)
        if self.norm_first:
            x = nn.LayerNorm(epsilon=1e-5, dtype=self.dtype, name="final_norm")(x)
        x = read(x, mask, self.readout)
        return as_logits(nn.Dense(self.outputs, dtype=self.dtype, name="output")(x))

    def _positions(self, length: int) -> jax.Array:
        if self.positions == "learned":
            table = nn.Embed(self.context, self.width, dtype=self.dtype, name="positions")
            return table(jnp.arange(length))
        return sinusoidal_positions(length, self.width)


def feed_forward(
    x: jax.Array,
    hidden: int,
    activation: Callable[[jax.Array], jax.Array],
    drop: Callable[[jax.Array], jax.Array],
    *,
    dtype: Any = None,
) -> jax.Array:
    """Applies two dense layers, `feed_0` and `feed_1`, as a part of the calling module.

    W' D(f(W x + c)) + c'

    Args:
      x: `[..., d]`.
      hidden: width of the first.
      activation: f.
      drop: dropout, D.
      dtype: dtype of the computation; None: that of the parameters.

    Returns:
      `[..., d]`.
    """
    h = activation(nn.Dense(hidden, dtype=dtype, name="feed_0")(x))
    return nn.Dense(x.shape[-1], dtype=dtype, name="feed_1")(drop(h))


def check_heads(heads: int, width: int) -> None:
    """Refuses numbers of heads that do not share out the width evenly.

    Args:
      heads: number of heads.
      width: d.

    Raises:
      ValueError: `heads` does not divide `width`; names the nearest number that does.

    Example:
      >>> check_heads(5, 64)
      Traceback (most recent call last):
      ...
      ValueError: heads=5 does not divide width=64; try 4
    """
    if width % heads:
        nearest = min(
            (n for n in range(1, width + 1) if width % n == 0), key=lambda n: abs(n - heads)
        )
        raise ValueError(f"heads={heads} does not divide width={width}; try {nearest}")


def sinusoidal_positions(length: int, width: int) -> jax.Array:
    """Encodes positions as sines and cosines of geometrically spaced frequencies.

    p[i, 2 j] = sin(i / 10000^(2 j / d)), p[i, 2 j + 1] = cos(i / 10000^(2 j / d)).

    Args:
      length: number of positions, t.
      width: d.

    Returns:
      float32 `[t, d]`.

    Example:
      >>> print(sinusoidal_positions(1, 4))
      [[0. 1. 0. 1.]]

    Reference: Vaswani et al., Attention Is All You Need, NeurIPS 2017 (section 3.5).
    """
    column = jnp.arange(width)
    frequency = 10000.0 ** (-(column - column % 2).astype(jnp.float32) / width)
    angle = jnp.arange(length, dtype=jnp.float32)[:, None] * frequency[None]
    return jnp.where((column % 2 == 0)[None], jnp.sin(angle), jnp.cos(angle))
