"""Figures of a report: seeds as dots, effects with their intervals, curves with bands.

They are matplotlib Figures made without pyplot, so nothing global changes and nothing opens a
window. An arm has the same colour and marker in every figure of a run.
"""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from trove_jax.evidence.pictures import Figure
from trove_jax.evidence.statistics import paired_interval
from trove_jax.evidence.wording import name_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure as MatplotlibFigure

# Okabe and Ito, Color Universal Design: told apart by people with every kind of colour vision.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#5E3C99", "#6B6B6B")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "h")
VERDICT_COLOURS = {"supported": "#1A7F4B", "contradicted": "#B3261E", "inconclusive": "#6B6B6B"}

_INK, _FAINT, _GRID = "#222222", "#8A8A8A", "#E4E4E4"
_TEXT = 10.0


def standard_figures(record: Mapping[str, Any]) -> list[Figure]:
    """The figures that every record has: all effects, and the seeds of each claim.

    Args:
      record: from `build_record` or `read_record`; its figures are not needed.

    Returns:
      `effects` (when a claim has an interval) and `claim-<id>` per claim with a pair of seeds.
    """
    arms, names = record["arms"], list(record["arms"])
    made = []
    decided = [claim for claim in record["claims"] if claim["ci95"] is not None]
    if len(decided) > 1:
        made.append(
            Figure(
                "effects",
                "Each effect on its own scale: mean (dot), 95 % interval (thick) and the interval "
                "that decided (thin). A claim is supported when its thin line lies wholly in the "
                "tinted part.",
                lambda: effect_intervals(decided),
            )
        )
    for claim in record["claims"]:
        if claim["n"] == 0:
            continue
        made.append(
            Figure(
                f"claim-{claim['id']}",
                "Left: one dot per seed, pairs joined. Right: the paired effects, with mean, 95 % "
                "interval (thick) and the interval that decided (thin); the claim holds in the "
                "tinted part.",
                lambda claim=claim: seed_dots(claim, arms, order=names),
                claim["id"],
            )
        )
    return made


def seed_dots(
    claim: Mapping[str, Any],
    arms: Mapping[str, Mapping[str, Sequence[float]]],
    *,
    order: Sequence[str] = (),
) -> "MatplotlibFigure":
    """One claim: the seeds of both arms as joined dots, and beside them the paired effects.

    Args:
      claim: an entry of `record["claims"]`.
      arms: arm -> metric -> one value per seed, `[s]`; pairs that are not finite are left out.
      order: of all arms, which gives each its colour.

    Returns:
      A matplotlib Figure, 6.4 x 2.7 inches.
    """
    figure = _figure(6.4, 2.7)
    left, right = figure.subplots(1, 2, width_ratios=(1.15, 1))
    pair = (claim["baseline"], claim["treatment"])
    values = np.array([np.asarray(arms[arm][claim["metric"]], np.float64) for arm in pair])
    values = values[:, np.isfinite(values).all(axis=0)]
    order = list(order) or list(arms)
    for column in values.T:
        left.plot((0, 1), column, color="#C4C4C4", linewidth=1.0, zorder=1)
    for x, arm, column in zip((0, 1), pair, values, strict=True):
        place = order.index(arm) if arm in order else x
        colour = COLOURS[place % len(COLOURS)]
        left.scatter(
            np.full(column.size, x),
            column,
            s=32,
            color=colour,
            marker=MARKERS[place % len(MARKERS)],
            edgecolors="white",
            linewidths=0.6,
            zorder=3,
        )
        outside = x + (-0.16 if x == 0 else 0.16)
        _interval_mark(left, outside, column, colour)
    left.set_xlim(-0.45, 1.45)
    left.set_xticks((0, 1), [_short(name_of(arm)) for arm in pair])
    left.set_ylabel(_axis_name(claim))
    _style(left, grid="y")
    _effect_column(right, claim, values)
    return figure


def effect_intervals(claims: Sequence[Mapping[str, Any]]) -> "MatplotlibFigure":
    """All claims of a run, one row each on its own scale, with the part where the claim holds.

    Args:
      claims: entries of `record["claims"]` that have an interval.

    Returns:
      A matplotlib Figure, 6.4 inches wide and 0.62 per claim high.
    """
    figure = _figure(6.4, 0.25 + 0.62 * max(1, len(claims)))
    rows = figure.subplots(max(1, len(claims)), 1, squeeze=False)[:, 0]
    for axes, claim in zip(rows, claims, strict=True):
        colour = VERDICT_COLOURS[claim["verdict"]]
        low, high = _effect_limits(claim, [])
        axes.set_xlim(low, high)
        axes.set_ylim(-1, 1)
        _tint(axes, claim, low, high, upright=False)
        axes.plot(claim["corrected_interval"], (0, 0), color=colour, linewidth=1.3, zorder=3)
        axes.plot(claim["ci95"], (0, 0), color=colour, linewidth=4.5, zorder=4)
        axes.plot(
            claim["effect"], 0, "o", color=colour, markersize=8, markeredgecolor="white", zorder=5
        )
        axes.set_yticks([])
        axes.set_ylabel(
            claim["id"], rotation=0, ha="right", va="center", fontsize=_TEXT, fontweight="bold"
        )
        axes.annotate(
            f"{claim['verdict']}\n{_effect_name(claim)}",
            xy=(1.02, 0.5),
            xycoords="axes fraction",
            va="center",
            fontsize=_TEXT - 1.5,
            color=colour,
        )
        _style(axes, grid="")
        axes.spines["left"].set_visible(False)
        axes.locator_params(axis="x", nbins=6)
    return figure


def curves(
    x: Sequence[float] | np.ndarray,
    arms: Mapping[str, Any],
    *,
    xlabel: str,
    ylabel: str,
    log_x: bool = False,
    order: Sequence[str] = (),
    lines: Mapping[str, float] | None = None,
) -> "MatplotlibFigure":
    """Curves over a common axis: mean, 95 % interval at each point, and thin lines for the seeds.

    Args:
      x: `[points]`.
      arms: arm -> `[s, points]`; what is not finite is left out.
      xlabel: of the axis, with its unit.
      ylabel: of the axis, with its unit.
      log_x: logarithmic x axis; every x is then positive.
      order: of all arms of the run, which gives each its colour; the default is that of `arms`.
      lines: horizontal reference lines, name -> height.

    Returns:
      A matplotlib Figure, 6.4 x 3.4 inches.

    Raises:
      ValueError: an arm whose shape is not `[s, points]`, or log_x with an x that is not positive.
    """
    x = np.asarray(x, np.float64)
    if log_x and not np.all(x > 0):
        raise ValueError(f"log_x needs positive x; the smallest is {x.min()}: leave it out")
    figure = _figure(6.4, 3.4)
    axes = figure.subplots()
    order = list(order) or list(arms)
    for place, (arm, values) in enumerate(arms.items()):
        values = np.asarray(values, np.float64)
        if values.ndim != 2 or values.shape[1] != x.size:
            raise ValueError(
                f"curves of arm {arm!r} have shape {values.shape}; wanted [s, {x.size}]"
            )
        place = order.index(arm) if arm in order else place
        colour, marker = COLOURS[place % len(COLOURS)], MARKERS[place % len(MARKERS)]
        for seed in values:
            axes.plot(x, seed, color=colour, linewidth=0.7, alpha=0.3, zorder=2)
        columns = [column[np.isfinite(column)] for column in values.T]
        mean = [column.mean() if column.size else np.nan for column in columns]
        ends = [paired_interval(c)[:2] if c.size > 1 else (np.nan, np.nan) for c in columns]
        axes.fill_between(x, *np.transpose(ends), color=colour, alpha=0.16, linewidth=0, zorder=1)
        axes.plot(
            x,
            mean,
            color=colour,
            linewidth=2,
            marker=marker if x.size <= 25 else None,
            markersize=5,
            markeredgecolor="white",
            label=name_of(arm),
            zorder=4,
        )
    for name, height in (lines or {}).items():
        axes.axhline(height, color=_FAINT, linewidth=1.2, linestyle=(0, (4, 3)), label=name)
    if log_x:
        axes.set_xscale("log")
        axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
        if x.size <= 10:
            axes.set_xticks(x)
            axes.minorticks_off()
    axes.set_xlabel(xlabel)
    axes.set_ylabel(ylabel)
    _style(axes, grid="y")
    if axes.get_legend_handles_labels()[0]:
        axes.legend(
            loc="lower left",
            bbox_to_anchor=(0, 1),
            ncols=4,
            frameon=False,
            fontsize=_TEXT - 1,
            labelcolor=_INK,
            handlelength=1.8,
            columnspacing=1.4,
        )
    return figure


def _figure(width: float, height: float) -> "MatplotlibFigure":
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure as MatplotlibFigure

    figure = MatplotlibFigure(figsize=(width, height), dpi=100, layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def _style(axes: "Axes", *, grid: str) -> None:
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    for side in ("left", "bottom"):
        axes.spines[side].set_color(_FAINT)
    axes.tick_params(labelsize=_TEXT - 1, colors=_FAINT, labelcolor=_INK, length=3)
    for label in (axes.xaxis.label, axes.yaxis.label):
        label.set_color(_INK)
        label.set_fontsize(_TEXT)
    if grid:
        axes.grid(axis="y" if grid == "y" else "x", color=_GRID, linewidth=0.8)
        axes.set_axisbelow(True)


def _interval_mark(axes: "Axes", x: float, values: np.ndarray, colour: str) -> None:
    if values.size > 1:
        low, high, *_ = paired_interval(values)
        axes.plot((x, x), (low, high), color=colour, linewidth=3.2, zorder=2, alpha=0.85)
    if values.size:
        axes.plot(
            x, values.mean(), "o", color="white", markeredgecolor=colour, markersize=7, zorder=4
        )


def _effect_column(axes: "Axes", claim: Mapping[str, Any], values: np.ndarray) -> None:
    baseline, treatment = values
    if claim["kind"] == "ratio":
        usable = (treatment > 0) & (baseline > 0)
        effects = treatment[usable] / baseline[usable]
    elif claim["kind"] == "difference" and claim["better"] == "lower":
        effects = baseline - treatment
    else:
        effects = treatment - baseline
    low, high = _effect_limits(claim, effects)
    axes.set_ylim(low, high)
    axes.set_xlim(-1, 1)
    _tint(axes, claim, low, high, upright=True)
    colour = VERDICT_COLOURS[claim["verdict"]]
    spots = np.linspace(-0.5, 0.0, effects.size) if effects.size > 1 else np.array([-0.25])
    axes.scatter(
        spots, effects, s=32, color="#7D7D7D", edgecolors="white", linewidths=0.6, zorder=3
    )
    if claim["ci95"] is not None:
        axes.plot((0.4, 0.4), claim["corrected_interval"], color=colour, linewidth=1.3, zorder=3)
        axes.plot((0.4, 0.4), claim["ci95"], color=colour, linewidth=4.5, zorder=4)
    if claim["effect"] is not None:
        axes.plot(
            0.4, claim["effect"], "o", color=colour, markersize=8, markeredgecolor="white", zorder=5
        )
    axes.set_xticks((-0.25, 0.4), ["each seed", "mean"])
    axes.set_ylabel(_effect_name(claim))
    _style(axes, grid="y")


def _effect_limits(claim: Mapping[str, Any], effects: Sequence[float] | np.ndarray):
    """Limits that show the interval, the seeds and the bound, and a little beyond."""
    shown = [float(e) for e in effects]
    shown += [claim["margin"]] if claim["kind"] != "equality" else []
    shown += [-claim["margin"], claim["margin"]] if claim["kind"] == "equality" else []
    shown += [1.0] if claim["kind"] == "ratio" else [0.0]
    centre = [claim["effect"]] if claim["effect"] is not None else []
    shown += centre
    span = max(shown) - min(shown) or 1.0
    for ends in (claim["ci95"], claim["corrected_interval"]):
        # Very wide intervals (two seeds) run out of the picture instead of flattening the rest.
        for end in ends or ():
            shown.append(min(max(end, min(shown) - 2 * span), max(shown) + 2 * span))
    pad = 0.08 * (max(shown) - min(shown) or 1.0)
    return min(shown) - pad, max(shown) + pad


def _tint(axes: "Axes", claim: Mapping[str, Any], low: float, high: float, *, upright: bool):
    """Tints the part of the effect axis where the claim holds and marks its bound and zero."""
    margin = claim["margin"]
    if claim["kind"] == "equality":
        part, bounds = (-margin, margin), (-margin, margin)
    elif claim["kind"] == "ratio" and claim["better"] == "lower":
        part, bounds = (low, margin), (margin,)
    else:
        part, bounds = (margin, high), (margin,)
    span, line = (axes.axhspan, axes.axhline) if upright else (axes.axvspan, axes.axvline)
    span(*part, color="#1A7F4B", alpha=0.09, linewidth=0, zorder=0)
    for bound in bounds:
        line(bound, color="#1A7F4B", linewidth=1.2, linestyle=(0, (4, 3)), zorder=1)
    neutral = 1.0 if claim["kind"] == "ratio" else 0.0
    if neutral not in bounds:
        line(neutral, color=_FAINT, linewidth=1.0, zorder=1)


def _axis_name(claim: Mapping[str, Any]) -> str:
    unit = f" ({claim['unit']})" if claim.get("unit") else ""
    return _short(name_of(claim["metric"]), 26) + unit


def _effect_name(claim: Mapping[str, Any]) -> str:
    if claim["kind"] == "ratio":
        return "ratio"
    unit = f" ({claim['unit']})" if claim.get("unit") else ""
    if claim["kind"] == "difference" and claim["better"] == "lower":
        return "lower by" + unit
    return ("higher by" if claim["kind"] == "difference" else "difference") + unit


def _short(text: str, length: int = 18) -> str:
    return text if len(text) <= length else text[: length - 1].rstrip() + "…"
