"""Claims refuse what cannot be decided, in one clear sentence."""

import dataclasses
import re

import pytest

from trove_jax.evidence import Claim, System

GOOD = {
    "id": "C1",
    "statement": "Deep is better than shallow.",
    "metric": "accuracy",
    "treatment": "deep",
    "baseline": "shallow",
}


def test_defaults_are_a_difference_above_zero() -> None:
    claim = Claim(**GOOD)
    assert (claim.kind, claim.better, claim.margin) == ("difference", "higher", 0.0)


def test_negative_margin_of_a_difference_is_allowed() -> None:
    assert Claim(**GOOD, margin=-0.7).margin == -0.7


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"id": ""}, "id='' of a claim; use letters"),
        ({"id": "a/b"}, "id='a/b' of a claim"),
        ({"statement": "  "}, "statement='  ' of claim C1"),
        ({"metric": ""}, "metric='' of claim C1"),
        ({"treatment": ""}, "treatment='' of claim C1"),
        ({"baseline": "deep"}, "are both 'deep'"),
        ({"better": "hihger"}, "did you mean 'higher'"),
        ({"kind": "equal"}, "did you mean 'equality'"),
        ({"margin": "1"}, "margin='1' of claim C1; it is a number"),
        ({"margin": True}, "margin=True of claim C1; it is a number"),
        ({"margin": float("nan")}, "it is a finite number"),
        ({"kind": "ratio"}, "margin=0.0 of ratio claim C1"),
        ({"kind": "equality", "margin": -1.0}, "margin=-1.0 of equality claim C1"),
    ],
)
def test_unusable_claims_are_refused(change: dict, message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)) as caught:
        Claim(**{**GOOD, **change})
    assert "\n" not in str(caught.value)


def test_claims_cannot_be_changed_after_the_run() -> None:
    claim = Claim(**GOOD)
    with pytest.raises(dataclasses.FrozenInstanceError):
        claim.margin = 1.0  # type: ignore[misc]
    assert claim.margin == 0.0


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ((0, "T", "P"), "number=0 of a System"),
        ((True, "T", "P"), "number=True of a System"),
        ((3, "", "P"), "title of system 3 is empty"),
        ((3, "T", " "), "paper of system 3 is empty"),
        ((3, "T", "P", "javascript:alert(1)"), "it starts with https://"),
    ],
)
def test_unusable_systems_are_refused(fields: tuple, message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)) as caught:
        System(*fields)
    assert "\n" not in str(caught.value)
