"""The report of one run: a page that a person reads in a minute.

It is made from the record and the pictures alone, so it can be made again at any time.
"""

import base64
import json
import os
import pathlib
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from trove_jax.evidence import wording
from trove_jax.evidence.figures import standard_figures
from trove_jax.evidence.page import badge, escape, page, strip, table
from trove_jax.evidence.pictures import Figure, save_figures
from trove_jax.evidence.record import write_record
from trove_jax.evidence.statistics import paired_interval


def publish(
    record: Mapping[str, Any],
    workdir: str | os.PathLike[str],
    *,
    figures: Sequence[Figure] = (),
) -> None:
    """Writes figures/*.png, report.html and, last, evidence.json into a run directory.

    evidence.json is the sign of a finished run: when it is there, all else is.

    Args:
      record: from `build_record`.
      workdir: the run directory, which exists.
      figures: the experiment's own (`Evidence.figures`); the standard ones are drawn anyway. A
        figure that the record names and that is not given is taken from the folder.

    Raises:
      ValueError: a figure that cannot be drawn.
      OSError: a file cannot be written.
    """
    from trove_jax.core import write_durably

    workdir = pathlib.Path(workdir)
    pictures = save_figures([*standard_figures(record), *figures], workdir / "figures")
    for entry in record["figures"]:
        saved = workdir / "figures" / f"{entry['name']}.png"
        if entry["name"] not in pictures and saved.is_file():
            pictures[entry["name"]] = saved.read_bytes()
    write_durably(workdir / "report.html", render(record, pictures).encode())
    write_record(record, workdir / "evidence.json")


def render(record: Mapping[str, Any], figures: Mapping[str, bytes]) -> str:
    """The report as one self-contained HTML page.

    Args:
      record: from `build_record` or `read_record`.
      figures: name -> bytes of a PNG; one that the record names and that is missing is left out.

    Returns:
      HTML; nothing in it is loaded from elsewhere.
    """
    parts = [_head(record), _facts(record), _summary(record)]
    parts += [_picture(f, figures) for f in record["figures"] if f["name"] == "effects"]
    if record["claims"]:
        parts.append("<h2>Claim by claim</h2>" if len(record["claims"]) > 1 else "")
    parts += [_claim(claim, record, figures) for claim in record["claims"]]
    parts.append(_not_tested(record))
    claims = {claim["id"] for claim in record["claims"]}
    more = [f for f in record["figures"] if f["claim"] not in claims and f["name"] != "effects"]
    pictures = "".join(_picture(f, figures) for f in more)
    if pictures:
        parts.append(f'<h2>More of this run</h2><div class="card">{pictures}</div>')
    parts += [_arms(record), _notes(record), _cost(record), _data(record), _rerun(record)]
    title = f"{record['system']['title']}: {record['experiment']}, {record['preset']}"
    return page(title, "\n".join(part for part in parts if part))


def _head(record: Mapping[str, Any]) -> str:
    system = record["system"]
    paper = escape(system["paper"])
    if system.get("url"):
        paper = f'<a href="{escape(system["url"])}" rel="noreferrer">{paper}</a>'
    counts = Counter(claim["verdict"] for claim in record["claims"])
    return (
        f'<header><div class="over">System {system["number"]:02d} · {escape(record["experiment"])}'
        f" · {escape(record['preset'])} preset</div>"
        f"<h1>{escape(system['title'])}</h1>"
        f'<p class="soft">{paper}</p>{strip(counts)}</header>'
    )


def _facts(record: Mapping[str, Any]) -> str:
    facts = [
        wording.seeds_in_words(len(record["seeds"])),
        str(record["started"]).replace("T", " ")[:16],
        wording.duration(record["duration_s"]),
        record["environment"].get("devices") or "",
    ]
    text = " · ".join(escape(fact) for fact in facts if fact)
    tested = len(record["claims"])
    if tested > 1:
        text += (
            f". {tested} claims were tested together: Holm's correction keeps the chance of even "
            "one wrong verdict below 5 %."
        )
    return f'<p class="soft small">{text}</p>'


def _summary(record: Mapping[str, Any]) -> str:
    if len(record["claims"]) < 2:
        return ""
    rows = []
    for claim in record["claims"]:
        name = escape(claim["id"])
        rows.append(
            f'<a class="row" href="#claim-{name}">{badge(claim["verdict"])}'
            f'<span><span class="id">{name}</span>{escape(claim["statement"])}</span>'
            f'<span class="short">{escape(wording.effect_in_short(claim))}</span></a>'
        )
    return f'<nav class="card list" aria-label="Claims">{"".join(rows)}</nav>'


def _picture(entry: Mapping[str, Any], figures: Mapping[str, bytes]) -> str:
    content = figures.get(entry["name"])
    if content is None:
        return ""
    data = base64.b64encode(content).decode()
    return (
        f'<figure><div class="picture"><img alt="{escape(entry["caption"])}" '
        f'src="data:image/png;base64,{data}"></div>'
        f"<figcaption>{escape(entry['caption'])}</figcaption></figure>"
    )


def _claim(
    claim: Mapping[str, Any], record: Mapping[str, Any], figures: Mapping[str, bytes]
) -> str:
    sentence = wording.effect_sentence(claim)
    beside = []
    if claim.get("paper"):
        ours = wording.with_unit(wording.means_against(claim), claim)
        beside += [("The paper printed", claim["paper"]), ("Here", ours)]
    if claim.get("setting"):
        beside.append(("What differs here", claim["setting"]))
    terms = "".join(
        f"<div><dt>{escape(name)}</dt><dd>{escape(text)}</dd></div>" for name, text in beside
    )
    terms = f'<dl class="beside">{terms}</dl>' if terms else ""
    note = claim.get("note", "")
    if claim.get("left_out"):
        seeds = [str(record["seeds"][i]) for i in claim["left_out"]]
        note += f" Left out: seed {', '.join(seeds)}."
    warning = f'<p class="small"><b>Note.</b> {escape(note.strip())}</p>' if note else ""
    pictures = "".join(_picture(f, figures) for f in record["figures"] if f["claim"] == claim["id"])
    return (
        f'<section class="card" id="claim-{escape(claim["id"])}"><div class="head">'
        f'<h3><span class="id">{escape(claim["id"])}</span>{escape(claim["statement"])}</h3>'
        f"{badge(claim['verdict'])}</div>"
        f'<p class="finding">{escape(sentence)}</p>'
        f"{terms}{warning}{pictures}"
        f'<p class="soft small">{escape(wording.rule_sentence(claim))} '
        f"{escape(wording.decision_sentence(claim))}</p></section>"
    )


def _not_tested(record: Mapping[str, Any]) -> str:
    left = record.get("not_tested", [])
    if not left:
        return ""
    rows = [[escape(c["id"]), escape(c["statement"]), escape(c["reason"])] for c in left]
    return "<h2>Not tested by this run</h2>" + table(("Claim", "Statement", "Why"), rows)


def _arms(record: Mapping[str, Any]) -> str:
    arms = record["arms"]
    if not arms:
        return ""
    metrics = list(dict.fromkeys(metric for values in arms.values() for metric in values))
    rows = []
    for arm, values in arms.items():
        cells = [_mean_cell(values[metric]) if metric in values else "" for metric in metrics]
        rows.append([escape(wording.name_of(arm)), *cells])
    numeric = range(1, len(metrics) + 1)
    means = table(("Arm", *map(wording.name_of, metrics)), rows, numeric=numeric)
    each = []
    for arm, values in arms.items():
        for metric, seeds in values.items():
            shown = [escape(f"{value:.6g}".replace("-", "−")) for value in seeds]
            each.append([escape(wording.name_of(arm)), escape(wording.name_of(metric)), *shown])
    headings = ("Arm", "Metric", *(f"seed {seed}" for seed in record["seeds"]))
    seeds_table = table(headings, each, numeric=range(2, 2 + len(record["seeds"])))
    return (
        f'<h2>All arms</h2><div class="card">{means}'
        '<p class="soft small">Mean over seeds ± half of its 95 % interval. The verdicts use the '
        "paired differences, which can be far more certain than these columns.</p>"
        f"<details><summary>Every seed</summary>{seeds_table}</details></div>"
    )


def _mean_cell(values: Sequence[float | None]) -> str:
    finite = np.array([v for v in values if v is not None and np.isfinite(v)], np.float64)
    lost = len(values) - finite.size
    mark = f' <span class="small">({lost} failed)</span>' if lost else ""
    if finite.size == 0:
        return "–" + mark
    if finite.size == 1:
        return wording.number(float(finite[0])) + mark
    low, high, *_ = paired_interval(finite)
    half = (high - low) / 2
    places = wording.decimals_for(half)
    if half == 0:
        return f"{wording.number(float(finite.mean()))} ± 0{mark}"
    return f"{wording.number(float(finite.mean()), places)} ± {wording.number(half, places)}{mark}"


def _notes(record: Mapping[str, Any]) -> str:
    notes = record.get("notes", [])
    if not notes:
        return ""
    return f"<h2>Notes</h2><ul>{''.join(f'<li>{escape(note)}</li>' for note in notes)}</ul>"


def _cost(record: Mapping[str, Any]) -> str:
    rows = [["Wall clock", escape(wording.duration(record["duration_s"]))]]
    for name, value in (record.get("cost") or {}).items():
        if isinstance(value, float):
            value = wording.number(value, wording.decimals_for(abs(value) / 100))
        elif isinstance(value, int):
            value = f"{value:,}"
        rows.append([escape(wording.name_of(name)), escape(value)])
    devices = record["environment"].get("devices")
    if devices:
        rows.append(["Devices", escape(devices)])
    return "<h2>Cost</h2>" + table((), rows)


def _data(record: Mapping[str, Any]) -> str:
    if not record["data"]:
        return ""
    rows = [
        [
            escape(entry.get("name", "")),
            escape(entry.get("split", "")),
            escape(entry.get("source", "")),
            f"<code>{escape(entry.get('sha256', ''))}</code>",
        ]
        for entry in record["data"]
    ]
    return "<h2>Data</h2>" + table(("Set", "Split", "From", "SHA-256"), rows)


def _rerun(record: Mapping[str, Any]) -> str:
    found = record["environment"]
    versions = [("trove_jax", found.get("trove_jax")), ("python", found.get("python"))]
    versions += list((found.get("packages") or {}).items())
    git = found.get("git")
    if git:
        dirty = " with changed files" if git.get("dirty") else ""
        versions.append(("git", f"{git.get('revision')}{dirty}"))
    versions.append(("platform", found.get("platform")))
    rows = [[escape(name), escape(value)] for name, value in versions if value]
    config = json.dumps(record["config"], indent=2, ensure_ascii=False)
    seeds = ", ".join(str(seed) for seed in record["seeds"])
    command = record.get("command")
    again = f"<pre><code>{escape(command)}</code></pre>" if command else ""
    return (
        f"<h2>Run it again</h2>{again}"
        f'<p class="soft small">Seeds {escape(seeds)}; started {escape(record["started"])}.</p>'
        f"<details><summary>Versions</summary>{table((), rows)}</details>"
        f"<details><summary>Configuration</summary><pre><code>{escape(config)}</code></pre>"
        "</details>"
    )
