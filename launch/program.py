"""What all programs of `launch` share: how they read their flags and how they end."""

import hashlib
import logging
import math
import os
import pathlib
import platform
import shlex
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from absl import app, flags

from trove_jax.core.errors import TroveError, UsageError


def run_program(
    main: Callable[[list[str]], None], *, extra: str | tuple[str, ...] | None = None
) -> None:
    """Runs a program: a mistake of the person who started it ends in one line, not a traceback.

    Args:
      main: called with the arguments that are no flags of this program.
      extra: prefix or prefixes of further arguments, such as `--config.`, that `main` reads itself.
    """

    def parse(argv: Sequence[str]) -> list[str]:
        own = [arg for arg in argv if not (extra and arg.startswith(extra))]
        rest = [arg for arg in argv if extra and arg.startswith(extra)]
        try:
            unread = flags.FLAGS(own)[1:]
            if unread:
                raise UsageError(f"unexpected argument {unread[0]!r}; flags start with --")
        except (flags.Error, UsageError) as error:
            _refuse(str(error).splitlines()[0], UsageError.exit_code)
        return [argv[0], *rest]

    def guarded(argv: list[str]) -> None:
        logging.getLogger("jax").setLevel(logging.WARNING)  # absl shows the backends not found
        try:
            main(argv[1:])
        except TroveError as error:
            _refuse(str(error), error.exit_code)

    app.run(guarded, flags_parser=parse)


def one_device_per_core(
    most: int | None = None, *, axes: Mapping[str, int] | None = None, processes: int = 1
) -> None:
    """Makes a CPU show as one device per core, which must be said before jax is first used.

    Seeds on different devices run at once, each in a cache of its own.

    Args:
      most: upper bound on the number of devices.
      axes: of a mesh to try out: as many devices as it has, however many cores there are.
      processes: how many processes share them.
    """
    flag = "--xla_force_host_platform_device_count"
    before = os.environ.get("XLA_FLAGS", "")
    if flag not in before:
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 1
        devices = math.prod(axes.values()) if axes else min(cores, most or cores)
        os.environ["XLA_FLAGS"] = f"{before} {flag}={max(1, devices // processes)}"


def keep_compiled() -> None:
    """Lets a later process find the programs that this one compiles, in the user's cache.

    JAX_COMPILATION_CACHE_DIR names another folder, or, empty, none.
    """
    if "JAX_COMPILATION_CACHE_DIR" in os.environ:
        return
    import jax

    from trove_jax.data.source import cache_dir

    # Programs for a CPU use the instructions of this one, which jax does not ask for again.
    jax.config.update("jax_compilation_cache_dir", str(cache_dir() / "compiled" / _processor()))


def _processor() -> str:
    """A name for processors that have the same instructions."""
    found = pathlib.Path("/proc/cpuinfo")
    lines = found.read_text().splitlines() if found.exists() else [platform.processor()]
    described = next((x for x in lines if x.startswith(("flags", "Features"))), lines[0])
    return f"{platform.machine()}-{hashlib.sha256(described.encode()).hexdigest()[:8]}"


def command_line() -> str:
    """The command that started this process, as it can be typed again."""
    spec = sys.modules["__main__"].__spec__
    program = ["-m", spec.name] if spec else sys.argv[:1]
    return shlex.join(["python", *program, *sys.argv[1:]])


def mesh_axes(text: str | None) -> dict[str, int] | None:
    """The axes that `--mesh` asks for; None where it is not given.

    Raises:
      UsageError: the text is no list of axes.
    """
    if text is None:
        return None
    from trove_jax import core

    try:
        return core.parse_mesh(text)
    except ValueError as error:
        raise UsageError(f"--{error}") from error


def lay_mesh(axes: Mapping[str, int] | None, seeds: int) -> Any:
    """The mesh of a run, on the axes that were asked for or those that suit so many seeds.

    Args:
      axes: from `mesh_axes`.
      seeds: networks that are trained together.

    Raises:
      UsageError: there are not that many devices.
    """
    from trove_jax import core

    try:
        return core.make_mesh(axes or core.choose_axes(seeds))
    except ValueError as error:
        raise UsageError(f"--mesh: {error}") from error


def _refuse(message: str, code: int) -> None:
    print(f"{'stopped' if code == 75 else 'error'}: {message}", file=sys.stderr)
    sys.exit(code)
