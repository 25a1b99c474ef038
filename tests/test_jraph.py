"""Names every jraph symbol that the package uses; its release is old and jax moves on."""

import pathlib
import re

import jraph

import trove_jax

USED: set[str] = {"GraphsTuple", "batch_np", "pad_with_graphs"}


def test_used_symbols_exist_and_are_all_named_here():
    sources = pathlib.Path(trove_jax.__file__).parent.rglob("*.py")
    found = {name for path in sources for name in re.findall(r"\bjraph\.(\w+)", path.read_text())}
    assert found == USED
    assert all(hasattr(jraph, name) for name in USED)
