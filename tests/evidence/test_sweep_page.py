"""The page of a sweep: what it shows of points that finished, failed, or are missing parts."""

import json

import pytest

from trove_jax.evidence import (
    Claim,
    Evidence,
    SweepPoint,
    System,
    build_record,
    render_sweep,
    sweep_summary,
)
from trove_jax.evidence.sweep_page import mean_over_seeds


def record(arms, seeds, claims=()):
    return build_record(
        Evidence(arms=arms),
        system=System(7, "A <thing>", "P"),
        claims=claims,
        experiment="thing",
        preset="smoke",
        seeds=list(range(seeds)),
        started="2026-01-02T03:04:05",
        duration_s=60.0,
        environment={},
        config={},
        cost={"network_steps": 1200},
    )


def summarise(points):
    return sweep_summary(
        points, experiment="thing", preset="smoke", command="go on", traced=("rate",), programs=2
    )


def test_what_is_missing_is_shown_as_missing():
    points = [
        SweepPoint({"rate": "0.1"}, "a", "run a", record({"x": {"loss": [1.0, 3.0]}}, 2)),
        SweepPoint({"rate": "<b>"}, "b", "run b", record({"y": {"loss": [5.0, float("nan")]}}, 2)),
        SweepPoint({"width": "3"}, "c", "run c", None, "out of <luck>"),
        SweepPoint({"width": "4"}, "d", "run d"),
    ]
    summary = summarise(points)
    assert json.loads(json.dumps(summary, allow_nan=False)) == summary
    assert (summary["traced"], summary["separate"]) == (["rate"], ["width"])
    assert [point["status"] for point in summary["points"]] == [
        *("finished", "finished", "failed", "not finished")
    ]
    assert summary["points"][1]["arms"]["y"]["loss"] == [5.0, None]
    html = render_sweep(summary)
    assert "4 points (2 finished, 1 failed, 1 not finished), 2 programs" in html
    assert '<a href="b/report.html">&lt;b&gt;</a>' in html
    assert "out of &lt;luck&gt;" in html
    assert "A &lt;thing&gt;" in html
    # Student's t of one degree of freedom: 2 ± 12.706 sqrt(2) / sqrt(2).
    assert '<td class="n">2 ± 13</td><td class="n"></td>' in html
    assert '<td class="n">5.000 <span class="small">(1 failed)</span></td>' in html
    assert "2 min 0 s in all" in html or "2 min in all" in html
    assert html.count("1,200") == 2
    assert "http" not in html.partition("<main>")[2]


def test_verdicts_of_every_point():
    claim = Claim("C1", "New beats old.", "score", "new", "old")
    arms = {"new": {"score": [2.0, 2.1, 2.2]}, "old": {"score": [1.0, 1.2, 1.1]}}
    turned = {"new": arms["old"], "old": arms["new"]}
    points = [
        SweepPoint({"rate": str(i)}, str(i), "run", record(found, 3, [claim]))
        for i, found in enumerate((arms, turned))
    ]
    html = render_sweep(summarise(points))
    assert "<h2>Verdicts</h2>" in html
    assert html.index("badge supported") < html.index("badge contradicted")


@pytest.mark.parametrize("values", [[], [None], [float("inf")]])
def test_no_finite_value_has_no_mean(values):
    found = mean_over_seeds(values)
    assert (found["mean"], found["low"], found["n"]) == (None, None, 0)
    assert found["failed"] == len(values)


def test_a_sweep_without_a_finished_point_has_a_page():
    html = render_sweep(summarise([SweepPoint({"rate": "1"}, "a", "run a")]))
    assert "1 not finished" in html
    assert "run a" in html
