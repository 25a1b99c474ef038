"""Finding experiments by name, and resolving their configuration."""

import ast
import contextlib
import difflib
import importlib
import logging
import math
import pathlib
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import ml_collections

from trove_jax.core.errors import UsageError

PRESETS = ("smoke", "laptop", "paper")
_FOLDER = pathlib.Path(__file__).parent.parent / "experiments"
_LONGEST = 60
_log = logging.getLogger("trove_jax.launch")


def experiment_names() -> dict[str, str]:
    """The module of each experiment, by the name that `--experiment` takes."""
    return {
        path.stem: f"experiments.{path.parent.name}.{path.stem}"
        for path in sorted(_FOLDER.glob("*/*.py"))
        if not path.stem.startswith("_")
    }


def load_experiment(name: str) -> Any:
    """Imports an experiment.

    Raises:
      UsageError: there is none of that name; the nearest is named.
    """
    modules = experiment_names()
    if name not in modules:
        raise UsageError(f"no experiment is called {name!r}{nearest(name, modules)}")
    return importlib.import_module(modules[name])


def resolve_config(
    experiment: Any, preset: str, overrides: Sequence[str]
) -> ml_collections.ConfigDict:
    """The configuration of a preset with overrides `--config.KEY=VALUE`.

    A value is read as a Python literal of the kind that it replaces; so are the members of a tuple.

    Raises:
      UsageError: the preset or a key is unknown, a value is of another kind or not finite, or there
        is no seed.
    """
    if preset not in PRESETS:
        raise UsageError(f"no preset is called {preset!r}{nearest(preset, PRESETS)}")
    config = experiment.get_config(preset)
    for override in overrides:
        key, equals, text = override.removeprefix("--config.").partition("=")
        if not equals:
            raise UsageError(
                f"{_shown(override, quoted=True)} sets nothing; write --config.KEY=VALUE"
            )
        known = _flat_keys(config)
        if key not in known:
            raise UsageError(
                f"the configuration has no key {_shown(key, quoted=True)}{nearest(key, known)}"
            )
        _set(config, key, _convert(key, text, known[key]))
    if config.get("seeds", 1) < 1:
        raise UsageError(f"--config.seeds={config.seeds} leaves nothing to train; use at least 1")
    return config.lock()


@contextlib.contextmanager
def blame_overrides(overrides: Sequence[str]) -> Iterator[None]:
    """Ends a run in one line where it fails on values that a person gave for the configuration.

    Presets as they are work, and what goes wrong with them is a fault of ours: it keeps its
    traceback. With overrides the traceback goes to the log of the run.

    Args:
      overrides: what `resolve_config` got.

    Raises:
      UsageError: in place of what a wrong value makes library functions raise.
    """
    try:
        yield
    except (ArithmeticError, LookupError, TypeError, ValueError) as error:
        if not overrides:
            raise
        _log.info("with %s", overrides, exc_info=True)
        reason = " ".join(str(error).split()) or type(error).__name__
        given = ", ".join(_shown(override) for override in overrides)
        raise UsageError(f"{reason} (with {given}; the preset without it runs)") from error


def nearest(name: str, known: Iterable[str]) -> str:
    """The end of a refusal: the nearest known name, or all of them."""
    known = list(known)
    match = difflib.get_close_matches(name, known, n=1)
    if match:
        return f"; did you mean {match[0]!r}?"
    return f"; there are {', '.join(known)}" if known else ""


def _flat_keys(config: ml_collections.ConfigDict, prefix: str = "") -> dict[str, Any]:
    flat = {}
    for key, value in config.items():
        if isinstance(value, ml_collections.ConfigDict):
            flat.update(_flat_keys(value, f"{prefix}{key}."))
        else:
            flat[prefix + key] = value
    return flat


def _set(config: ml_collections.ConfigDict, key: str, value: Any) -> None:
    *groups, last = key.split(".")
    for group in groups:
        config = config[group]
    config[last] = value


def _convert(key: str, text: str, old: Any) -> Any:
    if isinstance(old, str):
        return text
    given = f"--config.{key}={_shown(text)}"
    try:
        value = ast.literal_eval(text)
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError) as error:
        raise UsageError(f"{given} is no {type(old).__name__}") from error
    if isinstance(old, tuple):
        value = tuple(value) if isinstance(value, (tuple, list)) else (value,)
    value = _as_kind(value, old)
    if old is not None and type(value) is not type(old):
        raise UsageError(
            f"{given} is {type(value).__name__}; it replaces {_shown(repr(old))}, which is "
            f"{type(old).__name__}"
        )
    kinds = {type(member) for member in old} if isinstance(old, tuple) else set()
    if len(kinds) == 1 and not {type(member) for member in value} <= kinds:
        raise UsageError(
            f"{given} has other members than {_shown(repr(old))}: they must be "
            f"{kinds.pop().__name__}"
        )
    if not _is_plain(value):
        raise UsageError(f"{given} is no finite number, word, truth value or tuple of these")
    return value


def _as_kind(value: Any, old: Any) -> Any:
    """An integer as the float that it stands for, also within a tuple."""
    if isinstance(old, tuple) and isinstance(value, (tuple, list)):
        return tuple(_as_kind(member, old[0]) for member in value) if old else value
    if isinstance(old, float) and type(value) is int:
        try:
            return float(value)
        except OverflowError:
            return math.inf
    return value


def _is_plain(value: Any) -> bool:
    """Whether a value can stand in config.json and be read back as it was."""
    if isinstance(value, (tuple, list)):
        return all(map(_is_plain, value))
    if isinstance(value, float):
        return math.isfinite(value)
    return value is None or isinstance(value, (bool, int, str))


def _shown(text: str, *, quoted: bool = False) -> str:
    """A text of any length and contents as a part of one line."""
    shown = text if text.isprintable() and text.isascii() and not quoted else ascii(text)
    return shown if len(shown) <= _LONGEST else f"{shown[:_LONGEST]}..."
