"""Procedures over training runs: functions that take train functions and return arrays."""

from trove_jax.search.imp import IMPResult, MaskedTraining, TrainFn, imp, masked_training
from trove_jax.search.subsample import subsample_predict
from trove_jax.search.sweep import GridLanes, GridResult, grid_lanes, train_grid

__all__ = [
    "GridLanes",
    "GridResult",
    "IMPResult",
    "MaskedTraining",
    "TrainFn",
    "grid_lanes",
    "imp",
    "masked_training",
    "subsample_predict",
    "train_grid",
]
