"""What a convolution net costs in the compiled loop: ResNet-20 on images of CIFAR's shape.

The train step (batch-norm, SGD with momentum) in a scan, against the same step called again and
again, against itself for several seeds, and against PyTorch's.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax

from launch.benchmarks.timing import Row, needs_extra, time_in_turn
from trove_jax import kernels, models

_SEEDS = 4
_CLASSES = 10
_LEARNING_RATE = 0.1
_MOMENTUM = 0.9


def measure(quick: bool = False) -> list[Row]:
    """Compares the scanned step with its three peers, and the kernels' forms with XLA's."""
    batch_size, steps, repeats = (8, 2, 1) if quick else (128, 4, 7)
    batches = _draw_batches(steps, batch_size)
    return [
        *_loop_and_seeds(batches, repeats),
        _against_torch(batches, repeats),
        *_kinds(quick),
    ]


def _loop_and_seeds(batches, repeats: int) -> list[Row]:
    states = jax.vmap(_init)(jax.random.split(jax.random.key(0), _SEEDS))
    start = jax.tree.map(lambda leaf: leaf[0], states)
    one, scan = jax.jit(_step), jax.jit(_scan)
    seeds = jax.jit(lambda states, batches: jax.lax.map(lambda s: _scan(s, batches), states))
    steps = len(batches[1])

    def step_by_step():
        state = start
        for images, labels in zip(*batches, strict=True):
            state, loss = one(state, (images, labels))
        jax.block_until_ready((state, loss))

    def four_runs():
        for seed in range(_SEEDS):
            state = jax.tree.map(lambda leaf, seed=seed: leaf[seed], states)
            jax.block_until_ready(scan(state, batches))

    found = time_in_turn(
        {
            "step by step": step_by_step,
            "scan": lambda: jax.block_until_ready(scan(start, batches)),
        },
        repeats=repeats,
    )
    found_seeds = time_in_turn(
        {
            "runs": four_runs,
            "one program": lambda: jax.block_until_ready(seeds(states, batches)),
        },
        repeats=max(1, repeats // 2),
    )
    each = {name: 1e3 * found.median(name) / steps for name in found.seconds}
    total = found_seeds.median("one program"), found_seeds.median("runs")
    return [
        Row(
            "ResNet-20 scanned / step by step",
            found.ratio("scan", to="step by step"),
            1.0,
            detail=f"{each['scan']:.0f} and {each['step by step']:.0f} ms a step, batch "
            f"{batches[1].shape[1]}",
        ),
        Row(
            f"ResNet-20, {_SEEDS} seeds in one program / {_SEEDS} runs",
            found_seeds.ratio("one program", to="runs"),
            1.0,
            detail=f"{steps} steps each: {total[0]:.2f} and {total[1]:.2f} s",
        ),
    ]


def _against_torch(batches, repeats: int) -> Row:
    name = "ResNet-20 scanned / PyTorch"
    try:
        from launch.benchmarks.torch_resnet import TorchResNet
    except ModuleNotFoundError as error:
        return needs_extra(error, name, 1.3)
    start = _init(jax.random.key(0))
    scan = jax.jit(_scan)
    params, _ = start
    peer = TorchResNet(
        jax.tree.map(np.asarray, params["params"]),
        *(np.asarray(part) for part in batches),
        learning_rate=_LEARNING_RATE,
        momentum=_MOMENTUM,
    )
    apart = abs(float(scan(start, batches)[1][0]) - peer.first_loss())
    if not apart < 1e-3:
        raise RuntimeError(f"the two networks differ: their first losses are {apart} apart")
    found = time_in_turn(
        {"scan": lambda: jax.block_until_ready(scan(start, batches)), "torch": peer},
        repeats=repeats,
    )
    each = {key: 1e3 * found.median(key) / len(batches[1]) for key in found.seconds}
    return Row(
        name,
        found.ratio("scan", to="torch"),
        1.3,
        detail=f"{each['scan']:.0f} and {each['torch']:.0f} ms a step, {peer.threads} threads, "
        f"batch {batches[1].shape[1]}, same weights",
    )


# Name: input, kernel, arguments. Each is measured as a train step of one layer, in a scan.
_LAYERS = {
    "3x3": ((64, 32, 32, 16), (3, 3, 16, 16), {}),
    "3x3, stride 2": ((64, 32, 32, 16), (3, 3, 16, 32), {"window_strides": (2, 2)}),
    "1x1": ((64, 32, 32, 16), (1, 1, 16, 16), {}),
    "depthwise 3x3": ((64, 32, 32, 16), (3, 3, 1, 16), {"feature_group_count": 16}),
    "transposed, stride 2": (
        (64, 16, 16, 16),
        (3, 3, 16, 16),
        {"lhs_dilation": (2, 2), "padding": ((1, 2), (1, 2))},
    ),
}


def _kinds(quick: bool) -> list[Row]:
    """One layer of each kind in a scan, against XLA's native gradient outside of any loop."""
    steps = 1 if quick else 3
    rows = []
    for name, (shape, window, options) in _LAYERS.items():
        options = {
            "window_strides": (1, 1),
            "padding": "SAME",
            "dimension_numbers": ("NHWC", "HWIO", "NHWC"),
        } | options
        shape = (2, *shape[1:]) if quick else shape
        draw = np.random.default_rng(0).normal
        x, kernel = (jnp.asarray(draw(size=size), jnp.float32) for size in (shape, window))

        def one(kernel, x, implementation, options=options):
            def loss(kernel, x):
                y = kernels.conv_general_dilated(
                    x, kernel, **options, implementation=implementation
                )
                return (y * y).mean()

            to_kernel, to_x = jax.grad(loss, argnums=(0, 1))(kernel, x)
            return kernel - to_kernel, x - to_x

        def scanned(kernel, x, one=one):
            return jax.lax.scan(lambda c, _: (one(*c, None), None), (kernel, x), length=steps)[0]

        ours = jax.jit(scanned)
        native = jax.jit(functools.partial(one, implementation="reference"))

        def run_native(native=native, kernel=kernel, x=x):
            carry = kernel, x
            for _ in range(steps):
                carry = native(*carry)
            jax.block_until_ready(carry)

        found = time_in_turn(
            {
                "ours": lambda ours=ours, kernel=kernel, x=x: jax.block_until_ready(
                    ours(kernel, x)
                ),
                "native": run_native,
            },
            repeats=1 if quick else 7,
        )
        each = {key: 1e3 * found.median(key) / steps for key in found.seconds}
        rows.append(
            Row(
                f"convolution {name}, scanned / native outside a loop",
                found.ratio("ours", to="native"),
                detail=f"{each['ours']:.1f} and {each['native']:.1f} ms for output and gradients",
            )
        )
    return rows


_MODEL = models.cifar_resnet(depth=20, width=16, classes=_CLASSES)
_TX = optax.sgd(_LEARNING_RATE, momentum=_MOMENTUM)


def _init(key):
    variables = _MODEL.init(key, jnp.zeros((1, 32, 32, 3)))
    return variables, _TX.init(variables["params"])


def _step(state, batch):
    (variables, opt_state), (images, labels) = state, batch

    def loss(params):
        logits, updates = _MODEL.apply(
            variables | {"params": params}, images, train=True, mutable=["batch_stats"]
        )
        losses = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
        return losses.mean(), updates

    (value, updates), grads = jax.value_and_grad(loss, has_aux=True)(variables["params"])
    change, opt_state = _TX.update(grads, opt_state, variables["params"])
    params = optax.apply_updates(variables["params"], change)
    return (variables | updates | {"params": params}, opt_state), value


def _scan(state, batches):
    return jax.lax.scan(_step, state, batches)


def _draw_batches(steps: int, batch_size: int):
    rng = np.random.default_rng(0)
    images = rng.normal(size=(steps, batch_size, 32, 32, 3))
    labels = rng.integers(0, _CLASSES, (steps, batch_size))
    return jnp.asarray(images, jnp.float32), jnp.asarray(labels, jnp.int32)
