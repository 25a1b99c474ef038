"""What is trained on what: the types that let models, losses and data meet."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax

PyTree = Any
Variables = Mapping[str, PyTree]


class Data(NamedTuple):
    """A data set as the training loop sees it.

    Attributes:
      examples: pytree sampled along the first axis of every leaf, `[n, ...]`; or an object with
        `__len__` and `__getitem__(indices) -> pytree` that reads batches from the host.
      shared: pytree that goes whole to every step (a topology, a feature matrix, a guide's
        variables). It is an argument of the compiled step, never a constant in it.
    """

    examples: PyTree
    shared: PyTree = ()


class Batch(NamedTuple):
    """What one step sees: `examples` with leading axis `b`, and all of `shared`."""

    examples: PyTree
    shared: PyTree = ()


class Aux(NamedTuple):
    """What a loss returns beside its scalar.

    Attributes:
      metrics: scalars to record, by name.
      updates: new values of variable collections other than `params`, such as `batch_stats`.
    """

    metrics: dict[str, jax.Array] = {}  # noqa: RUF012 - an empty default that is never written to
    updates: dict[str, PyTree] = {}  # noqa: RUF012


@dataclasses.dataclass(frozen=True)
class Task:
    """A learning problem as pure functions.

    Attributes:
      init: `key -> variables`. `variables["params"]` is what the optimiser sees; other
        collections are carried along and replaced by `Aux.updates`.
      loss: `(variables, batch, key, step) -> (scalar, Aux)`. One scalar serves every training
        rule; parts that must not meet are separated by `stop_gradient` inside the sum.
      metrics: `(variables, data) -> {name: scalar}`, a measurement on whole data.
    """

    init: Callable[[jax.Array], Variables]
    loss: Callable[[Variables, Batch, jax.Array, jax.Array], tuple[jax.Array, Aux]]
    metrics: Callable[[Variables, Data], dict[str, jax.Array]]
