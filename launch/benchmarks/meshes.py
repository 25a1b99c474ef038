"""Runs experiments on meshes of many devices and processes, and compares with one device.

    python -m launch.benchmarks.meshes --experiments=gradient_noise,lottery_ticket,poincare_resnet

The smoke preset of each is run once in each layout of LAYOUTS, from the start to its end. Then one
run passes through all of them: it is stopped (SIGTERM) as soon as it has written its first metrics
in a layout, and the next layout continues from what was saved, until it is finished. Compared with
the run on one device are all losses that were written (largest relative difference) and all
numbers of the evidence that are no times (largest difference over 1 + |number|): sums over a batch
are taken in another order on another mesh. Devices are simulated
(`--xla_force_host_platform_device_count`), and processes find each other on loopback.
"""

import dataclasses
import json
import math
import pathlib
import signal
import tempfile

import numpy as np
from absl import flags

from launch.benchmarks.programs import Program, free_port, has_grown, wait_until
from launch.program import run_program
from trove_jax.core.errors import TroveError
from trove_jax.core.metrics import read_metrics

_EXPERIMENTS = flags.DEFINE_list(
    "experiments", ["gradient_noise", "lottery_ticket", "poincare_resnet"], "Which to run."
)
_TOLERANCE = flags.DEFINE_float("tolerance", 1e-3, "Largest difference of a loss that is allowed.")
_CHAIN_ONLY = flags.DEFINE_bool("chain_only", False, "Only the run through all layouts.")


@dataclasses.dataclass(frozen=True)
class Layout:
    """Where a run is computed.

    Attributes:
      mesh: axes, as `--mesh` has them.
      processes: among which the devices are shared out.
    """

    mesh: str
    processes: int = 1

    def __str__(self) -> str:
        return f"{self.mesh} in {self.processes} process{'es' if self.processes > 1 else ''}"


_SETTINGS = {
    # 95 % of random pruning leaves units whose input does not change within a batch: less its mean
    # it is zero, where the rounding of that mean decides whether ReLU lets a gradient pass. Layouts
    # that divide a batch differently do not agree on such units.
    "lottery_ticket": ["--config.rewinding.residual_mlp.rate=0.5"],
    # What is trained alone, and for long enough to be stopped in many layouts.
    "poincare_resnet": ["--config.parts=('easy',)", "--config.easy.epochs=5"],
}

LAYOUTS = (
    Layout("seed:1"),
    Layout("seed:2"),
    Layout("data:2"),
    Layout("seed:2,data:2"),
    Layout("seed:2,data:4"),
    Layout("seed:2", 2),
    Layout("data:2", 2),
    Layout("seed:2,data:2", 4),
)


def main(overrides: list[str]) -> None:
    """Runs and compares all of them.

    Raises:
      TroveError: a run failed, or a loss differs by more than the tolerance.
    """
    wrong = []
    with tempfile.TemporaryDirectory() as folder:
        for name in _EXPERIMENTS.value:
            command = [
                f"--experiment={name}", "--preset=smoke", "--save_every=5", "--log_every=5",
                *_SETTINGS.get(name, []), *overrides,
            ]  # fmt: skip
            wrong += _compare(name, command, pathlib.Path(folder) / name)
    if wrong:
        raise TroveError(f"{len(wrong)} of these differ by more than {_TOLERANCE.value}")


def _compare(name: str, command: list[str], folder: pathlib.Path) -> list[str]:
    """Prints a line for each layout and one for the chain; gives the layouts that are wrong."""
    print(f"{name:42} {'losses':>8} {'largest difference':>19} {'evidence':>9}")
    wanted = finish(start(LAYOUTS[0], command, folder / "wanted"), folder / "wanted")
    wrong = []
    for number, layout in enumerate([] if _CHAIN_ONLY.value else LAYOUTS[1:]):
        workdir = folder / str(number)
        wrong += _show(str(layout), finish(start(layout, command, workdir), workdir), wanted)
    found, stops = _chain(command, folder / "chain")
    wrong += _show(f"one run through {len(stops) + 1} layouts", found, wanted)
    print(f"    stopped and continued {len(stops)} times: {', '.join(stops)}", flush=True)
    return wrong


def start(layout: Layout, command: list[str], workdir: pathlib.Path) -> list[Program]:
    """Starts a run in all processes of a layout.

    Args:
      layout: where it is computed.
      command: the arguments of `launch.run`.
      workdir: of the run.

    Returns:
      The processes.
    """
    command = [*command, f"--mesh={layout.mesh}", f"--workdir={workdir}"]
    programs = [["launch.run", *command]]
    if layout.processes > 1:
        address = f"--coordinator_address=localhost:{free_port()}"
        join = ["launch.pod", *command, address, f"--num_processes={layout.processes}"]
        programs = [[*join, f"--process_id={number}"] for number in range(layout.processes)]
    # Each process asks for the devices of its mesh.
    return [Program(*program, XLA_FLAGS="") for program in programs]


def finish(programs: list[Program], workdir: pathlib.Path, code: int = 0) -> dict:
    """Waits for the end of a run.

    Args:
      programs: from `start`.
      workdir: of the run.
      code: with which all shall end.

    Returns:
      Its `losses` by stage and step, and its `arms`, None where it was stopped.

    Raises:
      TroveError: a process ended with another code.
    """
    for program in programs:
        program.finish(code)
    record = workdir / "evidence.json"
    return {
        "losses": {
            (line["stage"], line["step"]): line["loss"]
            for line in read_metrics(workdir / "metrics.jsonl")
            if "loss" in line
        },
        "arms": json.loads(record.read_text())["arms"] if record.exists() else None,
    }


def _chain(command: list[str], workdir: pathlib.Path) -> tuple[dict, list[str]]:
    """Runs in one layout after the other, stopped in each; gives what it ends with, and stops."""
    stops: list[str] = []
    for layout in (*LAYOUTS[1:], *LAYOUTS):
        new_metrics = has_grown(workdir / "metrics.jsonl")
        programs = start(layout, command, workdir)
        wait_until(new_metrics, programs)
        for program in programs:
            program.send(signal.SIGTERM)
        if 75 not in [program.wait() for program in programs]:
            return finish(programs, workdir), stops
        finish(programs, workdir, code=75)
        stops.append(str(layout))
    return finish(start(LAYOUTS[0], command, workdir), workdir), stops


def differences(found: dict, wanted: dict) -> tuple[float, float]:
    """How far one run is from another.

    Args:
      found: from `finish`.
      wanted: likewise.

    Returns:
      The largest relative difference of a loss, NaN where other stages or steps were written, and
      the largest difference of the evidence over 1 + |number|, times left out.
    """
    losses, loss = wanted["losses"], math.nan
    if found["losses"].keys() == losses.keys():
        pairs = [(np.array(found["losses"][at]), np.array(losses[at])) for at in losses]
        loss = max(float(np.max(np.abs(a - b) / np.abs(b))) for a, b in pairs)
    numbers = [
        (np.array(found["arms"][arm][metric]), np.array(values))
        for arm, metrics in wanted["arms"].items()
        for metric, values in metrics.items()
        if None not in values and not metric.endswith("seconds")
    ]
    return loss, max(float(np.max(np.abs(a - b) / (1 + np.abs(b)))) for a, b in numbers)


def _show(title: str, found: dict, wanted: dict) -> list[str]:
    loss, evidence = differences(found, wanted)
    print(f"  {title:40} {len(found['losses']):8} {loss:19.2g} {evidence:9.2g}", flush=True)
    return [] if loss <= _TOLERANCE.value else [title]


if __name__ == "__main__":
    run_program(main, extra="--config.")
