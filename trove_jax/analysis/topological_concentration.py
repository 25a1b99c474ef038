"""How much a node's surroundings overlap with those of its neighbours, before any training."""

import math
import warnings
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from trove_jax import graphs

_BLOCK = 1 << 16


class Concentration(NamedTuple):
    """Topological concentration of every node.

    Attributes:
      value: `[n]` float64; 0 where it is not defined.
      is_valid: whether it is defined, `[n]` bool.
      dropped: query edges that were left out as self-loops or repetitions.
    """

    value: np.ndarray
    is_valid: np.ndarray
    dropped: int


def topological_concentration(
    train_edges: np.ndarray,
    query_edges: np.ndarray,
    n_node: int,
    *,
    hops: int = 1,
    beta: float | None = None,
    mode: Literal["multiset", "set"] = "multiset",
) -> Concentration:
    """Mean overlap of a node's surroundings with those of its neighbours in a set of links.

    TC_i = mean over j of I(i, j),  j the query neighbours of i
    I(i, j) = sum_{k,l} beta^(k+l-2) sum_{u in S(H_j^l)} w_i^k(u)  over the same sum of |H_i^k|

    k and l from 1 to K; H_i^k are the ends of walks of length k from i over training links, w their
    multiplicities and S the set of them. Where j is a training neighbour, 1 is taken from |H_i^1|,
    since j is no neighbour of itself. With K = 1 and the training links as query, TC is the local
    clustering coefficient, and to take the link (i, j) away before it is scored changes nothing.

    Args:
      train_edges: undirected links that walks pass, integer `[m, 2]`, in any direction.
      query_edges: undirected links whose ends are compared, `[q, 2]`: those of one split.
      n_node: number of nodes, n.
      hops: K; beyond 3 the sets are nearly everything, and a warning says so.
      beta: weight of a further hop, above 0; None: 1 / mean degree, as published.
      mode: `"multiset"` counts walks, as the published code does; `"set"` counts nodes once.

    Returns:
      The concentration, on the host. It is not defined for nodes without a query neighbour or
      without a training neighbour, nor for a node whose only training neighbour is asked for.

    Raises:
      ValueError: edges that are no integers `[m, 2]` or out of range, `hops` below 1, `beta` that
        is not above 0, or an unknown `mode`.

    Example:
      >>> triangle = np.array([[0, 1], [1, 2], [0, 2]])
      >>> print(topological_concentration(triangle, triangle, 3).value)
      [1. 1. 1.]

    Reference: Wang et al., A Topological Perspective on Demystifying GNN-Based Link Prediction
    Performance, ICLR 2024, arXiv 2310.04612 (definition 1).
    """
    from scipy import sparse

    if hops < 1:
        raise ValueError(f"hops={hops} must be at least 1")
    if mode not in ("multiset", "set"):
        raise ValueError(f'mode={mode!r} is unknown; use "multiset" or "set"')
    if hops > 3:
        warnings.warn(f"hops={hops}: most nodes reach most others, TC tends to 1", stacklevel=2)
    adjacency = _adjacency(train_edges, n_node, "train_edges")
    query = _adjacency(query_edges, n_node, "query_edges")
    degree: np.ndarray = np.diff(adjacency.indptr)
    usual = 1.0 / float(degree.mean()) if adjacency.nnz else 1.0
    decay = usual if beta is None else beta
    if not (decay > 0 and math.isfinite(decay)):
        raise ValueError(f"beta={beta} must be above 0")
    walks: Any = sparse.csr_matrix(adjacency.shape)
    support: Any = sparse.csr_matrix(adjacency.shape)
    power = adjacency
    for hop in range(hops):
        reached = (power > 0).astype(np.float64)
        walks = walks + decay**hop * (power if mode == "multiset" else reached)
        support = support + decay**hop * reached
        if hop + 1 < hops:
            power = power @ adjacency
    first, second = query.nonzero()
    shared = np.concatenate(
        [
            np.asarray(
                walks[first[i : i + _BLOCK]].multiply(support[second[i : i + _BLOCK]]).sum(axis=1)
            ).ravel()
            for i in range(0, len(first), _BLOCK)
        ]
        or [np.zeros(0)]
    )
    weights = sum(decay**hop for hop in range(hops))
    is_linked = np.asarray(adjacency[first, second]).ravel()
    whole = weights * np.asarray(walks.sum(axis=1)).ravel()[first] - is_linked
    overlap = np.divide(shared, whole, out=np.zeros_like(shared), where=whole > 0)
    count = np.diff(query.indptr)
    total = np.bincount(first, overlap, n_node)
    asked = np.bincount(first, is_linked, n_node)
    is_valid = (count > 0) & (degree > 0) & ~((asked > 0) & (degree <= 1))
    value = np.where(is_valid, total / np.maximum(count, 1), 0.0)
    return Concentration(value, is_valid, len(query_edges) - query.nnz // 2)


def approximate_concentration(
    topology: graphs.Topology,
    query: graphs.Topology,
    key: jax.Array,
    *,
    hops: int = 2,
    width: int = 64,
    alpha: Sequence[float] | None = None,
    similarity: Literal["dot", "cosine"] = "dot",
) -> jax.Array:
    """Concentration from a few sparse products with random vectors.

    ATC_i = mean over j of phi(N_i, N_j),  N = sum_k alpha_k (D^-1 A)^k R,  R_iu ~ N(0, 1 / d)

    In expectation, with the dot product, it is the mean of sum_{k,l} alpha_k alpha_l ((D^-1 A)^k
    ((D^-1 A)^l)^T)_ij: how often walkers from i and from j meet. The deviation falls as d^-1/2.
    phi is a product of vectors, so the mean over j is one more sparse product; nothing is gathered.

    Args:
      topology: training links in both directions, normalised by rows (`norm="rw"`).
      query: links of one split in both directions, without self-loops, normalised the same way.
      key: random key.
      hops: K, at least 1.
      width: d, at least 1.
      alpha: weight of each hop, `[K]`; None: 1.
      similarity: phi; `"cosine"` divides by the lengths of the vectors.

    Returns:
      `[n]` float32; 0 for nodes without neighbours in either graph.

    Raises:
      ValueError: the graphs have other numbers of nodes, `hops` or `width` is not positive, `alpha`
        has another length, or an unknown `similarity`.

    Reference: Wang et al., ICLR 2024 (section 3.3, theorem 2).
    """
    if topology.n_node != query.n_node:
        raise ValueError(f"query has {query.n_node} nodes, topology {topology.n_node}")
    if hops < 1 or width < 1:
        raise ValueError(f"hops={hops} and width={width} must be at least 1")
    if similarity not in ("dot", "cosine"):
        raise ValueError(f'similarity={similarity!r} is unknown; use "dot" or "cosine"')
    alpha = [1.0] * hops if alpha is None else list(alpha)
    if len(alpha) != hops:
        raise ValueError(f"alpha has {len(alpha)} weights, expected one for each of {hops} hops")
    x = jax.random.normal(key, (topology.n_node, width)) / math.sqrt(width)
    total = jnp.zeros_like(x)
    for weight in alpha:
        x = graphs.propagate(topology, x)
        total = total + weight * x
    if similarity == "cosine":
        length = jnp.linalg.norm(total, axis=1, keepdims=True)
        total = jnp.where(length > 0, total / jnp.where(length > 0, length, 1.0), 0.0)
    return (total * graphs.propagate(query, total)).sum(axis=1)


def subgraph_density(edges: np.ndarray, n_node: int) -> np.ndarray:
    """Share of the possible links that are there between a node and its neighbours together.

    (d_i + triangles of i) / (d_i (d_i + 1) / 2)

    Args:
      edges: undirected links, integer `[m, 2]`; self-loops and repetitions are left out.
      n_node: number of nodes, n.

    Returns:
      `[n]` float64 in [0, 1]; 0 for a node without neighbours, 1 for one with a single neighbour.

    Raises:
      ValueError: as `topological_concentration`.

    Example:
      >>> print(subgraph_density(np.array([[0, 1], [1, 2]]), 3).round(3))
      [1.    0.667 1.   ]
    """
    adjacency = _adjacency(edges, n_node, "edges")
    degree = np.diff(adjacency.indptr).astype(np.float64)
    triangles = np.asarray((adjacency @ adjacency).multiply(adjacency).sum(axis=1)).ravel() / 2.0
    return (degree + triangles) / np.maximum(degree * (degree + 1.0) / 2.0, 1.0)


def concentration_shift(train: Concentration, test: Concentration) -> float:
    """Mean concentration towards training neighbours, less that towards held-out ones.

    Args:
      train: with the training links as query.
      test: with held-out links as query.

    Returns:
      The difference of means over nodes for which both are defined; NaN without any.

    Reference: Wang et al., ICLR 2024 (definition of the topological distribution shift).
    """
    both = train.is_valid & test.is_valid
    if not both.any():
        return math.nan
    return float(train.value[both].mean() - test.value[both].mean())


def _adjacency(edges: np.ndarray, n_node: int, name: str) -> Any:
    """A symmetric matrix of ones without a diagonal, float64 compressed rows."""
    from scipy import sparse

    edges = np.asarray(edges)
    if edges.ndim != 2 or edges.shape[1] != 2 or edges.dtype.kind not in "iu":
        raise ValueError(f"{name} is {edges.dtype} {list(edges.shape)}, expected integers [m, 2]")
    if edges.size and not 0 <= edges.min() <= edges.max() < n_node:
        raise ValueError(f"{name} names node {edges.max()} or a negative one; n_node={n_node}")
    edges = edges[edges[:, 0] != edges[:, 1]]
    both = np.concatenate([edges, edges[:, ::-1]])
    found: Any = sparse.csr_matrix((np.ones(len(both)), (both[:, 0], both[:, 1])), (n_node, n_node))
    found.sum_duplicates()
    found.data[:] = 1.0
    return found
