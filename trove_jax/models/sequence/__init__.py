"""Networks of token sequences."""

from trove_jax.models.sequence.classifier import Classifier, Decoder, Matcher
from trove_jax.models.sequence.encoder import Encoder, EncoderBlock, aspect_family
from trove_jax.models.sequence.recurrent import SimpleRNN
from trove_jax.models.sequence.transformer import Transformer, TransformerBlock

__all__ = [
    "Classifier",
    "Decoder",
    "Encoder",
    "EncoderBlock",
    "Matcher",
    "SimpleRNN",
    "Transformer",
    "TransformerBlock",
    "aspect_family",
]
