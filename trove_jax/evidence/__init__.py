"""Claims, statistics, verdicts, figures and the report page. Knows no model and no data set."""

from trove_jax.evidence.claim import Claim, System
from trove_jax.evidence.environment import environment
from trove_jax.evidence.judge import Verdict, judge
from trove_jax.evidence.record import (
    Evidence,
    Figure,
    build_record,
    read_record,
    write_record,
)
from trove_jax.evidence.statistics import Interval, paired_interval

__all__ = [
    "Claim",
    "Evidence",
    "Figure",
    "Interval",
    "System",
    "Verdict",
    "build_record",
    "environment",
    "judge",
    "paired_interval",
    "read_record",
    "write_record",
]
