"""How long a run that was stopped takes from its command to its first new step.

    python -m launch.benchmarks.faults.resume --times=5

The laptop preset of the lottery ticket is stopped (SIGTERM) after its first metrics, and the same
command given again and stopped again. Compiled programs are kept between the runs, so that the
seconds are those beyond compilation: imports, reading data and checkpoint, tracing, and one step.
"""

import pathlib
import signal
import statistics
import tempfile
import time

from absl import flags

from launch.benchmarks.programs import Program, has_grown, wait_until
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


def main(overrides: list[str]) -> None:
    """Measures, and prints every time and the median."""
    with tempfile.TemporaryDirectory() as folder:
        run = pathlib.Path(folder) / "run"
        environment = {
            "JAX_COMPILATION_CACHE_DIR": str(pathlib.Path(folder) / "compiled"),
            "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        }
        command = [*_COMMAND, *overrides, f"--workdir={run}"]
        seconds = [_first_step(command, environment, run) for _ in range(_TIMES.value + 1)]
    fresh, *again = seconds
    print(f"from the command to the first step, compiling: {fresh:.1f} s")
    print(f"continued: {', '.join(f'{s:.1f}' for s in again)} s; median "
          f"{statistics.median(again):.1f} s")  # fmt: skip


def _first_step(command: list[str], environment: dict[str, str], run: pathlib.Path) -> float:
    """Starts or continues the run, and stops it after the first step that it writes."""
    new_metrics = has_grown(run / "metrics.jsonl")
    began = time.monotonic()
    program = Program(*command, **environment)
    if not wait_until(new_metrics, [program]):
        raise TroveError(f"the run ended before a step: {program.errors[-2000:]}")
    seconds = time.monotonic() - began
    program.send(signal.SIGTERM)
    program.finish(code=75)
    return seconds


if __name__ == "__main__":
    run_program(main, extra="--config.")
