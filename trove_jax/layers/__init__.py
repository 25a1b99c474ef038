"""Flax Linen building blocks."""

from trove_jax.layers.convolution import Conv

__all__ = ["Conv"]
