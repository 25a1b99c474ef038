"""What laying a run over devices costs, and what it saves.

Seeds on a device each are timed against all seeds in one program on one device. How a step scales
with the examples of a batch is read from the programs that 1, 2 and 4 processes compile together,
each with one device and as many examples: on one machine, times would tell of its cores instead.
"""

import json
import sys

import jax

from launch.benchmarks.lenet import SEEDS, SETTINGS, Steps, adam, load, make_task
from launch.benchmarks.programs import run_together
from launch.benchmarks.timing import Row, time_in_turn
from trove_jax import core


def measure(quick: bool = False) -> list[Row]:
    """Times seeds on a mesh, and compares the programs of several processes."""
    steps, repeats = (5, 3) if quick else (60, 15)
    devices = min(2, jax.device_count())
    options = {"steps": steps, "seeds": SEEDS + SEEDS % devices}
    one = core.make_mesh({"seed": 1})
    found = time_in_turn(
        {
            "mesh": Steps(make_task(), adam(), mesh=core.make_mesh({"seed": devices}), **options),
            "vmap": Steps(make_task(), adam(), mesh=one, over_seeds="vmap", **options),
            "map": Steps(make_task(), adam(), mesh=one, **options),
        },
        repeats=repeats,
        warm_up=2,
    )
    rows = [
        Row(
            f"seeds on {devices} devices / vmap on one",
            found.ratio("mesh", to="vmap"),
            detail=f"{options['seeds']} networks; one after the other on one device / vmap "
            f"{found.ratio('map', to='vmap'):.2f}; a device alone uses all cores too",
        )
    ]
    alone = _compile(1)
    for processes in (2,) if quick else (2, 4):
        together = _compile(processes)
        rows.append(
            Row(
                f"weak scaling, {processes} processes / 1: operations of a device",
                together["flops"] / alone["flops"],
                detail=f"{SETTINGS.batch_size} examples a device; in a step each sends "
                f"{together['sent'] / 2**20:.2f} MiB in {together['times']} collectives "
                f"({', '.join(together['kinds'])}), the gradient has "
                f"{together['parameters'] / 2**20:.2f}",
            )
        )
    return rows


def _compile(processes: int) -> dict:
    """What the first of so many processes says of the step that they compile."""
    return run_together(__name__, processes)[0][0]


def main(port: str, processes: str, process: str) -> None:
    """One of the processes: compiles the step, and the first says what it holds."""
    jax.distributed.initialize(f"localhost:{port}", int(processes), int(process))
    shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), load().train)
    batch_size = SETTINGS.batch_size * int(processes)
    step = core.PodStep("LeNet-300-100", make_task(), adam(), shapes, batch_size, seeds=1)
    compiled = core.lower_step(step, core.make_mesh({"data": int(processes)})).compile()
    program = core.read_program(compiled.as_text())
    collectives = [found for found in program.collectives if found.in_step and found.group > 1]
    parameters = jax.tree.leaves(jax.eval_shape(step.task.init, jax.random.key(0)))
    if core.is_speaker():
        print(
            json.dumps(
                {
                    "flops": program.rounds * compiled.cost_analysis()["flops"],
                    "sent": sum(found.times * found.sent for found in collectives),
                    "times": sum(found.times for found in collectives),
                    "kinds": sorted({found.kind for found in collectives}),
                    "parameters": sum(leaf.size * leaf.dtype.itemsize for leaf in parameters),
                }
            )
        )


if __name__ == "__main__":
    main(*sys.argv[1:])
