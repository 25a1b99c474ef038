"""What an experiment runs in: its directory, data folder, mesh, progress, and resumable training.

An experiment is a sequence of named stages. A stage that was finished by an earlier process is
read back, one that was begun is continued, so that the same program in the same directory ends
with the same numbers however often it was stopped.
"""

import contextlib
import dataclasses
import pathlib
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from trove_jax.core.checkpoint import Checkpoints, Restored, SaveCheckpoints
from trove_jax.core.errors import NonFiniteLoss
from trove_jax.core.history import History
from trove_jax.core.metrics import LogMetrics, MetricWriter
from trove_jax.core.progress import Progress, ShowProgress
from trove_jax.core.pytrees import from_host, to_host
from trove_jax.core.run_directory import RunDirectory
from trove_jax.core.steps import TrainState, init_state, init_states
from trove_jax.core.task import Data, Task
from trove_jax.core.train import train, train_seeds


@dataclasses.dataclass
class Context:
    """Where and how an experiment runs; without a directory nothing is kept.

    Attributes:
      directory: the run's folder.
      data_dir: the folder of data sets.
      mesh: the devices of every training run.
      progress: where to show progress.
      writer: where to write metrics.
      log_every: steps per line of metrics.
      save_every: steps per checkpoint; the end of a stage is always saved.
      keep_going: whether to go on with the other seeds after a non-finite loss.
      steps_done: steps times seeds taken by this process.
      train_seconds: time that this process spent in training.
    """

    directory: RunDirectory | None = None
    data_dir: pathlib.Path | None = None
    mesh: jax.sharding.Mesh | None = None
    progress: Progress | None = None
    writer: MetricWriter | None = None
    log_every: int = 50
    save_every: int = 500
    keep_going: bool = False
    steps_done: int = 0
    train_seconds: float = 0.0

    def train(
        self,
        stage: str,
        task: Task,
        tx: optax.GradientTransformation,
        data: Data,
        key: jax.Array,
        *,
        steps: int,
        start: TrainState | None = None,
        **options: Any,
    ) -> tuple[TrainState, History]:
        """Runs `core.train` as a stage.

        Args:
          stage: name of the stage, a relative path such as `imp/round_1`; unique in the run.
          task: as `core.train`.
          tx: as `core.train`.
          data: as `core.train`.
          key: as `core.train`.
          steps: as `core.train`.
          start: as `core.train`.
          **options: further arguments of `core.train`.

        Returns:
          As `core.train`; the records are those of the whole stage, and the state is on the
          default device, whether it was trained now or read back.
        """
        return self._stage(stage, train, init_state, task, tx, data, key, steps, start, options)

    def train_seeds(
        self,
        stage: str,
        task: Task,
        tx: optax.GradientTransformation,
        data: Data,
        keys: jax.Array,
        *,
        steps: int,
        start: TrainState | None = None,
        **options: Any,
    ) -> tuple[TrainState, History]:
        """Runs `core.train_seeds` as a stage; arguments as `train`, with one key per seed."""
        return self._stage(
            stage, train_seeds, init_states, task, tx, data, keys, steps, start, options
        )

    def _stage(self, stage, run: Callable, init, task, tx, data, keys, steps, start, options):
        hooks = [*options.pop("hooks", ())]
        before, checkpoints = History.join([]), None
        if self.directory is not None:
            checkpoints = Checkpoints(
                self.directory.checkpoints(stage), identity=self.directory.identity
            )
            like = start or jax.eval_shape(lambda keys: init(task, tx, keys), keys)
            restored = checkpoints.restore(like)
            if restored is not None:
                start, before = jax.tree.map(jnp.asarray, restored.state), restored.history
                self._note_restored(stage, restored)
                if restored.step >= steps:
                    return start, before
        if self.progress is not None:
            hooks.append(ShowProgress(self.progress, stage))
        if self.writer is not None:
            hooks.append(LogMetrics(self.writer, stage, interval=self.log_every, before=before))
        saver = None
        if checkpoints is not None:
            saver = SaveCheckpoints(checkpoints, every=self.save_every, before=before)
            hooks.append(saver)
        began = time.monotonic()
        options.setdefault("mesh", self.mesh)
        options.setdefault("stop_at_nonfinite", not self.keep_going)
        try:
            with contextlib.closing(saver) if saver else contextlib.nullcontext():
                state, history = run(
                    task, tx, data, keys, steps=steps, start=start, hooks=hooks, **options
                )
        except NonFiniteLoss as error:
            raise NonFiniteLoss(f"{stage}: {error}; {_last_good(checkpoints)}") from error
        state = jax.tree.map(jnp.asarray, from_host(to_host(state), state))
        self.train_seconds += time.monotonic() - began
        self.steps_done += history.steps.size * (1 if keys.ndim == 0 else keys.shape[0])
        if self.directory is not None:
            self.directory.note_time()
        return state, History.join([before, history])

    def cost(self) -> dict[str, float]:
        """What training cost this process: steps of all seeds, seconds, and steps per second."""
        return {
            "network_steps": self.steps_done,
            "train_seconds": round(self.train_seconds, 1),
            "network_steps_per_second": round(self.steps_done / max(self.train_seconds, 1e-9), 1),
        }

    def close(self) -> None:
        """Ends the display and flushes the metrics; the directory stays this process's own."""
        for part in (self.progress, self.writer):
            if part is not None:
                part.close()

    def _note_restored(self, stage: str, restored: Restored) -> None:
        if self.writer is not None:
            self.writer.rewind(stage, restored.step)
        if self.progress is not None:
            self.progress.skip(restored.history.steps.size)


def _last_good(checkpoints: Checkpoints | None) -> str:
    steps = checkpoints.steps() if checkpoints else []
    if not checkpoints or not steps:
        return "there is no checkpoint before it"
    return f"the last good checkpoint is of step {steps[-1]} in {checkpoints.directory}"
