"""Scores of pairs of nodes that need no training: shared neighbours and walks.

Neighbours are those of `graphs.intersection`: the senders of a node, each counted once, without
masked edges. The graph is undirected, with both directions stored and without self-loops.
"""

from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from trove_jax.graphs.intersection import (
    checked_pairs,
    common_neighbour_counts,
    common_neighbour_sum,
)
from trove_jax.graphs.pair_walk import neighbour_lists, set_sizes
from trove_jax.graphs.propagation import propagate
from trove_jax.graphs.topology import Topology

__all__ = ["aa", "cn", "jaccard", "katz", "ra"]

_COLUMNS = 64


def cn(topology: Topology, pairs: jax.Array) -> jax.Array:
    """The number of common neighbours.

    |N(i) and N(j)|

    Args:
      topology: edges; weights do not matter.
      pairs: nodes i and j, `[b, 2]` integers; a negative number stands for no node.

    Returns:
      `[b]` float32.

    Raises:
      ValueError: as `graphs.common_neighbours`.

    Example:
      >>> from trove_jax.graphs import topology
      >>> square = topology.from_edges([[0, 1], [1, 2], [2, 3], [3, 0]], 4)
      >>> print(cn(square, jnp.array([[0, 2], [0, 1]])))
      [2. 0.]

    Reference: Liben-Nowell and Kleinberg, The Link Prediction Problem for Social Networks, CIKM
    2003.
    """
    return common_neighbour_counts(topology, pairs).astype(jnp.float32)


def aa(topology: Topology, pairs: jax.Array) -> jax.Array:
    """Adamic and Adar's score: common neighbours, those with many neighbours for less.

    sum over u in N(i) and N(j) of 1 / log d_u,  d_u = |N(u)|

    Args:
      topology: as in `cn`.
      pairs: as in `cn`.

    Returns:
      `[b]` float32. A node with d_u below 2 adds 0: in an undirected graph no common neighbour of
      two nodes has so few, but with i = j, a directed graph or edges masked in one direction it
      may.

    Raises:
      ValueError: as `graphs.common_neighbours`.

    Example:
      >>> from trove_jax.graphs import topology
      >>> square = topology.from_edges([[0, 1], [1, 2], [2, 3], [3, 0]], 4)
      >>> print([f"{score:.3f}" for score in aa(square, jnp.array([[0, 2], [0, 1]]))])
      ['2.885', '0.000']

    Reference: Adamic and Adar, Friends and Neighbors on the Web, Social Networks 25, 2003.
    """
    degree = _degree(topology)
    weight = jnp.where(degree > 1, 1.0 / jnp.log(jnp.maximum(degree, 2.0)), 0.0)
    return common_neighbour_sum(topology, pairs, weight[:, None])[:, 0]


def ra(topology: Topology, pairs: jax.Array) -> jax.Array:
    """Resource allocation: each common neighbour shares one unit among its neighbours.

    sum over u in N(i) and N(j) of 1 / d_u

    Args:
      topology: as in `cn`.
      pairs: as in `cn`.

    Returns:
      `[b]` float32; a common neighbour without neighbours of its own adds 0.

    Raises:
      ValueError: as `graphs.common_neighbours`.

    Example:
      >>> from trove_jax.graphs import topology
      >>> square = topology.from_edges([[0, 1], [1, 2], [2, 3], [3, 0]], 4)
      >>> print(ra(square, jnp.array([[0, 2], [0, 1]])))
      [1. 0.]

    Reference: Zhou, Lu and Zhang, Predicting Missing Links via Local Information, European Physical
    Journal B 71, 2009.
    """
    degree = _degree(topology)
    weight = jnp.where(degree > 0, 1.0 / jnp.maximum(degree, 1.0), 0.0)
    return common_neighbour_sum(topology, pairs, weight[:, None])[:, 0]


def jaccard(topology: Topology, pairs: jax.Array) -> jax.Array:
    """The share of common neighbours among the neighbours of either node.

    |N(i) and N(j)| / |N(i) or N(j)|

    Args:
      topology: as in `cn`.
      pairs: as in `cn`.

    Returns:
      `[b]` float32 in [0, 1]; 0 where neither node has a neighbour.

    Raises:
      ValueError: as `graphs.common_neighbours`.

    Example:
      >>> from trove_jax.graphs import topology
      >>> path = topology.from_edges([[0, 1], [1, 2], [2, 3]], 4)
      >>> print(jaccard(path, jnp.array([[0, 2], [0, 1]])))
      [0.5 0. ]

    Reference: Liben-Nowell and Kleinberg, CIKM 2003.
    """
    shared = cn(topology, pairs)
    ends = checked_pairs(pairs, topology.n_node)
    if not topology.n_node:
        return shared
    degree = jnp.where(ends < 0, 0.0, _degree(topology)[jnp.maximum(ends, 0)])
    either = degree.sum(axis=1) - shared
    return jnp.where(either > 0, shared / jnp.maximum(either, 1.0), 0.0)


def katz(
    topology: Topology, pairs: jax.Array, *, beta: float = 0.005, length: int = 4
) -> jax.Array:
    """The number of walks between two nodes, longer ones for less.

    sum over l from 1 to L of beta^l (A^l)_ij

    A is 1 where there is an edge, whatever its weight. The full sum exists where beta is below
    1 / lambda, lambda the largest eigenvalue of A, at most the largest degree d; what comes after L
    is then at most (beta lambda)^(L + 1) / (1 - beta lambda). Takes L products with A for every 64
    pairs.

    Args:
      topology: as in `cn`; but an edge that is stored repeatedly counts each time.
      pairs: as in `cn`.
      beta: what a walk loses with each step, above 0; 0.05, 0.005 and 0.0005 are usual.
      length: L, at least 1.

    Returns:
      `[b]` float32.

    Raises:
      ValueError: as `graphs.common_neighbours`; `beta` not above 0; `length` below 1.

    Example:
      >>> from trove_jax.graphs import topology
      >>> path = topology.from_edges([[0, 1], [1, 2], [2, 3]], 4)
      >>> print(katz(path, jnp.array([[0, 1], [0, 2], [0, 3]]), beta=0.5, length=3))
      [0.75  0.25  0.125]

    Reference: Katz, A New Status Index Derived from Sociometric Analysis, Psychometrika 18, 1953.
    """
    if not beta > 0:
        raise ValueError(f"beta={beta} must be above 0")
    if length < 1:
        raise ValueError(f"length={length} must be at least 1")
    ends = checked_pairs(pairs, topology.n_node)
    n_pairs = len(ends)
    if not (topology.n_node and n_pairs):
        return jnp.zeros(n_pairs, jnp.float32)
    ones = topology.masked(jnp.ones(topology.n_edge, jnp.float32))
    filled = jnp.pad(ends, ((0, -n_pairs % _COLUMNS), (0, 0)), constant_values=-1)

    def block(ends):
        is_pair = ((ends >= 0) & (ends < topology.n_node)).all(axis=1)
        first, second = jnp.where(is_pair[:, None], ends, 0).T
        columns = jnp.arange(_COLUMNS)
        x = jnp.zeros((topology.n_node, _COLUMNS), jnp.float32).at[second, columns].set(1.0)
        total = jnp.zeros(_COLUMNS, jnp.float32)
        for _ in range(length):
            x = beta * propagate(topology, x, ones)
            total = total + x[first, columns]
        return jnp.where(is_pair, total, 0.0)

    return lax.map(block, filled.reshape(-1, _COLUMNS, 2)).ravel()[:n_pairs]


def _degree(topology: Topology) -> Any:
    """Number of different neighbours, `[n]` float32."""
    return set_sizes(neighbour_lists(topology)).astype(jnp.float32)
