"""Trains the regression problem as one of many processes; a program of its own.

    python -m tests.core.in_processes PORT PROCESSES PROCESS FOLDER MESH STEPS resident|stream

The last line of process 0 is JSON: where it began, the losses of its records, and how many rows
each process has read of a stream.
"""

import json
import sys

import jax
import numpy as np
import optax

from tests.core.problems import TASK, make_data
from trove_jax import core

TX = optax.adam(1e-2)
SEEDS, BATCH = 2, 10


class Rows:
    """A stream of examples that counts what is read of it."""

    def __init__(self, examples):
        self._examples = jax.tree.map(np.asarray, examples)
        self.read = 0

    def __len__(self):
        return len(self._examples["x"])

    def __getitem__(self, rows):
        self.read += len(rows)
        return jax.tree.map(lambda leaf: leaf[rows], self._examples)


def train(folder, *, mesh, steps, stream=False):
    """Trains both seeds as a stage of the run in `folder`, from where the stage was left."""
    data = make_data()
    if stream:
        data = data._replace(examples=Rows(data.examples))
    directory = core.RunDirectory(folder, {"run": 1})
    context = core.Context(directory=directory, mesh=mesh, save_every=10)
    state, history = context.train_seeds(
        "part", TASK, TX, data, core.seed_keys(SEEDS), steps=steps, batch_size=BATCH
    )
    context.close()
    directory.close()
    return state, history, data.examples


def main(port, processes, process, folder, mesh, steps, kind):
    """One process of the run."""
    jax.distributed.initialize(f"localhost:{port}", int(processes), int(process))
    from jax.experimental import multihost_utils

    _, history, examples = train(
        folder,
        mesh=core.make_mesh(core.parse_mesh(mesh)),
        steps=int(steps),
        stream=kind == "stream",
    )
    read = multihost_utils.process_allgather(np.int32(getattr(examples, "read", 0)))
    if core.is_speaker():
        print(json.dumps({"loss": history.metrics["loss"].tolist(), "read": read.tolist()}))


if __name__ == "__main__":
    main(*sys.argv[1:])
