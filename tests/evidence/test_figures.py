"""Figures show the numbers they are given, in files that are pictures."""

import io
import pathlib
import subprocess
import sys

import matplotlib.image
import numpy as np
import pytest

from trove_jax.evidence import (
    Claim,
    Evidence,
    System,
    build_record,
    curves,
    effect_intervals,
    save_figures,
    seed_dots,
    standard_figures,
)
from trove_jax.evidence.figures import COLOURS

CLAIMS = [
    Claim("D", "Higher.", "score", "new", "old", margin=0.5, unit="points"),
    Claim("L", "Lower.", "score", "old", "new", better="lower"),
    Claim("R", "At most half.", "cost", "new", "old", better="lower", kind="ratio", margin=0.5),
    Claim("E", "Equal.", "score", "new", "old", kind="equality", margin=0.4),
]


def make_record(n: int = 6, *, lost: int = 0, claims: list[Claim] = CLAIMS) -> dict:
    rng = np.random.default_rng(0)
    arms = {
        "other": {"score": rng.normal(size=n)},
        "new": {"score": 3 + rng.normal(size=n), "cost": rng.gamma(9, size=n)},
        "old": {"score": rng.normal(size=n), "cost": 3 * rng.gamma(9, size=n)},
    }
    for metrics in arms.values():
        for values in metrics.values():
            values[:lost] = np.nan
    return build_record(
        Evidence(arms=arms),
        system=System(1, "T", "P"),
        claims=claims,
        experiment="e",
        preset="smoke",
        seeds=range(n),
        started="2026-01-01",
        duration_s=1.0,
        environment={},
        config={},
    )


@pytest.mark.parametrize(("n", "lost"), [(6, 0), (12, 0), (2, 0), (1, 0), (6, 2), (3, 2)])
def test_standard_figures_are_pictures_for_any_number_of_seeds(
    n: int, lost: int, tmp_path: pathlib.Path
) -> None:
    record = make_record(n, lost=lost)
    figures = standard_figures(record)
    names = [figure.name for figure in figures]
    pairs = n - lost
    assert names == [
        *(["effects"] if pairs > 1 else []),
        "claim-D",
        "claim-L",
        "claim-R",
        "claim-E",
    ]
    assert names == [entry["name"] for entry in record["figures"]]
    drawn = save_figures(figures, tmp_path / "figures")
    for name in names:
        content = (tmp_path / "figures" / f"{name}.png").read_bytes()
        assert content == drawn[name]
        image = matplotlib.image.imread(io.BytesIO(content))
        assert image.shape[1] == 1280
        assert image[..., :3].std() > 0.02


def test_no_pair_of_seeds_no_figure() -> None:
    assert standard_figures(make_record(2, lost=2)) == []


@pytest.mark.parametrize("place", range(4))
def test_dots_stand_where_the_seeds_are(place: int) -> None:
    record = make_record(7, lost=1)
    claim = record["claims"][place]
    figure = seed_dots(claim, record["arms"], order=list(record["arms"]))
    left, right = figure.axes
    shown = [np.asarray(c.get_offsets())[:, 1] for c in left.collections]
    for dots, arm in zip(shown, (claim["baseline"], claim["treatment"]), strict=True):
        np.testing.assert_array_equal(dots, record["arms"][arm][claim["metric"]][1:])
    effects = np.asarray(right.collections[-1].get_offsets())[:, 1]
    mean = np.exp(np.log(effects).mean()) if claim["kind"] == "ratio" else effects.mean()
    assert mean == pytest.approx(claim["effect"])
    drawn = {tuple(np.ravel(line.get_ydata())) for line in right.lines}
    assert tuple(claim["ci95"]) in drawn
    assert tuple(claim["corrected_interval"]) in drawn
    assert left.collections[0].get_facecolor()[0] == pytest.approx(
        matplotlib.colors.to_rgba(COLOURS[list(record["arms"]).index(claim["baseline"])])
    )


def test_forest_has_a_row_per_claim_with_its_interval() -> None:
    claims = make_record()["claims"]
    rows = effect_intervals(claims).axes
    assert [axes.get_ylabel() for axes in rows] == ["D", "L", "R", "E"]
    for axes, claim in zip(rows, claims, strict=True):
        drawn = {tuple(np.ravel(line.get_xdata())) for line in axes.lines}
        assert {tuple(claim["ci95"]), tuple(claim["corrected_interval"])} <= drawn
        low, high = axes.get_xlim()
        assert low < claim["effect"] < high
        assert low < claim["margin"] < high


def test_curves_show_mean_seeds_and_the_legend() -> None:
    x = np.array([1.0, 10, 100])
    values = np.random.default_rng(0).normal(size=(5, 3))
    values[0, 2] = np.nan
    (axes,) = curves(
        x, {"new": values}, xlabel="k", ylabel="score", log_x=True, lines={"dense": 2.0}
    ).axes
    assert axes.get_xscale() == "log"
    np.testing.assert_allclose(axes.lines[5].get_ydata(), np.nanmean(values, axis=0))
    assert len(axes.lines) == 7
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["new", "dense"]


@pytest.mark.parametrize(
    ("x", "values", "log_x", "message"),
    [
        ([1, 2], np.zeros((3, 4)), False, r"shape \(3, 4\); wanted \[s, 2\]"),
        ([1, 2], np.zeros(2), False, r"shape \(2,\); wanted \[s, 2\]"),
        ([0, 2], np.zeros((3, 2)), True, "log_x needs positive x; the smallest is 0.0"),
    ],
)
def test_curves_that_do_not_fit_are_refused(x, values, log_x: bool, message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        curves(x, {"new": values}, xlabel="", ylabel="", log_x=log_x)
    assert "\n" not in str(caught.value)


def test_importing_the_room_loads_no_plotting_no_scipy_and_no_jax() -> None:
    code = (
        "import sys, trove_jax.evidence;"
        "print([m for m in ('jax', 'scipy', 'matplotlib') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
