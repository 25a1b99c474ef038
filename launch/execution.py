"""A run in its folder: where it logs and saves, and the record it leaves.

`launch.run` does it once, `launch.sweep` many times. Of many processes the first alone writes.
"""

import contextlib
import dataclasses
import datetime
import logging
import pathlib
import sys
from collections.abc import Iterator, Mapping
from typing import Any

import ml_collections

from launch.program import lay_mesh
from trove_jax import core, evidence
from trove_jax.core.errors import Interrupted


@dataclasses.dataclass(frozen=True)
class Settings:
    """How runs are made, whatever they are.

    Attributes:
      data_dir: folder of data sets.
      axes: sizes of the mesh's axes; None: what suits the number of seeds.
      keep_going: whether to go on with the other seeds after a loss that is not finite.
      save_every: steps between two checkpoints.
      log_every: steps per line of metrics.
    """

    data_dir: pathlib.Path | None = None
    axes: Mapping[str, int] | None = None
    keep_going: bool = False
    save_every: int = 500
    log_every: int = 50


@dataclasses.dataclass(frozen=True)
class Run:
    """What is run: enough to run it again.

    Attributes:
      experiment: the module.
      name: of the experiment.
      preset: of the configuration.
      config: the configuration.
      command: the line that runs it again.
    """

    experiment: Any
    name: str
    preset: str
    config: ml_collections.ConfigDict
    command: str

    @property
    def identity(self) -> dict[str, Any]:
        """What its folder must hold."""
        return {
            "experiment": self.name,
            "preset": self.preset,
            "config": self.config.to_dict(),
        }


@contextlib.contextmanager
def working_in(
    directory: core.RunDirectory, *, steps: int, seeds: int, settings: Settings
) -> Iterator[core.Context]:
    """A context that logs to a run's folder, shows progress, and says where it was stopped.

    Args:
      directory: of the run.
      steps: of the whole run, for the time left.
      seeds: networks that are trained together.
      settings: how it is made.
    """
    speaks = core.is_speaker()
    with _logging_to(directory) if speaks else contextlib.nullcontext():
        context = core.Context(
            directory=directory,
            data_dir=settings.data_dir,
            mesh=lay_mesh(settings.axes, seeds),
            progress=core.Progress(total=steps) if speaks else None,
            writer=core.MetricWriter(directory.path) if speaks else None,
            save_every=settings.save_every,
            log_every=settings.log_every,
            keep_going=settings.keep_going,
        )
        try:
            yield context
        except Interrupted as stop:
            raise Interrupted(
                f"{stop}, saved in {directory.path}; the same command continues"
            ) from stop
        finally:
            context.close()


class _LogFile(logging.FileHandler):
    """A log that does not stop a run, or fill the screen, where the disk has no room for it."""

    def handleError(self, record: logging.LogRecord) -> None:
        """Forgets a line that cannot be written."""


@contextlib.contextmanager
def _logging_to(directory: core.RunDirectory) -> Iterator[None]:
    """Sends what the library logs to the run's folder, and its warnings to the person as well."""
    path = directory.path / "log.txt"
    with core.writing(path):
        log = _LogFile(path)
    log.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    to_person = logging.StreamHandler(sys.stderr)
    to_person.setLevel(logging.WARNING)
    ours = logging.getLogger("trove_jax")
    level = ours.level
    ours.setLevel(logging.INFO)
    for handler in (log, to_person):
        ours.addHandler(handler)
    try:
        yield
    finally:
        for handler in (log, to_person):
            ours.removeHandler(handler)
            with contextlib.suppress(OSError):
                handler.close()
        ours.setLevel(level)


def publish(
    run: Run,
    directory: core.RunDirectory,
    found: evidence.Evidence,
    *,
    context: core.Context,
    started: datetime.datetime,
    duration_s: float,
    cost: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Writes figures, report and, last, the record of a finished run.

    Args:
      run: what was run.
      directory: its folder.
      found: what the experiment returned.
      context: what it was trained in.
      started: when.
      duration_s: seconds of wall clock.
      cost: what else it took; default: all that was trained in the context.

    Returns:
      The record.

    Raises:
      TroveError: the disk is full or refuses; what was trained is saved.
    """
    assert context.mesh is not None
    devices = context.mesh.devices.ravel()
    record = evidence.build_record(
        found,
        system=run.experiment.SYSTEM,
        claims=run.experiment.CLAIMS,
        experiment=run.name,
        preset=run.preset,
        seeds=list(range(run.config.seeds)),
        started=started,
        duration_s=duration_s,
        environment=evidence.environment(devices=f"{devices.size} x {devices[0].device_kind}"),
        config=run.config.to_dict(),
        command=run.command,
        cost=context.cost() if cost is None else cost,
    )
    with core.writing(f"the report to {directory.path}"):
        evidence.publish(record, directory.path, figures=found.figures)
    return record
