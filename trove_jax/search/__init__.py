"""Procedures over training runs: functions that take train functions and return arrays."""

from trove_jax.search.imp import IMPResult, MaskedTraining, TrainFn, imp, masked_training
from trove_jax.search.subsample import subsample_predict

__all__ = [
    "IMPResult",
    "MaskedTraining",
    "TrainFn",
    "imp",
    "masked_training",
    "subsample_predict",
]
