"""What gradient noise costs: against optax's, between random generators, and beside a step.

The noise of a million parameters is drawn under `jit` by `transforms.gradient_noise` and by
`optax.add_noise`. The step is that of the experiment's laptop preset: 20 layers of 50 units, a
batch of 32 digits.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax

from experiments.learning import gradient_noise as experiment
from launch.benchmarks.timing import Row, time_in_turn
from trove_jax import core, data, losses, models, transforms
from trove_jax.core.batches import BatchOrder, count_examples
from trove_jax.core.steps import Program, run_chunk

ETA, GAMMA = 0.01, 0.55


def measure(quick: bool = False) -> list[Row]:
    """Compares the draws, and the steps."""
    return [*_draws(quick), _step(quick)]


def _draws(quick: bool) -> list[Row]:
    side, repeats = (50, 3) if quick else (500, 41)
    grads = {f"kernel_{i}": jnp.ones((side, side)) for i in range(4)}
    ours = functools.partial(transforms.gradient_noise, ETA, GAMMA)
    rules = {
        "optax": optax.add_noise(ETA, GAMMA, jax.random.key(0)),
        "threefry": ours(key=jax.random.key(0)),
        "rbg": ours(key=jax.random.key(0, impl="rbg")),
    }
    found = time_in_turn(
        {name: _Updates(tx, grads) for name, tx in rules.items()}, repeats=repeats, warm_up=3
    )
    shown = ", ".join(f"{name} {1e3 * found.median(name):.2f}" for name in rules)
    size = sum(leaf.size for leaf in grads.values())
    return [
        Row(
            "gradient noise / optax.add_noise",
            found.ratio("threefry", to="optax"),
            1.1,
            detail=f"{size} parameters under jit, ms: {shown}",
        ),
        Row(
            "gradient noise, rbg key / threefry key",
            found.ratio("rbg", to="threefry"),
            detail="rbg draws other bits under vmap than alone",
        ),
    ]


class _Updates:
    """One update after the other under jit; the gradients stay."""

    def __init__(self, tx, grads):
        self._update = jax.jit(tx.update)
        self._grads, self._state = grads, tx.init(grads)

    def __call__(self) -> None:
        noised, self._state = self._update(self._grads, self._state)
        jax.block_until_ready((noised, self._state))


def _step(quick: bool) -> Row:
    steps, repeats = (5, 3) if quick else (200, 15)
    settings = experiment.get_config("laptop")
    inputs = data.load_inputs(settings.data)
    shape, classes = data.input_shape(settings.data)
    module = models.DeepMLP(settings.depth, settings.width, classes=classes)
    task = losses.classification(module, shape, prepare=inputs.prepare)
    sgd = functools.partial(optax.sgd, settings.learning_rates[0])
    noisy = functools.partial(transforms.noisy, gamma=settings.gamma, key=0, clip=settings.clip)
    rules = {
        "plain": noisy(sgd(), eta=0.0),
        "noisy": noisy(sgd(), eta=settings.eta),
        "optax": optax.chain(
            optax.clip_by_global_norm(settings.clip),
            optax.add_noise(settings.eta, settings.gamma, jax.random.key(0)),
            sgd(),
        ),
    }
    found = time_in_turn(
        {
            name: _Steps(task, tx, inputs.train, steps, settings.batch_size)
            for name, tx in rules.items()
        },
        repeats=repeats,
        warm_up=2,
    )
    shown = ", ".join(f"{name} {1e3 * found.median(name) / steps:.3f}" for name in rules)
    return Row(
        "noisy step / plain step",
        found.ratio("noisy", to="plain"),
        detail=f"{settings.depth} layers of {settings.width}, batch {settings.batch_size}, SGD, "
        f"one network, ms per step: {shown} (optax: with optax.add_noise)",
    )


class _Steps:
    """The compiled chunk of `core.train` for one network, called again and again."""

    def __init__(self, task, tx, train, steps, batch_size):
        key = jax.random.key(1)
        order = BatchOrder(key, size=count_examples(train.examples), batch_size=batch_size)
        self._program = Program(task, tx, batch_size, steps, None, None)
        self._inputs = (train, order.indices(0, steps), key)
        self._state, self._steps = core.init_state(task, tx, key), steps

    def __call__(self) -> None:
        stop = np.int32(int(self._state.step) + self._steps)
        self._state, records = run_chunk(self._program, self._state, *self._inputs, stop)
        jax.block_until_ready((self._state, records))
