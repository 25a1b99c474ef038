"""Finding experiments by name, and resolving their configuration."""

import ast
import difflib
import importlib
import pathlib
from collections.abc import Iterable, Sequence
from typing import Any

import ml_collections

from trove_jax.core.errors import UsageError

PRESETS = ("smoke", "laptop", "paper")
_FOLDER = pathlib.Path(__file__).parent.parent / "experiments"


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

    A value is read as a Python literal of the kind that it replaces.

    Raises:
      UsageError: the preset or a key is unknown, or a value is of another kind.
    """
    if preset not in PRESETS:
        raise UsageError(f"no preset is called {preset!r}{nearest(preset, PRESETS)}")
    config = experiment.get_config(preset)
    for override in overrides:
        key, equals, text = override.removeprefix("--config.").partition("=")
        if not equals:
            raise UsageError(f"{override!r} sets nothing; write --config.{key}=VALUE")
        known = _flat_keys(config)
        if key not in known:
            raise UsageError(f"the configuration has no key {key!r}{nearest(key, known)}")
        _set(config, key, _convert(key, text, known[key]))
    return config.lock()


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
    try:
        value = ast.literal_eval(text)
    except (ValueError, SyntaxError) as error:
        raise UsageError(f"--config.{key}={text} is no {type(old).__name__}") from error
    if isinstance(old, float) and isinstance(value, int) and not isinstance(value, bool):
        value = float(value)
    if isinstance(old, tuple):
        value = tuple(value) if isinstance(value, (tuple, list)) else (value,)
    if old is not None and type(value) is not type(old):
        raise UsageError(
            f"--config.{key}={text} is {type(value).__name__}; it replaces {old!r}, which is "
            f"{type(old).__name__}"
        )
    return value
