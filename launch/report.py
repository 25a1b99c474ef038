"""Shows all verdicts of the runs in a folder: a table here, and one page that links each report.

    python -m launch.report --runs=DIR --out=FILE.html

Without --out only the table is printed. Runs that are unfinished or cannot be read are listed too.
"""

import pathlib

from absl import flags

from launch.program import run_program
from trove_jax.core import UsageError, write_durably, writing
from trove_jax.evidence import find_runs, overview, overview_text

_RUNS = flags.DEFINE_string("runs", "runs", "Folder that holds run directories, at any depth.")
_OUT = flags.DEFINE_string("out", None, "Write the page to this file.")


def _show(runs_folder: str, out: str | None) -> None:
    try:
        runs = find_runs(runs_folder)
    except ValueError as error:
        raise UsageError(f"--runs: {error}") from error
    if not runs:
        raise UsageError(f"--runs: no run directory in {runs_folder}; launch.run makes them")
    print(overview_text(runs))
    if out is None:
        return
    target = pathlib.Path(out)
    if target.is_dir():
        raise UsageError(f"--out={out} is a directory; name a file, such as {out}/verdicts.html")
    with writing(f"--out={out}"):
        target.parent.mkdir(parents=True, exist_ok=True)
        write_durably(target, overview(runs, out_folder=target.parent).encode())
    print(f"\npage: {target}")


def main(_: list[str]) -> None:
    """Does what the flags say."""
    _show(_RUNS.value, _OUT.value)


if __name__ == "__main__":
    run_program(main)
