"""Joint and two-stage training of a node classifier with a pretext task, for `selftask`."""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from experiments.graphs import _planetoid as planetoid
from trove_jax import core, losses


class Pretext(NamedTuple):
    """A pretext task as an arm trains on it; hashable, so that equal arms share a program.

    Attributes:
      task: name of the task; empty: none.
      weight: lambda, of its loss.
      width: outputs of its head.
      options: further arguments of `losses.pretext_loss`.
    """

    task: str = ""
    weight: float = 0.0
    width: int = 0
    options: tuple[tuple[str, Any], ...] = ()


@functools.lru_cache(maxsize=64)
def joint_task(module: Any, width: int, pretext: Pretext, *, supervised: bool = True) -> core.Task:
    """Cross-entropy of the labelled nodes plus lambda times the loss of a pretext head.

    The head reads the embedding of the same pass, dropout included. The variables at the best
    validation accuracy are kept; without labels (`supervised=False`) nothing is kept, and the last
    ones count.

    Args:
      module: a `models.GNN`.
      width: number of features.
      pretext: the pretext task; `shared["pretext"]` has its targets.
      supervised: whether labels are learned from.
    """

    def init(key):
        plain = planetoid.node_task(module, width, keep_best=False)
        network, head = jax.random.split(key)
        variables = dict(plain.init(network))
        variables["params"] = {
            "model": variables["params"],
            "head": losses.pretext_head(head, module.hidden, max(pretext.width, 1)),
        }
        return variables

    def apply(variables, shared, **options):
        inputs = ({"params": variables["params"]["model"]}, shared["topology"], shared["features"])
        return module.apply(*inputs, method="both", **options)

    def loss(variables, batch, key, step):
        del step
        shared = batch.shared
        drop_key, pretext_key = jax.random.split(key)
        # The input of a task that hides links or features stands beside the whole one.
        seen = {**shared, **shared.get("seen", {})}
        logits, h = apply(variables, seen, train=True, rngs={"dropout": drop_key})
        labels = shared["labels"][shared["train"]]
        label_loss = losses.cross_entropy(logits[shared["train"]], labels)
        records = {"label_loss": label_loss}
        total = label_loss if supervised else jnp.zeros_like(label_loss)
        if pretext.task:
            pretext_loss = losses.pretext_loss(
                pretext.task,
                variables["params"]["head"],
                h,
                shared["pretext"],
                pretext_key,
                **dict(pretext.options),
            )
            records["pretext_loss"] = pretext_loss
            total = total + pretext.weight * pretext_loss
        return total, core.Aux(records)

    def measure(variables, shared, part):
        logits, _ = apply(variables, shared)
        nodes = shared[part]
        return losses.accuracy(logits[nodes], shared["labels"][nodes])

    def validate(variables, batch):
        return -measure(variables, batch.shared, "validation")

    def metrics(variables, data):
        logits, _ = apply(variables, data.shared)
        labels = data.shared["labels"]
        return {
            f"accuracy_{part}": losses.accuracy(
                logits[data.shared[part]], labels[data.shared[part]]
            )
            for part in planetoid.PARTS
        }

    task = core.Task(init, loss, metrics)
    return core.keep_best(task, validate) if supervised else task


def train(
    context: Any,
    stage: str,
    module: Any,
    pretext: Pretext,
    data: core.Data,
    *,
    seeds: int,
    steps: int,
    two_stage: bool = False,
) -> dict[str, np.ndarray]:
    """Trains all seeds of an arm, and measures them at the best validation accuracy.

    Args:
      context: the run's `core.Context`.
      stage: name of the stage.
      module: a `models.GNN`.
      pretext: the pretext task of the arm.
      data: as `_planetoid.NodeSet.data` makes it, with `pretext` (and `seen`) among what is shared.
      seeds: number of seeds, s.
      steps: of each stage of training.
      two_stage: whether the network is trained by the pretext task alone first, and then by the
        labels alone with a fresh optimiser; else by both together.

    Returns:
      `accuracy`, `validation_accuracy` in percent, and the losses at the first step, each `[s]`.
    """
    tx = planetoid.coupled_adam(0.01, 5e-4)
    width = data.shared["features"].shape[1]
    keys, start = core.seed_keys(seeds), None
    first: dict[str, np.ndarray] = {}
    if two_stage:
        begun, history = context.train_seeds(
            f"{stage}/pretrain",
            joint_task(module, width, pretext, supervised=False),
            tx,
            data,
            keys,
            steps=steps,
            batch_size=None,
        )
        first = _first(history)
        pretext = Pretext(width=pretext.width)
        start = core.init_states(joint_task(module, width, pretext), tx, keys)
        start = start._replace(variables={**start.variables, "params": begun.variables["params"]})
    task = joint_task(module, width, pretext)
    state, history = context.train_seeds(
        stage, task, tx, data, keys, steps=steps, start=start, batch_size=None
    )
    found = _measure_seeds(task, core.best_variables(state.variables), data)
    return {
        "accuracy": 100.0 * np.asarray(found["accuracy_test"]),
        "validation_accuracy": 100.0 * np.asarray(found["accuracy_validation"]),
        **(first or _first(history)),
    }


def _first(history) -> dict[str, np.ndarray]:
    names = ("label_loss", "pretext_loss")
    return {f"first_{n}": history.metrics[n][:, 0] for n in names if n in history.metrics}


@functools.partial(jax.jit, static_argnames="task")
def _measure_seeds(task, variables, data):
    return jax.lax.map(lambda one: task.metrics(one, data), variables)
