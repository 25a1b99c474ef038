"""What an epoch of DAGNN costs on PubMed, beside the same network in PyTorch Geometric on a CPU.

K = 20 hops, hidden layer of 64, dropout 0.8 on features and hidden units, all nodes at every step,
Adam with coupled weight decay. PyTorch Geometric runs in both of its forms, along a list of edges
and with a sparse matrix, and the faster one counts. Ten seeds are one program here and ten runs
there; neither looks at validation nodes.
"""

import jax
import numpy as np

from experiments.graphs import _planetoid as planetoid
from launch.benchmarks.timing import Row, needs_extra, time_in_turn
from trove_jax import core, models
from trove_jax.core.steps import Program, run_chunk

SEEDS, HIDDEN, HOPS, DROPOUT = 10, 64, 20, 0.8


def measure(quick: bool = False) -> list[Row]:
    """Compares one run and ten."""
    node_set = planetoid.load("digits" if quick else "pubmed")
    steps, repeats, hops = (2, 1, 2) if quick else (5, 9, HOPS)
    seeds = 2 if quick else SEEDS
    names = ("PyTorch Geometric / DAGNN epoch", "ten PyTorch Geometric runs / ten seeds together")
    topology = node_set.topology(**models.DAGNN.TOPOLOGY)
    module = models.DAGNN(HIDDEN, node_set.classes, hops, DROPOUT)
    ours = {
        "ours": Epochs(module, node_set, topology, steps, None),
        "ours, all seeds": Epochs(module, node_set, topology, steps, seeds),
    }
    try:
        from launch.benchmarks.torch_dagnn import TorchEpochs
    except ModuleNotFoundError as error:
        goals = zip(names, (2.0, 3.0), strict=True)
        return [needs_extra(error, name, goal, "higher") for name, goal in goals]
    inputs = (
        topology,
        np.asarray(planetoid.dense(node_set.features), np.float32),
        node_set.labels[node_set.parts["train"]],
        np.asarray(node_set.parts["train"]),
        (HIDDEN, node_set.classes, hops, DROPOUT),
    )
    peers = {form: _Repeated(TorchEpochs(*inputs, form), steps) for form in ("edges", "csr")}
    found = time_in_turn({**ours, **peers}, repeats=repeats, warm_up=2)
    fastest = min(peers, key=found.median)
    shown = ", ".join(f"{name} {1e3 * found.median(name) / steps:.1f}" for name in found.seconds)
    detail = f"ms an epoch: {shown} ({seeds} seeds)"
    return [
        Row(names[0], found.ratio(fastest, to="ours"), 2.0, "higher", detail),
        Row(names[1], seeds * found.ratio(fastest, to="ours, all seeds"), 3.0, "higher", detail),
    ]


class Epochs:
    """Some epochs of the compiled chunk of `core.train` or `core.train_seeds`, again and again."""

    def __init__(self, module, node_set, topology, steps, seeds):
        width = node_set.features.shape[1]
        task = planetoid.node_task(module, width, keep_best=False)
        tx = planetoid.coupled_adam(0.01, 5e-3)
        data = node_set.data(topology)
        keys = core.seed_keys(seeds or 1)
        if seeds is None:
            key, self._state = keys[0], core.init_state(task, tx, keys[0])
        else:
            key, self._state = keys, core.init_states(task, tx, keys)
        self._program = Program(task, tx, None, steps, None if seeds is None else "vmap", None)
        self._inputs, self._steps = (data, None, key), steps

    def __call__(self) -> None:
        stop = np.int32(int(self._state.step) + self._steps)
        self._state, records = run_chunk(self._program, self._state, *self._inputs, stop)
        jax.block_until_ready((self._state, records))


class _Repeated:
    def __init__(self, epoch, times):
        self._epoch, self._times = epoch, times

    def __call__(self) -> None:
        for _ in range(self._times):
            self._epoch()
