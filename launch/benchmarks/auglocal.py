"""What local learning with auxiliary networks saves in memory, and what it costs in time.

The network is ResNet-32 for CIFAR in 16 parts; all rules take one compiled `core.train_step` with
momentum SGD. Memory is what the compiler reserves beside arguments and results
(`memory_analysis().temp_size_in_bytes`), most of it activations kept for the backward pass.

Where the saving comes from: end-to-end backpropagation keeps the activations of all units until
the gradient returns. A local loss needs those of one unit and its auxiliary network, and
`losses.local_losses` takes the gradient of a part before the next begins, so that the peak is the
largest part instead of the sum. The row of plain automatic differentiation has the same losses and
gradients without that order: it saves nothing, since all auxiliary networks are alive at once.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from launch.benchmarks.timing import Row, time_in_turn
from trove_jax import core, layers, losses, models, transforms

GOAL = 0.65
_SIDE, _CLASSES = 32, 10


def measure(quick: bool = False) -> list[Row]:
    """Compares memory and time of the training step of two rules with those of one part."""
    stages, width = ((1, 1, 1), 8) if quick else ((5, 5, 5), 16)
    large, small, repeats = (64, 16, 2) if quick else (256, 32, 5)
    make = functools.partial(_step, stages=stages, width=width)
    steps = {
        "BP": make(layers.bp()),
        "depth 2": make(layers.auglocal(2)),
        "depth 4": make(layers.auglocal(4)),
        "plain": make(layers.auglocal(4), implementation="stop_gradient"),
    }
    memory = {name: _memory(step, task, large) for name, (step, task) in steps.items()}
    times = time_in_turn(
        {name: _Steps(*steps[name], small) for name in ("BP", "depth 2", "depth 4")},
        repeats=repeats,
        warm_up=1,
    )
    network = f"ResNet-{6 * stages[0] + 2}"

    def saved(name: str) -> str:
        return (
            f"{network}, batch {large}: {memory[name] / 2**20:.0f} and "
            f"{memory['BP'] / 2**20:.0f} MiB"
        )

    def taken(name: str) -> str:
        return (
            f"{network}, batch {small}: {1e3 * times.median(name):.0f} and "
            f"{1e3 * times.median('BP'):.0f} ms"
        )

    return [
        *(
            Row(
                f"temporary memory, AugLocal {name} / BP",
                memory[name] / memory["BP"],
                GOAL,
                detail=saved(name),
            )
            for name in ("depth 2", "depth 4")
        ),
        Row(
            "temporary memory, AugLocal depth 4 by plain autodiff / BP",
            memory["plain"] / memory["BP"],
            detail=saved("plain"),
        ),
        *(
            Row(
                f"step time, AugLocal {name} / BP",
                times.ratio(name, to="BP"),
                detail=taken(name),
            )
            for name in ("depth 2", "depth 4")
        ),
    ]


def _step(rule: Any, *, stages, width, implementation="isolated") -> tuple[Any, core.Task]:
    units, head = models.resnet_units(stages, width=width, classes=_CLASSES)
    task = losses.local_learning(
        models.local_chain(units, head, rule),
        jax.ShapeDtypeStruct((_SIDE, _SIDE, 3), jnp.float32),
        implementation=implementation,
    )

    @functools.partial(jax.jit, donate_argnums=0)
    def step(state, batch, key):
        return core.train_step(task, _optimiser(), state, batch, key)

    return step, task


@functools.cache
def _optimiser():
    return transforms.momentum_sgd(0.1)


def _batch(size: int) -> core.Batch:
    rng = np.random.default_rng(0)
    images = rng.normal(size=(size, _SIDE, _SIDE, 3)).astype(np.float32)
    labels = rng.integers(0, _CLASSES, size).astype(np.int32)
    return core.Batch({"image": jnp.asarray(images), "label": jnp.asarray(labels)})


def _state_shapes(task: core.Task) -> core.TrainState:
    return jax.eval_shape(lambda key: core.init_state(task, _optimiser(), key), jax.random.key(0))


def _memory(step, task: core.Task, size: int) -> int:
    """Bytes that the compiled step reserves for what it computes on the way."""
    compiled = step.lower(_state_shapes(task), _batch(size), jax.random.key(0)).compile()
    return compiled.memory_analysis().temp_size_in_bytes


class _Steps:
    """One training step, called again and again."""

    def __init__(self, step, task: core.Task, size: int):
        self._step, self._batch, self._key = step, _batch(size), jax.random.key(0)
        # Drawn by NumPy: the initialisers take longer to compile than the step.
        rng = np.random.default_rng(1)
        self._state = jax.tree.map(
            lambda leaf: jnp.asarray(0.1 * rng.random(leaf.shape), leaf.dtype), _state_shapes(task)
        )

    def __call__(self) -> None:
        self._state, records = self._step(self._state, self._batch, self._key)
        jax.block_until_ready((self._state, records))
