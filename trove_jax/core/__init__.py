"""Pytrees, random keys, the train loop, checkpoints, run directories, metrics and progress."""

from trove_jax.core.errors import (
    CheckpointError,
    DataUnavailable,
    Interrupted,
    NonFiniteLoss,
    RunMismatch,
    TroveError,
    UsageError,
)
from trove_jax.core.task import Aux, Batch, Data, Task

__all__ = [
    "Aux",
    "Batch",
    "CheckpointError",
    "Data",
    "DataUnavailable",
    "Interrupted",
    "NonFiniteLoss",
    "RunMismatch",
    "Task",
    "TroveError",
    "UsageError",
]
