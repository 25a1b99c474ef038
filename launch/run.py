"""Runs an experiment and writes a report with its verdicts.

    python -m launch.run --experiment=lottery_ticket --preset=laptop
    python -m launch.run --experiment=lottery_ticket --preset=smoke --seeds=3 --config.rounds=2

Ctrl-C stops after a save; the same command continues. In a directory that is finished it shows
the verdicts. --mesh=seed:2,data:4 lays seeds and the examples of a batch over devices.
"""

import datetime
import json
import pathlib
import sys

from absl import flags

from launch.lookup import blame_overrides, load_experiment, resolve_config
from launch.program import (
    command_line,
    keep_compiled,
    mesh_axes,
    one_device_per_core,
    run_program,
)
from trove_jax.core.errors import TroveError, UsageError

_EXPERIMENT = flags.DEFINE_string("experiment", None, "Name of the experiment (see launch.list).")
_PRESET = flags.DEFINE_string("preset", "laptop", "smoke, laptop or paper.")
_SEEDS = flags.DEFINE_integer("seeds", None, "How many seeds (default: the preset's).", 1)
_WORKDIR = flags.DEFINE_string(
    "workdir", None, "Folder of the run (default: runs/EXPERIMENT-PRESET)."
)
_DATA_DIR = flags.DEFINE_string("data_dir", None, "Folder of data sets (default: TROVE_DATA_DIR).")
_MESH = flags.DEFINE_string(
    "mesh", None, "Axes and sizes, such as seed:2,data:4,model:1 (default: devices for seeds)."
)
_DRY_RUN = flags.DEFINE_bool("dry_run", False, "Print what would be done, and do nothing.")
_KEEP_GOING = flags.DEFINE_bool(
    "keep_going", False, "Go on with the other seeds after a loss that is NaN or infinite."
)
_SAVE_EVERY = flags.DEFINE_integer("save_every", 500, "Steps between two checkpoints.", 1)
_LOG_EVERY = flags.DEFINE_integer("log_every", 50, "Steps per line of metrics.", 1)


def main(overrides: list[str]) -> None:
    """Resolves what is asked for, and runs it, continues it or shows it."""
    if _EXPERIMENT.value is None:
        raise UsageError("--experiment=NAME is missing; python -m launch.list shows the names")
    experiment = load_experiment(_EXPERIMENT.value)
    if _SEEDS.value is not None:
        overrides = [*overrides, f"--config.seeds={_SEEDS.value}"]
    config = resolve_config(experiment, _PRESET.value, overrides)
    axes = mesh_axes(_MESH.value)
    one_device_per_core(config.seeds, axes=axes)
    with blame_overrides(overrides):
        if _DRY_RUN.value:
            _describe(experiment, config)
        else:
            keep_compiled()
            _run(experiment, config, axes)


def _run(experiment, config, axes) -> None:
    from launch.execution import Run, Settings, publish, working_in
    from trove_jax import core

    name, preset = _EXPERIMENT.value, _PRESET.value
    run = Run(experiment, name, preset, config, command_line())
    directory = core.RunDirectory(_WORKDIR.value or f"runs/{name}-{preset}", run.identity)
    speaks = core.is_speaker()
    if directory.finished:
        if speaks:
            _show_finished(directory)
        return
    if directory.resumed and speaks:
        print(f"continuing in {directory.path}", file=sys.stderr)
    started = datetime.datetime.now(datetime.UTC)
    settings = Settings(
        data_dir=pathlib.Path(_DATA_DIR.value) if _DATA_DIR.value else None,
        axes=axes,
        keep_going=_KEEP_GOING.value,
        save_every=_SAVE_EVERY.value,
        log_every=_LOG_EVERY.value,
    )
    steps = sum(stage.total_steps for stage in experiment.plan(config))
    with (
        working_in(directory, steps=steps, seeds=config.seeds, settings=settings) as context,
        core.catch_signals(),
    ):
        found = experiment.run(config, context)
    if speaks:
        spent = directory.seconds
        record = publish(run, directory, found, context=context, started=started, duration_s=spent)
        _show(record, directory)
    directory.close()


def _show_finished(directory) -> None:
    from trove_jax import evidence

    try:
        record = evidence.read_record(directory.evidence)
    except (OSError, ValueError) as error:
        raise TroveError(
            f"{directory.evidence} is damaged ({error}); delete it, and the same command makes it "
            "again from the checkpoints"
        ) from error
    print(f"{directory.path} is finished:")
    _show(record, directory)


def _show(record, directory) -> None:
    for claim in record["claims"]:
        print(f"  {claim['verdict']:12}  {claim['id']}: {claim['statement']}")
    print(f"report: {directory.report}")


def _describe(experiment, config) -> None:
    from trove_jax import core, data

    print(json.dumps(config.to_dict(), indent=1))
    for name in experiment.data_sets(config):
        location = data.find(data.describe(name), data_dir=_DATA_DIR.value)
        print(f"data {name}: {location.description if location else 'not here'}")
    print(core.describe_plan(experiment.plan(config)))


if __name__ == "__main__":
    run_program(main, extra="--config.")
