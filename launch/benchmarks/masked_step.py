"""What a mask costs: the train step under a mask against the dense one.

Both are the compiled chunk of `core.train_seeds` for five LeNets, with `optax.adam` as it is and
wrapped in `transforms.masked` with half of the weights pruned.
"""

import jax

from launch.benchmarks.lenet import SEEDS, Steps, adam, make_task
from launch.benchmarks.timing import Row, time_in_turn
from trove_jax import core, transforms


def measure(quick: bool = False) -> list[Row]:
    """Compares the two steps."""
    steps, repeats = (5, 3) if quick else (60, 25)
    task, mesh = make_task(), core.make_mesh()
    params = task.init(jax.random.key(0))["params"]
    mask = transforms.magnitude_mask(params, None, rate=0.5, scope="layerwise")
    rules = {"dense": adam(), "masked": transforms.masked(adam(), mask)}
    found = time_in_turn(
        {name: Steps(task, tx, steps=steps, mesh=mesh) for name, tx in rules.items()},
        repeats=repeats,
        warm_up=2,
    )
    per_step = {name: 1e3 * found.median(name) / (steps * SEEDS) for name in rules}
    return [
        Row(
            "masked step / dense step",
            found.ratio("masked", to="dense"),
            1.05,
            detail=f"LeNet-300-100, Adam, {SEEDS} seeds: {per_step['masked']:.3f} and "
            f"{per_step['dense']:.3f} ms per step and seed",
        )
    ]
