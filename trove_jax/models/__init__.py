"""Whole networks, made of layers: Flax modules and the functions that build published ones."""

from trove_jax.models.tabular import MLP, ResidualMLP, lenet_300_100, residual_mlp
from trove_jax.models.vision import (
    CifarResNet,
    CifarVGG,
    ResNet,
    cifar_resnet,
    cifar_vgg,
    resnet50,
)

__all__ = [
    "MLP",
    "CifarResNet",
    "CifarVGG",
    "ResNet",
    "ResidualMLP",
    "cifar_resnet",
    "cifar_vgg",
    "lenet_300_100",
    "residual_mlp",
    "resnet50",
]
