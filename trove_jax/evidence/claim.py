"""What a paper says, written down so that a run can decide it.

A claim is fixed in code before the run. It compares one metric between two arms, seed by seed;
nothing but the interval of that comparison decides the verdict:

difference
    effect: mean of treatment - baseline; turned round when lower is better, so that positive means
    "as claimed". Supported: the whole interval lies above `margin`. Contradicted: wholly below.
ratio
    effect: treatment / baseline, the geometric mean over seeds (values must be positive).
    Supported: the whole interval lies on the `better` side of `margin`. Contradicted: wholly on
    the other side.
equality
    effect: mean of treatment - baseline. Supported: the interval of two one-sided tests lies
    inside ±`margin`. Contradicted: the two-sided interval lies wholly outside.

Everything else is inconclusive. A negative margin of a difference asks for non-inferiority:
"loses less than 0.7 points" is `margin=-0.7`. With two-sided error alpha, the interval of the two
one-sided tests has the level 1 - 2 alpha. Several claims on one run share the error (`judge`).
"""

import dataclasses
import difflib
import math
import re
from typing import Literal, get_args

Better = Literal["higher", "lower"]
Kind = Literal["difference", "equality", "ratio"]

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


@dataclasses.dataclass(frozen=True)
class System:
    """The paper that an experiment is about.

    Args:
      number: its number in the catalogue, from 1.
      title: what the system is, in the field's words.
      paper: the citation, with its arXiv id where there is one.
      url: where the paper can be read.

    Raises:
      ValueError: a number below 1, an empty title or paper, or a url that is not http(s).
    """

    number: int
    title: str
    paper: str
    url: str = ""

    def __post_init__(self) -> None:
        if isinstance(self.number, bool) or not isinstance(self.number, int) or self.number < 1:
            raise ValueError(f"number={self.number!r} of a System; it is an integer from 1")
        for field in ("title", "paper"):
            if not getattr(self, field).strip():
                raise ValueError(f"{field} of system {self.number} is empty; say what it is")
        if self.url and not self.url.startswith(("https://", "http://")):
            raise ValueError(f"url={self.url!r} of system {self.number}; it starts with https://")


@dataclasses.dataclass(frozen=True)
class Claim:
    """One sentence of a paper as a comparison of two arms; the module says how it is decided.

    Args:
      id: short name, unique in the experiment, also used in file names.
      statement: the claim as a sentence, in our words.
      metric: name of the measured quantity, the same in both arms.
      treatment: the arm that the claim is about.
      baseline: the arm it is compared with.
      better: the direction that the claim says the treatment goes; unused by equality.
      margin: bound on the effect, in the unit of the metric; for a ratio, the bound on it.
      kind: `"difference"`, `"equality"` or `"ratio"`.
      unit: of the values in the arms, for people: "points", "degrees".
      paper: what the paper printed, with its setting.
      setting: what differs here.

    Raises:
      ValueError: an empty or unusable field, an unknown option, or a margin that decides nothing.

    Example:
      >>> Claim(
      ...     id="faster",
      ...     statement="The sparse net needs at most 0.6 of the dense net's time.",
      ...     metric="seconds",
      ...     treatment="sparse",
      ...     baseline="dense",
      ...     better="lower",
      ...     margin=0.6,
      ...     kind="ratio",
      ... ).better
      'lower'
    """

    id: str
    statement: str
    metric: str
    treatment: str
    baseline: str
    better: Better = "higher"
    margin: float = 0.0
    kind: Kind = "difference"
    unit: str = ""
    paper: str = ""
    setting: str = ""

    def __post_init__(self) -> None:
        if not isinstance(self.id, str) or not _NAME.fullmatch(self.id):
            raise ValueError(
                f"id={self.id!r} of a claim; use letters, digits, '.', '_' and '-', as in 'C1'"
            )
        for field in ("statement", "metric", "treatment", "baseline"):
            value = getattr(self, field)
            if not isinstance(value, str) or not value.strip():
                raise ValueError(f"{field}={value!r} of claim {self.id}; it is a text, not empty")
        if self.treatment == self.baseline:
            raise ValueError(
                f"treatment and baseline of claim {self.id} are both {self.treatment!r}; "
                "a claim compares two arms"
            )
        _check_option("better", self.better, get_args(Better), claim=self.id)
        _check_option("kind", self.kind, get_args(Kind), claim=self.id)
        if isinstance(self.margin, bool) or not isinstance(self.margin, (int, float)):
            raise ValueError(f"margin={self.margin!r} of claim {self.id}; it is a number")
        if not math.isfinite(self.margin):
            raise ValueError(f"margin={self.margin!r} of claim {self.id}; it is a finite number")
        if self.kind == "ratio" and self.margin <= 0:
            raise ValueError(
                f"margin={self.margin} of ratio claim {self.id}; it bounds treatment / baseline "
                "and is positive, for instance 0.6 for 'at most 0.6 times'"
            )
        if self.kind == "equality" and self.margin <= 0:
            raise ValueError(
                f"margin={self.margin} of equality claim {self.id}; it is the largest difference "
                "that still counts as equal, and is positive"
            )


def _check_option(name: str, value: object, known: tuple[str, ...], *, claim: str) -> None:
    if value not in known:
        raise ValueError(
            f"{name}={value!r} of claim {claim}; known: {', '.join(known)}"
            + nearest_name(str(value), known)
        )


def nearest_name(name: str, known: "list[str] | tuple[str, ...]") -> str:
    """The end of a sentence that refuses `name`: the nearest known one, or nothing."""
    near = difflib.get_close_matches(name, known, n=1)
    return f"; did you mean {near[0]!r}?" if near else ""
