"""Loss terms: pure functions of outputs, captured activations and targets."""

from trove_jax.losses.classification import accuracy, classification, cross_entropy

__all__ = ["accuracy", "classification", "cross_entropy"]
