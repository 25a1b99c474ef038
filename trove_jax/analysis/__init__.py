"""Measurements: pure functions of weights, activations, data and landscapes."""

from trove_jax.analysis.stability import (
    LinearBarrier,
    Stability,
    linear_barrier,
    masked_angle,
    masked_distance,
    stability_to_order,
    stability_to_pruning,
)

__all__ = [
    "LinearBarrier",
    "Stability",
    "linear_barrier",
    "masked_angle",
    "masked_distance",
    "stability_to_order",
    "stability_to_pruning",
]
