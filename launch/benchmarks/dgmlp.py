"""What a training step of DGMLP costs on random graphs, beside a perceptron, GCN and APPNP.

Graphs have n nodes and n^2 / 10,000 directed edges, so every node has n / 10,000 neighbours in the
mean; features are 100 wide, and all nodes are seen at every step. DGMLP reads features that were
mixed over ten hops before training: that is shown in steps, and counts for none.
"""

import functools
import time

import jax
import jax.numpy as jnp
import numpy as np

from launch.benchmarks.timing import Row, Timings, time_in_turn
from trove_jax import graphs, losses, models

_WIDTH, _HIDDEN, _CLASSES, _HOPS = 100, 64, 8, 10


def measure(quick: bool = False) -> list[Row]:
    """Compares the networks on one graph, and DGMLP with itself on one of twice the nodes."""
    n_node, repeats = (2_000, 1) if quick else (100_000, 7)
    small, mixing = _times(n_node, repeats)
    large, _ = _times(2 * n_node, repeats)
    step = small.median("DGMLP")
    shown = ", ".join(f"{name} {1e3 * small.median(name):.0f}" for name in small.seconds)
    detail = f"ms a step: {shown}; mixing ten hops once takes {mixing / step:.1f} steps of DGMLP"
    size = f"{n_node} nodes, {_edges(n_node)} edges"
    growth = {name: large.median(name) / small.median(name) for name in large.seconds}
    return [
        Row(f"DGMLP / perceptron, {size}", small.ratio("DGMLP", to="perceptron"), detail=detail),
        Row(f"DGMLP / GCN, {size}", small.ratio("DGMLP", to="GCN"), 1.0),
        Row(f"DGMLP / APPNP, {size}", small.ratio("DGMLP", to="APPNP"), 1.0),
        Row(
            "DGMLP with twice the nodes and four times the edges / as it was",
            growth["DGMLP"],
            detail=", ".join(f"{name} {times:.2f}" for name, times in growth.items()),
        ),
    ]


def _edges(n_node: int) -> int:
    return n_node**2 // 10_000


def _times(n_node: int, repeats: int) -> tuple[Timings, float]:
    """Seconds of the steps of all networks, and those of mixing the hops once."""
    rng = np.random.default_rng(0)
    edges = rng.integers(n_node, size=(_edges(n_node), 2))
    topology = jax.device_put(
        graphs.topology.from_edges(
            edges, n_node, undirected=False, self_loops="add_remaining", norm="sym"
        )
    )
    x = jax.device_put(rng.standard_normal((n_node, _WIDTH)).astype(np.float32))
    labels = jax.device_put(rng.integers(_CLASSES, size=n_node).astype(np.int32))
    mix = jax.jit(functools.partial(graphs.mix_hops, hops=_HOPS, weighting="uniform"))
    mixed = jax.block_until_ready(mix(topology, x))
    began = time.perf_counter()
    jax.block_until_ready(mix(topology, x))
    mixing = time.perf_counter() - began
    shape = {"hidden": _HIDDEN, "classes": _CLASSES}
    networks = {
        "DGMLP": (models.DGMLP(depth=2, **shape), mixed),
        "perceptron": (models.DepthGrid(dp=0, dt=2, **shape), x),
        "GCN": (models.DepthGrid(dp=2, dt=2, **shape), x),
        "APPNP": (models.appnp(dropout=0.0, **shape), x),
    }
    steps = {
        name: _Step(module, topology, inputs, labels) for name, (module, inputs) in networks.items()
    }
    return time_in_turn(steps, repeats=repeats, warm_up=1), mixing


class _Step:
    """The compiled loss and gradient of a network, again and again."""

    def __init__(self, module, topology, x, labels):
        variables = module.init(jax.random.key(0), topology, x)

        def loss(params, topology, x, labels):
            logits = module.apply({"params": params}, topology, x)
            return jnp.mean(losses.cross_entropy(logits, labels))

        self._arguments = variables["params"], topology, x, labels
        self._step = jax.jit(jax.value_and_grad(loss)).lower(*self._arguments).compile()

    def __call__(self) -> None:
        jax.block_until_ready(self._step(*self._arguments))
