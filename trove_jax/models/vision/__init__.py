"""Networks of images."""

from trove_jax.models.vision.poincare_resnet import (
    EuclideanTwin,
    PoincareResNet,
    euclidean_twin,
    poincare_resnet,
)
from trove_jax.models.vision.residual_chain import ConvChain
from trove_jax.models.vision.resnet import (
    CifarResNet,
    ResNet,
    cifar_resnet,
    resnet18,
    resnet34,
    resnet50,
    resnet101,
)
from trove_jax.models.vision.vgg import CifarVGG, cifar_vgg

__all__ = [
    "CifarResNet",
    "CifarVGG",
    "ConvChain",
    "EuclideanTwin",
    "PoincareResNet",
    "ResNet",
    "cifar_resnet",
    "cifar_vgg",
    "euclidean_twin",
    "poincare_resnet",
    "resnet18",
    "resnet34",
    "resnet50",
    "resnet101",
]
