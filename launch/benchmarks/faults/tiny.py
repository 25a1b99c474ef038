"""The run that faults are tried on: three stages of a linear regression, in under a second.

    python -m launch.benchmarks.faults.tiny --workdir=FOLDER

It is made of what every experiment is made of (`core.RunDirectory`, `core.Context`, stages that
are saved and read back, metrics, evidence written last), and small enough to be run hundreds of
times. `tiny_run` is the same within this process.
"""

import hashlib
import json
import os
import pathlib
import time
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from absl import flags

from launch.program import run_program
from trove_jax import core
from trove_jax.core.errors import Interrupted, UsageError
from trove_jax.core.stopping import stop_requested

STEPS = 40
SAVE_EVERY = 5
FIRST_STEPS = 15
LAST_STAGE = "seeds/second"
_TX = optax.adam(1e-2)


def _init(key: jax.Array) -> core.Variables:
    return {
        "params": {"w": jax.random.normal(key, (6, 3)), "b": jnp.zeros(3)},
        "statistics": {"seen": jnp.zeros(())},
    }


def _loss(variables, batch, key, step):
    del step
    x = batch.examples["x"] + 0.1 * jax.random.normal(key, batch.examples["x"].shape)
    found = x @ variables["params"]["w"] + variables["params"]["b"][None]
    seen = variables["statistics"]["seen"] + 1.0
    return jnp.mean((found - batch.examples["y"]) ** 2), core.Aux(
        updates={"statistics": {"seen": seen}}
    )


def _metrics(variables, data):
    found = data.examples["x"] @ variables["params"]["w"] + variables["params"]["b"][None]
    return {"loss": jnp.mean((found - data.examples["y"]) ** 2)}


_TASK = core.Task(_init, _loss, _metrics)


class Pause:
    """A hook that waits at a step until this process is asked to stop, or for so many seconds."""

    def __init__(self, step: int, seconds: float):
        self.every = step
        self._seconds = seconds

    def __call__(self, moment: core.Moment) -> None:
        """Waits."""
        until = time.monotonic() + self._seconds
        while time.monotonic() < until and not stop_requested():
            time.sleep(0.02)


class StopAt:
    """A hook that ends the run at a step as a signal does."""

    def __init__(self, step: int):
        self.every = step

    def __call__(self, moment: core.Moment) -> None:
        """Stops.

        Raises:
          Interrupted: always.
        """
        raise Interrupted(f"stopped at step {moment.step} of {moment.steps}")


def make_data(*, wrong_at: int | None = None) -> core.Data:
    """Examples of the regression, the same in every process.

    Args:
      wrong_at: an example that holds NaN.
    """
    draw = np.random.RandomState(0)
    x = draw.normal(size=(40, 6)).astype(np.float32)
    y = x @ draw.normal(size=(6, 3)).astype(np.float32)
    if wrong_at is not None:
        x[wrong_at, 0] = np.nan
    return core.Data({"x": jnp.asarray(x), "y": jnp.asarray(y)})


def tiny_run(
    workdir: str | os.PathLike,
    *,
    name: str = "tiny",
    data: core.Data | None = None,
    hooks: Sequence[core.Hook] = (),
) -> dict[str, Any]:
    """Runs, or goes on, or reads what a finished run found.

    Args:
      workdir: folder of the run.
      name: part of the configuration.
      data: what is learned from.
      hooks: more hooks of the last stage.

    Returns:
      The arms: losses of every network, and a digest of all that training left behind.

    Raises:
      TroveError: as experiments do.
    """
    directory = core.RunDirectory(workdir, {"experiment": "tiny", "config": {"name": name}})
    try:
        if directory.finished:
            return json.loads(directory.evidence.read_text())["arms"]
        context = core.Context(
            directory=directory,
            writer=core.MetricWriter(directory.path, tensorboard=False),
            log_every=SAVE_EVERY,
            save_every=SAVE_EVERY,
        )
        try:
            arms = _stages(context, data or make_data(), hooks)
        finally:
            context.close()
        core.write_durably(directory.evidence, json.dumps({"arms": arms}).encode())
        return arms
    finally:
        directory.close()


def train_briefly(context: core.Context, data: core.Data) -> None:
    """One stage alone, from other data."""
    context.train("alone", _TASK, _TX, data, core.seed_keys(1)[0], steps=10, batch_size=8)


def _stages(context, data, hooks):
    keys = core.seed_keys(2)
    options = {"batch_size": 8, "over_seeds": "vmap"}
    one, _ = context.train("one", _TASK, _TX, data, keys[0], steps=FIRST_STEPS, batch_size=8)
    first, _ = context.train_seeds(
        "seeds/first", _TASK, _TX, data, keys, steps=FIRST_STEPS, **options
    )
    second, history = context.train_seeds(
        LAST_STAGE, _TASK, _TX, data, keys, start=first, steps=STEPS, hooks=hooks, **options
    )
    left = [np.asarray(leaf).tobytes() for leaf in jax.tree.leaves((one, first, second))]
    losses = core.evaluate_seeds(_TASK, second.variables, data)["loss"]
    return {
        "one": [float(core.evaluate(_TASK, one.variables, data)["loss"])],
        "seeds": losses.tolist(),
        "records": core.array_digest(history.metrics["loss"]),
        "states": hashlib.sha256(b"".join(left)).hexdigest(),
    }


def main(_: list[str]) -> None:
    """Runs in the folder that the command line names."""
    given = flags.FLAGS
    if given.workdir is None:
        raise UsageError("--workdir=FOLDER is missing")
    hooks = [Pause(FIRST_STEPS + 2 * SAVE_EVERY, given.hold)] if given.hold else []
    workdir = pathlib.Path(given.workdir)
    try:
        with core.catch_signals():
            arms = tiny_run(workdir, hooks=hooks)
    except Interrupted as stop:
        raise Interrupted(f"{stop}, saved in {workdir}; the same command continues") from stop
    print(json.dumps(arms))


if __name__ == "__main__":
    # Here, since launch.run has a flag of that name and faults are imported beside it.
    flags.DEFINE_string("workdir", None, "Folder of the run.")
    flags.DEFINE_float("hold", 0.0, "Seconds to wait in the last stage, for a signal to come.")
    run_program(main)
