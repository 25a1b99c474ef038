"""Runs an experiment at many settings, and writes one report.

    python -m launch.sweep --experiment=gradient_noise --preset=laptop \\
        --grid.eta=0.01,0.3 --grid.width=50,100
    python -m launch.sweep --experiment=lottery_ticket --list=points.json --seeds=5 --submit=slurm

All combinations of the grid's values are run, for each entry of the list ([{"KEY": VALUE}, ...]).
Numbers that an experiment names in TRACED are arguments of its compiled programs: points that
differ in them alone are trained together, by one. Each point is a run in its own folder, as
launch.run leaves it; what is finished is skipped, so that the same command continues a sweep, and
a command with a larger grid adds to it. A point that fails is reported, and the others go on.

--dry_run says which programs there would be. --submit=slurm writes an sbatch array with one task
per program, and submits nothing. The other flags are those of launch.run.
"""

import contextlib
import fcntl
import os
import pathlib
import shlex
import sys

from absl import flags

from launch import run  # noqa: F401 - its flags are ours too
from launch.lookup import load_experiment, nearest
from launch.points import (
    check_points,
    make_points,
    make_programs,
    read_grid,
    read_list,
    traced_keys,
)
from launch.program import keep_compiled, mesh_axes, one_device_per_core, run_program
from launch.slurm import array_script
from trove_jax.core.errors import RunMismatch, TroveError, UsageError
from trove_jax.core.files import writing

_LIST = flags.DEFINE_string("list", None, "JSON file with a list of points.")
_SUBMIT = flags.DEFINE_string("submit", None, "slurm: write a job array instead of running.")
_REPORT_ONLY = flags.DEFINE_bool("report_only", False, "Run nothing; report what is there.")
_TASK = flags.DEFINE_integer("task", None, "Run one program alone (--dry_run numbers them).", 0)

_HOW = ("data_dir", "mesh", "keep_going", "save_every", "log_every")
_WHAT = ("experiment", "preset", "seeds", "list", "workdir")
_SCHEDULERS = ("slurm",)


def main(arguments: list[str]) -> None:
    """Resolves all points, refuses what is wrong with any, and then runs, writes or describes."""
    given = flags.FLAGS
    if given.experiment is None:
        raise UsageError("--experiment=NAME is missing; python -m launch.list shows the names")
    if _SUBMIT.value is not None and _SUBMIT.value not in _SCHEDULERS:
        raise UsageError(
            f"no scheduler is called {_SUBMIT.value!r}{nearest(_SUBMIT.value, _SCHEDULERS)}"
        )
    experiment = load_experiment(given.experiment)
    overrides = [text for text in arguments if text.startswith("--config.")]
    if given.seeds is not None:
        overrides.append(f"--config.seeds={given.seeds}")
    points = make_points(
        experiment,
        given.preset,
        overrides,
        read_grid([text for text in arguments if text.startswith("--grid.")]),
        read_list(_LIST.value) if _LIST.value else (),
    )
    programs = make_programs(experiment, points)
    if _TASK.value is not None and _TASK.value >= len(programs):
        raise UsageError(f"--task={_TASK.value}: there are {len(programs)} programs, from 0")
    lanes = max(p.points[0].config.seeds * len(p.points) for p in programs)
    one_device_per_core(lanes, axes=mesh_axes(given.mesh))
    check_points(experiment, points)
    if given.dry_run:
        _describe(experiment, points, programs)
        return
    again = ["-m", "launch.sweep", *_given(_WHAT), *_given(_HOW), *arguments]
    sweep = _sweep(experiment, programs, overrides, shlex.join(["python", *again]))
    if _SUBMIT.value:
        _submit(sweep, again)
    else:
        _run(sweep)


def _given(names) -> list[str]:
    """The flags of these names that were given, as they are typed."""
    present = [flags.FLAGS[name] for name in names if name in flags.FLAGS]
    return [flag.serialize() for flag in present if flag.present]


def _sweep(experiment, programs, overrides, command):
    from launch.execution import Settings
    from launch.sweep_runs import Sweep

    given = flags.FLAGS
    workdir = given.workdir or f"runs/{given.experiment}-{given.preset}-sweep"
    return Sweep(
        experiment,
        given.experiment,
        given.preset,
        programs,
        pathlib.Path(workdir).absolute(),
        Settings(
            data_dir=pathlib.Path(given.data_dir) if given.data_dir else None,
            axes=mesh_axes(given.mesh),
            keep_going=given.keep_going,
            save_every=given.save_every,
            log_every=given.log_every,
        ),
        command=command,
        options=[*_given(_HOW), *overrides],
    )


def _run(sweep) -> None:
    from launch.sweep_runs import run_programs, write_report
    from trove_jax import core

    keep_compiled()
    chosen = sweep.programs if _TASK.value is None else [sweep.programs[_TASK.value]]
    if _REPORT_ONLY.value:
        chosen = []
    failures: dict[str, BaseException] = {}
    with contextlib.ExitStack() as stack:
        if _TASK.value is None:
            stack.enter_context(_alone_in(sweep.workdir))
        try:
            with core.catch_signals():
                failures = run_programs(sweep, chosen)
        finally:
            # Tasks of an array run beside each other: the page is written by who runs them all.
            if _TASK.value is None:
                print(f"report: {write_report(sweep, failures)}")
    if failures:
        number = sum(len(program.points) for program in chosen)
        first = next(iter(failures.values()))
        error = TroveError(f"{len(failures)} of {number} points failed; the others are finished")
        error.exit_code = getattr(first, "exit_code", TroveError.exit_code)
        raise error


@contextlib.contextmanager
def _alone_in(workdir: pathlib.Path):
    try:
        workdir.mkdir(parents=True, exist_ok=True)
        with (workdir / ".lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            yield
    except BlockingIOError as error:
        raise RunMismatch(f"another sweep is running in {workdir}") from error
    except OSError as error:
        raise TroveError(f"cannot write to {workdir}: {error.strerror}") from error


def _describe(experiment, points, programs) -> None:
    swept = dict.fromkeys(key for point in points for key in point.values)
    traced = [key for key in swept if key in traced_keys(experiment)]
    separate = [key for key in swept if key not in traced]
    print(f"{len(points)} points x {points[0].config.seeds} seeds, {len(programs)} programs")
    print(f"traced, arguments of one program: {', '.join(traced) or 'none'}")
    print(f"separate, a program for each value: {', '.join(separate) or 'none'}")
    for program in programs:
        steps = sum(stage.total_steps for stage in experiment.plan(program.points[0].config))
        print(f"program {program.number}: {len(program.points)} points, {steps} steps")
        for point in program.points:
            print(f"  {point.label}")


def _submit(sweep, again) -> None:
    waiting = [p.number for p in sweep.programs if not all(map(sweep.is_finished, p.points))]
    if not waiting:
        print("all points are finished; the command without --submit writes the report")
        return
    logs, target = sweep.workdir / "slurm", sweep.workdir / "sweep.sbatch"
    with writing(target):
        logs.mkdir(parents=True, exist_ok=True)
        target.write_text(
            array_script(
                [sys.executable, *again],
                tasks=waiting,
                name=f"{sweep.name}-sweep",
                folder=os.getcwd(),
                logs=str(logs),
            )
        )
    print(f"wrote {target}: {len(waiting)} tasks. Submit it, with what your cluster asks for:")
    print(f"  sbatch --time=04:00:00 --gres=gpu:1 {shlex.quote(str(target))}")
    print("Afterwards, or at any time, this gathers the report:")
    print(f"  {sweep.command} --report_only")


if __name__ == "__main__":
    run_program(main, extra=("--config.", "--grid."))
