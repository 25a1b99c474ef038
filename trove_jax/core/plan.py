"""What a run is going to cost, known before its first step."""

import dataclasses
import math
from collections.abc import Sequence

import jax
import optax

from trove_jax.core.steps import init_state
from trove_jax.core.task import Task


@dataclasses.dataclass(frozen=True)
class StagePlan:
    """Training runs of one kind.

    Attributes:
      name: what is trained.
      runs: how many runs follow each other.
      seeds: networks trained together in each.
      steps: steps of each run.
      state_bytes: variables and optimiser state of one network.
    """

    name: str
    runs: int
    seeds: int
    steps: int
    state_bytes: int

    @property
    def total_steps(self) -> int:
        """Steps of all runs, each counted once for all its seeds."""
        return self.runs * self.steps

    @property
    def memory_bytes(self) -> int:
        """Room for the states of all seeds: where they start, where they are, and gradients."""
        return 3 * self.seeds * self.state_bytes


def plan_stage(
    name: str,
    task: Task,
    tx: optax.GradientTransformation,
    *,
    runs: int,
    seeds: int,
    steps: int,
) -> StagePlan:
    """Estimates a stage from shapes alone; nothing is computed.

    Args:
      name: what is trained.
      task: what is learned.
      tx: the optimiser.
      runs: how many runs follow each other.
      seeds: networks trained together in each.
      steps: steps of each run.

    Returns:
      The plan.

    Raises:
      ValueError: one of the numbers is negative.
    """
    for number, value in {"runs": runs, "seeds": seeds, "steps": steps}.items():
        if value < 0:
            raise ValueError(f"{name}: {number}={value} is negative")
    state = jax.eval_shape(lambda key: init_state(task, tx, key), jax.random.key(0))
    size = sum(math.prod(leaf.shape) * leaf.dtype.itemsize for leaf in jax.tree.leaves(state))
    return StagePlan(name, runs, seeds, steps, size)


def describe_plan(stages: Sequence[StagePlan]) -> str:
    """Tells a person the plan: a line per stage, then steps and memory of the whole."""
    lines = [
        f"{stage.name}: {stage.runs} runs of {stage.steps} steps, {stage.seeds} networks at a "
        f"time, {stage.state_bytes / 2**20:.1f} MiB each"
        for stage in stages
    ]
    steps = sum(stage.total_steps for stage in stages)
    memory = max((stage.memory_bytes for stage in stages), default=0)
    lines.append(
        f"in all {steps} steps; about {memory / 2**20:.0f} MiB for weights and optimiser, beside "
        "data and activations"
    )
    return "\n".join(lines)
