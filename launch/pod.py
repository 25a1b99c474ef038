"""Runs an experiment on all hosts of a TPU pod or a cluster, or compiles it for a pod elsewhere.

    python -m launch.pod --experiment=lottery_ticket --preset=paper --mesh=seed:1,data:16
    python -m launch.pod --experiment=lottery_ticket --compile_only=v5e:16x16
    python -m launch.pod --experiment=gradient_noise --preset=smoke \
        --coordinator_address=127.0.0.1:9900 --num_processes=2 --process_id=0

The same command on every host: on TPU VMs, on GKE, under Slurm and Open MPI the processes find
each other; elsewhere the three flags of the last line say who they are. Then all is as in
launch.run, with its flags.
"""

import atexit
import faulthandler
import os
import re
import subprocess
import sys
from typing import Any

import jax
from absl import flags

from launch import run
from launch.compile_only import compile_only
from launch.lookup import load_experiment, resolve_config
from launch.program import mesh_axes, one_device_per_core, run_program
from trove_jax.core.errors import TroveError, UsageError

_COMPILE_ONLY = flags.DEFINE_string(
    "compile_only",
    None,
    "A topology such as v5e:16x16: compile the training step for it on this machine and print what "
    "it costs (--preset=paper unless another is named).",
)
_COORDINATOR = flags.DEFINE_string(
    "coordinator_address", None, "HOST:PORT of process 0, where no cluster is found."
)
_PROCESSES = flags.DEFINE_integer("num_processes", None, "How many processes there are.", 1)
_PROCESS = flags.DEFINE_integer("process_id", None, "Which one this is, from 0.", 0)
_PATIENCE = flags.DEFINE_integer(
    "initialization_timeout", 300, "Seconds to wait for the other processes at the start.", 1
)

# A process that is silent for so long is lost: the others end within a minute.
_HEARTBEAT_SECONDS = 40

# How a collective fails: as an error of the runtime or, where a call is dispatched, a ValueError.
_LOST = re.compile("(UNKNOWN|UNAVAILABLE|INTERNAL|ABORTED|CANCELLED|DEADLINE_EXCEEDED): ")

_CURE = "start all processes again with the same command, and they continue from the last save"


class ProcessLost(TroveError):
    """Another process of the run ended or cannot be reached."""

    exit_code = 69


def main(overrides: list[str]) -> None:
    """Compiles for a pod, or joins the other processes and runs."""
    if _COMPILE_ONLY.value:
        _compile(overrides)
        return
    if not flags.FLAGS.dry_run:
        # On a cluster of CPUs the mesh is shared out; without one, each process is one device.
        axes, processes = mesh_axes(flags.FLAGS.mesh), _PROCESSES.value or 1
        one_device_per_core(1 if processes > 1 else None, axes=axes, processes=processes)
        connect(_COORDINATOR.value, _PROCESSES.value, _PROCESS.value, patience=_PATIENCE.value)
    try:
        run.main(overrides)
    except (jax.errors.JaxRuntimeError, ValueError) as error:
        if jax.process_count() == 1 or not _LOST.match(str(error)):
            raise
        _leave(ProcessLost(f"another process of this run was lost ({_first_line(error)}); {_CURE}"))
    except TroveError as error:
        # Leaving in the usual way would wait minutes for a process that is already gone.
        if jax.process_count() > 1:
            _leave(error)
        raise


def connect(
    address: str | None, processes: int | None, process: int | None, *, patience: int
) -> None:
    """Joins the processes of this run; what is not given is found by jax.

    Args:
      address: HOST:PORT of process 0.
      processes: how many processes there are.
      process: which one this is.
      patience: seconds to wait for the others.

    Raises:
      UsageError: some of the three are given but not all, or nothing is found here.
      ProcessLost: the others did not come in time.
    """
    given = {"coordinator_address": address, "num_processes": processes, "process_id": process}
    missing = [f"--{name}" for name, value in given.items() if value is None]
    if 0 < len(missing) < len(given):
        raise UsageError(f"{', '.join(missing)} missing: give all of the three, or none")
    if address is not None and not re.fullmatch(r"\S+:\d+", address):
        raise UsageError(f"--coordinator_address={address} is not HOST:PORT")
    if processes is not None and process is not None and process >= processes:
        raise UsageError(f"--process_id={process} is not below --num_processes={processes}")
    _leave_last_words()
    try:
        jax.distributed.initialize(
            address,
            processes,
            process,
            initialization_timeout=patience,
            heartbeat_timeout_seconds=_HEARTBEAT_SECONDS,
        )
    except ValueError as error:
        if not missing:
            raise
        raise UsageError(
            "found no TPU pod, GKE, Slurm or MPI job here; on other clusters give "
            "--coordinator_address=HOST:PORT --num_processes=N --process_id=I, and on one machine "
            "use launch.run"
        ) from error
    except RuntimeError as error:
        raise ProcessLost(f"the processes did not find each other: {_first_line(error)}") from error
    if jax.default_backend() == "cpu" and jax.process_count() > 1:
        # A program for CPUs that is read from the cache (jaxlib 0.10) does not keep its collectives
        # in order: processes would take one for another.
        jax.config.update("jax_enable_compilation_cache", False)


def _compile(overrides: list[str]) -> None:
    name = flags.FLAGS.experiment
    if name is None:
        raise UsageError("--experiment=NAME is missing; python -m launch.list shows the names")
    jax.config.update("jax_platforms", "cpu")
    experiment = load_experiment(name)
    preset = flags.FLAGS.preset if flags.FLAGS["preset"].present else "paper"
    if flags.FLAGS.seeds is not None:
        overrides = [*overrides, f"--config.seeds={flags.FLAGS.seeds}"]
    config = resolve_config(experiment, preset, overrides)
    print(
        compile_only(
            experiment,
            config,
            _COMPILE_ONLY.value,
            title=f"{experiment.SYSTEM.number:02d} {name} ({preset})",
            axes=mesh_axes(flags.FLAGS.mesh),
        )
    )


def _first_line(error: Any) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]


def _leave_last_words() -> None:
    """Lets a shell wait for this process and explain its end, should that be sudden.

    The runtime that joins processes aborts this one, without a Python exception, when another is
    lost; what it prints then is long and names no cure.
    """
    faulthandler.disable()  # its dump of every stack would hide the message
    words = (
        f"error: process {os.getpid()} ended at once: another process of this run was lost or "
        f"never came, or this one was killed; {_CURE}"
    )
    script = 'trap "" INT TERM HUP; read word || echo "$0" >&2'
    _waiting.append(subprocess.Popen(["/bin/sh", "-c", script, words], stdin=subprocess.PIPE))
    atexit.register(_take_back_last_words)


def _take_back_last_words() -> None:
    while _waiting:
        _waiting.pop().communicate(b"end\n")


_waiting: list[subprocess.Popen] = []


def _leave(error: TroveError) -> None:
    _take_back_last_words()
    print(f"{'stopped' if error.exit_code == 75 else 'error'}: {error}", file=sys.stderr)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(error.exit_code)


if __name__ == "__main__":
    run_program(main, extra="--config.")
