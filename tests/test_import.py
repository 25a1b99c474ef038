"""Importing is quick and complete, and rooms import only from rooms below them."""

import ast
import importlib
import pathlib
import subprocess
import sys

import pytest

import trove_jax

PACKAGE = pathlib.Path(trove_jax.__file__).parent
ROOMS = (
    "core", "data", "kernels", "geometry", "graphs", "layers", "models", "losses", "transforms",
    "search", "analysis", "evidence",
)  # fmt: skip
NEVER = {
    "losses": {"models", "search"},
    "transforms": {"models", "search"},
    "analysis": {"models", "search"},
    "search": {"models"},
    "evidence": set(ROOMS) - {"core", "evidence"},
}


def test_importing_the_package_loads_no_heavy_library():
    # Deterministic where a stopwatch is not: these are what takes time.
    code = (
        "import sys, trove_jax; print(sorted({'jax', 'flax', 'optax', 'scipy'} & set(sys.modules)))"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"


@pytest.mark.parametrize("room", [r for r in ROOMS if (PACKAGE / r).is_dir()])
def test_every_public_name_exists_and_is_documented(room):
    module = importlib.import_module(f"trove_jax.{room}")
    assert module.__all__
    for name in module.__all__:
        assert getattr(getattr(module, name), "__doc__", None), name
    assert getattr(trove_jax, room) is module


def imported_rooms(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module == "trove_jax":
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("trove_jax."):
            yield node.module.split(".")[1]


@pytest.mark.parametrize("path", sorted(PACKAGE.glob("*/**/*.py")), ids=lambda p: p.stem)
def test_rooms_import_only_from_rooms_below(path):
    room = path.relative_to(PACKAGE).parts[0]
    for other in set(imported_rooms(path)) - {room}:
        assert ROOMS.index(other) < ROOMS.index(room), f"{room} imports {other}"
        assert other not in NEVER.get(room, set()), f"{room} imports {other}"


def test_unknown_rooms_are_refused():
    with pytest.raises(AttributeError, match="no attribute 'kitchen'"):
        _ = trove_jax.kitchen
