"""The record of a run: strict JSON, bit for bit, refused when damaged."""

import json
import math
import os
import pathlib
import re
import struct

import numpy as np
import pytest

from trove_jax.evidence import (
    Claim,
    Evidence,
    Figure,
    System,
    build_record,
    not_measured,
    read_record,
    write_record,
)
from trove_jax.evidence.environment import environment, git_state

SYSTEM = System(number=7, title="Things", paper="Somebody et al., arXiv 1234.56789")
CLAIMS = [
    Claim("C1", "New is better.", "score", "new", "old"),
    Claim("C2", "Far is better.", "score", "far", "old"),
]
FIXED = {
    "system": SYSTEM,
    "claims": CLAIMS,
    "experiment": "things",
    "preset": "smoke",
    "seeds": [0, 1, 2],
    "started": "2026-01-02T03:04:05+00:00",
    "duration_s": 12.5,
    "environment": {"python": "3.11"},
    "config": {"train": {"steps": 10, "rates": (0.1, 0.2)}},
}


def test_claims_without_an_arm_or_its_metric_are_not_tested():
    arms = {"new": {"score": [1.0]}, "old": {"score": [0.0]}, "far": {"seconds": [1.0]}}
    assert not_measured(CLAIMS, arms) == {"C2": "not part of this run: score of the arm far"}
    assert set(not_measured(CLAIMS, {"new": {"score": [1.0]}})) == {"C1", "C2"}


def evidence(**fields) -> Evidence:
    arms = {
        "new": {"score": [0.1 + 0.2, 1e-310, math.pi], "loss": [1.0, math.nan, 2.0]},
        "old": {"score": np.float32([0.1, 0.2, 0.3])},
    }
    return Evidence(**{"arms": arms, "not_tested": {"C2": "needs far data"}, **fields})


def bits(values) -> list[bytes]:
    return [struct.pack("<d", float(v)) for v in values]


def test_arms_survive_bit_for_bit(tmp_path: pathlib.Path) -> None:
    rng = np.random.default_rng(0)
    values = rng.normal(size=200) * 10.0 ** rng.integers(-300, 300, size=200)
    made = Evidence(arms={"new": {"score": values}, "old": {"score": -values}})
    fixed = {**FIXED, "seeds": list(range(200)), "claims": CLAIMS[:1]}
    write_record(build_record(made, **fixed), tmp_path / "evidence.json")
    back = read_record(tmp_path / "evidence.json")
    assert bits(back["arms"]["new"]["score"]) == bits(values)
    assert bits(back["arms"]["old"]["score"]) == bits(-values)


def test_record_says_all_that_the_run_directory_promises(tmp_path: pathlib.Path) -> None:
    made = evidence(
        data=[{"name": "d", "sha256": "ab", "split": "train", "source": pathlib.Path("/x")}],
        figures=[Figure("extra", "A picture.", b"png", claim="C1")],
        notes=["small"],
        curves={"x": np.arange(3), "y": np.float32([0.5, np.nan, 1])},
    )
    record = build_record(made, **FIXED, command="run it", cost={"steps_per_s": 3.0})
    path = tmp_path / "evidence.json"
    write_record(record, path)
    back = read_record(path)
    promised = (
        "system experiment preset seeds started duration_s environment data config arms claims "
        "figures"
    )
    assert set(promised.split()) <= set(back)
    assert back["system"]["number"] == 7
    assert back["config"] == {"train": {"steps": 10, "rates": [0.1, 0.2]}}
    (claim,) = back["claims"]
    assert {"id", "statement", "treatment", "baseline", "metric", "better", "margin"} <= set(claim)
    assert {"kind", "effect", "ci95", "n", "verdict", "corrected_level", "method"} <= set(claim)
    assert claim["verdict"] in ("supported", "contradicted", "inconclusive")
    assert back["not_tested"] == [
        {"id": "C2", "statement": "Far is better.", "reason": "needs far data"}
    ]
    assert math.isnan(back["arms"]["new"]["loss"][1])
    assert back["curves"] == {"x": [0, 1, 2], "y": [0.5, None, 1.0]}
    assert "extra" in [figure["name"] for figure in back["figures"]]
    assert back["data"][0]["source"] == "/x"
    assert repr(back) == repr(record)


def test_json_is_strict(tmp_path: pathlib.Path) -> None:
    def refuse(name: str) -> None:
        raise AssertionError(f"{name} is no JSON")

    path = tmp_path / "evidence.json"
    write_record(build_record(evidence(), **FIXED), path)
    assert json.loads(path.read_text(), parse_constant=refuse)["arms"]["new"]["loss"][1] is None


def test_a_write_that_fails_leaves_the_old_file(tmp_path: pathlib.Path, monkeypatch) -> None:
    path = tmp_path / "evidence.json"
    path.write_text("old")

    def full_disk(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full_disk)
    with pytest.raises(OSError, match="No space"):
        write_record(build_record(evidence(), **FIXED), path)
    assert path.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["evidence.json"]


@pytest.mark.parametrize(
    ("change", "fixed", "message"),
    [
        ({"not_tested": {"C9": "x"}}, {}, "not_tested names claim 'C9'; claims are C1, C2"),
        ({"not_tested": {}}, {}, "claim C2: no arm 'far'"),
        ({}, {"seeds": [0, 1]}, "'score' of arm 'new' has 3 values for 2 seeds"),
        ({}, {"config": {"a": {"b": object()}}}, "record.config.a.b is a object"),
        (
            {"figures": [Figure("f", "", b""), Figure("f", "", b"")]},
            {},
            "two figures have one name, 'f'",
        ),
    ],
)
def test_what_does_not_fit_is_refused(change: dict, fixed: dict, message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)) as caught:
        build_record(evidence(**change), **{**FIXED, **fixed})
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda text: text[: len(text) // 2], "is damaged"),
        (lambda text: "\x00" * 100, "is damaged"),
        (lambda text: "[]", "holds a list"),
        (lambda text: text.replace('"arms"', '"arm"'), "has no 'arms'"),
        (lambda text: text.replace('"format": 1', '"format": 99'), "has format 99"),
        (lambda text: text.replace('"n": 3', '"m": 3'), "claim 0 has no 'n'"),
        (lambda text: text.replace('"preset": "smoke"', '"preset": 3'), "'preset' is a int"),
        (lambda text: text.replace('"title"', '"titel"'), "'system' has no 'title'"),
        (lambda text: text.replace("inconclusive", "true"), "verdict 'true' of claim C1"),
        (lambda text: text.replace('"loss": [', '"loss": "", "x": ['), "'arms' is not arm"),
    ],
)
def test_damaged_records_are_named(tmp_path: pathlib.Path, damage, message: str) -> None:
    path = tmp_path / "evidence.json"
    write_record(build_record(evidence(), **FIXED), path)
    text = path.read_text()
    assert damage(text) != text
    path.write_text(damage(text).replace('"loss": ""', '"loss": 3'))
    with pytest.raises(ValueError, match=re.escape(message)) as caught:
        read_record(path)
    assert "\n" not in str(caught.value)
    assert str(path) in str(caught.value)


def test_missing_record_is_a_missing_file(tmp_path: pathlib.Path) -> None:
    with pytest.raises(FileNotFoundError):
        read_record(tmp_path / "evidence.json")
    assert list(tmp_path.iterdir()) == []


def test_environment_names_versions_devices_and_revision() -> None:
    found = environment(devices="2 x cpu")
    assert found["devices"] == "2 x cpu"
    assert {"jax", "flax", "optax", "numpy"} <= set(found["packages"])
    assert found["git"] is None or len(found["git"]["revision"]) == 40


def test_revision_of_a_surrounding_checkout_is_not_borrowed(tmp_path: pathlib.Path) -> None:
    inside = pathlib.Path(__file__).parent
    assert git_state(inside) is None
    assert git_state(tmp_path) is None
