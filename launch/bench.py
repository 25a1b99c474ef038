"""Measures what trove_jax promises about speed, and prints a table of ratios.

    python -m launch.bench
    python -m launch.bench --only=masked_step,shell --quick --json=FILE

Every ratio is of the medians of repetitions that were taken in turn in one run. --quick only shows
that everything runs: its ratios say nothing. Peers come with the extra `bench`.
"""

import ast
import datetime
import importlib
import json
import os
import pathlib
import sys
from collections.abc import Sequence
from typing import Any

from absl import flags

from launch.benchmarks.timing import Row, needs_extra
from launch.lookup import nearest
from launch.program import one_device_per_core, run_program
from trove_jax.core.errors import TroveError, UsageError

_ONLY = flags.DEFINE_list("only", [], "Names of benchmarks, joined by commas (default: all).")
_QUICK = flags.DEFINE_bool("quick", False, "Small sizes and few repetitions.")
_JSON = flags.DEFINE_string("json", "runs/bench.json", "File for the results.")

_FOLDER = pathlib.Path(__file__).parent / "benchmarks"
_HEADINGS = ("name", "ratio", "goal", "met", "detail")


def main(_: list[str]) -> None:
    """Runs the benchmarks that the flags choose, prints the table, and writes the results."""
    names = choose(_ONLY.value)
    out = pathlib.Path(_JSON.value)
    if out.is_dir():
        raise UsageError(f"--json={out} is a directory; name a file, such as {out}/bench.json")
    one_device_per_core()
    rows = []
    for number, name in enumerate(names):
        print(f"[{number + 1}/{len(names)}] {name}", file=sys.stderr)
        rows += measure(name, quick=_QUICK.value)
    print(table(rows))
    _write(out, rows)
    print(f"results: {out}")


def benchmarks() -> dict[str, str]:
    """Modules of `launch/benchmarks` that define `measure`, by name."""
    return {
        path.stem: f"launch.benchmarks.{path.stem}"
        for path in sorted(_FOLDER.glob("*.py"))
        if any(
            isinstance(node, ast.FunctionDef) and node.name == "measure"
            for node in ast.parse(path.read_text()).body
        )
    }


def choose(only: Sequence[str]) -> list[str]:
    """The benchmarks to run.

    Args:
      only: names; none for all.

    Raises:
      UsageError: a name is unknown; the nearest is named.
    """
    known = benchmarks()
    for name in only:
        if name not in known:
            raise UsageError(f"no benchmark is called {name!r}{nearest(name, known)}")
    return list(dict.fromkeys(only)) or list(known)


def measure(name: str, *, quick: bool) -> list[Row]:
    """Runs one benchmark; what keeps it from being measured here becomes its row.

    Args:
      name: of the benchmark.
      quick: whether to take small sizes.

    Returns:
      Its rows.
    """
    try:
        found = importlib.import_module(benchmarks()[name]).measure(quick=quick)
    except ModuleNotFoundError as error:
        return [needs_extra(error, name)]
    except TroveError as error:
        return [Row(name, None, detail=str(error))]
    return [row if isinstance(row, Row) else Row(**row) for row in found]


def table(rows: Sequence[Row]) -> str:
    """Lays the rows out in aligned columns."""
    lines = [_HEADINGS, *(_cells(row) for row in rows)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    widths[-1] = 0
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in lines
    )


def _cells(row: Row) -> tuple[str, ...]:
    sign = "<=" if row.better == "lower" else ">="
    return (
        row.name,
        "-" if row.ratio is None else f"{row.ratio:.3f}",
        "" if row.goal is None else f"{sign} {row.goal:.2f}",
        {True: "yes", False: "NO", None: ""}[row.met],
        row.detail,
    )


def _write(out: pathlib.Path, rows: Sequence[Row]) -> None:
    import jax

    from trove_jax import core, evidence

    devices = jax.devices()
    results: dict[str, Any] = {
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "quick": _QUICK.value,
        "cores": os.cpu_count(),
        "environment": evidence.environment(devices=f"{len(devices)} x {devices[0].device_kind}"),
        "rows": [row.record() for row in rows],
    }
    with core.writing(f"--json={out}"):
        out.parent.mkdir(parents=True, exist_ok=True)
        core.write_durably(out, (json.dumps(results, indent=1) + "\n").encode())


if __name__ == "__main__":
    run_program(main)
