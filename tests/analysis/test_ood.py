"""Detection measures against scikit-learn, and against all pairs and all thresholds."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.metrics import average_precision_score, roc_auc_score, roc_curve

from tests.contracts import ArrayContract, cases, holds
from trove_jax.analysis import (
    aupr,
    auroc,
    energy_score,
    fpr_at_tpr,
    max_softmax_score,
    ood_report,
)

_RANKS = ("jit", "vmap", "float64", "bfloat16", "single", "permutation")
_ROWS = (*_RANKS, "gradient", "empty")


def _scores(rng: np.random.Generator, n: int):
    # Quarters are exact in every dtype, and many tie.
    return tuple((rng.integers(-8, 8, n) / 4 + shift).astype(np.float32) for shift in (0.5, 0))


def _logits(rng: np.random.Generator, n: int):
    return (rng.normal(size=(n, 5)).astype(np.float32) * 3,)


CONTRACTS = {
    "auroc": ArrayContract(auroc, _scores, properties=_RANKS),
    "aupr": ArrayContract(aupr, _scores, properties=_RANKS),
    "fpr_at_tpr": ArrayContract(fpr_at_tpr, _scores, properties=_RANKS),
    "ood_report": ArrayContract(ood_report, _scores, properties=_RANKS),
    "max_softmax_score": ArrayContract(
        max_softmax_score, _logits, properties=_ROWS, equivariant=True
    ),
    "energy_score": ArrayContract(energy_score, _logits, properties=_ROWS, equivariant=True),
}


@pytest.mark.parametrize(("name", "check"), cases(CONTRACTS))
def test_contract(name, check):
    assert holds(CONTRACTS[name], check)


_measures = jax.jit(ood_report, static_argnames="tpr")


def _peer(inside, outside, tpr):
    truth = np.concatenate([np.ones(len(inside)), np.zeros(len(outside))])
    scores = np.concatenate([inside, outside])
    fpr, rate, _ = roc_curve(truth, scores, drop_intermediate=False)
    return (
        roc_auc_score(truth, scores),
        average_precision_score(truth, scores),
        average_precision_score(1 - truth, -scores),
        fpr[rate >= tpr - 1e-12].min(),
    )


@pytest.mark.parametrize("values", [3, 40, 10**6])
@pytest.mark.parametrize(("n", "m"), [(57, 43), (20, 100), (1, 9), (9, 1)])
def test_equal_to_scikit_learn_with_and_without_ties(values, n, m):
    for seed in range(4):
        rng = np.random.default_rng(seed)
        inside, outside = rng.integers(0, values, n) + values // 3, rng.integers(0, values, m)
        got = _measures(*(jnp.asarray(s, jnp.float32) for s in (inside, outside)), tpr=0.95)
        # Sums of up to 100 quotients, each rounded to 2^-24.
        np.testing.assert_allclose(got, _peer(inside, outside, 0.95), rtol=2e-6)


def test_equal_to_counting_all_pairs_in_float64():
    rng = np.random.default_rng(0)
    inside, outside = rng.normal(0.5, 1, 300).round(1), rng.normal(0, 1, 200).round(1)
    pairs = inside[:, None] - outside[None]
    with jax.enable_x64(True):
        got = auroc(jnp.asarray(inside), jnp.asarray(outside))
        assert got.dtype == jnp.float64
        np.testing.assert_allclose(got, np.mean((np.sign(pairs) + 1) / 2), rtol=1e-14)


@pytest.mark.parametrize("tpr", [0.07, 0.5, 0.95, 1.0])
def test_the_rate_is_the_least_over_all_thresholds(tpr):
    # 0.07 * 100 is above 7 in floating point, and exactly 7 examples have to pass.
    rng = np.random.default_rng(1)
    inside, outside = rng.permutation(200)[:100], rng.permutation(200)[:60]
    want = min((outside >= t).mean() for t in inside if (inside >= t).sum() >= round(tpr * 100))
    got = fpr_at_tpr(jnp.asarray(inside, jnp.float32), jnp.asarray(outside, jnp.float32), tpr=tpr)
    np.testing.assert_allclose(got, want, rtol=1e-6)


def test_a_score_that_knows_nothing_and_one_that_knows_all():
    same = jnp.zeros(40)
    np.testing.assert_allclose(ood_report(same, same[:10]), [0.5, 0.8, 0.2, 1.0], rtol=1e-6)
    all_known = ood_report(jnp.full(3, jnp.inf), jnp.full(2, -jnp.inf))
    np.testing.assert_array_equal(all_known, [1, 1, 1, 0])
    np.testing.assert_allclose(auroc(same - 1.0, same), 0.0)


def test_swapping_the_classes_and_the_sign_changes_nothing():
    inside, outside = (jnp.asarray(s) for s in _scores(np.random.default_rng(2), 50))
    np.testing.assert_allclose(auroc(inside, outside), auroc(-outside, -inside), rtol=1e-6)
    np.testing.assert_allclose(auroc(outside, inside), 1 - auroc(inside, outside), rtol=1e-6)


def test_seeds_side_by_side_and_one_that_failed():
    inside = jnp.array([[2.0, 1.0], [jnp.nan, 1.0], [0.0, 1.0]])
    outside = jnp.array([[0.0], [0.0], [1.0]])
    report = jax.vmap(ood_report)(inside, outside)
    np.testing.assert_allclose(report.auroc, [1.0, np.nan, 0.25])
    for measure in report:
        np.testing.assert_array_equal(jnp.isnan(measure), [False, True, False])
    assert jnp.isnan(auroc(inside[0], jnp.array([jnp.nan])))


def test_scores_are_the_softmax_and_the_energy():
    logits = np.random.default_rng(3).normal(size=(30, 7)) * 4
    p = np.exp(logits / 2 - (logits / 2).max(axis=1, keepdims=True))
    total = p.sum(axis=1)
    p = p / total[:, None]
    x = jnp.asarray(logits, jnp.float32)
    # Rounding of logits of size 10 is 1e-6, absolute in the logarithm.
    np.testing.assert_allclose(max_softmax_score(x, temperature=2.0), np.log(p.max(1)), atol=2e-6)
    want = 2 * (np.log(total) + (logits / 2).max(axis=1))
    np.testing.assert_allclose(energy_score(x, temperature=2.0), want, rtol=1e-6)


def test_sure_examples_stay_apart_and_equal_logits_are_no_trouble():
    logits = jnp.array([[20.0, 0.0, 0.0], [30.0, 0.0, 0.0], [1000.0, 0.0, 0.0], [5.0, 5.0, 5.0]])
    score = np.asarray(max_softmax_score(logits))
    assert jax.nn.softmax(logits[0]).max() == 1.0
    np.testing.assert_allclose(score[:2], [-2 * np.exp(-20.0), -2 * np.exp(-30.0)], rtol=1e-5)
    np.testing.assert_allclose(score[2:], [0.0, -np.log(3.0)], rtol=1e-6)


@pytest.mark.parametrize(
    ("inside", "outside", "message"),
    [
        (jnp.zeros(0), jnp.ones(2), "in_scores is float32"),
        (jnp.ones(2), jnp.zeros(0), "out_scores is float32"),
        (jnp.ones((2, 2)), jnp.ones(2), r"in_scores is float32 \[2, 2\]"),
        (jnp.arange(3), jnp.ones(2), r"in_scores is int32 \[3\], expected floating"),
        (jnp.ones(2), jnp.ones(2, jnp.bfloat16), "in_scores is float32, out_scores bfloat16"),
    ],
)
def test_bad_scores_are_refused(inside, outside, message):
    for measure in (auroc, aupr, fpr_at_tpr, ood_report):
        with pytest.raises(ValueError, match=message):
            measure(inside, outside)


def test_bad_options_are_refused():
    with pytest.raises(ValueError, match=r"tpr=95 is outside \(0, 1\]"):
        fpr_at_tpr(jnp.ones(2), jnp.ones(2), tpr=95)
    for score in (max_softmax_score, energy_score):
        with pytest.raises(ValueError, match="at least two classes"):
            score(jnp.ones((4, 1)))
        with pytest.raises(ValueError, match="logits is int32"):
            score(jnp.ones((4, 2), jnp.int32))
        with pytest.raises(ValueError, match="temperature=0"):
            score(jnp.ones((4, 2)), temperature=0)
