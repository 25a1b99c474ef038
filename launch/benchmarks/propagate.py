"""Propagation along edges against scipy's sparse product: time forward and back, and temporaries.

Two graphs: one with 100,000 nodes and a million directed edges whose degrees follow a power law
(most at a node: about 1,600), and PubMed with self-loops. Features are 64 wide; scipy multiplies a
float32 CSR matrix and, for the gradient, its transpose stored as CSR as well. Topology and features
are arguments of the compiled programs.
"""

import functools

import jax
import numpy as np
from scipy import sparse

from launch.benchmarks.timing import Row, time_in_turn
from trove_jax import data, graphs

_MIB = 2**20
_WIDTH, _SEEDS, _CLASSES, _HOPS = 64, 10, 3, 20


def measure(quick: bool = False) -> list[Row]:
    """Compares the products on both graphs, and seeds together with seeds in turn."""
    repeats = 3 if quick else 15
    size = (1_000, 10_000) if quick else (100_000, 1_000_000)
    pubmed = _pubmed()
    return [
        *_products(f"power law, {size[1]} edges", _power_law(*size), repeats),
        *_products(f"PubMed, {pubmed.n_edge} edges", pubmed, 5 * repeats),
        _seeds(pubmed, repeats),
    ]


def _power_law(n_node: int, n_edge: int) -> graphs.Topology:
    """Both ends of every edge drawn with probabilities that fall as rank^(-1/2) (Chung and Lu)."""
    rng = np.random.default_rng(0)
    chances = np.arange(1, n_node + 1) ** -0.5
    ends = rng.choice(n_node, size=(n_edge, 2), p=chances / chances.sum())
    edges = rng.permutation(n_node)[ends]
    weight = rng.uniform(0.5, 1.5, n_edge)
    return graphs.topology.from_edges(edges, n_node, undirected=False, edge_weight=weight)


def _pubmed() -> graphs.Topology:
    found = data.load_graph("pubmed")
    return graphs.topology.from_edges(
        found.edges, found.n_node, self_loops="add_remaining", norm="sym"
    )


def _products(name: str, topology: graphs.Topology, repeats: int) -> list[Row]:
    rng = np.random.default_rng(1)
    shape = (topology.n_node, _WIDTH)
    x, g = (rng.standard_normal(shape).astype(np.float32) for _ in range(2))
    matrix = sparse.csr_matrix(
        (topology.weight, topology.senders, topology.starts), shape=(topology.n_node,) * 2
    )
    transpose = matrix.T.tocsr()
    arguments = jax.device_put((topology, x, g))
    logits = jax.device_put(rng.standard_normal(topology.n_edge).astype(np.float32))
    programs = {
        "forward": _Compiled(_forward, *arguments[:2]),
        "chunked": _Compiled(functools.partial(_forward, implementation="chunked"), *arguments[:2]),
        "segment": _Compiled(functools.partial(_forward, implementation="segment"), *arguments[:2]),
        "max": _Compiled(functools.partial(_forward, reduce="max"), *arguments[:2]),
        "softmax": _Compiled(_attention, *arguments[:2], logits),
        "both": _Compiled(_forward_and_back, *arguments),
        "weights": _Compiled(_forward_and_back_to_weights, *arguments),
    }
    found = time_in_turn(
        {
            **programs,
            "scipy": lambda: matrix @ x,
            "scipy twice": lambda: (matrix @ x, transpose @ g),
        },
        repeats=repeats,
        warm_up=2,
    )

    def milliseconds(*names):
        return ", ".join(f"{each} {1e3 * found.median(each):.2f}" for each in names)

    return [
        Row(
            f"propagate / scipy ({name})",
            found.ratio("forward", to="scipy"),
            0.8,
            detail=f"{_WIDTH} features, ms: {milliseconds('forward', 'scipy')}",
        ),
        Row(
            f"propagate and gradient to x / two scipy products ({name})",
            found.ratio("both", to="scipy twice"),
            0.9,
            detail=f"ms: {milliseconds('both', 'scipy twice')}",
        ),
        Row(
            f"temporaries of propagate and gradient, MiB ({name})",
            programs["both"].temporaries / _MIB,
            16.0,
            detail=", ".join(
                f"{each} {program.temporaries / _MIB:.2f}" for each, program in programs.items()
            ),
        ),
        Row(
            f"propagate and gradient to x and weights / two scipy products ({name})",
            found.ratio("weights", to="scipy twice"),
            detail=f"ms: {milliseconds('weights')}",
        ),
        Row(
            f"chunked / scipy ({name})",
            found.ratio("chunked", to="scipy"),
            detail=f"ms: {milliseconds('chunked', 'segment', 'max', 'softmax')}",
        ),
    ]


def _forward(topology, x, **options):
    return graphs.propagate(topology, x, **options)


def _attention(topology, x, logits):
    return graphs.propagate(topology, x, reduce="softmax", logits=logits)


def _forward_and_back(topology, x, g):
    y, pull = jax.vjp(functools.partial(graphs.propagate, topology), x)
    return y, *pull(g)


def _forward_and_back_to_weights(topology, x, g):
    y, pull = jax.vjp(functools.partial(graphs.propagate, topology), x, topology.weight)
    return y, *pull(g)


class _Compiled:
    """A program that is compiled for its arguments, run on them at each call."""

    def __init__(self, function, *arguments):
        self._arguments = jax.device_put(arguments)
        self._program = jax.jit(function).lower(*self._arguments).compile()
        self.temporaries = self._program.memory_analysis().temp_size_in_bytes

    def __call__(self) -> None:
        jax.block_until_ready(self._program(*self._arguments))


def _seeds(topology: graphs.Topology, repeats: int) -> Row:
    """Hops of class scores and their gradient, as in DAGNN: all seeds together, or one by one."""
    shape = (_SEEDS, topology.n_node, _CLASSES)
    x = np.random.default_rng(2).standard_normal(shape).astype(np.float32)

    def stack(topology, x):
        y, pull = jax.vjp(lambda x: graphs.hop_stack(topology, x, _HOPS), x)
        return pull(y)

    together = _Compiled(jax.vmap(stack, in_axes=(None, 0)), topology, x)
    alone = _Compiled(stack, topology, x[0])
    found = time_in_turn(
        {"together": together, "in turn": lambda: [alone() for _ in range(_SEEDS)]},
        repeats=repeats,
    )
    return Row(
        f"{_HOPS} hops and gradient, {_SEEDS} seeds under vmap / in turn (PubMed)",
        found.ratio("together", to="in turn"),
        detail=f"{_CLASSES} features, ms: {1e3 * found.median('together'):.1f} and "
        f"{1e3 * found.median('in turn'):.1f}",
    )
