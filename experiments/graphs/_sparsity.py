"""How many hops are best on a graph with fewer edges or fewer labels?

SGC is trained on a set whose edges or labels are cut, for every number of hops; every seed draws
its own cut, and validation accuracy chooses its number of hops. All rows that are needed are
propagated before, so that training is logistic regression, and one compiled program serves all.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import trove_jax
from experiments.graphs import _planetoid as planetoid
from trove_jax import core

# Adam and dropout as the study trains SGC.
_LEARNING_RATE, _WEIGHT_DECAY, _DROPOUT = 0.1, 5e-4, 0.5


class Settings(NamedTuple):
    """What is cut, and how it is trained.

    Attributes:
      name: of the data set.
      seeds: number of draws, s.
      edge_shares: shares of the edges that stay; 1 is the whole graph.
      labels: numbers of training labels a class.
      hops: numbers of hops to choose from, ascending.
      steps: of training.
    """

    name: str
    seeds: int
    edge_shares: tuple[float, ...]
    labels: tuple[int, ...]
    hops: tuple[int, ...]
    steps: int


class Found(NamedTuple):
    """Arms with `best_hops`, lines of test accuracy `[s, hops]` for figures, and curves."""

    arms: dict[str, dict[str, Any]]
    lines: dict[str, dict[str, np.ndarray]]
    curves: dict[str, np.ndarray]


def plan(settings: Settings) -> list[core.StagePlan]:
    """The training runs that `run` makes."""
    width, classes = planetoid.SIZES[settings.name]
    task = _task(width, classes)
    return [
        core.plan_stage(stage, task, _tx(), runs=1, seeds=settings.seeds, steps=settings.steps)
        for arm, _, _ in _cuts(settings)
        for stage in (f"{arm}/hops_{hops}" for hops in settings.hops)
    ]


def run(context: Any, settings: Settings, node_set: planetoid.NodeSet) -> Found:
    """Trains on every cut, and chooses the hops of every draw on validation nodes."""
    x = jnp.asarray(planetoid.dense(node_set.features), jnp.float32)
    arms, lines, propagated = {}, {"edges": {}, "labels": {}}, {}
    for arm, share, labels in _cuts(settings):
        if share not in propagated:
            propagated = {share: _propagated(node_set, x, share, settings)}
        found = _train(context, arm, settings, node_set, propagated[share], labels)
        validation = 100.0 * np.stack(found["validation"], axis=1)
        test = 100.0 * np.stack(found["test"], axis=1)
        best = np.argmax(validation, axis=1)  # the fewest hops of those that are best
        arms[arm] = {
            "best_hops": np.asarray(settings.hops, float)[best],
            "accuracy": np.take_along_axis(test, best[:, None], axis=1)[:, 0],
        }
        lines[arm.split("_")[0]][arm] = test
    curves = {f"accuracy_{arm}": test for kind in lines.values() for arm, test in kind.items()}
    return Found(arms, lines, curves)


def _cuts(settings) -> list[tuple[str, float, int]]:
    """Name, share of the edges and labels a class of every cut; cuts of one graph together."""
    most = max(settings.labels)
    edges = [(f"edges_{round(100 * share)}", share, most) for share in settings.edge_shares]
    return [*edges, *((f"labels_{labels}", 1.0, labels) for labels in settings.labels)]


def _propagated(node_set, x, share, settings) -> dict[str, np.ndarray]:
    """Rows of the three parts after each number of hops, `[s or 1, hops, rows, d]`."""
    draws = []
    for seed in range(settings.seeds if share < 1.0 else 1):
        rng = np.random.default_rng([seed, round(1000 * share)])
        kept = rng.permutation(len(node_set.edges))[: round(share * len(node_set.edges))]
        topology = trove_jax.graphs.topology.from_edges(
            node_set.edges[kept], node_set.n_node, **trove_jax.models.DepthGrid.TOPOLOGY
        )
        held, rows = x, []
        for hop in range(1, settings.hops[-1] + 1):
            held = _hop(topology, held)
            if hop in settings.hops:
                rows.append([np.asarray(held[node_set.parts[p]]) for p in planetoid.PARTS])
        draws.append([np.stack(part) for part in zip(*rows, strict=True)])
    return {p: np.stack([draw[i] for draw in draws]) for i, p in enumerate(planetoid.PARTS)}


@jax.jit
def _hop(topology, x):
    return trove_jax.graphs.propagate(topology, x)


def _train(context, arm, settings, node_set, rows, labels) -> dict[str, list[np.ndarray]]:
    width, classes = planetoid.SIZES[settings.name]
    task, tx, keys = _task(width, classes), _tx(), core.seed_keys(settings.seeds)
    chosen = np.stack([_few(node_set, labels, seed) for seed in range(settings.seeds)])
    targets = {part: node_set.labels[node_set.parts[part]] for part in planetoid.PARTS}
    found: dict[str, list[np.ndarray]] = {"validation": [], "test": []}
    start = core.init_states(task, tx, keys)
    # Each lane reads its own draw.
    draw = {"draw": {"index": jnp.arange(settings.seeds, dtype=jnp.int32)}}
    start = start._replace(variables=_with_draw(start.variables, draw))
    for i, hops in enumerate(settings.hops):
        features = {part: rows[part][:, i] for part in planetoid.PARTS}
        features = {
            part: np.broadcast_to(x, (settings.seeds, *x.shape[1:])) for part, x in features.items()
        }
        features["train"] = np.take_along_axis(features["train"], chosen[:, :, None], axis=1)
        shared = {
            **{f"x_{part}": x for part, x in features.items()},
            "y_train": targets["train"][chosen],
            "y_validation": targets["validation"],
            "y_test": targets["test"],
        }
        data = core.Data(jnp.zeros((1, 1)), jax.tree.map(jnp.asarray, shared))
        state, _ = context.train_seeds(
            f"{arm}/hops_{hops}",
            task,
            tx,
            data,
            keys,
            steps=settings.steps,
            start=start,
            batch_size=None,
            over_seeds="vmap",
        )
        measured = core.evaluate_seeds(task, core.best_variables(state.variables), data)
        for part, values in found.items():
            values.append(np.asarray(measured[part]))
    return found


def _with_draw(variables, draw):
    best = dict(variables["best"])
    best["variables"] = {**best["variables"], **draw}
    return {**variables, **draw, "best": best}


def _few(node_set, per_class, seed) -> np.ndarray:
    """Places of that many training nodes a class, repeated so that no shape changes."""
    labels = node_set.labels[node_set.parts["train"]]
    rng = np.random.default_rng([seed, per_class])
    places = np.concatenate(
        [rng.permutation(np.flatnonzero(labels == c))[:per_class] for c in range(node_set.classes)]
    )
    if labels.size % places.size:
        raise core.UsageError(
            f"labels={per_class} makes {places.size} training nodes, which do not divide the "
            f"{labels.size} of {node_set.name}"
        )
    return np.tile(places, labels.size // places.size)


def _tx():
    return planetoid.coupled_adam(_LEARNING_RATE, _WEIGHT_DECAY)


_TASKS: dict[tuple[int, int], core.Task] = {}


def _task(width: int, classes: int) -> core.Task:
    """Logistic regression on the rows of a lane's draw; equal sizes, one task."""
    if (width, classes) not in _TASKS:
        _TASKS[width, classes] = _new_task(width, classes)
    return _TASKS[width, classes]


def _new_task(width, classes) -> core.Task:
    module = trove_jax.models.DGMLP(classes=classes, dropout=_DROPOUT)

    def logits(variables, shared, part, **options):
        rows = shared[f"x_{part}"][variables["draw"]["index"]]
        return module.apply({"params": variables["params"]}, None, rows, **options)

    def init(key):
        return {**module.init(key, None, jnp.zeros((1, width))), "draw": {"index": jnp.int32(0)}}

    def loss(variables, batch, key, step):
        del step
        shared = batch.shared
        found = logits(variables, shared, "train", train=True, rngs={"dropout": key})
        labels = shared["y_train"][variables["draw"]["index"]]
        return trove_jax.losses.cross_entropy(found, labels), core.Aux()

    def metrics(variables, data):
        accuracy, shared = trove_jax.losses.accuracy, data.shared
        return {
            part: accuracy(logits(variables, shared, part), shared[f"y_{part}"])
            for part in ("validation", "test")
        }

    def validate(variables, batch):
        found = logits(variables, batch.shared, "validation")
        return -trove_jax.losses.accuracy(found, batch.shared["y_validation"])

    return core.keep_best(core.Task(init, loss, metrics), validate)
