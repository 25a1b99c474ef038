"""Distillation: a network learns from the softened predictions of another one."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from trove_jax.core import Aux, Batch, Data, Task, Variables
from trove_jax.layers import capturing, hidden

_INIT = 13


def distillation_loss(
    logits: jax.Array, teacher: jax.Array, *, temperature: float = 1.0
) -> jax.Array:
    """Divergence of softened predictions from those of a teacher.

    T^2 mean KL(softmax(teacher / T) || softmax(logits / T)); the factor T^2 keeps the size of the
    gradient when T changes.

    Args:
      logits: `[b, k]`; computed in float32 at least.
      teacher: `[b, k]`, without a gradient.
      temperature: T > 0.

    Returns:
      Scalar, at least float32.

    Raises:
      ValueError: the shapes differ, or `temperature` is not positive.

    Example:
      >>> logits = jnp.array([[1.0, 2.0, 0.0]])
      >>> print(distillation_loss(logits, logits + 3.0, temperature=2.0).round(3))
      0.0

    Reference: Hinton et al., Distilling the Knowledge in a Neural Network, 2015 (section 2).
    """
    if logits.ndim != 2 or logits.shape != teacher.shape:
        raise ValueError(
            f"logits {logits.shape} and teacher {teacher.shape} must both be [b, k] of one batch"
        )
    if not temperature > 0:
        raise ValueError(f"temperature={temperature} must be above 0, such as 4.0")
    if logits.dtype.itemsize < 4:
        logits = logits.astype(jnp.float32)
    teacher = jax.lax.stop_gradient(teacher).astype(logits.dtype)
    ours, theirs = (jax.nn.log_softmax(x / temperature) for x in (logits, teacher))
    return temperature**2 * jnp.sum(jnp.exp(theirs) * (theirs - ours), axis=1).mean()


def distilled(
    task: Task,
    teacher: Callable[[Variables, Batch], jax.Array],
    init: Callable[[jax.Array], Variables],
    *,
    weight: float = 0.5,
    temperature: float = 4.0,
    collection: str = "teacher",
) -> Task:
    """Adds distillation from a frozen teacher to the task of a classifier.

    (1 - w) L_task + w T^2 KL(teacher || student). The variables get one collection more, the
    teacher's, which is carried along and never optimised.

    Args:
      task: whose loss applies one Flax module that gives logits `[b, k]`.
      teacher: `(variables, batch) -> logits [b, k]`.
      init: `key -> variables` of a teacher, to be replaced by trained ones.
      weight: w in [0, 1].
      temperature: T > 0.
      collection: name of the teacher's collection.

    Returns:
      A task; its loss adds the metrics `task_loss` and `distillation_loss`.

    Raises:
      ValueError: `weight` is outside [0, 1], `collection` is `params` or taken, or (when the loss
        is called) as `distillation_loss`.

    Reference: Hinton et al., Distilling the Knowledge in a Neural Network, 2015.
    """
    if not 0.0 <= weight <= 1.0:
        raise ValueError(f"weight={weight} is outside [0, 1]")
    if collection == "params":
        raise ValueError(
            "collection='params' would hand the teacher to the optimiser; take another name"
        )

    def split(variables: Variables) -> tuple[Variables, Any]:
        variables = dict(variables)
        return variables, variables.pop(collection, None)

    def start(key):
        variables = dict(task.init(key))
        if collection in variables:
            raise ValueError(f"collection={collection!r} is taken; name the teacher's differently")
        return {**variables, collection: init(jax.random.fold_in(key, _INIT))}

    def loss(variables, batch: Batch, key, step):
        variables, frozen = split(variables)
        if frozen is None:
            raise ValueError(
                f"variables has no collection {collection!r}; take those of the distilled task's "
                "init"
            )
        # The outermost module has the empty name.
        with capturing("") as outputs:
            value, aux = task.loss(variables, batch, key, step)
        with hidden():
            target = teacher(jax.lax.stop_gradient(frozen), batch)
        extra = distillation_loss(outputs[""], target, temperature=temperature)
        metrics = {"task_loss": value, **aux.metrics, "distillation_loss": extra}
        mixed = (1.0 - weight) * value + weight * extra.astype(value.dtype)
        return mixed, Aux(metrics, aux.updates)

    def metrics(variables, data: Data):
        return task.metrics(split(variables)[0], data)

    return dataclasses.replace(task, init=start, loss=loss, metrics=metrics)
