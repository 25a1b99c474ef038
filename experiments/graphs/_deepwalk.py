"""DeepWalk and node2vec as a training run: skip-gram with negative samples on walks of every step.

They differ in the walks alone: node2vec's turn back or go far as p and q say. An epoch is one walk
from every node in random order. Negative samples follow the degree to the power 3/4, and the
learning rate falls to 0 linearly, as in word2vec.
"""

import functools
import time
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

import trove_jax
from trove_jax import core


class DeepWalk(NamedTuple):
    """How embeddings are trained.

    Attributes:
      width: of an embedding, d.
      walks: how many start at each node.
      length: nodes of a walk.
      window: how far a pair of a walk is apart at most.
      samples: negative samples that each walk draws and shares among its nodes.
      batch: walks per step.
      learning_rate: of Adam at the first step.
      p: return parameter of node2vec; DeepWalk has 1.
      q: in-out parameter of node2vec; DeepWalk has 1.
    """

    width: int
    walks: int
    length: int
    window: int
    samples: int
    batch: int
    learning_rate: float
    p: float = 1.0
    q: float = 1.0

    def steps(self, n_node: int) -> int:
        """Steps of a run; the incomplete batch at the end of an epoch is left out."""
        return self.walks * (n_node // self.batch)

    def tx(self, n_node: int) -> optax.GradientTransformation:
        """The optimiser."""
        return _adam(self.learning_rate, self.steps(n_node))

    def plan(self, stage: str, n_node: int, *, seeds: int) -> core.StagePlan:
        """What a stage of it will train."""
        return core.plan_stage(
            stage,
            task_of(self, n_node),
            self.tx(n_node),
            runs=1,
            seeds=seeds,
            steps=self.steps(n_node),
        )


@functools.lru_cache(maxsize=64)
def _adam(learning_rate: float, steps: int) -> optax.GradientTransformation:
    return optax.adam(optax.linear_schedule(learning_rate, 0.0, steps))


@functools.lru_cache(maxsize=64)
def task_of(arm: DeepWalk, n_node: int) -> core.Task:
    """The task of an arm; equal arguments, one task and one program. It measures nothing."""

    def init(key):
        node = jax.random.uniform(key, (n_node, arm.width), minval=-0.5, maxval=0.5)
        return {"params": {"node": node / arm.width, "context": jnp.zeros((n_node, arm.width))}}

    def loss(variables, batch, key, step):
        del step
        params, (topology, chances) = variables["params"], batch.shared
        walk_key, sample_key = jax.random.split(key)
        walks = _walks(arm, topology, walk_key, batch.examples)
        uniform = jax.random.uniform(sample_key, (walks.shape[0], arm.samples))
        drawn = jnp.searchsorted(chances, uniform)
        value = trove_jax.losses.skip_gram_loss(
            params["node"][walks],
            params["context"][walks],
            params["context"][jnp.minimum(drawn, n_node - 1)],
            window=arm.window,
        )
        return value, core.Aux()

    return core.Task(init, loss, lambda variables, data: {})


def _walks(arm: DeepWalk, topology: Any, key: jax.Array, starts: jax.Array) -> jax.Array:
    if arm.p == arm.q == 1:
        return trove_jax.graphs.random_walks(topology, key, starts, arm.length)
    return trove_jax.graphs.node2vec_walks(topology, key, starts, arm.length, p=arm.p, q=arm.q)


def data_of(topology: Any) -> core.Data:
    """Nodes as examples; the graph and the cumulated chances of negative samples as shared."""
    degree = np.maximum(np.diff(topology.pattern.column_starts), 1) ** 0.75
    chances = np.cumsum(degree / degree.sum()).astype(np.float32)
    shared = jax.tree.map(jnp.asarray, (topology, chances))
    return core.Data(jnp.arange(topology.n_node), shared)


def train(context: Any, stage: str, arm: DeepWalk, topology: Any, keys: jax.Array) -> np.ndarray:
    """Trains all seeds of an arm, and returns their embeddings `[s, n, d]`."""
    n = topology.n_node
    state, _ = context.train_seeds(
        stage,
        task_of(arm, n),
        arm.tx(n),
        data_of(topology),
        keys,
        steps=arm.steps(n),
        batch_size=arm.batch,
    )
    return np.asarray(state.variables["params"]["node"])


class Step:
    """One step of one seed, again and again: `seconds()` times a run by it."""

    def __init__(self, arm: DeepWalk, topology: Any, key: jax.Array, *, timed: int):
        n = topology.n_node
        task, tx, self._key, self._timed = task_of(arm, n), arm.tx(n), key, timed
        data = data_of(topology)
        self._batch = core.Batch(data.examples[: arm.batch], data.shared)
        self._state, self._steps = core.init_state(task, tx, key), arm.steps(n)
        self._step = jax.jit(functools.partial(core.train_step, task, tx))
        self._take()

    def seconds(self) -> float:
        """Seconds of all steps of a run, from the mean of some."""
        began = time.perf_counter()
        for _ in range(self._timed):
            self._take()
        return (time.perf_counter() - began) / self._timed * self._steps

    def _take(self) -> None:
        self._state, metrics = self._step(self._state, self._batch, self._key)
        jax.block_until_ready((self._state, metrics))
