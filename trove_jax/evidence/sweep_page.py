"""The page of a sweep: every point's means and intervals, verdicts, cost and command."""

import math
import os
import urllib.parse
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from trove_jax.evidence import wording
from trove_jax.evidence.page import badge, escape, page, table
from trove_jax.evidence.statistics import paired_interval

SWEEP_FORMAT = 1


class SweepPoint(NamedTuple):
    """One point of a sweep as its folder tells.

    Attributes:
      values: what the sweep set, by key, as text.
      folder: of its run, relative to the page.
      command: the line that runs it alone.
      record: of its run, from `read_record`; None when it is not finished.
      reason: why it failed; empty when it has not.
      together: how many points its program trained.
    """

    values: Mapping[str, str]
    folder: str
    command: str
    record: Mapping[str, Any] | None = None
    reason: str = ""
    together: int = 1


def sweep_summary(
    points: Sequence[SweepPoint],
    *,
    experiment: str,
    preset: str,
    command: str,
    traced: Sequence[str] = (),
    programs: int = 0,
) -> dict[str, Any]:
    """What sweep.json holds: the whole sweep in plain values.

    Args:
      points: in order.
      experiment: its name.
      preset: of the configuration that is varied.
      command: the line that continues the sweep.
      traced: swept keys whose values one program trains.
      programs: how many programs the sweep has.

    Returns:
      Texts, numbers, lists and dicts; a number that is not finite is None. `means` of a point are
      arm -> metric -> mean, its 95 % interval (None below two seeds), n, and how many failed.
    """
    keys = list(dict.fromkeys(key for point in points for key in point.values))
    return {
        "format": SWEEP_FORMAT,
        "experiment": experiment,
        "preset": preset,
        "command": command,
        "keys": keys,
        "traced": [key for key in keys if key in traced],
        "separate": [key for key in keys if key not in traced],
        "programs": programs,
        "points": [_entry(point) for point in points],
    }


def mean_over_seeds(values: Sequence[float | None]) -> dict[str, Any]:
    """Mean and 95 % interval of the values that are finite.

    Args:
      values: one per seed, `[s]`.

    Returns:
      mean, low and high (None where there are too few values), n used, and failed.

    Example:
      >>> mean_over_seeds([1.0, 1.0, float("nan")])
      {'mean': 1.0, 'low': 1.0, 'high': 1.0, 'n': 2, 'failed': 1}
    """
    finite = np.array([v for v in values if v is not None and math.isfinite(v)], np.float64)
    low = high = None
    if finite.size > 1:
        low, high, *_ = paired_interval(finite)
    return {
        "mean": float(finite.mean()) if finite.size else None,
        "low": low,
        "high": high,
        "n": int(finite.size),
        "failed": len(values) - int(finite.size),
    }


def render_sweep(summary: Mapping[str, Any]) -> str:
    """The sweep as one self-contained HTML page.

    Args:
      summary: from `sweep_summary`, or read back from sweep.json.

    Returns:
      HTML; nothing in it is loaded from elsewhere, but it links the reports of the points.
    """
    points = summary["points"]
    finished = [point for point in points if point["status"] == "finished"]
    parts = [_head(summary)]
    if finished:
        parts += [_metric(summary, finished, metric) for metric in _metrics(finished)]
        parts.append(
            '<p class="soft small">Mean over seeds ± half of its 95 % interval. Points were not '
            "corrected for one another: the best of many looks better than it is.</p>"
        )
        parts.append(_verdicts(summary, finished))
    parts += [_unfinished(points), _cost(summary)]
    parts.append(f"<h2>Run it again</h2><pre><code>{escape(summary['command'])}</code></pre>")
    title = f"Sweep of {summary['experiment']}, {summary['preset']}"
    return page(title, "\n".join(part for part in parts if part))


def _entry(point: SweepPoint) -> dict[str, Any]:
    entry: dict[str, Any] = {
        "values": dict(point.values),
        "folder": point.folder,
        "command": point.command,
        "status": "failed" if point.reason else "not finished",
        "reason": point.reason,
        "together": point.together,
    }
    record = point.record
    if record is None:
        return entry
    arms = record["arms"].items()
    return {
        **entry,
        "status": "finished",
        "title": record["system"]["title"],
        "seeds": list(record["seeds"]),
        "duration_s": record["duration_s"],
        "cost": dict(record.get("cost") or {}),
        "arms": {
            arm: {name: [_number(v) for v in values] for name, values in metrics.items()}
            for arm, metrics in arms
        },
        "means": {
            arm: {name: mean_over_seeds(values) for name, values in metrics.items()}
            for arm, metrics in arms
        },
        "claims": {
            claim["id"]: {key: claim[key] for key in ("verdict", "effect", "ci95")}
            for claim in record["claims"]
        },
    }


def _number(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None


def _head(summary: Mapping[str, Any]) -> str:
    points = summary["points"]
    counts = [
        f"{number} {status}"
        for status in ("finished", "failed", "not finished")
        if (number := sum(point["status"] == status for point in points))
    ]
    title = next((point["title"] for point in points if "title" in point), summary["experiment"])
    how = [
        f"{' and '.join(escape(key) for key in keys)} {text}"
        for keys, text in (
            (summary["traced"], "as arguments of one program"),
            (summary["separate"], "in programs of their own"),
        )
        if keys
    ]
    return (
        f'<header><div class="over">Sweep · {escape(summary["experiment"])} · '
        f"{escape(summary['preset'])} preset</div><h1>{escape(title)}</h1>"
        f'<p class="soft">{len(points)} points ({", ".join(counts)}), {summary["programs"]} '
        f"program{'' if summary['programs'] == 1 else 's'}: {'; '.join(how)}.</p></header>"
    )


def _metrics(finished: Sequence[Mapping[str, Any]]) -> list[str]:
    return list(
        dict.fromkeys(
            metric
            for point in finished
            for metrics in point["means"].values()
            for metric in metrics
        )
    )


def _values(summary: Mapping[str, Any], point: Mapping[str, Any]) -> list[str]:
    """The cells that say which point it is; the first links its report."""
    cells = [escape(point["values"].get(key, "")) for key in summary["keys"]]
    if point["status"] == "finished":
        link = urllib.parse.quote(f"{point['folder']}/report.html".replace(os.sep, "/"))
        cells[0] = f'<a href="{escape(link)}">{cells[0] or "·"}</a>'
    return cells


def _metric(summary: Mapping[str, Any], finished: Sequence[Mapping[str, Any]], metric: str) -> str:
    arms = list(
        dict.fromkeys(
            arm for point in finished for arm, found in point["means"].items() if metric in found
        )
    )
    rows = [
        [
            *_values(summary, point),
            *(_cell(point["means"].get(arm, {}).get(metric)) for arm in arms),
        ]
        for point in finished
    ]
    first = len(summary["keys"])
    headings = (*summary["keys"], *map(wording.name_of, arms))
    shown = table(headings, rows, numeric=range(first, first + len(arms)))
    return f'<h2>{escape(wording.name_of(metric))}</h2><div class="card">{shown}</div>'


def _cell(mean: Mapping[str, Any] | None) -> str:
    if mean is None:
        return ""
    lost = f' <span class="small">({mean["failed"]} failed)</span>' if mean["failed"] else ""
    if mean["low"] is None:
        return wording.number(mean["mean"]) + lost
    half = (mean["high"] - mean["low"]) / 2
    places = wording.decimals_for(half)
    return f"{wording.number(mean['mean'], places)} ± {wording.number(half, places)}{lost}"


def _verdicts(summary: Mapping[str, Any], finished: Sequence[Mapping[str, Any]]) -> str:
    claims = list(dict.fromkeys(claim for point in finished for claim in point["claims"]))
    if not claims:
        return ""
    rows = [
        [
            *_values(summary, point),
            *(
                badge(point["claims"][claim]["verdict"], "") if claim in point["claims"] else ""
                for claim in claims
            ),
        ]
        for point in finished
    ]
    headings = (*summary["keys"], *claims)
    marks = ", ".join(f"{mark} {verdict}" for verdict, mark in wording.VERDICT_MARKS.items())
    return (
        f'<h2>Verdicts</h2><div class="card">{table(headings, rows)}'
        f'<p class="soft small">{escape(marks)}; each point by itself.</p></div>'
    )


def _unfinished(points: Sequence[Mapping[str, Any]]) -> str:
    rows = [
        [escape(_label(point)), escape(point["reason"] or "not finished")]
        for point in points
        if point["status"] != "finished"
    ]
    return "<h2>Failed or not finished</h2>" + table(("Point", "Why"), rows) if rows else ""


def _cost(summary: Mapping[str, Any]) -> str:
    rows = []
    for point in summary["points"]:
        took = wording.duration(point["duration_s"]) if "duration_s" in point else "–"
        steps = point.get("cost", {}).get("network_steps")
        rows.append(
            [
                escape(_label(point)),
                escape(took),
                "–" if steps is None else f"{steps:,.0f}",
                f"<code>{escape(point['command'])}</code>",
            ]
        )
    seconds = sum(point.get("duration_s", 0.0) for point in summary["points"])
    shown = table(("Point", "Took", "Network steps", "Command"), rows, numeric=(1, 2))
    return (
        f"<h2>Cost</h2><p>{escape(wording.duration(seconds))} in all. Points that one program "
        f"trained share its time.</p>{shown}"
    )


def _label(point: Mapping[str, Any]) -> str:
    return ", ".join(f"{key}={value}" for key, value in point["values"].items())
