"""Networks of vectors."""

from trove_jax.models.tabular.deep_perceptron import DeepMLP
from trove_jax.models.tabular.perceptron import MLP, ResidualMLP, lenet_300_100, residual_mlp

__all__ = ["MLP", "DeepMLP", "ResidualMLP", "lenet_300_100", "residual_mlp"]
