"""Self-attention with the kind of attention as one argument."""

from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from trove_jax.layers import attention_types as types
from trove_jax.layers.attention_cores import PatternCore, SubsampledCore
from trove_jax.layers.attention_substitutes import (
    FeatureCore,
    LinformerCore,
    SinkhornCore,
    SynthesizerCore,
)
from trove_jax.layers.sparse_features import SparseDropout

_CORES: dict[type, Any] = {
    types.VanillaAttention: PatternCore,
    types.LocalAttention: PatternCore,
    types.LongformerAttention: PatternCore,
    types.BigBirdAttention: PatternCore,
    types.SparseAttention: PatternCore,
    types.SinkhornAttention: SinkhornCore,
    types.LinformerAttention: LinformerCore,
    types.PerformerAttention: FeatureCore,
    types.LinearAttention: FeatureCore,
    types.SynthesizerAttention: SynthesizerCore,
    types.UnbiasedSubsampledAttention: SubsampledCore,
    types.LocalSubsampledAttention: SubsampledCore,
}


class SelfAttention(nn.Module):
    """Heads of equal size that read a sequence, of one of twelve kinds.

    y = D(concat_h o_h) W_o,  o_h = A(x W_q, x W_k, x W_v)

    without biases; A is the kind of attention and D dropout. The published programs drop weights
    of attention; the kernels here never hold them, so D takes what the heads read. Projections are
    called `query`, `key`, `value` (each `[b, n, h, d_h]`; see `layers.capture`) and `out`, and what
    lies between them `core`. W_o starts with variance 1 / (heads head_dim), whatever d is.

    Attributes:
      heads: number of heads.
      head_dim: size d_h of a head. It does not follow from the width: a network with more heads
        in a layer would otherwise have smaller ones.
      attention: a name in `ATTENTION_TYPES`, or the options of a kind.
      causal: whether no query meets later keys. Linformer and Sinkhorn attention cannot.
      dropout_rate: of D, in [0, 1).
      dtype: dtype of the computation; None: that of the parameters (float32).

    Example:
      >>> layer = SelfAttention(heads=2, head_dim=4, attention=types.LocalAttention(block=3))
      >>> y, variables = layer.init_with_output(jax.random.key(0), jnp.ones((1, 5, 6)))
      >>> y.shape, sorted(variables["params"])
      ((1, 5, 6), ['key', 'out', 'query', 'value'])

    Reference: Vaswani et al., Attention Is All You Need, NeurIPS 2017 (section 3.2); Brown et al.,
    Wide Attention Is The Way Forward For Transformers?, 2022, arXiv 2210.00640 (heads of constant
    size).
    """

    heads: int
    head_dim: int
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
        """Applies the layer.

        Args:
          x: `[b, n, d]`, floating-point; may hold anything where `mask` is False.
          mask: which positions hold a token, bool `[b, n]`; None: all. No query meets another
            position, and what the layer gives there means nothing. A sequence without tokens
            gives 0.
          train: draw the dropout, from the stream `dropout`.
          sample: whether subsampled kinds draw keys, from the stream `ssa`; None: as `train`.

        Returns:
          `[b, n, d]`.

        Raises:
          ValueError: `x` or `mask` is no such array; an attribute is out of range; `causal` with
            a kind that cannot be; a sequence longer than the parameters of a kind allow; no key
            to sample with.
        """
        for name in ("heads", "head_dim"):
            size = getattr(self, name)
            if not isinstance(size, int) or isinstance(size, bool) or size < 1:
                raise ValueError(f"{name}={size!r}, want a positive integer, such as {name}=8")
        if x.ndim != 3 or not jnp.issubdtype(x.dtype, jnp.floating):
            raise ValueError(f"x is {x.dtype} {x.shape}, want floating-point [b, n, d]")
        if mask is not None and (mask.shape != x.shape[:2] or mask.dtype != jnp.bool_):
            raise ValueError(f"mask is {mask.dtype} {mask.shape}, want bool {x.shape[:2]}")
        options = types.attention_options(self.attention)
        reason = getattr(options, "not_causal", None)
        if self.causal and reason:
            raise ValueError(
                f"causal=True, but {type(options).__name__} cannot hide later keys: {reason}; "
                'use another kind, such as attention="linear"'
            )
        if mask is not None:
            # Projections have no bias, so that queries, keys and values are 0 there too.
            x = jnp.where(mask[..., None], x, jnp.zeros((), x.dtype))
        heads = {
            name: nn.DenseGeneral(
                (self.heads, self.head_dim), use_bias=False, dtype=self.dtype, name=name
            )(x)
            for name in options.projections
        }
        core = _CORES[type(options)](options, self.causal, self.dtype, name="core")
        found = core(x, heads, mask, sample=train if sample is None else sample)
        found = SparseDropout(self.dropout_rate)(found, deterministic=not train)
        return nn.DenseGeneral(
            x.shape[-1], axis=(-2, -1), use_bias=False, dtype=self.dtype, name="out"
        )(found)
