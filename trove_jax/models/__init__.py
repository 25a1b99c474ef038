"""Whole networks, made of layers: Flax modules and the functions that build published ones."""

from trove_jax.models.graph import GNN, appnp, gat, gcn, sgc
from trove_jax.models.local_chain import LocalChain, local_chain
from trove_jax.models.sequence import SimpleRNN, Transformer, TransformerBlock
from trove_jax.models.sequential import mlp_units, resnet_units, vgg_units
from trove_jax.models.tabular import MLP, DeepMLP, ResidualMLP, lenet_300_100, residual_mlp
from trove_jax.models.units import (
    BottleneckUnit,
    ConvUnit,
    DenseUnit,
    PoolHead,
    ResidualUnit,
    StemUnit,
)
from trove_jax.models.vision import (
    CifarResNet,
    CifarVGG,
    ConvChain,
    EuclideanTwin,
    PoincareResNet,
    ResNet,
    cifar_resnet,
    cifar_vgg,
    euclidean_twin,
    poincare_resnet,
    resnet18,
    resnet34,
    resnet50,
    resnet101,
)

__all__ = [
    "GNN",
    "MLP",
    "BottleneckUnit",
    "CifarResNet",
    "CifarVGG",
    "ConvChain",
    "ConvUnit",
    "DeepMLP",
    "DenseUnit",
    "EuclideanTwin",
    "LocalChain",
    "PoincareResNet",
    "PoolHead",
    "ResNet",
    "ResidualMLP",
    "ResidualUnit",
    "SimpleRNN",
    "StemUnit",
    "Transformer",
    "TransformerBlock",
    "appnp",
    "cifar_resnet",
    "cifar_vgg",
    "euclidean_twin",
    "gat",
    "gcn",
    "lenet_300_100",
    "local_chain",
    "mlp_units",
    "poincare_resnet",
    "residual_mlp",
    "resnet18",
    "resnet34",
    "resnet50",
    "resnet101",
    "resnet_units",
    "sgc",
    "vgg_units",
]
