"""The points of a sweep: what `--grid.KEY=A,B` and `--list` ask for, and what trains together.

A point is a configuration with a name. Points that differ only in keys which the experiment calls
`TRACED`, and there only in numbers, are one program; all others have one of their own.
"""

import ast
import hashlib
import itertools
import json
import pathlib
import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import ml_collections

from launch.lookup import resolve_config
from trove_jax.core.errors import UsageError

_LONGEST_NAME = 100


class Point(NamedTuple):
    """One configuration of a sweep.

    Attributes:
      number: its place in the sweep.
      name: of its folder; the same keys and values give the same name in every sweep.
      values: what the sweep sets, as written.
      config: the whole configuration.
    """

    number: int
    name: str
    values: dict[str, str]
    config: ml_collections.ConfigDict

    @property
    def label(self) -> str:
        """The values as a person reads them."""
        return ", ".join(f"{key}={value}" for key, value in self.values.items())


class Program(NamedTuple):
    """Points that train together; where it is one point, it is an ordinary run.

    Attributes:
      number: its place in the sweep.
      points: the points.
    """

    number: int
    points: tuple[Point, ...]


def read_grid(arguments: Sequence[str]) -> dict[str, list[str]]:
    """Reads arguments `--grid.KEY=A,B`; a comma within brackets or quotes parts nothing.

    Raises:
      UsageError: an argument without values, or a key given twice.
    """
    grid: dict[str, list[str]] = {}
    for argument in arguments:
        key, equals, text = argument.removeprefix("--grid.").partition("=")
        values = _split(text)
        if not equals or not values or not all(values):
            raise UsageError(f"{argument!r} lists no values; write --grid.{key}=VALUE,VALUE")
        if key in grid:
            raise UsageError(f"--grid.{key} is given twice; list its values in one argument")
        grid[key] = values
    return grid


def read_list(path: str) -> list[dict[str, str]]:
    """Reads a list of points, `[{"KEY": VALUE, ...}, ...]`, from a JSON file.

    Raises:
      UsageError: the file is not there, or does not hold that.
    """
    try:
        points = json.loads(pathlib.Path(path).read_text())
    except OSError as error:
        raise UsageError(f"--list={path} cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise UsageError(f"--list={path} is no JSON: {error}") from error
    if not isinstance(points, list) or not points:
        raise UsageError(f'--list={path} holds no list of points, [{{"KEY": VALUE}}, ...]')
    for i, point in enumerate(points):
        if not isinstance(point, dict) or not point:
            raise UsageError(f'--list={path}: entry {i} is not {{"KEY": VALUE, ...}}')
        for key, value in point.items():
            if isinstance(value, dict):
                raise UsageError(f"--list={path}: entry {i}: {key!r} is a group; write GROUP.KEY")
    return [
        {key: value if isinstance(value, str) else repr(value) for key, value in point.items()}
        for point in points
    ]


def make_points(
    experiment: Any,
    preset: str,
    overrides: Sequence[str],
    grid: Mapping[str, Sequence[str]],
    listed: Sequence[Mapping[str, str]] = (),
) -> list[Point]:
    """All combinations of the grid's values, for each entry of the list.

    Args:
      experiment: the module.
      preset: whose configuration is varied.
      overrides: `--config.KEY=VALUE` for all points.
      grid: values by key.
      listed: values by key, for one point each.

    Raises:
      UsageError: a key or a value that the configuration does not take, a key set in two places,
        or two points that are the same.
    """
    listed = listed or [{}]
    if not grid and not any(listed):
        raise UsageError("a sweep needs points; write --grid.KEY=VALUE,VALUE or --list=FILE.json")
    fixed = {override.removeprefix("--config.").partition("=")[0] for override in overrides}
    for key in {key for entry in listed for key in entry} & set(grid):
        raise UsageError(f"both --list and --grid.{key} set {key!r}; leave one")
    for key in [*grid, *(key for entry in listed for key in entry)]:
        if key in fixed:
            raise UsageError(f"both --config.{key} and the sweep set {key!r}; leave one")
    resolve_config(experiment, preset, overrides)
    points: list[Point] = []
    for entry in listed:
        for combination in itertools.product(*grid.values()):
            values = {**entry, **dict(zip(grid, combination, strict=True))}
            settings = [f"--config.{key}={value}" for key, value in values.items()]
            try:
                config = resolve_config(experiment, preset, [*overrides, *settings])
            except UsageError as error:
                where = "--grid." if set(values) <= set(grid) else "--list: "
                raise UsageError(str(error).replace("--config.", where)) from error
            points.append(Point(len(points), _folder_name(values), values, config))
    _refuse_twins(points)
    return points


def check_points(experiment: Any, points: Sequence[Point]) -> None:
    """Lets the experiment plan every point, so that what it refuses is refused before any runs.

    Raises:
      UsageError: a point's plan fails; it is named.
    """
    for point in points:
        try:
            experiment.plan(point.config)
        except (ArithmeticError, LookupError, TypeError, ValueError, UsageError) as error:
            raise UsageError(f"{point.label}: {error}") from error


def make_programs(experiment: Any, points: Sequence[Point]) -> list[Program]:
    """Puts together what one compiled program can train.

    Args:
      experiment: the module; `TRACED` names the keys that may differ within a program.
      points: in order.

    Returns:
      The programs, in the order of their first points.
    """
    together: dict[str, list[Point]] = {}
    for point in points:
        together.setdefault(_program_key(experiment, point.config), []).append(point)
    return [Program(i, tuple(group)) for i, group in enumerate(together.values())]


def traced_keys(experiment: Any) -> tuple[str, ...]:
    """The keys whose numbers are arguments of an experiment's programs; for most, none."""
    return tuple(getattr(experiment, "TRACED", ()))


def _program_key(experiment: Any, config: ml_collections.ConfigDict) -> str:
    """The configuration, with the traced numbers left out."""
    plain = config.to_dict()
    for key in traced_keys(experiment):
        plain[key] = _shape(plain[key])
    return json.dumps(plain, sort_keys=True)


def _shape(value: Any) -> Any:
    if isinstance(value, tuple | list):
        return [_shape(item) for item in value]
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return "a number" if is_number else value


def _split(text: str) -> list[str]:
    """Parts a text at its outer commas; a comma at the end parts nothing either."""
    parts, depth, quote = [""], 0, ""
    for sign in text:
        if quote:
            quote = "" if sign == quote else quote
        elif sign in "'\"":
            quote = sign
        else:
            depth += (sign in "([{") - (sign in ")]}")
        if sign == "," and not depth and not quote:
            parts.append("")
        else:
            parts[-1] += sign
    parts = [_unquoted(part.strip()) for part in parts]
    return parts[:-1] if len(parts) > 1 and not parts[-1] else parts


def _unquoted(text: str) -> str:
    if len(text) > 1 and text[0] == text[-1] and text[0] in "'\"":
        try:
            return str(ast.literal_eval(text))
        except (ValueError, SyntaxError):
            return text
    return text


def _folder_name(values: Mapping[str, str]) -> str:
    """`learning_rate=0.1,width=16`; what no file system likes becomes a digest."""
    text = ",".join(f"{key}={values[key]}" for key in sorted(values))
    plain = re.sub(r"[^A-Za-z0-9_.,=+-]", "", text)
    if plain == text and len(text) <= _LONGEST_NAME:
        return text
    return f"{plain[: _LONGEST_NAME - 9]}-{hashlib.sha256(text.encode()).hexdigest()[:8]}"


def _refuse_twins(points: Sequence[Point]) -> None:
    seen: dict[str, Point] = {}
    for point in points:
        digest = json.dumps(point.config.to_dict(), sort_keys=True)
        if digest in seen:
            raise UsageError(
                f"two points are the same: {seen[digest].label} and {point.label}; leave one"
            )
        seen[digest] = point
