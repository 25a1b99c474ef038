"""Networks of images."""

from trove_jax.models.vision.resnet import CifarResNet, ResNet, cifar_resnet, resnet50
from trove_jax.models.vision.vgg import CifarVGG, cifar_vgg

__all__ = ["CifarResNet", "CifarVGG", "ResNet", "cifar_resnet", "cifar_vgg", "resnet50"]
