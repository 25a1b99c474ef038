"""Numbers and verdicts in plain words, the same in the report, the overview and the terminal."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

VERDICT_MARKS = {"supported": "✓", "contradicted": "✗", "inconclusive": "?"}


def decimals_for(width: float | None) -> int:
    """Decimals that show a width with two digits; 3 when there is no width.

    Example:
      >>> decimals_for(0.42), decimals_for(37.0), decimals_for(0.0031)
      (2, 0, 4)
    """
    if width is None or not math.isfinite(width) or width <= 0:
        return 3
    return min(12, max(0, 1 - math.floor(math.log10(width))))


def number(value: float | None, decimals: int = 3) -> str:
    """A number for people, with a true minus sign; "–" for None and NaN.

    Example:
      >>> number(-3.14159, 2), number(12345.6, 0), number(None), number(3e12), number(2e-7, 3)
      ('−3.14', '12,346', '–', '3e+12', '2e-07')
    """
    if value is None or math.isnan(value):
        return "–"
    size = abs(value)
    if size >= 1e9 or (size and decimals <= 4 and size < 0.5 * 10.0**-decimals and size < 1e-3):
        text = f"{value:.3g}"
    else:
        text = f"{value:,.{decimals}f}"
    if float(text.replace(",", "")) == 0:
        text = text.lstrip("-")
    return text.replace("-", "−", 1) if text.startswith("-") else text


def name_of(identifier: str) -> str:
    """An arm or metric as words.

    Example:
      >>> name_of("order_distance")
      'order distance'
    """
    return identifier.replace("_", " ")


def duration(seconds: float) -> str:
    """A duration in the two units that matter.

    Example:
      >>> duration(3.25), duration(75), duration(7300), duration(200_000)
      ('3.2 s', '1 min 15 s', '2 h 1 min', '2 d 7 h')
    """
    if seconds < 60:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    for big, small, unit, low in ((60, 1, "min", "s"), (3600, 60, "h", "min")):
        if whole < big * (60 if big == 60 else 24):
            rest = whole % big // small
            return f"{whole // big} {unit}" + (f" {rest} {low}" if rest else "")
    rest = whole % 86400 // 3600
    return f"{whole // 86400} d" + (f" {rest} h" if rest else "")


def seeds_in_words(n: int) -> str:
    """ "1 seed", "5 seeds"."""
    return f"{n} seed" if n == 1 else f"{n} seeds"


def percent(level: float) -> str:
    """A level in per cent with as many digits as it needs, unbroken at the end of a line.

    Example:
      >>> percent(0.95).split(), percent(1 - 0.05 / 6).split()
      (['95', '%'], ['99.17', '%'])
    """
    return f"{100 * level:.2f}".rstrip("0").rstrip(".") + "\N{NO-BREAK SPACE}%"


def with_unit(text: str, claim: Mapping[str, Any]) -> str:
    """The text followed by the claim's unit; a ratio has none."""
    return f"{text} {claim['unit']}" if claim.get("unit") and claim["kind"] != "ratio" else text


def effect_decimals(claim: Mapping[str, Any]) -> int:
    """Decimals in which a claim's effect and interval are shown: two digits of the interval's half
    width, and no more than three of the effect itself."""
    if claim["ci95"] is None:
        return 3
    low, high = claim["ci95"]
    places = decimals_for((high - low) / 2)
    return min(places, decimals_for(abs(claim["effect"])) + 1) if claim["effect"] else places


def means_against(claim: Mapping[str, Any]) -> str:
    """ "95.0 against 92.1": the means of treatment and baseline over the paired seeds."""
    means = [claim["treatment_mean"], claim["baseline_mean"]]
    places = [effect_decimals(claim)] * 2
    if claim["kind"] == "ratio":
        places = [decimals_for(abs(mean)) + 1 if mean else 3 for mean in means]
    shown = [number(mean, place) for mean, place in zip(means, places, strict=True)]
    return f"{shown[0]} against {shown[1]}"


def effect_in_short(claim: Mapping[str, Any]) -> str:
    """The raw comparison in a few characters: "+2.9 points (2.5 to 3.3)", "× 0.16 (...)"."""
    effect, ends = claim["effect"], claim["ci95"]
    if effect is None:
        return "–"
    places = effect_decimals(claim)
    if claim["kind"] == "ratio":
        text = f"× {number(effect, places)}"
    else:
        if claim["kind"] == "difference" and claim["better"] == "lower":
            effect, ends = -effect, ends and (-ends[1], -ends[0])
        text = with_unit(("+" if effect > 0 else "") + number(effect, places), claim)
    return text if ends is None else f"{text} ({span(ends, places)})"


def effect_sentence(claim: Mapping[str, Any]) -> str:
    """What a run found about a claim, as a sentence with the interval and the seeds.

    Args:
      claim: an entry of `record["claims"]`.

    Returns:
      For instance "Accuracy of new is 2.9 points higher than that of old: 95.0 against 92.1
      (95 % interval 2.5 to 3.3, 5 seeds)."
    """
    places = effect_decimals(claim)
    new, old = name_of(claim["treatment"]), name_of(claim["baseline"])
    metric = name_of(claim["metric"])
    metric = metric[:1].upper() + metric[1:]
    means = means_against(claim)
    effect, ends = claim["effect"], claim["ci95"]
    if effect is None:
        return f"{metric} of {new} and {old} could not be compared."
    if claim["kind"] == "ratio":
        text = f"{metric} of {new} is {number(effect, places)} times that of {old}: {means}"
    elif claim["kind"] == "equality":
        size = with_unit(number(abs(effect), places), claim)
        text = f"{metric} of {new} and that of {old} differ by {size}: {means}"
    else:
        # The effect is positive when it is as claimed; words follow the raw difference.
        turned = effect < 0
        size = with_unit(number(abs(effect), places), claim)
        higher = (claim["better"] == "higher") != turned
        word = "higher" if higher else "lower"
        text = f"{metric} of {new} is {size} {word} than that of {old}: {means}"
        if turned and ends is not None:
            ends = (-ends[1], -ends[0])
    seeds = seeds_in_words(claim["n"])
    if ends is None:
        return f"{text} ({seeds}, no interval)."
    return f"{text} ({percent(0.95)} interval {span(ends, places)}, {seeds})."


def span(ends: Sequence[float], decimals: int) -> str:
    """ "2.5 to 3.3"."""
    return f"{number(ends[0], decimals)} to {number(ends[1], decimals)}"


def rule_sentence(claim: Mapping[str, Any]) -> str:
    """When the claim counts as supported and as contradicted.

    Args:
      claim: an entry of `record["claims"]`.
    """
    new, old = name_of(claim["treatment"]), name_of(claim["baseline"])
    margin = with_unit(number(claim["margin"], _margin_decimals(claim["margin"])), claim)
    if claim["kind"] == "equality":
        return (
            f"Supported when the interval of {new} − {old} lies wholly within ±{margin}, "
            "contradicted when wholly outside."
        )
    if claim["kind"] == "ratio":
        sides = ("below", "above") if claim["better"] == "lower" else ("above", "below")
        return (
            f"Supported when the interval of {new} / {old} lies wholly {sides[0]} {margin}, "
            f"contradicted when wholly {sides[1]}."
        )
    first, second = (old, new) if claim["better"] == "lower" else (new, old)
    return (
        f"Supported when the interval of {first} − {second} lies wholly above {margin}, "
        "contradicted when wholly below."
    )


def decision_sentence(claim: Mapping[str, Any]) -> str:
    """By which interval, level and method a claim was decided."""
    if claim["corrected_interval"] is None:
        return "No interval, so no decision."
    ends = span(claim["corrected_interval"], effect_decimals(claim))
    p = claim["p_value"]
    shown = "p < 0.0001" if p < 1e-4 else f"p = {p:.2g}"
    return (
        f"Decided by the {percent(claim['corrected_level'])} interval {ends} ({claim['method']}; "
        f"{shown} before correction)."
    )


def _margin_decimals(margin: float) -> int:
    text = f"{margin:.10f}".rstrip("0")
    return len(text.partition(".")[2])
