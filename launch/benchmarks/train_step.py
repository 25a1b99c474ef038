"""How near the train step comes to this machine's matmul rate at the same shapes.

A layer takes three products: its output, the gradient of its weights, and the gradient of its
input, which the first layer does without. The matmul rate is that of the same products alone: in a
scan over the same lanes on the same devices, or by NumPy's BLAS with a thread for each device,
whichever is faster.
"""

import concurrent.futures

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import PartitionSpec

from launch.benchmarks.lenet import SEEDS, SETTINGS, Steps, adam, layer_sizes, make_task
from launch.benchmarks.timing import Row, time_in_turn
from trove_jax import core, transforms


def measure(quick: bool = False) -> list[Row]:
    """Compares the masked step with its products."""
    steps, repeats = (5, 3) if quick else (60, 25)
    task, mesh = make_task(), core.make_mesh()
    lanes = SEEDS + -SEEDS % mesh.size
    found = time_in_turn(
        {
            "masked": Steps(task, transforms.masked(adam()), steps=steps, mesh=mesh),
            "dense": Steps(task, adam(), steps=steps, mesh=mesh),
            "XLA": Products(steps=steps, lanes=lanes, mesh=mesh),
            "BLAS": BlasProducts(steps=steps, lanes=lanes, threads=mesh.size),
        },
        repeats=repeats,
        warm_up=2,
    )
    faster = min("XLA", "BLAS", key=found.median)
    flops = step_flops()
    rate = {name: flops * steps * lanes / found.median(name) / 1e9 for name in found.seconds}
    apart = {name: 1e3 * found.median(name) / (steps * lanes) for name in found.seconds}
    return [
        Row(
            "train step / matmul rate",
            found.ratio(faster, to="masked"),
            0.6,
            better="higher",
            detail=f"{flops / 1e6:.1f} MFLOP a step: {rate['masked']:.0f} GFLOP/s (dense "
            f"{rate['dense']:.0f}), products alone {rate['XLA']:.0f} in XLA, {rate['BLAS']:.0f} "
            f"in BLAS, on {mesh.size} devices; above XLA's products the step of "
            f"{apart['masked']:.3f} ms spends {apart['masked'] - apart['XLA']:.3f} ms on Adam's "
            "sweep over weights and moments, the batch's gather and its standardisation",
        )
    ]


def step_flops() -> int:
    """Floating-point operations of the products of one step: 2 b n m for each."""
    first, *later = (2 * SETTINGS.batch_size * n * m for n, m in layer_sizes())
    return 2 * first + 3 * sum(later)


class Products:
    """The matrix products of a train step and nothing else, scanned as the step is.

    Args:
      steps: length of the scan.
      lanes: how many networks, one after the other on each device.
      mesh: devices that share the lanes.
    """

    def __init__(self, *, steps: int, lanes: int, mesh: jax.sharding.Mesh):
        weights, inputs = _operands(steps, lanes)
        along, everywhere = PartitionSpec("seed"), PartitionSpec()
        shared = jax.shard_map(
            _scan_products,
            mesh=mesh,
            in_specs=(along, everywhere),
            out_specs=along,
            check_vma=False,
        )
        self._call = jax.jit(shared).lower(weights, inputs).compile()
        self._arguments = [
            jax.device_put(tree, jax.sharding.NamedSharding(mesh, spec))
            for tree, spec in ((weights, along), (inputs, everywhere))
        ]

    def __call__(self) -> None:
        """Computes the products of all steps in all lanes."""
        jax.block_until_ready(self._call(*self._arguments))


class BlasProducts:
    """The same products by NumPy, a thread for each device.

    Args:
      steps: number of steps.
      lanes: how many networks.
      threads: how many at a time.
    """

    def __init__(self, *, steps: int, lanes: int, threads: int):
        self._weights, self._inputs = _operands(steps, lanes)
        self._lanes, self._threads = range(lanes), threads

    def __call__(self) -> None:
        """Computes the products of all steps in all lanes."""
        import threadpoolctl

        with (
            threadpoolctl.threadpool_limits(1, user_api="blas"),
            concurrent.futures.ThreadPoolExecutor(self._threads) as pool,
        ):
            list(pool.map(self._run, self._lanes))

    def _run(self, lane: int) -> None:
        weights = [weight[lane] for weight in self._weights]
        for inputs in self._inputs:
            _products(weights, inputs)


def _operands(steps, lanes):
    draw = np.random.default_rng(0).standard_normal
    sizes = layer_sizes()
    weights = [draw((lanes, n, m), np.float32) / np.float32(n**0.5) for n, m in sizes]
    return weights, draw((steps, SETTINGS.batch_size, sizes[0][0]), np.float32)


def _scan_products(weights, inputs):
    def one(weights):
        # The inputs change with every step, so nothing can be taken out of the loop.
        def step(_, inputs):
            return _products(weights, inputs), None

        return jax.lax.scan(step, jax.tree.map(jnp.zeros_like, weights), inputs)[0]

    return jax.lax.map(one, weights)


def _products(weights, inputs):
    outputs = [inputs]
    for weight in weights:
        outputs.append(outputs[-1] @ weight)
    gradient, gradients = outputs[-1], []
    for number in reversed(range(len(weights))):
        gradients.append(outputs[number].T @ gradient)
        if number:
            gradient = gradient @ weights[number].T
    return gradients[::-1]
