"""Loss terms: pure functions of outputs, captured activations and targets."""

from trove_jax.losses.classification import accuracy, classification, cross_entropy
from trove_jax.losses.local import (
    LocalLosses,
    local_learning,
    local_losses,
    local_value_and_grad,
    reconstruction_loss,
    similarity_matching,
    without_auxiliaries,
)
from trove_jax.losses.sequence import (
    bits_per_token,
    sequence_accuracy,
    sequence_classification,
    token_accuracy,
    token_cross_entropy,
    token_prediction,
)

__all__ = [
    "LocalLosses",
    "accuracy",
    "bits_per_token",
    "classification",
    "cross_entropy",
    "local_learning",
    "local_losses",
    "local_value_and_grad",
    "reconstruction_loss",
    "sequence_accuracy",
    "sequence_classification",
    "similarity_matching",
    "token_accuracy",
    "token_cross_entropy",
    "token_prediction",
    "without_auxiliaries",
]
