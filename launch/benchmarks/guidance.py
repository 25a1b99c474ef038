"""What guidance costs: the guided train step against the target's step and the guide's forward.

The target is 30 dense layers of 64 units, the guide six convolutions that are not trained, both on
batches of 64 digits. The guided step has to do at least what the two do apart; the rest is the
comparison of the layers.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax

from launch.benchmarks.timing import Row, time_in_turn
from trove_jax import core, data, losses, models
from trove_jax.core.batches import BatchOrder
from trove_jax.core.steps import Program, run_chunk

_BATCH = 64


def measure(quick: bool = False) -> list[Row]:
    """Compares the steps."""
    steps, repeats = (4, 2) if quick else (60, 15)
    images = data.load_inputs("digits")
    shape, classes = data.input_shape("digits")
    target = models.DeepMLP(depth=30, width=64, classes=classes)
    module = models.ConvChain((16, 16, 32, 32, 64, 64), (1, 1, 2, 1, 2, 1), classes)
    guide = losses.module_guide(
        module, shape, read=lambda batch: images.prepare(batch.examples["image"])
    )
    plain = losses.classification(target, shape, prepare=images.prepare)
    found = time_in_turn(
        {
            "target": _Steps(plain, images.train, steps),
            "guided": _Steps(losses.guided(plain, guide), images.train, steps),
            "guide": _Forward(guide, images.train, steps),
        },
        repeats=repeats,
        warm_up=2,
    )
    each = {name: 1e3 * found.median(name) / steps for name in ("target", "guide", "guided")}
    return [
        Row(
            "guided step / (target step + guide forward)",
            each["guided"] / (each["target"] + each["guide"]),
            1.6,
            detail=f"30 x 64 perceptron, six convolutions, batch {_BATCH}: {each['guided']:.2f}, "
            f"{each['target']:.2f} and {each['guide']:.2f} ms",
        )
    ]


class _Steps:
    """The compiled chunk of `core.train`, called again and again without the shell."""

    def __init__(self, task, train, steps):
        tx, key = optax.adam(1e-3), jax.random.key(0)
        size = train.examples["label"].shape[0]
        self._batches = BatchOrder(key, size=size, batch_size=_BATCH).indices(0, steps)
        self._program = Program(task, tx, _BATCH, steps, None, None)
        self._state = jax.tree.map(jnp.array, core.init_state(task, tx, key))
        self._inputs, self._steps = (train, self._batches, key), steps

    def __call__(self) -> None:
        train, batches, key = self._inputs
        stop = np.int32(int(self._state.step) + self._steps)
        self._state, records = run_chunk(self._program, self._state, train, batches, key, stop)
        jax.block_until_ready((self._state, records))


class _Forward:
    """The guide's activations for the same batches, in one compiled loop."""

    def __init__(self, guide, train, steps):
        key = jax.random.key(0)
        size = train.examples["label"].shape[0]
        batches = BatchOrder(key, size=size, batch_size=_BATCH).indices(0, steps)
        variables = guide.init(key)

        @jax.jit
        def run(variables, batches):
            def one(total, rows):
                batch = core.Batch(jax.tree.map(lambda leaf: leaf[rows], train.examples))
                found = guide.activations(variables, guide.inputs(batch, key))
                # Every value is used once, so that none is left out.
                return total + sum(jnp.sum(x) for x in found.values()), None

            return jax.lax.scan(one, 0.0, batches)[0]

        self._run = functools.partial(run, variables, batches)

    def __call__(self) -> None:
        jax.block_until_ready(self._run())
