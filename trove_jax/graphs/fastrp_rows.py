"""FastRP for some nodes only, from the nodes within their reach: what a graph needs that grows."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from scipy import sparse

from trove_jax.graphs.fastrp import (
    Matrix,
    check_edge_weights,
    check_matrix,
    checked_weights,
    degree_scale,
    unit_rows,
)
from trove_jax.graphs.neighbourhood import edges_into
from trove_jax.graphs.random_projection import (
    Projection,
    check_kind,
    checked_density,
    random_projection,
    usual_density,
)
from trove_jax.graphs.topology import Topology


def fastrp_rows(
    topology: Topology,
    key: jax.Array,
    nodes: Sequence[int] | np.ndarray | jax.Array,
    width: int = 128,
    *,
    weights: Sequence[float] = (0.0, 0.0, 1.0, 8.0),
    beta: float = -0.5,
    matrix: Matrix = "trans",
    projection: Projection = "sparse",
    density: float | None = None,
    normalise_rows: bool = False,
) -> jax.Array:
    """Embeds some nodes only, such as those that a graph has gained and their neighbours.

    They get what `fastrp` with `standardise=False` gives them, from the nodes whose messages reach
    them in as many steps as there are powers. Runs on the host: nothing is compiled for the size
    of a neighbourhood. R belongs to the numbers of the nodes, so that rows of a graph before it
    grew stay comparable, given the same `density`; nodes that no change reaches keep their rows
    but for the factor (2m)^(-beta), which all share and `normalise_rows` takes out.

    Args:
      topology: of the whole graph, as in `fastrp`.
      key: as in `fastrp`.
      nodes: numbers of the nodes, `[b]`; repeated ones are allowed.
      width: as in `fastrp`.
      weights: as in `fastrp`.
      beta: as in `fastrp`.
      matrix: as in `fastrp`.
      projection: as in `fastrp`.
      density: as in `fastrp`; None: 1/sqrt(n) for the n of now.
      normalise_rows: as in `fastrp`.

    Returns:
      `[b, width]` float32.

    Raises:
      ValueError: as `fastrp`; nodes that are no vector of numbers from 0 to n - 1.

    Example:
      >>> from trove_jax.graphs import fastrp, topology
      >>> ring = topology.from_edges([[i, (i + 1) % 6] for i in range(6)], 6)
      >>> options = {"weights": (1.0, 2.0), "projection": "gaussian"}
      >>> rows = fastrp_rows(ring, jax.random.key(0), [4, 0], 2, **options)
      >>> whole = fastrp(ring, jax.random.key(0), 2, standardise=False, **options)
      >>> print(bool(jnp.allclose(rows, whole[jnp.array([4, 0])])))
      True

    Reference: Chen et al., Fast and Accurate Network Embeddings via Very Sparse Random Projection,
    CIKM 2019 (equations of its algorithm 1, for the rows that are wanted).
    """
    n = topology.n_node
    if not 1 <= width <= n:
        raise ValueError(f"width={width} must be from 1 to the number of nodes, {n}")
    check_matrix(matrix)
    check_kind(projection)
    wanted = np.asarray(nodes)
    if wanted.ndim != 1 or (wanted.size and wanted.dtype.kind not in "iu"):
        raise ValueError(f"nodes have shape {wanted.shape} and dtype {wanted.dtype}; [b] is wanted")
    if wanted.size and not 0 <= wanted.min() <= wanted.max() < n:
        raise ValueError(f"nodes go from {wanted.min()} to {wanted.max()}; 0 to {n - 1} is wanted")
    if projection == "sparse":
        density = checked_density(usual_density(n) if density is None else density)
    alphas, kept = checked_weights(weights)
    check_edge_weights(topology)
    wanted = wanted.astype(np.int64)
    reached, a = _senders_within(topology, wanted, max(kept) + 1, n)
    if matrix == "trans":
        sums = np.asarray(a.sum(axis=1), np.float32).ravel()
        inverse = np.divide(1.0, sums, out=np.zeros_like(sums), where=sums > 0)
        a = sparse.csr_array(sparse.diags_array(inverse) @ a)
    # Sizes are rounded up, so that few programs are compiled for the draws.
    padded = np.zeros(1 << max(len(reached) - 1, 0).bit_length(), np.int32)
    padded[: len(reached)] = reached
    r = random_projection(key, jnp.asarray(padded), width, kind=projection, density=density)
    scale = degree_scale(topology, topology.masked(jnp.asarray(topology.weight)), jnp.float32(beta))
    x = np.asarray(r)[: len(reached)] * np.asarray(scale)[reached, None]
    at = np.searchsorted(reached, wanted)
    found = np.zeros((len(wanted), width), np.float32)
    for k, alpha in enumerate(np.asarray(alphas, np.float32)[: max(kept) + 1]):
        x = a @ x
        if k in kept:
            part = jnp.asarray(x[at])
            found += alpha * np.asarray(unit_rows(part) if normalise_rows else part)
    return jnp.asarray(found)


def _senders_within(
    topology: Topology, nodes: np.ndarray, steps: int, n: int
) -> tuple[np.ndarray, sparse.csr_array]:
    """Nodes whose messages arrive in so many steps, ascending, and the edges that take them.

    A row of the matrix that is more than `steps` - 1 steps away is empty: it only sends.
    """
    senders, receivers = np.asarray(topology.senders), np.asarray(topology.receivers)
    weight = np.asarray(topology.masked(jnp.asarray(topology.weight)))
    is_reached = np.zeros(n, bool)
    new, edges = np.unique(nodes), []
    is_reached[new] = True
    for _ in range(steps):
        edges.append(edges_into(topology, new))
        new = np.unique(senders[edges[-1]])
        new = new[~is_reached[new]]
        is_reached[new] = True
    reached = np.flatnonzero(is_reached)
    edge = np.concatenate(edges)
    rows, columns = (np.searchsorted(reached, ends) for ends in (receivers[edge], senders[edge]))
    shape = (len(reached), len(reached))
    return reached, sparse.csr_array((weight[edge], (rows, columns)), shape=shape)
