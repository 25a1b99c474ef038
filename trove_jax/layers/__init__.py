"""Flax Linen building blocks."""

from trove_jax.layers.convolution import Conv, ConvTranspose
from trove_jax.layers.normalization import BatchNorm
from trove_jax.layers.pooling import avg_pool, max_pool

__all__ = ["BatchNorm", "Conv", "ConvTranspose", "avg_pool", "max_pool"]
