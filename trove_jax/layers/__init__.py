"""Flax Linen building blocks."""

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
from trove_jax.layers.normalization import BatchNorm
from trove_jax.layers.pooling import avg_pool, max_pool

__all__ = [
    "BatchNorm",
    "Conv",
    "ConvTranspose",
    "Layer",
    "avg_pool",
    "by_name",
    "capture",
    "capturing",
    "hidden",
    "linear_like",
    "max_pool",
    "post_activation",
]
