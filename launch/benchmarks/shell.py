"""What the shell around the compiled loop costs: progress, metrics and checkpoints.

A stage of `core.Context` with all of them, against `core.train_seeds` without hooks, for the same
steps of the same compiled program.
"""

import io
import itertools
import pathlib
import tempfile

from launch.benchmarks.lenet import SEEDS, SETTINGS, adam, load, make_task
from launch.benchmarks.timing import Row, time_in_turn
from trove_jax import core

_SAVE_EVERY = 500


def measure(quick: bool = False) -> list[Row]:
    """Compares a stage of a context with the bare loop."""
    steps, repeats = (100, 2) if quick else (2000, 3)
    task, tx, keys = make_task(), adam(), core.seed_keys(SEEDS)
    mesh, data = core.make_mesh(), load().train
    start = core.init_states(task, tx, keys)
    options = {"steps": steps, "start": start, "batch_size": SETTINGS.batch_size}
    numbers = itertools.count()

    with tempfile.TemporaryDirectory() as folder:
        directory = core.RunDirectory(pathlib.Path(folder), {"benchmark": "shell"})
        context = core.Context(
            directory=directory,
            mesh=mesh,
            progress=core.Progress(io.StringIO()),
            writer=core.MetricWriter(directory.path),
            save_every=_SAVE_EVERY,
        )

        def bare():
            core.train_seeds(task, tx, data, keys, mesh=mesh, **options)

        def shell():
            context.train_seeds(f"stage_{next(numbers)}", task, tx, data, keys, **options)

        found = time_in_turn({"bare": bare, "shell": shell}, repeats=repeats)
        context.close()
        directory.close()
    return [
        Row(
            "loop with shell / bare loop",
            found.ratio("shell", to="bare"),
            1.05,
            detail=f"{steps} steps, {SEEDS} seeds: {found.median('shell'):.2f} and "
            f"{found.median('bare'):.2f} s; metrics every {context.log_every} steps, checkpoints "
            f"every {_SAVE_EVERY}",
        )
    ]
