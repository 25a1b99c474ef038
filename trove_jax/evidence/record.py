"""The record of a run: evidence.json, strict JSON in which every number survives bit for bit.

What is not a finite number is written as null and read back as NaN where it is a value of an arm.
"""

import dataclasses
import datetime
import json
import math
import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from trove_jax.evidence.claim import Claim, System, nearest_name
from trove_jax.evidence.figures import standard_figures
from trove_jax.evidence.judge import Verdict, judge
from trove_jax.evidence.pictures import Figure

FORMAT = 1

_KEYS: dict[str, type | tuple[type, ...]] = {
    "format": int,
    "system": dict,
    "experiment": str,
    "preset": str,
    "seeds": list,
    "started": str,
    "duration_s": (int, float),
    "environment": dict,
    "data": list,
    "config": dict,
    "arms": dict,
    "claims": list,
    "figures": list,
}
_CLAIM_KEYS = (
    "id",
    "statement",
    "metric",
    "treatment",
    "baseline",
    "better",
    "margin",
    "kind",
    "effect",
    "ci95",
    "n",
    "verdict",
)
_OUTCOMES = ("supported", "contradicted", "inconclusive")


@dataclasses.dataclass
class Evidence:
    """What an experiment's `run` returns.

    Args:
      arms: arm name -> metric name -> one value per seed, `[s]`.
      figures: pictures of this run; one per claim is drawn anyway.
      data: one dict per data set: name, sha256, split, source.
      notes: sentences a reader needs, such as the regime the run is in.
      curves: named arrays behind the figures, kept in the record.
      not_tested: claim id -> why this run says nothing about it (its arms need not exist).
    """

    arms: Mapping[str, Mapping[str, Sequence[float]]]
    figures: Sequence[Figure] = ()
    data: Sequence[Mapping[str, Any]] = ()
    notes: Sequence[str] = ()
    curves: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    not_tested: Mapping[str, str] = dataclasses.field(default_factory=dict)


def not_measured(
    claims: Sequence[Claim], arms: Mapping[str, Mapping[str, Sequence[float]]]
) -> dict[str, str]:
    """The claims that a run says nothing about, because it has not measured one of their arms.

    Args:
      claims: of the experiment.
      arms: as in `Evidence`.

    Returns:
      Claim id -> why, for `Evidence.not_tested`.
    """
    missing = {
        claim.id: [
            f"{claim.metric} of the arm {arm}"
            for arm in (claim.treatment, claim.baseline)
            if claim.metric not in arms.get(arm, {})
        ]
        for claim in claims
    }
    return {name: f"not part of this run: {', '.join(m)}" for name, m in missing.items() if m}


def build_record(
    evidence: Evidence,
    *,
    system: System,
    claims: Sequence[Claim],
    experiment: str,
    preset: str,
    seeds: Sequence[int],
    started: str | datetime.datetime,
    duration_s: float,
    environment: Mapping[str, Any],
    config: Mapping[str, Any],
    command: str = "",
    cost: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """The record of a finished run, with its verdicts.

    Args:
      evidence: what the experiment returned.
      system: the paper.
      claims: all claims of the experiment, also those in `evidence.not_tested`.
      experiment: name to rerun it by.
      preset: `"smoke"`, `"laptop"` or `"paper"`.
      seeds: in the order of the values in the arms.
      started: date and time, ISO 8601.
      duration_s: seconds of wall clock.
      environment: from `environment()`.
      config: nested mapping of plain values.
      command: the line that runs it again.
      cost: what else it took, such as `{"steps_per_s": 812.0, "peak_memory_mib": 640}`.

    Returns:
      Plain dicts, lists, texts and numbers, the same as `read_record` reads after `write_record`.

    Raises:
      ValueError: a claim that does not fit the arms, a value per seed too many or too few, an
        unknown claim in `not_tested`, two figures of one name, or a value that JSON has no form
        for.
    """
    known = [claim.id for claim in claims]
    for name in evidence.not_tested:
        if name not in known:
            raise ValueError(
                f"not_tested names claim {name!r}; claims are {', '.join(known) or 'none'}"
                + nearest_name(name, known)
            )
    for arm, metrics in evidence.arms.items():
        for metric, values in metrics.items():
            if len(values) != len(seeds):
                raise ValueError(
                    f"{metric!r} of arm {arm!r} has {len(values)} values for {len(seeds)} seeds"
                )
    verdicts = judge([c for c in claims if c.id not in evidence.not_tested], evidence.arms)
    if isinstance(started, datetime.datetime):
        started = started.isoformat(timespec="seconds")
    record = {
        "format": FORMAT,
        "system": dataclasses.asdict(system),
        "experiment": experiment,
        "preset": preset,
        "seeds": list(seeds),
        "started": started,
        "duration_s": float(duration_s),
        "command": command,
        "cost": dict(cost or {}),
        "environment": environment,
        "data": list(evidence.data),
        "config": config,
        "arms": {
            arm: {metric: np.asarray(values, np.float64) for metric, values in metrics.items()}
            for arm, metrics in evidence.arms.items()
        },
        "claims": [_claim_entry(verdict) for verdict in verdicts],
        "not_tested": [
            {"id": c.id, "statement": c.statement, "reason": evidence.not_tested[c.id]}
            for c in claims
            if c.id in evidence.not_tested
        ],
        "notes": list(evidence.notes),
        "figures": [],
        "curves": evidence.curves,
    }
    record = _plain(record, "record")
    record["arms"] = _arms(record["arms"])
    figures = [*standard_figures(record), *evidence.figures]
    names = [figure.name for figure in figures]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ValueError(f"two figures have one name, {twice[0]!r}; rename one")
    record["figures"] = [
        {
            "name": figure.name,
            "caption": figure.caption,
            "file": f"figures/{figure.name}.png",
            "claim": figure.claim,
        }
        for figure in figures
    ]
    return record


def _claim_entry(verdict: Verdict) -> dict[str, Any]:
    fields = {f.name: getattr(verdict, f.name) for f in dataclasses.fields(verdict)}
    del fields["claim"]
    return {**dataclasses.asdict(verdict.claim), **fields}


def _arms(arms: Mapping[str, Any]) -> dict[str, dict[str, list[float]]]:
    return {
        arm: {
            metric: [math.nan if value is None else float(value) for value in values]
            for metric, values in metrics.items()
        }
        for arm, metrics in arms.items()
    }


def _plain(value: Any, where: str) -> Any:
    """The same value in the types that JSON has; a number that is not finite becomes None."""
    if value is None or isinstance(value, (bool, str, int)):
        return value
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else None
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if hasattr(value, "items"):
        return {str(key): _plain(item, f"{where}.{key}") for key, item in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        items = sorted(value, key=str) if isinstance(value, (set, frozenset)) else value
        return [_plain(item, f"{where}[{i}]") for i, item in enumerate(items)]
    if hasattr(value, "dtype") and hasattr(value, "tolist"):
        return _plain(np.asarray(value).tolist(), where)
    raise ValueError(
        f"{where} is a {type(value).__name__}, which JSON has no form for; "
        "use numbers, texts, lists and dicts"
    )


def write_record(record: Mapping[str, Any], path: str | os.PathLike[str]) -> None:
    """Writes a record: whole or not at all, also when the machine stops in the middle.

    Args:
      record: from `build_record`.
      path: of the file, usually `<workdir>/evidence.json`; its folder exists.

    Raises:
      ValueError: a value that JSON has no form for.
      OSError: the file cannot be written.
    """
    text = json.dumps(_plain(record, "record"), allow_nan=False, indent=1, ensure_ascii=False)
    from trove_jax.core import write_durably  # with it comes jax, which judging does without

    write_durably(path, (text + "\n").encode())


def read_record(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Reads a record that `write_record` wrote.

    Args:
      path: of evidence.json.

    Returns:
      The record; null among the values of an arm is NaN again.

    Raises:
      FileNotFoundError: no such file.
      ValueError: damaged, of another format, or a key that is missing or of the wrong type.
    """
    content = pathlib.Path(path).read_bytes()
    try:
        record = json.loads(content.decode())
    except ValueError as error:
        raise ValueError(f"{path} is damaged: {error}") from error
    if not isinstance(record, dict):
        raise ValueError(f"{path} holds a {type(record).__name__} instead of the record of a run")
    for key, kind in _KEYS.items():
        if key not in record:
            raise ValueError(f"{path} has no {key!r}; it is not the whole record of a run")
        if not isinstance(record[key], kind) or isinstance(record[key], bool):
            raise ValueError(f"{path}: {key!r} is a {type(record[key]).__name__}")
    if record["format"] != FORMAT:
        raise ValueError(
            f"{path} has format {record['format']}; this version reads {FORMAT}: run it again"
        )
    for key in ("number", "title", "paper"):
        if key not in record["system"]:
            raise ValueError(f"{path}: 'system' has no {key!r}")
    for i, claim in enumerate(record["claims"]):
        missing = [key for key in _CLAIM_KEYS if not isinstance(claim, dict) or key not in claim]
        if missing:
            raise ValueError(f"{path}: claim {i} has no {missing[0]!r}")
        if claim["verdict"] not in _OUTCOMES:
            raise ValueError(
                f"{path}: verdict {claim['verdict']!r} of claim {claim['id']}; "
                f"known: {', '.join(_OUTCOMES)}"
            )
    try:
        record["arms"] = _arms(record["arms"])
    except (AttributeError, TypeError, ValueError) as error:
        raise ValueError(f"{path}: 'arms' is not arm -> metric -> values per seed") from error
    return record
