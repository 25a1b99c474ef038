"""Stacks of attention and dense layers whose depth and number of heads are one argument."""

from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from trove_jax.layers.attention import SelfAttention
from trove_jax.layers.attention_types import attention_options
from trove_jax.layers.sparse_features import SparseDropout
from trove_jax.models.inputs import check_dense, check_sizes
from trove_jax.models.sequence.transformer import feed_forward


class EncoderBlock(nn.Module):
    """Self-attention and two dense layers behind layer normalisation, added to what they read.

    x <- x + D(A(N(x))), x <- x + D(W' D(gelu(W N(x) + c)) + c'), with layer normalisation N and
    dropout D. The layers are called `attention_norm`, `attention`, `feed_norm`, `feed_0` and
    `feed_1`.

    `TransformerBlock` is the block of the original network: heads that share out the width, biases
    in their projections, rectified units.

    Attributes:
      heads: number of heads.
      head_dim: size of a head.
      feed_forward: width of the hidden dense layer.
      attention: a name in `layers.ATTENTION_TYPES`, or the options of a kind.
      causal: whether no position sees later ones.
      dropout_rate: of D, and of what heads read, in [0, 1).
      dtype: dtype of the computation; None: that of the parameters (float32).

    Example:
      >>> block = EncoderBlock(heads=2, head_dim=4, feed_forward=16)
      >>> y, variables = block.init_with_output(jax.random.key(0), jnp.ones((1, 3, 6)))
      >>> y.shape
      (1, 3, 6)

    Reference: Tay et al., Long Range Arena, ICLR 2021 (the block of its models).
    """

    heads: int
    head_dim: int
    feed_forward: int
    attention: Any = "vanilla"
    causal: bool = False
    dropout_rate: float = 0.0
    dtype: Any = None

    @nn.compact
    def __call__(
        self,
        x: jax.Array,
        mask: jax.Array | None = None,
        *,
        train: bool = False,
        sample: bool | None = None,
    ) -> jax.Array:
        """Applies the block; arguments as `layers.SelfAttention`, finite at padding too."""
        attention = SelfAttention(
            self.heads,
            self.head_dim,
            attention=self.attention,
            causal=self.causal,
            dropout_rate=self.dropout_rate,
            dtype=self.dtype,
            name="attention",
        )
        attention_norm = nn.LayerNorm(epsilon=1e-6, dtype=self.dtype, name="attention_norm")
        feed_norm = nn.LayerNorm(epsilon=1e-6, dtype=self.dtype, name="feed_norm")

        def drop(x):
            return SparseDropout(self.dropout_rate)(x, deterministic=not train)

        x = x + drop(attention(attention_norm(x), mask, train=train, sample=sample))
        h = feed_forward(feed_norm(x), self.feed_forward, nn.gelu, drop, dtype=self.dtype)
        return x + drop(h)


class Encoder(nn.Module):
    """Blocks of self-attention of any kind, and a normalisation at the end.

    The layers are called `block_0/attention`, ... (see `EncoderBlock`) and `final_norm`. Blocks
    have L (4 d H d_h + 2 d m + m + d + 4 d) parameters (L layers of H heads, width d, heads of
    size d_h, hidden width m) for kinds without parameters of their own; the last normalisation has
    2 d.

    Attributes:
      aspect: layers, and heads of each.
      head_dim: size of a head, the same for every aspect.
      width: d.
      feed_forward: width m of the hidden layer of each block.
      attention: a name in `layers.ATTENTION_TYPES`, or the options of a kind.
      causal: whether no position sees later ones.
      dropout_rate: of attention and layers, in [0, 1); above 0, training needs a key in the
        stream `dropout`.
      dtype: dtype of the computation; None: that of the parameters (float32).

    Example:
      >>> encoder = Encoder(aspect=(1, 4), head_dim=2, width=6, feed_forward=8)
      >>> y, variables = encoder.init_with_output(jax.random.key(0), jnp.ones((1, 3, 6)))
      >>> y.shape, sorted(variables["params"])
      ((1, 3, 6), ['block_0', 'final_norm'])

    Reference: Brown et al., Wide Attention Is The Way Forward For Transformers?, 2022, arXiv
    2210.00640 (section 3).
    """

    aspect: tuple[int, int]
    head_dim: int
    width: int
    feed_forward: int
    attention: Any = "vanilla"
    causal: bool = False
    dropout_rate: float = 0.1
    dtype: Any = None

    @nn.compact
    def __call__(
        self,
        x: jax.Array,
        mask: jax.Array | None = None,
        *,
        train: bool = False,
        sample: bool | None = None,
    ) -> jax.Array:
        """Applies the blocks.

        Args:
          x: `[b, n, d]`, floating-point; may hold anything where `mask` is False.
          mask: which positions hold a token, bool `[b, n]`; None: all. What comes out elsewhere
            is finite and means nothing.
          train: draw the dropout.
          sample: whether subsampled kinds draw keys, from the stream `ssa`; None: as `train`.

        Returns:
          `[b, n, d]`.

        Raises:
          ValueError: `x` or `mask` is no such array, or an attribute is out of range; as
            `layers.SelfAttention`.
        """
        check_aspect(self.aspect)
        check_sizes(head_dim=self.head_dim, width=self.width, feed_forward=self.feed_forward)
        check_dense(norm=None, dropout_rate=self.dropout_rate)
        if x.ndim != 3 or x.shape[-1] != self.width or not jnp.issubdtype(x.dtype, jnp.floating):
            raise ValueError(f"x is {x.dtype} {x.shape}, want floating-point [b, n, {self.width}]")
        if mask is not None:
            if mask.shape != x.shape[:2] or mask.dtype != jnp.bool_:
                raise ValueError(f"mask is {mask.dtype} {mask.shape}, want bool {x.shape[:2]}")
            x = jnp.where(mask[..., None], x, jnp.zeros((), x.dtype))
        # Without a length of their own, kinds of fixed length would each take it from the input.
        options = attention_options(self.attention)
        depth, heads = self.aspect
        for i in range(depth):
            block = EncoderBlock(
                heads,
                self.head_dim,
                self.feed_forward,
                attention=options,
                causal=self.causal,
                dropout_rate=self.dropout_rate,
                dtype=self.dtype,
                name=f"block_{i}",
            )
            x = block(x, mask, train=train, sample=sample)
        return nn.LayerNorm(epsilon=1e-6, dtype=self.dtype, name="final_norm")(x)


def aspect_family(
    total_heads: int, *, layers: Sequence[int] | None = None
) -> list[tuple[int, int]]:
    """Lists the aspects with the same number of heads in all, deepest first.

    Args:
      total_heads: layers times heads of each.
      layers: numbers of layers; None: every divisor, from one head a layer to one layer.

    Returns:
      (layers, heads of each) pairs.

    Raises:
      ValueError: a number of layers does not divide `total_heads`.

    Example:
      >>> aspect_family(48, layers=(6, 2, 1))
      [(6, 8), (2, 24), (1, 48)]
      >>> aspect_family(8)
      [(8, 1), (4, 2), (2, 4), (1, 8)]
    """
    check_sizes(total_heads=total_heads)
    divisors = [n for n in range(1, total_heads + 1) if total_heads % n == 0]
    for depth in divisors if layers is None else layers:
        if depth not in divisors:
            near = min(divisors, key=lambda n: abs(n - depth))
            raise ValueError(
                f"layers={depth} does not divide total_heads={total_heads}; try {near}"
            )
    wanted = divisors if layers is None else set(layers)
    return [(depth, total_heads // depth) for depth in sorted(wanted, reverse=True)]


def check_aspect(aspect: tuple[int, int]) -> None:
    """Refuses what is no pair of layers and heads.

    Args:
      aspect: layers, and heads of each.

    Raises:
      ValueError: another number of entries, or one that is no positive integer.

    Example:
      >>> check_aspect((4, 2))
    """
    if not isinstance(aspect, tuple | list) or len(aspect) != 2:
        raise ValueError(f"aspect={aspect!r}, want (layers, heads of each), such as aspect=(4, 2)")
    check_sizes(**dict(zip(("aspect[0]", "aspect[1]"), aspect, strict=True)))
