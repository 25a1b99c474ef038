"""Node classification on one graph, as the experiments on the citation graphs share it.

A set is loaded with its public split, its features stay sparse, and a network is trained on all of
it at every step, all seeds in one program, with the variables at the best validation value kept
inside the loop. Test labels are read once, at those variables.

`digits` is a graph for quick runs that needs no file: images of handwritten digits as nodes, linked
to their five nearest neighbours.
"""

import functools
from collections.abc import Callable, Mapping
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

import trove_jax
from trove_jax import core

PARTS = ("train", "validation", "test")
Select = Literal["loss", "accuracy"]

# Features and classes, which plans are made of before any file is read.
SIZES = {"cora": (1433, 7), "citeseer": (3703, 6), "pubmed": (500, 3), "digits": (64, 10)}

_DIGITS, _NEIGHBOURS = 400, 5
_STEPS_BETWEEN = 50
_EXAMPLE = np.zeros((1, 1), np.float32)


class NodeSet(NamedTuple):
    """A graph with features, labels and a split.

    Attributes:
      name: of the data set.
      edges: undirected links, `[m, 2]`, each once.
      n_node: number of nodes, n.
      features: `data.SparseFeatures`, as they are trained on.
      labels: `[n]` int32; -1 for a node without one.
      classes: number of classes, k.
      parts: indices of the nodes of each part, by name.
      provenance: what the record of a run says about the data.
    """

    name: str
    edges: np.ndarray
    n_node: int
    features: Any
    labels: np.ndarray
    classes: int
    parts: Mapping[str, np.ndarray]
    provenance: dict[str, Any]

    def topology(self, **options: Any):
        """The graph as `graphs.topology.from_edges` builds it with `options`."""
        return trove_jax.graphs.topology.from_edges(self.edges, self.n_node, **options)

    def data(self, topology: Any, features: Any = None) -> core.Data:
        """What every step sees: the graph, features (default: the set's), labels and parts."""
        if features is None:
            features = trove_jax.layers.sparse_input(self.features)
        shared = {
            "topology": topology,
            "features": features,
            "labels": np.maximum(self.labels, 0),
            **{part: np.asarray(self.parts[part], np.int32) for part in PARTS},
        }
        return core.Data(jnp.asarray(_EXAMPLE), jax.tree.map(jnp.asarray, shared))


def load(name: str, *, data_dir: Any = None, row_normalised: bool = True) -> NodeSet:
    """Loads a set with its public split.

    Args:
      name: `cora`, `citeseer`, `pubmed`, or `digits`.
      data_dir: the folder of data sets.
      row_normalised: whether every node's features are divided by their sum.
    """
    if name == "digits":
        return _digits(row_normalised)
    found = trove_jax.data.load_graph(name, data_dir=data_dir)
    if found.features is None or any(getattr(found, part) is None for part in PARTS):
        raise core.UsageError(f"data={name!r} has no features or no split; use a citation graph")
    return NodeSet(
        name=name,
        edges=found.edges,
        n_node=found.n_node,
        features=found.features.row_normalised() if row_normalised else found.features,
        labels=found.labels,
        classes=found.class_count,
        parts={part: getattr(found, part) for part in PARTS},
        provenance={"name": name, "sha256": found.sha256, "split": "public"},
    )


def _digits(row_normalised: bool) -> NodeSet:
    from sklearn.neighbors import kneighbors_graph

    images = trove_jax.data.load_images("digits")
    pixels = np.asarray(images.train["image"][:_DIGITS], np.float32).reshape(_DIGITS, -1)
    labels = np.asarray(images.train["label"][:_DIGITS], np.int32)
    links = kneighbors_graph(pixels, _NEIGHBOURS).tocoo()
    edges = np.unique(np.sort(np.stack([links.row, links.col], axis=1), axis=1), axis=0)
    order = np.argsort(labels, kind="stable")
    rank = np.empty(_DIGITS, np.int64)
    rank[order] = np.arange(_DIGITS) - np.searchsorted(labels[order], labels[order])
    train = np.flatnonzero(rank < 5)
    rest = np.setdiff1d(np.arange(_DIGITS), train)
    if row_normalised:
        pixels = pixels / pixels.sum(axis=1, keepdims=True)
    rows, columns = np.nonzero(pixels)
    features = trove_jax.data.SparseFeatures(
        starts=np.searchsorted(rows, np.arange(_DIGITS + 1)).astype(np.int32),
        columns=columns.astype(np.int32),
        values=pixels[rows, columns],
        shape=pixels.shape,
    )
    return NodeSet(
        name="digits",
        edges=edges,
        n_node=_DIGITS,
        features=features,
        labels=labels,
        classes=10,
        parts={"train": train, "validation": rest[:100], "test": rest[100:]},
        provenance={
            **images.provenance,
            "split": f"{_DIGITS} training images, 5 a class to train, 100 to validate",
        },
    )


def dense(features: Any) -> np.ndarray:
    """Stored features with their zeros, `[n, d]`."""
    found = np.zeros(features.shape, features.values.dtype)
    found[np.repeat(np.arange(len(found)), np.diff(features.starts)), features.columns] = (
        features.values
    )
    return found


def node_task(
    module: Any,
    width: int,
    *,
    select: Select = "loss",
    rule: Any = None,
    keep_best: bool = True,
    by_rows: bool = False,
    every: int = 1,
) -> core.Task:
    """Classification of the nodes of one graph, with the best variables kept.

    The loss is the cross-entropy of the labelled nodes under dropout. Validation is on what the
    step starts from, without dropout; `select` says whether its cross-entropy or its accuracy
    decides. Metrics are `accuracy_<part>` and `loss_<part>` for train, validation and test.

    Args:
      module: called as `module(topology, features, train=bool)`, gives logits `[n, k]`.
      width: number of features, d.
      select: what the best validation value is of.
      rule: a `core.StoppingRule`; default `core.never()`.
      keep_best: whether validation nodes are looked at and the best variables kept.
      by_rows: whether nodes do not see each other, so that only the rows of a part are computed.
      every: steps between two looks at the validation nodes.
    """
    if select not in ("loss", "accuracy"):
        raise core.UsageError(f'select={select!r} is unknown; use "loss" or "accuracy"')

    def apply(variables, shared, *, key=None, nodes=None):
        train = key is not None
        mutable = [name for name in variables if name != "params"] if train else False
        features = shared["features"] if nodes is None else shared["features"][nodes]
        out = module.apply(
            variables,
            shared["topology"],
            features,
            train=train,
            mutable=mutable,
            rngs={"dropout": key} if train else None,
        )
        return out if train else (out, {})

    def measure(variables, shared, part, key=None):
        """Loss, accuracy and updates of a part; of its rows alone if they do not see each other."""
        nodes = shared[part]
        logits, updates = apply(variables, shared, key=key, nodes=nodes if by_rows else None)
        return *_measure(logits if by_rows else logits[nodes], shared, part), updates

    def init(key):
        # Shapes of variables depend on the number of features, not on the graph.
        topology = trove_jax.graphs.topology.from_edges([[0, 1]], 2, self_loops="add_remaining")
        return module.init(key, topology, jnp.zeros((2, width)))

    def loss(variables, batch, key, step):
        del step
        value, accuracy, updates = measure(variables, batch.shared, "train", key)
        return value, core.Aux({"accuracy": accuracy}, dict(updates))

    def validate(variables, batch):
        value, accuracy, _ = measure(variables, batch.shared, "validation")
        return value if select == "loss" else -accuracy

    def metrics(variables, data):
        found, shared = {}, data.shared
        everywhere = None if by_rows else apply(variables, shared)[0]
        for part in PARTS:
            if everywhere is None:
                value, accuracy, _ = measure(variables, shared, part)
            else:
                value, accuracy = _measure(everywhere[shared[part]], shared, part)
            found[f"loss_{part}"], found[f"accuracy_{part}"] = value, accuracy
        return found

    task = core.Task(init, loss, metrics)
    return core.keep_best(task, validate, rule, every=every) if keep_best else task


def _measure(logits, shared, part):
    labels, losses = shared["labels"][shared[part]], trove_jax.losses
    return losses.cross_entropy(logits, labels), losses.accuracy(logits, labels)


@functools.lru_cache(maxsize=64)
def cached_task(
    module: Any,
    width: int,
    select: Select,
    steps: int,
    window: int,
    by_rows: bool = False,
    every: int = 1,
) -> core.Task:
    """`node_task` with the windowed rule from half of the steps on; equal arguments, one task."""
    # The rule counts looks, of which there is one in `every` steps.
    rule = core.windowed(max(1, window // every), start=steps // 2 // every) if window else None
    return node_task(module, width, select=select, rule=rule, by_rows=by_rows, every=every)


@functools.lru_cache(maxsize=64)
def coupled_adam(
    learning_rate: float, weight_decay: float, decayed: str | None = None
) -> optax.GradientTransformation:
    """Adam on the gradient of the loss plus weight_decay |w|^2 / 2: coupled, not AdamW.

    w are all parameters, or those of the layer that `decayed` names.
    """

    def mask(params):
        return {
            name: jax.tree.map(lambda _, is_it=decayed in (None, name): is_it, layer)
            for name, layer in params.items()
        }

    return optax.chain(optax.add_decayed_weights(weight_decay, mask), optax.adam(learning_rate))


class Arm(NamedTuple):
    """How a network is trained.

    Attributes:
      module: the network.
      learning_rate: of Adam.
      weight_decay: added to the gradient, times the parameters.
      steps: full passes over the graph.
      decayed: the layer whose parameters decay; None for all.
      window: of the stopping rule (see `core.windowed`); 0 trains to the end.
      select: what the best validation value is of.
      by_rows: whether nodes do not see each other (see `node_task`).
      every: steps between two looks at the validation nodes.
    """

    module: Any
    learning_rate: float
    weight_decay: float
    steps: int
    decayed: str | None = None
    window: int = 0
    select: Select = "loss"
    by_rows: bool = False
    every: int = 1

    def task(self, width: int) -> core.Task:
        """The task of the arm on features of that width."""
        return cached_task(
            self.module, width, self.select, self.steps, self.window, self.by_rows, self.every
        )

    @property
    def tx(self) -> optax.GradientTransformation:
        """The optimiser of the arm."""
        return coupled_adam(self.learning_rate, self.weight_decay, self.decayed)

    def ends(self) -> list[int]:
        """The steps at which training may end because every seed has stopped."""
        if not self.window:
            return [self.steps]
        first = self.steps // 2 + 2
        return [*range(first, self.steps, _STEPS_BETWEEN), self.steps]

    def plan(self, stage: str, width: int, *, seeds: int) -> core.StagePlan:
        """What a stage of this arm will train at most."""
        return core.plan_stage(
            stage, self.task(width), self.tx, runs=1, seeds=seeds, steps=self.steps
        )


def train(
    context: Any,
    stage: str,
    arm: Arm,
    data: core.Data,
    *,
    seeds: int,
    measure: Callable[[Any, core.Data], dict[str, jax.Array]] | None = None,
) -> dict[str, np.ndarray]:
    """Trains all seeds of an arm in one program, and measures them at their best variables.

    Args:
      context: the run's `core.Context`.
      stage: name of the stage.
      arm: what is trained, and how.
      data: as `NodeSet.data` makes it.
      seeds: number of seeds, s.
      measure: `(variables of one seed, data) -> {name: array}`, further measurements at the best
        variables.

    Returns:
      `accuracy` on test nodes, `validation_accuracy` and `train_accuracy` in percent, `best_step`,
      and what `measure` gives, each `[s, ...]`.
    """
    task = arm.task(data.shared["features"].shape[1])
    keys, state = core.seed_keys(seeds), None
    for end in arm.ends():
        state, _ = context.train_seeds(
            f"{stage}/{end:05d}", task, arm.tx, data, keys, steps=end, start=state, batch_size=None
        )
        if np.all(core.has_stopped(state.variables)):
            break
    assert state is not None
    found, more = _measure_seeds(task, measure, core.best_variables(state.variables), data)
    return {
        "accuracy": 100.0 * np.asarray(found["accuracy_test"]),
        "validation_accuracy": 100.0 * np.asarray(found["accuracy_validation"]),
        "train_accuracy": 100.0 * np.asarray(found["accuracy_train"]),
        "best_step": np.asarray(core.best_step(state.variables)),
        **jax.tree.map(np.asarray, more),
    }


@functools.partial(jax.jit, static_argnames=("task", "measure"))
def _measure_seeds(task, measure, variables, data):
    """The task's metrics and further measurements of each seed, in one program."""

    def one(variables):
        return task.metrics(variables, data), measure(variables, data) if measure else {}

    return jax.lax.map(one, variables)
