"""All runs in a folder on one page or in one table, the broken and the unfinished ones too."""

import os
import pathlib
import urllib.parse
from collections import Counter
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

from trove_jax.evidence import wording
from trove_jax.evidence.page import badge, escape, page, strip, table
from trove_jax.evidence.record import read_record


class Run(NamedTuple):
    """A run directory: its record when it is finished, the reason when it cannot be read."""

    folder: pathlib.Path
    state: Literal["finished", "unfinished", "unreadable"]
    record: dict[str, Any] | None = None
    reason: str = ""


def find_runs(folder: str | os.PathLike[str]) -> list[Run]:
    """Every run directory below a folder, the folder itself included.

    A directory with evidence.json is a finished run, one with config.json alone an unfinished one.
    Below a run directory nothing is searched; links and hidden directories are not followed.

    Args:
      folder: that holds run directories at any depth.

    Returns:
      Finished runs by system number, experiment, preset and start; then unreadable and unfinished
      ones by path.

    Raises:
      ValueError: `folder` is not a directory.
    """
    folder = pathlib.Path(folder)
    if not folder.is_dir():
        raise ValueError(f"{folder} is not a directory; name the one that holds the runs")
    runs = []
    for place, below, files in os.walk(folder):
        below[:] = sorted(name for name in below if not name.startswith("."))
        if "evidence.json" not in files and "config.json" not in files:
            continue
        below.clear()
        runs.append(_read_run(pathlib.Path(place), finished="evidence.json" in files))
    return sorted(runs, key=_order)


def _read_run(folder: pathlib.Path, *, finished: bool) -> Run:
    if not finished:
        return Run(folder, "unfinished")
    try:
        return Run(folder, "finished", read_record(folder / "evidence.json"))
    except (OSError, ValueError) as error:
        return Run(folder, "unreadable", reason=str(error))


def _order(run: Run) -> tuple:
    if run.record is None:
        return (1, run.state == "unfinished", str(run.folder))
    record = run.record
    names = (record["experiment"], record["preset"], record["started"])
    return (0, record["system"]["number"], *names, str(run.folder))


def verdict_counts(runs: Sequence[Run]) -> Counter[str]:
    """How often each verdict was given in the finished runs."""
    return Counter(
        claim["verdict"] for run in runs if run.record is not None for claim in run.record["claims"]
    )


def overview(runs: Sequence[Run], *, out_folder: str | os.PathLike[str]) -> str:
    """All verdicts on one HTML page, a row per finished run, linking each report.

    Args:
      runs: from `find_runs`.
      out_folder: where the page will lie; links are relative to it.

    Returns:
      HTML; nothing in it is loaded from elsewhere.
    """
    finished = [run for run in runs if run.record is not None]
    rows = [_row(run, pathlib.Path(out_folder)) for run in finished]
    parts = [
        f"<header><h1>What the runs say</h1>{strip(verdict_counts(runs))}</header>",
        f'<p class="soft small">{len(finished)} finished '
        f"{'run' if len(finished) == 1 else 'runs'}. Claims of one run share the error of 5 % "
        "(Holm); different runs do not.</p>",
    ]
    if rows:
        headings = ("System", "Run", "Verdicts", "Seeds", "Started", "Took")
        parts.append(f'<div class="card">{table(headings, rows, numeric=(3,))}</div>')
    unreadable = [run for run in runs if run.state == "unreadable"]
    if unreadable:
        items = "".join(f"<li>{escape(run.reason)}</li>" for run in unreadable)
        parts.append(f"<h2>Could not be read</h2><ul>{items}</ul>")
    unfinished = [run for run in runs if run.state == "unfinished"]
    if unfinished:
        items = "".join(f"<li><code>{escape(run.folder)}</code></li>" for run in unfinished)
        parts.append(
            "<h2>Not finished</h2><p>The command that started a run continues it.</p>"
            f"<ul>{items}</ul>"
        )
    return page("What the runs say", "\n".join(parts))


def _row(run: Run, out_folder: pathlib.Path) -> list[str]:
    record = run.record
    assert record is not None
    title = escape(record["system"]["title"])
    report = run.folder / "report.html"
    if report.is_file():
        link = os.path.relpath(report.resolve(), out_folder.resolve()).replace(os.sep, "/")
        title = f'<a href="{escape(urllib.parse.quote(link))}">{title}</a>'
    badges = " ".join(
        f'<span title="{escape(claim["statement"])}">{badge(claim["verdict"], claim["id"])}</span>'
        for claim in record["claims"]
    )
    where = f"{record['experiment']}, {record['preset']}"
    return [
        f"{record['system']['number']:02d}",
        f'{title}<br><span class="soft small">{escape(where)}</span>',
        f'<span class="badges">{badges or "no claims"}</span>',
        str(len(record["seeds"])),
        f'<span class="date">{escape(record["started"][:10])}</span>',
        f'<span class="date">{escape(wording.duration(record["duration_s"]))}</span>',
    ]


def overview_text(runs: Sequence[Run]) -> str:
    """The overview for a terminal: one line per claim of a finished run, then the other runs.

    Args:
      runs: from `find_runs`.
    """
    rows = [("system", "experiment", "preset", "claim", "verdict", "effect", "seeds")]
    for run in runs:
        if run.record is None:
            continue
        record = run.record
        start = (f"{record['system']['number']:02d}", record["experiment"], record["preset"])
        for claim in record["claims"]:
            effect = wording.effect_in_short(claim)
            rows.append((*start, claim["id"], claim["verdict"], effect, str(claim["n"])))
        if not record["claims"]:
            rows.append((*start, "-", "no claims", "", str(len(record["seeds"]))))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = []
    if len(rows) > 1:
        for row in rows:
            cells = [cell.ljust(width) for cell, width in zip(row, widths, strict=True)]
            lines.append("  ".join(cells).rstrip())
        counts = verdict_counts(runs)
        lines += ["", ", ".join(f"{counts[name]} {name}" for name in wording.VERDICT_MARKS)]
    for run in runs:
        if run.state == "unreadable":
            lines.append(f"could not be read: {run.reason}")
        elif run.state == "unfinished":
            lines.append(f"not finished: {run.folder}")
    return "\n".join(lines)
