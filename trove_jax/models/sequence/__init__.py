"""Networks of token sequences."""

from trove_jax.models.sequence.recurrent import SimpleRNN
from trove_jax.models.sequence.transformer import Transformer, TransformerBlock

__all__ = ["SimpleRNN", "Transformer", "TransformerBlock"]
