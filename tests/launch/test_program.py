"""What all programs share: their command as it is typed, and the programs that they keep."""

import pathlib
import shlex
import sys
import types

import jax
import pytest

from launch import program


@pytest.fixture
def as_main(monkeypatch):
    """Lets this process seem to have been started otherwise."""

    def pretend(spec, *argv):
        monkeypatch.setitem(sys.modules, "__main__", types.SimpleNamespace(__spec__=spec))
        monkeypatch.setattr(sys, "argv", list(argv))

    return pretend


def test_the_command_of_a_module_can_be_typed_again(as_main):
    as_main(types.SimpleNamespace(name="launch.run"), "/x/launch/run.py", "--config.a=(1, 2)")
    assert shlex.split(program.command_line()) == [
        *("python", "-m", "launch.run", "--config.a=(1, 2)")
    ]


def test_the_command_of_a_file_names_the_file(as_main):
    as_main(None, "launch/run.py", "--workdir=a folder")
    assert program.command_line() == "python launch/run.py '--workdir=a folder'"


@pytest.fixture
def cache_setting():
    """The folder of compiled programs; afterwards what it was before."""
    before = jax.config.jax_compilation_cache_dir
    yield lambda: jax.config.jax_compilation_cache_dir
    jax.config.update("jax_compilation_cache_dir", before)


def test_compiled_programs_are_kept_in_the_users_cache(monkeypatch, tmp_path, cache_setting):
    monkeypatch.delenv("JAX_COMPILATION_CACHE_DIR")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    program.keep_compiled()
    folder = pathlib.Path(cache_setting())
    assert folder.parent.name == "compiled"
    assert folder.is_relative_to(tmp_path)


def test_a_folder_that_the_user_names_is_left_alone(monkeypatch, cache_setting):
    before = cache_setting()
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", "")
    program.keep_compiled()
    assert cache_setting() == before


def test_processors_with_other_instructions_have_other_names(monkeypatch):
    def name(described):
        text = f"processor : 0\n{described}\ncpu MHz : 1\n"
        monkeypatch.setattr(pathlib.Path, "exists", lambda path: True)
        monkeypatch.setattr(pathlib.Path, "read_text", lambda path: text)
        return program._processor()

    assert name("flags : sse avx") != name("flags : sse avx avx512f")
    assert name("flags : sse avx") == name("flags : sse avx")
    assert name("Features : asimd") != name("Features : asimd sve")


def test_a_processor_that_is_not_described_has_a_name(monkeypatch):
    monkeypatch.setattr(pathlib.Path, "exists", lambda path: False)
    assert program._processor().startswith(program.platform.machine())
