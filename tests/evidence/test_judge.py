"""Verdicts by kind of claim, Holm's correction, and the error rates by simulation."""

import math
import re

import numpy as np
import pytest
import scipy.stats

from trove_jax.evidence import Claim, judge
from trove_jax.evidence.statistics import RESAMPLES


def make_claim(name: str = "C1", **fields) -> Claim:
    base = {"statement": "New beats old.", "metric": "score", "treatment": "new", "baseline": "old"}
    return Claim(id=name, **{**base, **fields})


def arms_of(new: list[float], old: list[float]) -> dict:
    return {"new": {"score": new}, "old": {"score": old}}


def with_p(p: float, *, n: int = 5) -> np.ndarray:
    """Differences whose two-sided one-sample t-test has the p-value p, on the positive side."""
    pattern = np.arange(n) - (n - 1) / 2
    pattern = pattern / (pattern.std(ddof=1) / math.sqrt(n))
    return pattern + scipy.stats.t.isf(p / 2, n - 1)


@pytest.mark.parametrize(
    ("fields", "shift", "verdict"),
    [
        ({}, 3.0, "supported"),
        ({}, -3.0, "contradicted"),
        ({}, 0.1, "inconclusive"),
        ({"margin": 2.0}, 3.0, "supported"),
        ({"margin": 2.9}, 3.0, "inconclusive"),
        ({"margin": 4.0}, 3.0, "contradicted"),
        ({"margin": -1.0}, 0.1, "supported"),
        ({"better": "lower"}, -3.0, "supported"),
        ({"better": "lower"}, 3.0, "contradicted"),
        ({"better": "lower", "margin": 2.0}, -3.0, "supported"),
        ({"better": "lower", "margin": -1.0}, 0.1, "supported"),
        ({"kind": "equality", "margin": 1.0}, 0.1, "supported"),
        ({"kind": "equality", "margin": 1.0}, -0.1, "supported"),
        ({"kind": "equality", "margin": 1.0}, 0.9, "inconclusive"),
        ({"kind": "equality", "margin": 1.0}, 1.1, "inconclusive"),
        ({"kind": "equality", "margin": 1.0}, 3.0, "contradicted"),
        ({"kind": "equality", "margin": 1.0}, -3.0, "contradicted"),
    ],
)
@pytest.mark.parametrize("n", [5, 12])
def test_verdicts_of_differences_and_equalities(
    fields: dict, shift: float, verdict: str, n: int
) -> None:
    old = np.random.default_rng(0).normal(90, 5, size=n)
    noise = np.linspace(-0.4, 0.4, n)
    (got,) = judge([make_claim(**fields)], arms_of(old + shift + noise, old))
    assert got.verdict == verdict
    sign = -1 if fields.get("better") == "lower" else 1
    assert got.effect == pytest.approx(sign * shift)
    assert got.treatment_mean - got.baseline_mean == pytest.approx(shift)


@pytest.mark.parametrize(
    ("better", "margin", "ratio", "verdict"),
    [
        ("lower", 0.6, 0.3, "supported"),
        ("lower", 0.6, 0.6, "inconclusive"),
        ("lower", 0.6, 0.9, "contradicted"),
        ("higher", 2.0, 3.0, "supported"),
        ("higher", 2.0, 1.5, "contradicted"),
    ],
)
def test_verdicts_of_ratios(better: str, margin: float, ratio: float, verdict: str) -> None:
    old = np.random.default_rng(1).gamma(9, size=6)
    new = ratio * old * np.exp(np.linspace(-0.1, 0.1, 6))
    claim = make_claim(better=better, margin=margin, kind="ratio")
    (got,) = judge([claim], arms_of(new, old))
    peer = np.exp(
        scipy.stats.ttest_rel(np.log(new), np.log(old)).confidence_interval(confidence_level=0.95)
    )
    assert got.verdict == verdict
    assert got.effect == pytest.approx(ratio)
    np.testing.assert_allclose(got.ci95, peer, rtol=1e-9)


def test_one_claim_is_decided_by_its_95_per_cent_interval() -> None:
    new, old = np.random.default_rng(2).normal(size=(2, 7))
    (got,) = judge([make_claim()], arms_of(new, old))
    peer = scipy.stats.ttest_rel(new, old)
    assert got.ci95 == got.corrected_interval
    np.testing.assert_allclose(got.ci95, peer.confidence_interval(0.95), rtol=1e-9)
    assert got.p_value == pytest.approx(peer.pvalue)
    assert (got.corrected_level, got.n, got.method) == (0.95, 7, "Student's t")


def test_equality_is_schuirmanns_two_one_sided_tests() -> None:
    new, old = np.random.default_rng(3).normal(size=(2, 8))
    (got,) = judge([make_claim(kind="equality", margin=2.0)], arms_of(new, old))
    low = scipy.stats.ttest_rel(new + 2, old, alternative="greater").pvalue
    high = scipy.stats.ttest_rel(new - 2, old, alternative="less").pvalue
    assert got.p_value == pytest.approx(max(low, high))
    assert (got.verdict == "supported") == (max(low, high) <= 0.05)
    np.testing.assert_allclose(
        got.corrected_interval, scipy.stats.ttest_rel(new, old).confidence_interval(0.9), rtol=1e-9
    )


def test_holm_against_the_textbook_example() -> None:
    # p = 0.01, 0.04, 0.03, 0.005: 0.005 <= 0.05/4 and 0.01 <= 0.05/3 are rejected, 0.03 > 0.05/2
    # stops, and 0.04 stays open although it is below 0.05.
    p_values = [0.01, 0.04, 0.03, 0.005]
    claims, arms = [], {"old": {"score": [0.0] * 5}}
    for i, p in enumerate(p_values):
        arms[f"new{i}"] = {"score": with_p(p)}
        claims.append(make_claim(f"C{i}", treatment=f"new{i}"))
    got = judge(claims, arms)
    assert [v.claim.id for v in got] == ["C0", "C1", "C2", "C3"]
    np.testing.assert_allclose([v.p_value for v in got], p_values, rtol=1e-6)
    assert [v.verdict for v in got] == ["supported", "inconclusive", "inconclusive", "supported"]
    np.testing.assert_allclose(
        [v.corrected_level for v in got], [1 - 0.05 / 3, 1 - 0.05 / 2, 1 - 0.05 / 2, 1 - 0.05 / 4]
    )
    for v in got:
        assert (v.verdict == "supported") == (v.corrected_interval[0] > 0)
        assert v.ci95[0] > 0
        assert v.method == "Student's t; Holm over 4 claims"


@pytest.mark.parametrize("n", [5, 10])
def test_chance_of_any_wrong_verdict_stays_below_five_per_cent(n: int) -> None:
    # Three claims without any effect, correlated through one baseline, beside two true ones.
    rng = np.random.default_rng(n)
    runs, wrong, found = 1000, 0, 0
    claims = [make_claim(f"C{i}", treatment=f"new{i}") for i in range(5)]
    for values in rng.normal(size=(runs, 6, n)):
        arms = {f"new{i}": {"score": values[i] + (6 if i >= 3 else 0)} for i in range(5)}
        got = judge(claims, {**arms, "old": {"score": values[5]}})
        wrong += any(v.verdict != "inconclusive" for v in got[:3])
        found += all(v.verdict == "supported" for v in got[3:])
    # Binomial: standard deviation 0.0069 at 0.05, so 0.0707 is three away (one in 700).
    assert wrong / runs < 0.05 + 0.0207
    assert found / runs > 0.75


@pytest.mark.parametrize(("effect", "wrong"), [(1.0, "supported"), (0.999, "contradicted")])
def test_wrong_equality_at_the_margin(effect: float, wrong: str) -> None:
    claim, runs, count = make_claim(kind="equality", margin=1.0), 2000, 0
    for d in np.random.default_rng(11).normal(effect, 0.5, size=(runs, 6)):
        count += judge([claim], arms_of(d, np.zeros(6)))[0].verdict == wrong
    # 0.05 (supported) and 0.025 (contradicted) with a standard deviation of at most 0.0049.
    assert 0.01 < count / runs < 0.05 + 3 * 0.0049


def test_seeds_that_failed_are_left_out_of_both_arms() -> None:
    new, old = [3.0, 4.0, math.nan, 5.0, 3.5], [1.0, math.inf, 1.0, 1.0, 1.2]
    (got,) = judge([make_claim()], arms_of(new, old))
    (same,) = judge([make_claim()], arms_of([3.0, 5.0, 3.5], [1.0, 1.0, 1.2]))
    assert (got.left_out, got.n) == ((1, 2), 3)
    assert (got.effect, got.ci95, got.verdict) == (same.effect, same.ci95, same.verdict)
    assert (got.treatment_mean, got.baseline_mean) == (same.treatment_mean, same.baseline_mean)
    assert "2 of 5 seeds left out" in got.note


@pytest.mark.parametrize("kind", ["difference", "ratio", "equality"])
@pytest.mark.parametrize(
    ("new", "old", "n", "note"),
    [
        ([], [], 0, "No pair of seeds"),
        ([2.0], [1.0], 1, "One seed gives no interval"),
        ([2.0, math.nan], [1.0, 1.0], 1, "One seed gives no interval"),
        ([math.nan], [1.0], 0, "No pair of seeds"),
    ],
)
def test_fewer_than_two_pairs_are_inconclusive_and_say_so(
    kind: str, new: list, old: list, n: int, note: str
) -> None:
    (got,) = judge([make_claim(kind=kind, margin=0.5)], arms_of(new, old))
    assert (got.verdict, got.n, got.ci95, got.p_value) == ("inconclusive", n, None, None)
    assert note in got.note
    assert (got.effect is None) == (n == 0)


def test_ratio_of_a_value_that_is_not_positive_is_not_formed() -> None:
    claim = make_claim(kind="ratio", better="lower", margin=0.5)
    (got,) = judge([claim], arms_of([1.0, math.nan, 0.0, 1.0], [9.0, 9.0, 9.0, 9.0]))
    assert (got.verdict, got.effect, got.ci95) == ("inconclusive", None, None)
    assert "score of arm 'new' at seed position 2 is 0" in got.note


def test_wild_ratios_of_two_seeds_do_not_overflow() -> None:
    claims = [make_claim(f"C{i}", kind="ratio", margin=0.5) for i in range(5)]
    for v in judge(claims, arms_of([1e-9, 1e9], [1.0, 1.0])):
        assert v.verdict == "inconclusive"
        assert np.isfinite(v.corrected_interval).all()


def test_equal_differences_are_decided_and_noted() -> None:
    (got,) = judge([make_claim()], arms_of([2.0] * 12, [1.0] * 12))
    assert (got.verdict, got.ci95, got.p_value) == ("supported", (1.0, 1.0), 0.0)
    assert "no width" in got.note
    (tie,) = judge([make_claim()], arms_of([1.0] * 5, [1.0] * 5))
    assert (tie.verdict, tie.p_value) == ("inconclusive", 1.0)


def test_from_ten_seeds_on_the_method_is_the_bootstrap() -> None:
    new, old = np.random.default_rng(5).normal(size=(2, 10))
    (got,) = judge([make_claim()], arms_of(new, old))
    assert got.method == f"BCa bootstrap, {RESAMPLES} resamples, expanded"


def test_no_claims_no_verdicts() -> None:
    assert judge([], {}) == []


@pytest.mark.parametrize(
    ("claims", "arms", "message"),
    [
        ([make_claim()], {"ne": {}, "old": {"score": [1.0]}}, "no arm 'new' (its treatment)"),
        ([make_claim()], {"nev": {}, "old": {"score": [1.0]}}, "did you mean 'nev'?"),
        ([make_claim()], {"new": {"scores": [1.0]}, "old": {}}, "did you mean 'scores'?"),
        ([make_claim()], arms_of([1.0], [1.0, 2.0]), "1 seeds in arm 'new' and 2 in 'old'"),
        ([make_claim()], arms_of([[1.0]], [[1.0]]), "has shape (1, 1)"),
        ([make_claim(), make_claim()], arms_of([1.0], [1.0]), "claim id 'C1' is used 2 times"),
    ],
)
def test_claims_that_do_not_fit_the_arms_are_refused(claims, arms, message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)) as caught:
        judge(claims, arms)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("level", [0.5, 1.0, 95.0])
def test_unusable_level_is_refused(level: float) -> None:
    with pytest.raises(ValueError, match=f"level={level}"):
        judge([make_claim()], arms_of([1.0, 2.0], [0.0, 0.0]), level=level)
