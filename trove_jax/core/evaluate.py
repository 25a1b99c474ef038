"""Measuring trained networks with their task's own metrics."""

import functools

import jax
import numpy as np

from trove_jax.core.batches import is_stream
from trove_jax.core.task import Data, Task, Variables


def evaluate(
    task: Task, variables: Variables, data: Data, *, batch_size: int = 500
) -> dict[str, jax.Array]:
    """Measures one network on whole data, in one compiled program per task.

    Args:
      task: its `metrics` are computed.
      variables: of one network.
      data: what it is measured on.
      batch_size: examples read at a time from a stream; its metrics are then means over examples.

    Returns:
      Scalars by name.
    """
    return _over_data(_evaluate, task, variables, data, batch_size)


def evaluate_seeds(
    task: Task, variables: Variables, data: Data, *, batch_size: int = 500
) -> dict[str, jax.Array]:
    """Measures one network per seed, one after the other.

    Args:
      task: its `metrics` are computed.
      variables: with a leading seed axis.
      data: what all are measured on.
      batch_size: as `evaluate`.

    Returns:
      Arrays `[s]` by name.
    """
    return _over_data(_evaluate_seeds, task, variables, data, batch_size)


@functools.partial(jax.jit, static_argnames="task")
def _evaluate(task, variables, data):
    return task.metrics(variables, data)


@functools.partial(jax.jit, static_argnames="task")
def _evaluate_seeds(task, variables, data):
    return jax.lax.map(lambda one: task.metrics(one, data), variables)


def _over_data(measure, task, variables, data, batch_size):
    if not is_stream(data.examples):
        return measure(task, variables, data)
    size, total = len(data.examples), None
    for first in range(0, size, batch_size):
        indices = np.arange(first, min(first + batch_size, size))
        part = measure(task, variables, data._replace(examples=data.examples[indices]))
        part = jax.tree.map(lambda value, n=indices.size: value * (n / size), part)
        total = part if total is None else jax.tree.map(lambda a, b: a + b, total, part)
    if total is None:
        raise ValueError("data.examples is an empty stream")
    return total
