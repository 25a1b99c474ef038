"""Running the programs of a sweep: skip what is finished, go on after what fails, report all.

<workdir>/points/NAME/       the run of a point, as launch.run leaves it
          .programs/DIGEST/  checkpoints and log of points that train together
          report.html  sweep.json
"""

import contextlib
import dataclasses
import datetime
import json
import pathlib
import shlex
import sys
import traceback
from collections.abc import Sequence
from typing import Any

import jax

from launch.execution import Run, Settings, publish, working_in
from launch.points import Point, Program, traced_keys
from trove_jax import core, evidence
from trove_jax.core.errors import Interrupted, RunMismatch
from trove_jax.core.pytrees import json_digest
from trove_jax.core.stopping import stop_requested
from trove_jax.evidence.sweep_page import SweepPoint, render_sweep, sweep_summary

# A compiled program keeps mappings of memory, of which Linux grants a process 65,530.
_PROGRAMS_KEPT = 16
_APART = "apart.txt"
_FAILURE = "failure.txt"


@dataclasses.dataclass(frozen=True)
class Sweep:
    """A sweep in its folder.

    Attributes:
      experiment: the module.
      name: of the experiment.
      preset: of the configuration that is varied.
      programs: what is run, in order.
      workdir: its folder.
      settings: how every run is made.
      command: the line that continues it.
      options: flags of `command` that also belong to the run of a single point.
    """

    experiment: Any
    name: str
    preset: str
    programs: Sequence[Program]
    workdir: pathlib.Path
    settings: Settings
    command: str = ""
    options: Sequence[str] = ()

    @property
    def points(self) -> list[Point]:
        """All points, in the order in which they were asked for."""
        points = (point for program in self.programs for point in program.points)
        return sorted(points, key=lambda point: point.number)

    def folder(self, point: Point) -> pathlib.Path:
        """Where a point's run lies."""
        return self.workdir / "points" / point.name

    def run(self, point: Point) -> Run:
        """The run of a point, as launch.run makes it."""
        command = [
            *("python", "-m", "launch.run", f"--experiment={self.name}", f"--preset={self.preset}"),
            *self.options,
            *(f"--config.{key}={value}" for key, value in point.values.items()),
            f"--workdir={self.folder(point)}",
        ]
        return Run(self.experiment, self.name, self.preset, point.config, shlex.join(command))

    def is_finished(self, point: Point) -> bool:
        """Whether a point's record is written."""
        return (self.folder(point) / "evidence.json").exists()


def run_programs(sweep: Sweep, programs: Sequence[Program]) -> dict[str, BaseException]:
    """Runs programs one after the other; what is finished is skipped.

    Args:
      sweep: the sweep.
      programs: some or all of `sweep.programs`.

    Returns:
      What ended the points that failed, by name; the others went on.

    Raises:
      Interrupted: a signal asked to stop; what was done is saved.
    """
    failures: dict[str, BaseException] = {}
    for i, program in enumerate(programs):
        waiting = [point for point in program.points if not sweep.is_finished(point)]
        for point in program.points:
            if point not in waiting:
                _say(f"{point.label}: finished before")
        if not waiting:
            continue
        if i and i % _PROGRAMS_KEPT == 0:
            jax.clear_caches()
        failures |= _run_program(sweep, program, waiting)
    return failures


def write_report(sweep: Sweep, failures: dict[str, BaseException]) -> pathlib.Path:
    """Writes sweep.json and report.html from what the points' folders hold now.

    Args:
      sweep: the sweep.
      failures: from `run_programs`; failures of earlier processes are read from the folders.

    Returns:
      The page.
    """
    together = {point.name: len(p.points) for p in sweep.programs for point in p.points}
    points = [
        _read_point(sweep, point, failures.get(point.name), together[point.name])
        for point in sweep.points
    ]
    summary = sweep_summary(
        points,
        experiment=sweep.name,
        preset=sweep.preset,
        command=sweep.command,
        traced=traced_keys(sweep.experiment),
        programs=len(sweep.programs),
    )
    report = sweep.workdir / "report.html"
    text = json.dumps(summary, indent=1, ensure_ascii=False, allow_nan=False)
    with core.writing(f"the report to {sweep.workdir}"):
        core.write_durably(sweep.workdir / "sweep.json", f"{text}\n".encode())
        core.write_durably(report, render_sweep(summary).encode())
    return report


def _run_program(
    sweep: Sweep, program: Program, waiting: Sequence[Point]
) -> dict[str, BaseException]:
    # A program that was begun with all its points is continued with all of them: it may be done
    # with training. One whose grid has grown since trains the new points alone.
    points = program.points if _folder(sweep, program.points).exists() else waiting
    if len(points) > 1 and not (_folder(sweep, points) / _APART).exists():
        _say(f"{len(points)} points in one program: {'; '.join(p.label for p in points)}")
        try:
            _run_together(sweep, points)
            return {}
        except Interrupted:
            raise
        except RunMismatch as error:
            return {point.name: _failed(sweep, point, error) for point in waiting}
        except Exception as error:
            # One point whose loss is not finite, or too little memory for all at once.
            _say(f"together they failed: {_reason(error)}; now one by one")
            with contextlib.suppress(OSError):
                (_folder(sweep, points) / _APART).write_text(f"{_reason(error)}\n")
    failures: dict[str, BaseException] = {}
    for point in waiting:
        _say(point.label)
        try:
            _run_alone(sweep, point)
        except Interrupted:
            raise
        except Exception as error:
            failures[point.name] = _failed(sweep, point, error)
    return failures


def _run_alone(sweep: Sweep, point: Point) -> None:
    _check_stop()
    run = sweep.run(point)
    directory = core.RunDirectory(sweep.folder(point), run.identity)
    with contextlib.closing(directory):
        started = datetime.datetime.now(datetime.UTC)
        steps = _total_steps(sweep, point)
        with working_in(
            directory, steps=steps, seeds=point.config.seeds, settings=sweep.settings
        ) as context:
            found = sweep.experiment.run(point.config, context)
        publish(
            run,
            directory,
            found,
            context=context,
            started=started,
            duration_s=directory.seconds,
        )
        (directory.path / _FAILURE).unlink(missing_ok=True)


def _run_together(sweep: Sweep, points: Sequence[Point]) -> None:
    _check_stop()
    directory = core.RunDirectory(_folder(sweep, points), _identity(sweep, points))
    with contextlib.closing(directory):
        started = datetime.datetime.now(datetime.UTC)
        steps = _total_steps(sweep, points[0])
        lanes = len(points) * points[0].config.seeds
        with working_in(directory, steps=steps, seeds=lanes, settings=sweep.settings) as context:
            found = sweep.experiment.run_points([point.config for point in points], context)
        n, seconds, cost = len(points), directory.seconds, context.cost()
        for point, own in zip(points, found, strict=True):
            run = sweep.run(point)
            place = core.RunDirectory(sweep.folder(point), run.identity)
            with contextlib.closing(place):
                if place.finished:
                    continue
                note = f"Trained in one program with {n - 1} other points of a sweep."
                publish(
                    run,
                    place,
                    dataclasses.replace(own, notes=[*own.notes, note]),
                    context=context,
                    started=started,
                    duration_s=seconds / n,
                    cost={
                        "network_steps": cost["network_steps"] / n,
                        "train_seconds": round(cost["train_seconds"] / n, 1),
                        "points_together": n,
                    },
                )
                (place.path / _FAILURE).unlink(missing_ok=True)


def _total_steps(sweep: Sweep, point: Point) -> int:
    return sum(stage.total_steps for stage in sweep.experiment.plan(point.config))


def _identity(sweep: Sweep, points: Sequence[Point]) -> dict[str, Any]:
    return {
        "experiment": sweep.name,
        "preset": sweep.preset,
        "points": [point.config.to_dict() for point in points],
    }


def _folder(sweep: Sweep, points: Sequence[Point]) -> pathlib.Path:
    return sweep.workdir / ".programs" / json_digest(_identity(sweep, points))[:16]


def _check_stop() -> None:
    if stop_requested():
        raise Interrupted("stopped between two points; the same command continues")


def _failed(sweep: Sweep, point: Point, error: Exception) -> Exception:
    """Says that a point failed, and leaves the reason in its folder for whoever reports."""
    reason = _reason(error)
    _say(f"{point.label}: failed: {reason}")
    if not isinstance(error, RunMismatch):  # then the folder is another run's
        story = (
            "" if isinstance(error, core.TroveError) else "".join(traceback.format_exception(error))
        )
        with contextlib.suppress(OSError):
            sweep.folder(point).mkdir(parents=True, exist_ok=True)
            (sweep.folder(point) / _FAILURE).write_text(f"{reason}\n{story}")
    return error


def _reason(error: BaseException) -> str:
    first = next(iter(str(error).splitlines()), "")
    return first if isinstance(error, core.TroveError) else f"{type(error).__name__}: {first}"


def _read_point(
    sweep: Sweep, point: Point, failure: BaseException | None, together: int
) -> SweepPoint:
    folder = sweep.folder(point)
    record, reason = None, _reason(failure) if failure else ""
    try:
        if sweep.is_finished(point):
            record = evidence.read_record(folder / "evidence.json")
        elif not reason and (folder / _FAILURE).exists():
            reason = (folder / _FAILURE).read_text().splitlines()[0]
    except (OSError, ValueError) as error:
        reason = str(error)
    return SweepPoint(
        point.values,
        str(folder.relative_to(sweep.workdir)),
        sweep.run(point).command,
        record,
        reason,
        together,
    )


def _say(text: str) -> None:
    print(text, file=sys.stderr)
