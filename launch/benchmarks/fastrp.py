"""FastRP beside the same steps with scipy, and how its time grows.

100,000 nodes and a million directed edges whose degrees follow a power law, width 128, four powers,
weights 0, 0, 1 and 8. scipy draws a sparse matrix as scikit-learn's SparseRandomProjection does,
multiplies sparse by sparse for the first power and float32 CSR by dense for the others, adds, and
standardises the columns. Growth is the time of twice as much of one thing over the time of once.
"""

import functools

import jax
import numpy as np
from scipy import sparse

from launch.benchmarks.propagate import _power_law
from launch.benchmarks.timing import Row, time_in_turn
from trove_jax import graphs

_WIDTH, _WEIGHTS, _BETA = 128, (0.0, 0.0, 1.0, 8.0), -0.5


def measure(quick: bool = False) -> list[Row]:
    """Compares with scipy, and with itself on more nodes, edges, columns and powers."""
    n, e = (2_000, 20_000) if quick else (100_000, 1_000_000)
    repeats = 2 if quick else 11
    topology = _power_law(n, e)
    return [
        *_against_scipy(topology, repeats),
        _growth(n, e, repeats),
    ]


def _against_scipy(topology: graphs.Topology, repeats: int) -> list[Row]:
    matrix = sparse.csr_matrix(
        (topology.weight, topology.senders, topology.starts), shape=(topology.n_node,) * 2
    )
    rng = np.random.RandomState(0)
    thin = rng.standard_normal((topology.n_node, _WIDTH)).astype(np.float32)
    programs = {
        "sparse": _Compiled(topology, projection="sparse"),
        "Gaussian": _Compiled(topology, projection="gaussian"),
        "rows normalised": _Compiled(topology, normalise_rows=True),
    }
    found = time_in_turn(
        {
            **programs,
            "scipy": functools.partial(by_scipy, matrix, rng),
            "products": lambda: [matrix @ thin for _ in _WEIGHTS],
        },
        repeats=repeats,
        warm_up=2,
    )
    shown = ", ".join(f"{name} {1e3 * found.median(name):.0f}" for name in found.seconds)
    size = f"{topology.n_node} nodes, {topology.n_edge} edges, width {_WIDTH}"
    return [
        Row(f"FastRP / scipy ({size})", found.ratio("sparse", to="scipy"), 1.0, detail=size),
        Row(
            "FastRP / four scipy products",
            found.ratio("sparse", to="products"),
            1.3,
            detail=f"ms: {shown}",
        ),
        Row("very sparse / Gaussian projection", found.ratio("sparse", to="Gaussian")),
        Row(
            "temporaries of FastRP, MiB",
            programs["sparse"].temporaries / 2**20,
            detail=f"rows normalised {programs['rows normalised'].temporaries / 2**20:.0f}",
        ),
    ]


def by_scipy(matrix: sparse.csr_matrix, rng: np.random.RandomState) -> np.ndarray:
    """The embedding with scipy and NumPy alone, `[n, 128]`."""
    n = matrix.shape[0]
    degree = np.asarray(matrix.sum(axis=1), np.float32).ravel()
    inverse = np.divide(1.0, degree, out=np.zeros_like(degree), where=degree > 0)
    transition = sparse.diags_array(inverse).dot(matrix).tocsr()
    scale = np.power(degree / degree.sum(), _BETA, out=np.zeros_like(degree), where=degree > 0)
    density = n**-0.5
    counts = rng.binomial(_WIDTH, density, n)
    starts = np.concatenate([[0], np.cumsum(counts)])
    columns = np.concatenate(
        [rng.choice(_WIDTH, count, replace=False) for count in counts if count]
        or [np.zeros(0, np.int64)]
    )
    values = (2.0 * rng.randint(0, 2, starts[-1]) - 1.0) * density**-0.5
    projection = sparse.csr_matrix((values.astype(np.float32), columns, starts), (n, _WIDTH))
    x = (transition @ (sparse.diags_array(scale) @ projection)).toarray()
    total = np.zeros_like(x)
    for power, weight in enumerate(_WEIGHTS):
        if power:
            x = transition @ x
        if weight:
            total += np.float32(weight) * x
    total -= total.mean(axis=0)
    deviation = total.std(axis=0)
    return total / np.where(deviation > 0, deviation, 1.0)


def _growth(n: int, e: int, repeats: int) -> Row:
    """Twice the nodes and edges, the edges, the columns, and the powers."""
    once = _power_law(n // 2, e // 2)
    candidates = {
        "once": _Compiled(once),
        "nodes and edges": _Compiled(_power_law(n, e)),
        "edges": _Compiled(_power_law(n // 2, e)),
        "width": _Compiled(once, width=2 * _WIDTH),
        "powers": _Compiled(once, weights=(*[0.0] * 6, 1.0, 8.0)),
    }
    found = time_in_turn(candidates, repeats=repeats, warm_up=1)
    ratios = {name: found.ratio(name, to="once") for name in candidates if name != "once"}
    detail = ", ".join(f"{name} {ratio:.2f}" for name, ratio in ratios.items())
    return Row(
        "time of twice as much / once, the worst",
        max(ratios.values()),
        detail=f"linear would be 2: {detail}",
    )


class _Compiled:
    """FastRP compiled for a topology, run on it with another key at each call."""

    def __init__(self, topology: graphs.Topology, *, width: int = _WIDTH, **options):
        options = {"weights": _WEIGHTS, "beta": _BETA, **options}
        self._topology = jax.device_put(topology)

        def embed(topology, key):
            return graphs.fastrp(topology, key, width, **options)

        arguments = (self._topology, jax.random.key(0))
        self._program = jax.jit(embed).lower(*arguments).compile()
        self.temporaries = self._program.memory_analysis().temp_size_in_bytes
        self._calls = 0

    def __call__(self) -> None:
        self._calls += 1
        jax.block_until_ready(self._program(self._topology, jax.random.key(self._calls)))
