"""Measuring trained networks with their task's own metrics."""

import functools

import jax

from trove_jax.core.task import Data, Task, Variables


def evaluate(task: Task, variables: Variables, data: Data) -> dict[str, jax.Array]:
    """Measures one network on whole data, in one compiled program per task.

    Args:
      task: its `metrics` are computed.
      variables: of one network.
      data: what it is measured on.

    Returns:
      Scalars by name.
    """
    return _evaluate(task, variables, data)


def evaluate_seeds(task: Task, variables: Variables, data: Data) -> dict[str, jax.Array]:
    """Measures one network per seed, one after the other.

    Args:
      task: its `metrics` are computed.
      variables: with a leading seed axis.
      data: what all are measured on.

    Returns:
      Arrays `[s]` by name.
    """
    return _evaluate_seeds(task, variables, data)


@functools.partial(jax.jit, static_argnames="task")
def _evaluate(task, variables, data):
    return task.metrics(variables, data)


@functools.partial(jax.jit, static_argnames="task")
def _evaluate_seeds(task, variables, data):
    return jax.lax.map(lambda one: task.metrics(one, data), variables)
