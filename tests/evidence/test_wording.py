"""Sentences say what the numbers say, whatever the direction and the kind of the claim."""

import numpy as np
import pytest

from trove_jax.evidence import Claim, Evidence, System, build_record, wording


def entry(new: list[float], old: list[float], **fields) -> dict:
    claim = Claim("C1", "New beats old.", "top_score", "new_net", "old_net", **fields)
    record = build_record(
        Evidence(arms={"new_net": {"top_score": new}, "old_net": {"top_score": old}}),
        system=System(1, "T", "P"),
        claims=[claim],
        experiment="e",
        preset="smoke",
        seeds=range(len(new)),
        started="2026-01-01",
        duration_s=1.0,
        environment={},
        config={},
    )
    return record["claims"][0]


OLD = [10.0, 11.0, 12.0, 13.0]
UP = [12.1, 12.9, 14.1, 14.9]
DOWN = [8.1, 8.9, 10.1, 10.9]


@pytest.mark.parametrize(
    ("new", "fields", "sentence", "short"),
    [
        (
            UP,
            {"unit": "points"},
            "Top score of new net is 2.00 points higher than that of old net: 13.50 against 11.50 "
            "(95 % interval 1.82 to 2.18, 4 seeds).",
            "+2.00 points (1.82 to 2.18)",
        ),
        (
            DOWN,
            {},
            "Top score of new net is 2.00 lower than that of old net: 9.50 against 11.50 "
            "(95 % interval 1.82 to 2.18, 4 seeds).",
            "−2.00 (−2.18 to −1.82)",
        ),
        (
            DOWN,
            {"better": "lower"},
            "Top score of new net is 2.00 lower than that of old net: 9.50 against 11.50 "
            "(95 % interval 1.82 to 2.18, 4 seeds).",
            "−2.00 (−2.18 to −1.82)",
        ),
        (
            UP,
            {"better": "lower"},
            "Top score of new net is 2.00 higher than that of old net: 13.50 against 11.50 "
            "(95 % interval 1.82 to 2.18, 4 seeds).",
            "+2.00 (1.82 to 2.18)",
        ),
        (
            DOWN,
            {"kind": "equality", "margin": 3.0, "unit": "points"},
            "Top score of new net and that of old net differ by 2.00 points: 9.50 against 11.50 "
            "(95 % interval −2.18 to −1.82, 4 seeds).",
            "−2.00 points (−2.18 to −1.82)",
        ),
        (
            [5.0, 5.5, 6.0, 6.5],
            {"kind": "ratio", "margin": 0.6, "better": "lower"},
            "Top score of new net is 0.500 times that of old net: 5.75 against 11.5 "
            "(95 % interval 0.500 to 0.500, 4 seeds).",
            "× 0.500 (0.500 to 0.500)",
        ),
    ],
)
def test_sentences(new: list, fields: dict, sentence: str, short: str) -> None:
    claim = entry(new, OLD, **fields)
    assert wording.effect_sentence(claim).replace("\N{NO-BREAK SPACE}", " ") == sentence
    assert wording.effect_in_short(claim) == short


@pytest.mark.parametrize(
    ("fields", "rule"),
    [
        (
            {"margin": -0.7, "unit": "points"},
            "interval of new net − old net lies wholly above −0.7",
        ),
        ({"better": "lower"}, "interval of old net − new net lies wholly above 0,"),
        (
            {"kind": "ratio", "margin": 0.6, "better": "lower"},
            "new net / old net lies wholly below",
        ),
        ({"kind": "ratio", "margin": 2.0}, "new net / old net lies wholly above 2,"),
        ({"kind": "equality", "margin": 0.25}, "lies wholly within ±0.25,"),
    ],
)
def test_rules_name_the_difference_that_is_bounded(fields: dict, rule: str) -> None:
    assert rule in wording.rule_sentence(entry(UP, OLD, **fields))


def test_decision_names_interval_level_method_and_p() -> None:
    text = wording.decision_sentence(entry(UP, OLD)).replace("\N{NO-BREAK SPACE}", " ")
    assert text == (
        "Decided by the 95 % interval 1.82 to 2.18 (Student's t; p < 0.0001 before correction)."
    )


@pytest.mark.parametrize(
    ("new", "old", "expected"),
    [
        ([3.0], [1.0], "(1 seed, no interval)."),
        ([float("nan")], [1.0], "could not be compared."),
    ],
)
def test_without_an_interval_the_sentence_says_so(new: list, old: list, expected: str) -> None:
    claim = entry(new, old)
    assert wording.effect_sentence(claim).endswith(expected)
    assert wording.decision_sentence(claim) == "No interval, so no decision."


@pytest.mark.parametrize("value", [1e-12, 3.2e-7, 0.00123, 0.5, 7.0, 1234.5, 9.9e8, 4e15])
@pytest.mark.parametrize("sign", [1, -1])
def test_numbers_keep_two_digits_at_any_size(value: float, sign: int) -> None:
    text = wording.number(sign * value, wording.decimals_for(value))
    back = float(text.replace("−", "-").replace(",", ""))
    assert back == pytest.approx(sign * value, rel=0.06)


def test_numbers_that_round_to_zero_have_no_sign() -> None:
    assert wording.number(-0.001, 2) == "0.00"
    assert wording.number(np.float64("nan")) == "–"
