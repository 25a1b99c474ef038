"""Training of neural common neighbours, as their experiment does it.

Every seed has a split of its own, and all seeds train in one program: what differs between splits
lies along a seed axis, and the number of a seed's split is one of its variables. A step takes a
batch of training links out of the graph, encodes all nodes on what is left, and scores the batch
against as many pairs without a link. After each pass over the links, validation links are ranked;
the variables with the best Hits@K are kept, and test links are read once, at those.
"""

import functools
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

import trove_jax
from trove_jax import core

PARTS = ("validation", "test")
_NORM = "sym"


class Settings(NamedTuple):
    """What is set for one graph, as the published command lines do.

    Attributes:
      input_dropout: of the features.
      dropout: behind the encoder's linear map, or of the table.
      tail_dropout: behind the last hop.
      head_edge_dropout: of the edges that the head sees.
      head_dropout: in the head.
      scale: of completion, and the next three as well (see `layers.CNHead`).
      offset: of completion.
      prior: of completion.
      alpha: of completion.
      encoder_rate: learning rate of the encoder.
      head_rate: learning rate of the head.
      batch: links per step, where batches are not shares of all links.
      two_layers: whether the head's last perceptron has two hidden layers.
    """

    input_dropout: float
    dropout: float
    tail_dropout: float
    head_edge_dropout: float
    head_dropout: float
    scale: float
    offset: float
    prior: float
    alpha: float
    encoder_rate: float
    head_rate: float
    batch: int
    two_layers: bool = False


class Arm(NamedTuple):
    """How a network is trained on one graph.

    Attributes:
      kind: of the head (see `layers.CNHead`).
      settings: of the graph.
      features: width of all layers.
      hits: K of the Hits@K on validation links that chooses the variables.
      epoch: steps in a pass over the training links.
      limit: the largest degree.
      n_node: number of nodes.
      width: number of features; 0: there are none, and a table stands in.
      removal: whether the links of a batch are taken out of the graph.
      implementation: of the sums over common neighbours.
    """

    kind: Any
    settings: Settings
    features: int
    hits: int
    epoch: int
    limit: int
    n_node: int
    width: int
    removal: bool = True
    implementation: Any = None

    @property
    def model(self) -> Any:
        """The network."""
        s, has_table = self.settings, self.width == 0
        encoder = trove_jax.layers.PureGCN(
            self.features,
            linear=not has_table,
            input_dropout=0.0 if has_table else s.input_dropout,
            dropout=s.dropout,
            tail_dropout=s.tail_dropout,
            # One hop has one weight, which only scales; at the published random start it may be 0.
            jump_init=nn.initializers.ones,
        )
        head = trove_jax.layers.CNHead(
            self.kind,
            features=self.features,
            dropout=s.head_dropout,
            edge_dropout=s.head_edge_dropout,
            two_layers=s.two_layers,
            scale=s.scale,
            offset=s.offset,
            prior=s.prior,
            alpha=s.alpha,
            # The limit is the largest degree, which leaves nothing to choose.
            limit=self.limit,
            sample=False,
            implementation=self.implementation,
        )
        return trove_jax.models.NCN(encoder, head, table=self.features if has_table else 0)

    @property
    def tx(self) -> optax.GradientTransformation:
        """The optimiser: Adam with one learning rate for the encoder and one for the head."""
        return _two_rates(self.settings.encoder_rate, self.settings.head_rate)


@functools.lru_cache(maxsize=64)
def _two_rates(encoder: float, head: float) -> optax.GradientTransformation:
    def labels(params):
        return {name: "head" if name == "head" else "encoder" for name in params}

    return optax.multi_transform({"encoder": optax.adam(encoder), "head": optax.adam(head)}, labels)


def data_of(
    edges: Any, n_node: int, features: Any, seeds: int, *, deleted: float = 0.0
) -> core.Data:
    """What every step sees: places of training links as examples, and the splits of all seeds.

    Held-out links and all negatives do not depend on `deleted`, and the links that are deleted are
    among those of a larger share. Deleted links are masked and the others repeated, so that every
    share takes as many steps in the same program.

    Args:
      edges: undirected links, `[m, 2]`.
      n_node: number of nodes.
      features: a `layers.SparseInput`, or None.
      seeds: number of seeds; each has a split of its own.
      deleted: share of the training links that neither graph nor training has.
    """
    graphs, own = trove_jax.graphs, []
    for seed in range(seeds):
        split = trove_jax.data.split_links(edges, n_node, seed=seed)
        count = len(split.train)
        order = np.random.RandomState(seed).permutation(count).astype(np.int32)
        gone, kept = np.split(order, [int(deleted * count)])
        topology = graphs.topology.from_edges(
            split.train, n_node, self_loops="add_remaining", duplicates="error"
        )
        own.append(
            {
                "topology": _without_links(topology, gone),
                "train": split.train,
                "kept": np.resize(kept, count),
                "absent": graphs.non_links(split.train, n_node),
                **{
                    f"{part}{kind}": getattr(split, f"{part}{kind}")
                    for part in PARTS
                    for kind in ("", "_negatives")
                },
            }
        )
    shared = {"own": jax.tree.map(lambda *leaves: np.stack(leaves), *own), "features": features}
    examples = np.arange(len(own[0]["train"]), dtype=np.int32)
    return core.Data(jnp.asarray(examples), jax.tree.map(jnp.asarray, shared))


@jax.jit
def _without_links(topology, index):
    return trove_jax.graphs.remove_links(topology, index)


@functools.lru_cache(maxsize=64)
def task_of(arm: Arm) -> core.Task:
    """The task of an arm; equal arms, one task and one program.

    Variables have the collections `split`, the number of the split and whether links of a batch are
    removed, and `count`, the steps taken.
    """
    model, graphs = arm.model, trove_jax.graphs

    def init(key):
        # Shapes of variables depend on the number of features, or without any on that of nodes.
        nodes = 2 if arm.width else arm.n_node
        topology = graphs.topology.from_edges([[0, 1]], nodes)
        x = jnp.zeros((nodes, arm.width)) if arm.width else None
        first = arm._replace(implementation="dense").model if arm.width else model
        zero = jnp.int32(0)
        variables = first.init(key, topology, x, jnp.zeros((1, 2), jnp.int32))
        split = {"number": zero, "removes": jnp.bool_(True)}
        return {**variables, "split": split, "count": {"steps": zero}}

    def loss(variables, batch, key, step):
        del step
        own = own_split(variables, batch.shared)
        topology, index = own["topology"], own["kept"][batch.examples]
        # The row -1 is no link.
        gone = jnp.where(variables["split"]["removes"], index, -1)
        topology = graphs.remove_links(topology, gone, norm=_NORM)
        negative_key, dropout_key = jax.random.split(key)
        negatives = graphs.draw_non_links(negative_key, own["absent"], len(index))
        pairs = jnp.concatenate([own["train"][index], negatives])
        scores = model.apply(
            {"params": variables["params"]},
            topology,
            batch.shared["features"],
            pairs,
            train=True,
            rngs={"dropout": dropout_key},
        )
        # The published loss is the sum of both kinds, not their mean.
        value = 2.0 * trove_jax.losses.link_bce(*jnp.split(scores, 2))
        return value, core.Aux({}, {"count": {"steps": variables["count"]["steps"] + 1}})

    def rank(variables, shared, parts, measures):
        own = own_split(variables, shared)
        topology = _normalised(own["topology"])
        params = {"params": variables["params"]}
        h = model.apply(params, topology, shared["features"], method="embed")
        names = [f"{part}{kind}" for part in parts for kind in ("", "_negatives")]
        pairs = jnp.concatenate([own[name] for name in names])
        scores = model.apply(params, topology, h, pairs, method="decode")
        found = {}
        for part in parts:
            positive, negative, scores = _taken(scores, own, part)
            for name, measure in measures.items():
                found[f"{name}_{part}"] = measure(positive, negative)
        return found

    def hits(positive, negative):
        return core.hits_at_k(positive, negative, arm.hits)

    def metrics(variables, data):
        return rank(variables, data.shared, ("test",), {"hits": hits, "auc": core.auc})

    def validate(variables, batch):
        def measured():
            return -rank(variables, batch.shared, ("validation",), {"hits": hits})[
                "hits_validation"
            ]

        # Between two passes 1.0 stands for no measurement; every Hits@K is better.
        is_due = variables["count"]["steps"] % arm.epoch == 0
        return jax.lax.cond(is_due, measured, lambda: jnp.float32(1.0))

    return core.keep_best(core.Task(init, loss, metrics), validate)


def own_split(variables: Any, shared: Any) -> Any:
    """The split that a seed's variables name."""
    number = variables["split"]["number"]
    return jax.tree.map(lambda leaf: leaf[number], shared["own"])


def _normalised(topology):
    return topology.with_weight(trove_jax.graphs.topology.normalise(topology, _NORM))


def _taken(scores, own, part):
    """Scores of a part's links and of its negatives, which come first, and the rest."""
    first, second = (own[f"{part}{kind}"].shape[0] for kind in ("", "_negatives"))
    return scores[:first], scores[first : first + second], scores[first + second :]


def train(
    context: Any, stage: str, arm: Arm, data: core.Data, *, seeds: int, steps: int, batch: int
) -> dict[str, np.ndarray]:
    """Trains all seeds of an arm, each on its split.

    Returns:
      `hits` and `auc` on test links at the best variables in percent, and the `step` of these,
      `[s]` each.
    """
    task, keys = task_of(arm._replace(removal=True)), core.seed_keys(seeds)
    state = core.init_states(task, arm.tx, keys)
    split = {
        "number": jnp.arange(seeds, dtype=jnp.int32),
        "removes": jnp.full(seeds, arm.removal),
    }
    state = state._replace(variables={**state.variables, "split": split})
    # Under vmap every step would also pay for the validation that only some need.
    state, _ = context.train_seeds(
        stage,
        task,
        arm.tx,
        data,
        keys,
        steps=steps,
        start=state,
        batch_size=batch,
        over_seeds="map",
    )
    found = _metrics(task, core.best_variables(state.variables), data)
    return {
        "hits": 100.0 * np.asarray(found["hits_test"]),
        "auc": 100.0 * np.asarray(found["auc_test"]),
        "step": np.asarray(core.best_step(state.variables)),
    }


@functools.partial(jax.jit, static_argnames="task")
def _metrics(task, variables, data):
    return jax.lax.map(lambda one: task.metrics(one, data), variables)


def without_training(
    data: core.Data, k: int, names: tuple[str, ...]
) -> tuple[dict[str, Any], np.ndarray]:
    """What needs no training: counts of common neighbours, plain and weighted, as scores.

    Args:
      data: of `data_of`.
      k: K.
      names: of functions of `graphs.heuristics`, `cn` first.

    Returns:
      Hits@K and AUC on test links in percent, by seed, of each function; and the mean number of
      common neighbours of a test link, `[s]`.
    """
    found = jax.tree.map(np.asarray, _heuristics(data.shared["own"], k, names))
    measured = {
        kind: {metric: (100.0 * found[metric][:, i]).tolist() for metric in ("hits", "auc")}
        for i, kind in enumerate(names)
    }
    return measured, found["count"]


@functools.partial(jax.jit, static_argnames=("k", "names"))
def _heuristics(own, k, names):
    def one(own):
        topology, graphs = own["topology"], trove_jax.graphs
        bare = graphs.topology.mask_edges(topology, topology.senders != topology.receivers)
        pairs = jnp.concatenate([own["test"], own["test_negatives"]])
        scores = [getattr(graphs.heuristics, name)(bare, pairs) for name in names]
        scores = jnp.split(jnp.stack(scores), [own["test"].shape[0]], axis=1)
        return {
            "hits": jax.vmap(functools.partial(core.hits_at_k, k=k))(*scores),
            "auc": jax.vmap(core.auc)(*scores),
            "count": scores[0][0].mean(),
        }

    return jax.lax.map(one, own)
