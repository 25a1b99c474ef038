"""Pytrees, random keys, the mesh, the train loop, checkpoints, run directories, progress."""

from trove_jax.core.checkpoint import Checkpoints, Restored, SaveCheckpoints
from trove_jax.core.compiled import Collective, CompiledProgram, read_program
from trove_jax.core.context import Context
from trove_jax.core.early_stopping import (
    StoppingRule,
    best_loss,
    best_step,
    best_variables,
    has_stopped,
    keep_best,
    never,
    patience,
    windowed,
)
from trove_jax.core.errors import (
    CheckpointError,
    DataUnavailable,
    Interrupted,
    NonFiniteLoss,
    RunMismatch,
    TroveError,
    UsageError,
)
from trove_jax.core.evaluate import evaluate, evaluate_seeds
from trove_jax.core.files import write_durably, writing
from trove_jax.core.history import History, Hook, Moment
from trove_jax.core.keys import epoch_order, init_key, seed_keys, step_key
from trove_jax.core.mesh import choose_axes, make_mesh, parse_mesh
from trove_jax.core.metrics import LogMetrics, MetricWriter, read_metrics
from trove_jax.core.plan import StagePlan, describe_plan, plan_stage
from trove_jax.core.pod_step import PodStep, choose_pod_axes, lower_step
from trove_jax.core.processes import is_speaker, share
from trove_jax.core.progress import Progress, ShowProgress
from trove_jax.core.pytrees import array_digest, leaf_names
from trove_jax.core.ranking import (
    NodeRanking,
    auc,
    hits_at_k,
    mean_reciprocal_rank,
    node_ranking,
)
from trove_jax.core.run_directory import RunDirectory
from trove_jax.core.steps import TrainState, compilations, init_state, init_states, train_step
from trove_jax.core.stopping import catch_signals
from trove_jax.core.task import Aux, Batch, Data, PyTree, Task, Variables
from trove_jax.core.train import train, train_seeds

__all__ = [
    "Aux",
    "Batch",
    "CheckpointError",
    "Checkpoints",
    "Collective",
    "CompiledProgram",
    "Context",
    "Data",
    "DataUnavailable",
    "History",
    "Hook",
    "Interrupted",
    "LogMetrics",
    "MetricWriter",
    "Moment",
    "NodeRanking",
    "NonFiniteLoss",
    "PodStep",
    "Progress",
    "PyTree",
    "Restored",
    "RunDirectory",
    "RunMismatch",
    "SaveCheckpoints",
    "ShowProgress",
    "StagePlan",
    "StoppingRule",
    "Task",
    "TrainState",
    "TroveError",
    "UsageError",
    "Variables",
    "array_digest",
    "auc",
    "best_loss",
    "best_step",
    "best_variables",
    "catch_signals",
    "choose_axes",
    "choose_pod_axes",
    "compilations",
    "describe_plan",
    "epoch_order",
    "evaluate",
    "evaluate_seeds",
    "has_stopped",
    "hits_at_k",
    "init_key",
    "init_state",
    "init_states",
    "is_speaker",
    "keep_best",
    "leaf_names",
    "lower_step",
    "make_mesh",
    "mean_reciprocal_rank",
    "never",
    "node_ranking",
    "parse_mesh",
    "patience",
    "plan_stage",
    "read_metrics",
    "read_program",
    "seed_keys",
    "share",
    "step_key",
    "train",
    "train_seeds",
    "train_step",
    "windowed",
    "write_durably",
    "writing",
]
