"""Claims, statistics, verdicts, figures and the report page. Knows no model and no data set."""

from trove_jax.evidence.claim import Claim, System
from trove_jax.evidence.environment import environment
from trove_jax.evidence.figures import (
    curves,
    effect_intervals,
    seed_dots,
    standard_figures,
)
from trove_jax.evidence.judge import Verdict, judge
from trove_jax.evidence.overview import Run, find_runs, overview, overview_text
from trove_jax.evidence.pictures import Figure, save_figures
from trove_jax.evidence.record import (
    Evidence,
    build_record,
    not_measured,
    read_record,
    write_record,
)
from trove_jax.evidence.report import publish, render
from trove_jax.evidence.statistics import Interval, paired_interval
from trove_jax.evidence.sweep_page import SweepPoint, render_sweep, sweep_summary

__all__ = [
    "Claim",
    "Evidence",
    "Figure",
    "Interval",
    "Run",
    "SweepPoint",
    "System",
    "Verdict",
    "build_record",
    "curves",
    "effect_intervals",
    "environment",
    "find_runs",
    "judge",
    "not_measured",
    "overview",
    "overview_text",
    "paired_interval",
    "publish",
    "read_record",
    "render",
    "render_sweep",
    "save_figures",
    "seed_dots",
    "standard_figures",
    "sweep_summary",
    "write_record",
]
