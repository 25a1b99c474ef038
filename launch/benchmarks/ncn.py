"""What common neighbours hold, added up for 10,000 candidate links: beside the published form.

The published form selects rows of the adjacency matrix for both ends, packs the row and column of
every entry into one key, looks the keys of one end up in those of the other, and multiplies the
sparse matrix of what they share by the features. It is published for torch, and the goal is to
take a third of its time; the same steps with NumPy and scipy are shown beside it. Half of the links
are edges of the graph, half are pairs drawn at random. Features are 64 wide.
"""

import functools

import jax
import numpy as np
from scipy import sparse

from launch.benchmarks.propagate import _power_law
from launch.benchmarks.timing import Row, needs_extra, time_in_turn
from trove_jax import data, graphs

_WIDTH, _LINKS, _GOAL = 64, 10_000, 1 / 3


def measure(quick: bool = False) -> list[Row]:
    """Compares on a power-law graph and on PubMed, forward alone and with the gradient."""
    repeats = 3 if quick else 21
    size = (1_000, 10_000) if quick else (100_000, 1_000_000)
    drawn = _power_law(*size)
    edges = np.stack([drawn.senders, drawn.receivers], axis=1)
    power_law = graphs.topology.from_edges(edges, size[0], undirected=False, duplicates="unique")
    found = data.load_graph("pubmed")
    pubmed = graphs.topology.from_edges(found.edges, found.n_node, self_loops="remove")
    n_links = 200 if quick else _LINKS
    return [
        *_steps(f"power law, {power_law.n_edge} edges", power_law, n_links, repeats),
        *_steps(f"PubMed, {pubmed.n_edge} edges", pubmed, n_links, repeats),
    ]


def _steps(name: str, topology: graphs.Topology, n_links: int, repeats: int) -> list[Row]:
    rng = np.random.default_rng(0)
    chosen = rng.choice(topology.n_edge, n_links // 2, replace=False)
    linked = np.stack([topology.senders[chosen], topology.receivers[chosen]], axis=1)
    others = rng.integers(0, topology.n_node, (n_links - n_links // 2, 2))
    pairs = rng.permutation(np.concatenate([linked, others])).astype(np.int32)
    x = rng.standard_normal((topology.n_node, _WIDTH)).astype(np.float32)
    g = rng.standard_normal((n_links, _WIDTH)).astype(np.float32)
    programs = {
        "forward": _Compiled(graphs.common_neighbour_sum, topology, pairs, x),
        "both": _Compiled(_forward_and_back, topology, pairs, x, g),
    }
    starts, senders = np.asarray(topology.starts), np.asarray(topology.senders)
    peers = {
        "scipy": functools.partial(by_scipy, starts, senders, pairs, x),
        "scipy, both": functools.partial(by_scipy, starts, senders, pairs, x, g),
    }
    missing = None
    try:
        from launch.benchmarks import torch_common_neighbours
    except ModuleNotFoundError as error:
        missing = error
    else:
        peers |= torch_common_neighbours.steps(starts, senders, pairs, x, g)
    want = peers["scipy, both"]()
    for got in (programs["both"](), *(() if missing else (peers["torch, both"](),))):
        for ours, theirs in zip(got, want, strict=True):
            np.testing.assert_allclose(np.asarray(ours), theirs, rtol=1e-3, atol=1e-3)
    found = time_in_turn({**programs, **peers}, repeats=repeats, warm_up=2)
    counts = np.asarray(graphs.common_neighbour_counts(topology, pairs))
    detail = ", ".join(f"{each} {1e3 * found.median(each):.2f}" for each in found.seconds)
    detail = f"{counts.sum()} common neighbours of {n_links} links; ms: {detail}"
    rows = []
    for peer in ("scipy", "torch"):
        for ours, suffix in (("forward", ""), ("both", ", both")):
            title = f"common neighbours, {ours} / {peer} ({name})"
            goal = _GOAL if peer == "torch" else None
            if peer == "torch" and missing is not None:
                rows.append(needs_extra(missing, title, goal))
                continue
            rows.append(Row(title, found.ratio(ours, to=peer + suffix), goal, detail=detail))
            detail = ""
    return rows


def _forward_and_back(topology, pairs, x, g):
    y, pull = jax.vjp(functools.partial(graphs.common_neighbour_sum, topology, pairs), x)
    return y, *pull(g)


def by_scipy(starts, senders, pairs, x, g=None) -> tuple[np.ndarray, ...]:
    """The published form with NumPy and scipy: the sum, and with `g` the gradient to `x`."""
    first, second = (_keys(starts, senders, ends) for ends in pairs.T)
    if not len(second):
        second = np.full(1, -1)
    at = np.minimum(np.searchsorted(second, first), len(second) - 1)
    shared = first[second[at] == first]
    rows, columns = shared >> 32, shared & (2**32 - 1)
    places = np.searchsorted(rows, np.arange(len(pairs) + 1))
    ones = np.ones(len(shared), np.float32)
    matrix = sparse.csr_matrix((ones, columns, places), (len(pairs), len(x)))
    return (matrix @ x,) if g is None else (matrix @ x, matrix.T @ g)


def _keys(starts, senders, nodes) -> np.ndarray:
    """Rows of the adjacency matrix as sorted keys, row << 32 | column."""
    lengths = starts[nodes + 1] - starts[nodes]
    ends = np.cumsum(lengths)
    rows = np.repeat(np.arange(len(nodes)), lengths)
    within = np.arange(ends[-1]) + np.repeat(starts[nodes] - (ends - lengths), lengths)
    return (rows << 32) | senders[within]


class _Compiled:
    """A program that is compiled for its arguments, run on them at each call."""

    def __init__(self, function, *arguments):
        self._arguments = jax.device_put(arguments)
        self._program = jax.jit(function).lower(*self._arguments).compile()

    def __call__(self):
        return jax.block_until_ready(self._program(*self._arguments))
