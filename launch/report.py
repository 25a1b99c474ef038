"""Shows all verdicts of the runs in a folder: a table here, and one page that links each report.

    python -m launch.report --runs=DIR --out=FILE.html

Without --out only the table is printed. Runs that are unfinished or cannot be read are listed too.
"""

import pathlib
import sys

from absl import app, flags

from trove_jax.core.errors import TroveError, UsageError
from trove_jax.evidence import find_runs, overview, overview_text, write_whole

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
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        write_whole(target, overview(runs, out_folder=target.parent).encode())
    except OSError as error:
        raise TroveError(f"--out={out} cannot be written: {error}") from error
    print(f"\npage: {target}")


def main(argv: list[str]) -> None:
    """Does what the flags say."""
    try:
        if len(argv) > 1:
            raise UsageError(f"unexpected argument {argv[1]!r}; name the folder by --runs=DIR")
        _show(_RUNS.value, _OUT.value)
    except TroveError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(error.exit_code)


if __name__ == "__main__":
    app.run(main)
