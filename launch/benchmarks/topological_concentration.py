"""Topological concentration on PubMed, beside a loop over multisets, and its approximation.

The published program counts, for each pair, what two multisets of neighbours share, in Python; the
loop here does the same with `collections.Counter`. The approximation takes two hops and 64 columns.
"""

import collections
import functools

import jax
import numpy as np

from launch.benchmarks.timing import Row, time_in_turn
from trove_jax import analysis, data, graphs

_HOPS, _WIDTH = 2, 64


def measure(quick: bool = False) -> list[Row]:
    """Compares on the training links of PubMed, with one hop; the loop with one hop too."""
    found = data.load_graph("pubmed")
    links = data.split_links(found.edges, found.n_node, seed=0).train
    if quick:
        links = links[:2_000]
    rows = jax.device_put(graphs.topology.from_edges(links, found.n_node, norm="rw"))
    exact = functools.partial(analysis.topological_concentration, links, links, found.n_node)
    by_counters = functools.partial(by_loop, links, found.n_node)
    np.testing.assert_allclose(exact().value, by_counters(), rtol=1e-6, atol=1e-9)
    taken = time_in_turn(
        {"exact": exact, "approximate": _Approximate(rows), "loop": by_counters},
        repeats=2 if quick else 7,
        warm_up=1,
    )
    detail = ", ".join(f"{name} {taken.median(name):.4f}" for name in taken.seconds)
    detail = f"seconds: {detail}"
    return [
        Row(
            f"concentration / a loop over Counters (PubMed, {len(links)} links)",
            taken.ratio("exact", to="loop"),
            detail=detail,
        ),
        Row("concentration, seconds", taken.median("exact"), 0.5),
        Row(f"approximation (K = {_HOPS}), seconds", taken.median("approximate"), 0.2),
    ]


def by_loop(links: np.ndarray, n_node: int) -> np.ndarray:
    """Concentration with one hop by counting what multisets share, pair by pair, `[n]`."""
    near = [collections.Counter() for _ in range(n_node)]
    for i, j in links.tolist():
        near[i][j] += 1
        near[j][i] += 1
    value = np.zeros(n_node)
    for i, own in enumerate(near):
        whole = sum(own.values()) - 1
        if whole > 0:
            shares = [sum((own & near[j]).values()) / whole for j in own]
            value[i] = sum(shares) / len(shares)
    return value


class _Approximate:
    """The approximation compiled for a topology, run with another key at each call."""

    def __init__(self, rows: graphs.Topology):
        self._rows, self._calls = rows, 0

        def approximate(rows, key):
            return analysis.approximate_concentration(rows, rows, key, hops=_HOPS, width=_WIDTH)

        self._program = jax.jit(approximate).lower(rows, jax.random.key(0)).compile()

    def __call__(self) -> None:
        self._calls += 1
        jax.block_until_ready(self._program(self._rows, jax.random.key(self._calls)))
