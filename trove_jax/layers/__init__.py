"""Flax Linen building blocks."""

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
from trove_jax.layers.convolution import Conv, ConvTranspose
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

__all__ = [
    "AuxNet",
    "BatchNorm",
    "Conv",
    "ConvTranspose",
    "DglAux",
    "InfoProAux",
    "Layer",
    "PredSimAux",
    "auglocal",
    "aux_plan",
    "avg_pool",
    "bp",
    "by_name",
    "capture",
    "capturing",
    "dgl",
    "greedy",
    "hidden",
    "infopro",
    "linear_like",
    "max_pool",
    "post_activation",
    "predsim",
    "pyramid_depths",
    "selected_indices",
    "simple_normal",
    "sussillo_abbott",
    "uniform_indices",
    "zeros",
]
