"""Curved spaces without parameters: points, maps and distances."""

from trove_jax.geometry import poincare

__all__ = ["poincare"]
