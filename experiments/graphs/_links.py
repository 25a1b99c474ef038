"""Link prediction on one graph, as the experiment on topological concentration trains it.

Each seed has a split of its own: messages pass training links, an epoch is one step over all of
them with as many uniform pairs drawn anew, and the variables with the best Hits@K on validation
links are kept. Test links are read once, at those variables.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

import trove_jax
from trove_jax import core

_EXAMPLE = np.zeros((1, 1), np.float32)


class Reweighting(NamedTuple):
    """When and how much edges are re-weighted (see `graphs.reweight_by_agreement`).

    Attributes:
      alpha: what is added, in units of the weight that comes in; 0: never.
      every: steps from one time to the next.
      warm: the step of the first time.
    """

    alpha: float = 0.0
    every: int = 1
    warm: int = 0


class Arm(NamedTuple):
    """How a link predictor is trained.

    Attributes:
      hidden: width of the embedding and of the decoder's hidden layer.
      learning_rate: of Adam; the gradient's norm is clipped to 1.
      hits: K of the Hits@K on validation links that chooses the variables.
      reweighting: of edges.
    """

    hidden: int
    learning_rate: float
    hits: int
    reweighting: Reweighting = Reweighting()

    @property
    def tx(self) -> optax.GradientTransformation:
        """The optimiser of the arm."""
        return _adam(self.learning_rate)


@functools.lru_cache(maxsize=64)
def _adam(learning_rate: float) -> optax.GradientTransformation:
    return optax.chain(optax.clip_by_global_norm(1.0), optax.adam(learning_rate))


def model_of(arm: Arm) -> Any:
    """A one-layer GCN and a perceptron on products of embeddings."""
    models = trove_jax.models
    encoder = models.GNN("gcn", classes=arm.hidden, depth=1, dropout=0.0)
    return models.LinkPredictor(encoder, models.HadamardDecoder(arm.hidden))


def data_of(split: Any, n_node: int, features: Any) -> core.Data:
    """What every step sees of one split: training graph, features, links, and held-out pairs."""
    topology = trove_jax.graphs.topology.from_edges(
        split.train, n_node, self_loops="add_remaining", norm="sym"
    )
    shared = {
        "topology": topology,
        "features": features,
        "train": split.train,
        "validation": split.validation,
        "validation_negatives": split.validation_negatives,
        "test": split.test,
        "test_negatives": split.test_negatives,
    }
    return core.Data(jnp.asarray(_EXAMPLE), jax.tree.map(jnp.asarray, shared))


@functools.lru_cache(maxsize=64)
def task_of(arm: Arm, width: int, n_edge: int) -> core.Task:
    """The task of an arm; equal arguments, one task and one program.

    Variables have a collection `weights` with what is added to the weight of each edge.

    Args:
      arm: what is trained.
      width: number of features, d.
      n_edge: edges of the topology that messages pass, e.
    """
    model, reweighting = model_of(arm), arm.reweighting

    def init(key):
        # Shapes of variables depend on the number of features, not on the graph.
        topology = trove_jax.graphs.topology.from_edges([[0, 1]], 2, self_loops="add_remaining")
        pairs = jnp.zeros((1, 2), jnp.int32)
        variables = model.init(key, topology, jnp.zeros((2, width)), pairs)
        return {**variables, "weights": {"added": jnp.zeros(n_edge)}}

    def loss(variables, batch, key, step):
        shared = batch.shared
        added = variables["weights"]["added"]
        if reweighting.alpha:
            since = step - reweighting.warm
            is_due = (since >= 0) & (since % reweighting.every == 0)
            fresh = functools.partial(_added, model, reweighting.alpha)
            added = jax.lax.cond(is_due, fresh, _kept, variables, shared)
        variables = {**variables, "weights": {"added": added}}
        h = embed(model, variables, shared)
        positive = shared["train"]
        negative = jax.random.randint(key, positive.shape, 0, h.shape[0], positive.dtype)
        scores = [_decode(model, variables, h, pairs) for pairs in (positive, negative)]
        return trove_jax.losses.link_bce(*scores), core.Aux({}, {"weights": {"added": added}})

    def metrics(variables, data):
        shared = data.shared
        h = embed(model, variables, shared)
        found = {}
        for part in ("validation", "test"):
            scores = [
                _decode(model, variables, h, shared[key]) for key in (part, f"{part}_negatives")
            ]
            found[f"hits_{part}"] = core.hits_at_k(*scores, arm.hits)
            found[f"auc_{part}"] = core.auc(*scores)
        return found

    def validate(variables, batch):
        shared = batch.shared
        h = embed(model, variables, shared)
        keys = ("validation", "validation_negatives")
        return -core.hits_at_k(*(_decode(model, variables, h, shared[k]) for k in keys), arm.hits)

    return core.keep_best(core.Task(init, loss, metrics), validate)


def embed(model: Any, variables: Any, shared: Any) -> jax.Array:
    """Embeddings of all nodes under the weights as they stand, `[n, d]`."""
    topology = shared["topology"]
    topology = topology.with_weight(topology.weight + variables["weights"]["added"])
    params = {"params": variables["params"]}
    return model.apply(params, topology, shared["features"], method="embed")


def _decode(model, variables, h, pairs):
    return model.apply({"params": variables["params"]}, h, pairs, method="decode")


def _added(model, alpha, variables, shared):
    """What agreement with the mean neighbour adds to the original weights; without a gradient."""
    topology, variables = shared["topology"], jax.lax.stop_gradient(variables)
    h = embed(model, variables, shared)
    mean = trove_jax.graphs.propagate(topology, h)
    both = jnp.concatenate([mean, h])
    pairs = jnp.stack([topology.receivers, topology.senders + h.shape[0]], axis=1)
    agreement = jax.nn.sigmoid(_decode(model, variables, both, pairs))
    weight = trove_jax.graphs.reweight_by_agreement(topology, agreement, alpha=alpha)
    return weight - topology.weight


def _kept(variables, shared):
    del shared
    return variables["weights"]["added"]


@functools.partial(jax.jit, static_argnames=("arm", "k"))
def rank_nodes(
    arm: Arm, variables: Any, shared: Any, queries: jax.Array, known: Any, k: int
) -> core.NodeRanking:
    """How well each query node's test neighbours are ranked among all nodes.

    Args:
      arm: what was trained.
      variables: of one seed.
      shared: as `data_of` makes it.
      queries: nodes, `[q]`.
      known: bool `[q, n]` pair: test neighbours, and nodes that are left out.
      k: K.
    """
    model = model_of(arm)
    h = embed(model, variables, shared)

    def one(inputs):
        node, targets, excluded = inputs
        pairs = jnp.stack([jnp.full(h.shape[0], node), jnp.arange(h.shape[0])], axis=1)
        scores = _decode(model, variables, h, pairs)
        found = core.node_ranking(scores[None], targets[None], excluded[None], k=k)
        return jax.tree.map(lambda x: x[0], found)

    return jax.lax.map(one, (queries, *known))


def train(
    context: Any, stage: str, arm: Arm, data: core.Data, keys: jax.Array, *, steps: int
) -> tuple[dict[str, float], Any]:
    """Trains one seed on its split.

    Returns:
      Hits@K and AUC on test links at the best variables, in percent, and these variables.
    """
    shared = data.shared
    task = task_of(arm, shared["features"].shape[1], shared["topology"].n_edge)
    state, _ = context.train_seeds(stage, task, arm.tx, data, keys, steps=steps, batch_size=None)
    best = jax.tree.map(lambda x: x[0], core.best_variables(state.variables))
    found = _metrics(task, best, data)
    return {name: 100.0 * float(value) for name, value in found.items()}, best


@functools.partial(jax.jit, static_argnames="task")
def _metrics(task, variables, data):
    return task.metrics(variables, data)
