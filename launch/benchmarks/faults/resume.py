"""How long a run that was stopped takes from its command to its first new step.

    python -m launch.benchmarks.faults.resume --times=5

The laptop preset of the lottery ticket is stopped (SIGTERM) after its first metrics, and the same
command given again and stopped again. Compiled programs are kept between the runs, so that the
seconds are those beyond compilation: imports, reading data and checkpoint, tracing, and one step.
"""

import os
import pathlib
import signal
import statistics
import subprocess
import sys
import tempfile
import time

from absl import flags

from launch.program import run_program
from trove_jax.core.errors import TroveError

_TIMES = flags.DEFINE_integer("times", 5, "How often to continue.", 1)

_COMMAND = (
    "launch.run",
    "--experiment=lottery_ticket",
    "--preset=laptop",
    "--save_every=20",
    "--log_every=1",
)
_ROOT = pathlib.Path(__file__).parents[3]
_PATIENCE = 600.0


def main(overrides: list[str]) -> None:
    """Measures, and prints every time and the median."""
    with tempfile.TemporaryDirectory() as folder:
        run, cache = pathlib.Path(folder) / "run", pathlib.Path(folder) / "compiled"
        environment = {
            **os.environ,
            "JAX_COMPILATION_CACHE_DIR": str(cache),
            "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        }
        command = [sys.executable, "-m", *_COMMAND, *overrides, f"--workdir={run}"]
        seconds = [_first_step(command, environment, run) for _ in range(_TIMES.value + 1)]
    fresh, *again = seconds
    print(f"from the command to the first step, compiling: {fresh:.1f} s")
    print(f"continued: {', '.join(f'{s:.1f}' for s in again)} s; median "
          f"{statistics.median(again):.1f} s")  # fmt: skip


def _first_step(command: list[str], environment: dict[str, str], run: pathlib.Path) -> float:
    """Starts or continues the run, and stops it after the first step that it writes."""
    metrics = run / "metrics.jsonl"
    before = metrics.stat().st_size if metrics.exists() else 0
    began = time.monotonic()
    process = subprocess.Popen(
        command,
        cwd=_ROOT,
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    while not (metrics.exists() and metrics.stat().st_size > before):
        if process.poll() is not None:
            raise TroveError(f"the run ended before a step: {process.communicate()[1][-2000:]}")
        if time.monotonic() - began > _PATIENCE:
            process.kill()
            raise TroveError(f"no step in {_PATIENCE:.0f} s")
        time.sleep(0.01)
    seconds = time.monotonic() - began
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=_PATIENCE)
    if process.returncode != 75:
        raise TroveError(f"a stopped run ended with {process.returncode}: {errors[-2000:]}")
    return seconds


if __name__ == "__main__":
    run_program(main, extra="--config.")
