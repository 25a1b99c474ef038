"""The network that several benchmarks train: LeNet-300-100 on MNIST-5k, as the lottery ticket does.

Its settings are those of the experiment's laptop preset.
"""

import functools
import itertools
from typing import Any

import jax
import numpy as np
import optax
from jax.sharding import NamedSharding, PartitionSpec

from experiments.sparsity import lottery_ticket
from trove_jax import core, data, losses, models
from trove_jax.core.batches import BatchOrder, count_examples
from trove_jax.core.steps import Program, run_chunk

SETTINGS: Any = lottery_ticket.get_config("laptop").tickets
SEEDS = 5


@functools.cache
def load() -> data.ImageInputs:
    """The data, read once."""
    return data.load_inputs(SETTINGS.data)


def make_task() -> core.Task:
    """The task; every call makes one that is compiled anew."""
    shape, classes = data.input_shape(SETTINGS.data)
    module = models.MLP((*SETTINGS.features, classes))
    return losses.classification(module, shape, prepare=load().prepare)


def adam() -> optax.GradientTransformation:
    """The optimiser of the experiment."""
    return optax.adam(SETTINGS.learning_rate)


def layer_sizes() -> list[tuple[int, int]]:
    """Inputs and outputs of each layer."""
    shape, classes = data.input_shape(SETTINGS.data)
    widths = (shape.size, *SETTINGS.features, classes)
    return list(itertools.pairwise(widths))


class Steps:
    """The compiled chunk of `core.train_seeds`, called again and again without the shell.

    Args:
      task: what is learned.
      tx: the optimiser.
      steps: length of the chunk.
      seeds: how many networks.
      mesh: devices, as `core.train_seeds`.
      over_seeds: as `core.train_seeds`; what it chooses for this network on a CPU is `map`.
    """

    def __init__(self, task, tx, *, steps, seeds=SEEDS, mesh=None, over_seeds="map"):
        train = load().train
        batch_size = SETTINGS.batch_size
        lanes = seeds + -seeds % (mesh.size if mesh else 1)
        keys = core.seed_keys(lanes)
        size = count_examples(train.examples)
        batches = BatchOrder(keys, size=size, batch_size=batch_size).indices(0, steps)
        state = core.init_states(task, tx, keys)
        if mesh is not None:
            along, everywhere = (NamedSharding(mesh, PartitionSpec(*a)) for a in (["seed"], []))
            per_seed = (state.variables, state.opt_state, batches, keys)
            *per_seed, batches, keys = jax.device_put(per_seed, along)
            step, train = jax.device_put((state.step, train), everywhere)
            state = core.TrainState(step, *per_seed)
        self._program = Program(task, tx, batch_size, steps, over_seeds, mesh)
        self._state, self._inputs, self._steps = state, (train, batches, keys), steps

    def __call__(self) -> None:
        """Takes the steps of one chunk in all networks."""
        train, batches, keys = self._inputs
        stop = np.int32(int(self._state.step) + self._steps)
        self._state, records = run_chunk(self._program, self._state, train, batches, keys, stop)
        jax.block_until_ready((self._state, records))
