"""Flax Linen building blocks."""

from trove_jax.layers.attention import SelfAttention
from trove_jax.layers.attention_types import (
    ATTENTION_TYPES,
    BigBirdAttention,
    LinearAttention,
    LinformerAttention,
    LocalAttention,
    LocalSubsampledAttention,
    LongformerAttention,
    PerformerAttention,
    SinkhornAttention,
    SparseAttention,
    SynthesizerAttention,
    UnbiasedSubsampledAttention,
    VanillaAttention,
    attention_options,
)
from trove_jax.layers.auxiliary import AuxNet, DglAux, InfoProAux, PredSimAux
from trove_jax.layers.capture import (
    Layer,
    by_name,
    capture,
    capturing,
    hidden,
    linear_like,
    post_activation,
)
from trove_jax.layers.common_neighbour import CNHead
from trove_jax.layers.convolution import Conv, ConvTranspose
from trove_jax.layers.graph_convolution import (
    APPNPConv,
    GCNConv,
    GINConv,
    MLPConv,
    SAGEConv,
    SGConv,
)
from trove_jax.layers.graph_convolution_anisotropic import GATConv, GatedGCNConv
from trove_jax.layers.hop_readout import AdaptiveHopReadout, HopMix
from trove_jax.layers.hyperbolic import (
    PoincareConv,
    PoincareDense,
    PoincareMLR,
    poincare_pool,
    poincare_relu,
    poincare_residual,
)
from trove_jax.layers.hyperbolic_curvature import LearnedCurvature
from trove_jax.layers.hyperbolic_initializers import centre_tap, half_identity, hnn_normal
from trove_jax.layers.hyperbolic_normalization import PoincareBatchNorm
from trove_jax.layers.initializers import simple_normal, sussillo_abbott, zeros
from trove_jax.layers.local import (
    auglocal,
    aux_plan,
    bp,
    dgl,
    greedy,
    infopro,
    predsim,
    pyramid_depths,
    selected_indices,
    uniform_indices,
)
from trove_jax.layers.normalization import BatchNorm
from trove_jax.layers.pooling import avg_pool, max_pool
from trove_jax.layers.pure_gcn import JumpSum, PureGCN
from trove_jax.layers.residual_mlp import ResidualMLP
from trove_jax.layers.sparse_features import SparseDense, SparseDropout, SparseInput, sparse_input

__all__ = [
    "ATTENTION_TYPES",
    "APPNPConv",
    "AdaptiveHopReadout",
    "AuxNet",
    "BatchNorm",
    "BigBirdAttention",
    "CNHead",
    "Conv",
    "ConvTranspose",
    "DglAux",
    "GATConv",
    "GCNConv",
    "GINConv",
    "GatedGCNConv",
    "HopMix",
    "InfoProAux",
    "JumpSum",
    "Layer",
    "LearnedCurvature",
    "LinearAttention",
    "LinformerAttention",
    "LocalAttention",
    "LocalSubsampledAttention",
    "LongformerAttention",
    "MLPConv",
    "PerformerAttention",
    "PoincareBatchNorm",
    "PoincareConv",
    "PoincareDense",
    "PoincareMLR",
    "PredSimAux",
    "PureGCN",
    "ResidualMLP",
    "SAGEConv",
    "SGConv",
    "SelfAttention",
    "SinkhornAttention",
    "SparseAttention",
    "SparseDense",
    "SparseDropout",
    "SparseInput",
    "SynthesizerAttention",
    "UnbiasedSubsampledAttention",
    "VanillaAttention",
    "attention_options",
    "auglocal",
    "aux_plan",
    "avg_pool",
    "bp",
    "by_name",
    "capture",
    "capturing",
    "centre_tap",
    "dgl",
    "greedy",
    "half_identity",
    "hidden",
    "hnn_normal",
    "infopro",
    "linear_like",
    "max_pool",
    "poincare_pool",
    "poincare_relu",
    "poincare_residual",
    "post_activation",
    "predsim",
    "pyramid_depths",
    "selected_indices",
    "simple_normal",
    "sparse_input",
    "sussillo_abbott",
    "uniform_indices",
    "zeros",
]
