"""Loss terms: pure functions of outputs, captured activations and targets."""

from trove_jax.losses.classification import accuracy, classification, cross_entropy
from trove_jax.losses.sequence import (
    bits_per_token,
    sequence_accuracy,
    sequence_classification,
    token_accuracy,
    token_cross_entropy,
    token_prediction,
)

__all__ = [
    "accuracy",
    "bits_per_token",
    "classification",
    "cross_entropy",
    "sequence_accuracy",
    "sequence_classification",
    "token_accuracy",
    "token_cross_entropy",
    "token_prediction",
]
