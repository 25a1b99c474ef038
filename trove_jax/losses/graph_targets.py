"""Targets of the pretext tasks of `graph_ssl`, made on the host with SciPy, never an n x n matrix.

Each function of `MAKERS` returns the arrays, the width of the head, and what changes in the input.
"""

import warnings
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import numpy as np
from scipy import sparse
from scipy.sparse import csgraph

from trove_jax.graphs.topology import Topology
from trove_jax.kernels import sparse_pattern

_BLOCK = 512
_FAR = 4


def adjacency(topology: Topology) -> Any:
    """The neighbours of a topology as a symmetric SciPy matrix of ones, without self-loops."""
    n = topology.n_node
    matrix = sparse.csr_matrix(
        (np.ones(topology.n_edge), (topology.receivers, topology.senders)), shape=(n, n)
    )
    matrix.data[:] = 1.0
    if matrix.diagonal().any() or (matrix != matrix.T).nnz:
        raise ValueError(
            'the topology has self-loops or one-way links; build it with self_loops="remove" from '
            "undirected edges"
        )
    return matrix


def hops_from(matrix: Any, sources: np.ndarray, limit: float = np.inf) -> np.ndarray:
    """Hops from each source to each node, `[s, n]`; infinite beyond `limit` or where no path is."""
    return np.atleast_2d(
        csgraph.dijkstra(matrix, directed=False, indices=sources, unweighted=True, limit=limit)
    )


def closeness(hops: np.ndarray) -> np.ndarray:
    """1 / hops: 0 where no path is. A node is as close to itself as its neighbours are: 1."""
    return 1.0 / np.maximum(hops, 1.0)


def partition(matrix: Any, parts: int, rng: np.random.Generator) -> np.ndarray:
    """Cuts a graph into parts of nearly equal size that grow from scattered nodes, breadth first.

    The smallest part takes the next free node behind its border, or, where it is walled in, any
    free node. (The paper takes METIS.)
    """
    n = matrix.shape[0]
    part = np.full(n, -1, np.int32)
    free = list(rng.permutation(n))
    queues: list[list[int]] = [[] for _ in range(parts)]
    heads, sizes = [0] * parts, np.zeros(parts, np.int64)

    def take(p, node):
        part[node] = p
        sizes[p] += 1
        start, end = matrix.indptr[node], matrix.indptr[node + 1]
        queues[p].extend(matrix.indices[start:end].tolist())

    for _ in range(n):
        p = int(sizes.argmin())
        queue = queues[p]
        while heads[p] < len(queue) and part[queue[heads[p]]] >= 0:
            heads[p] += 1
        if heads[p] < len(queue):
            take(p, queue[heads[p]])
            continue
        while part[free[-1]] >= 0:
            free.pop()
        take(p, free.pop())
    return part


def _node_property(topology, features, labels, *, classes, rng, guesses):
    del features, labels, classes, rng, guesses
    degree = np.diff(adjacency(topology).indptr)
    return {"labels": np.digitize(degree, [3, 8]).astype(np.int32)}, 3, {}


def _edge_mask(topology, features, labels, *, classes, rng, guesses, fraction=0.1):
    del features, labels, classes, guesses
    matrix = adjacency(topology)
    left, right = sparse.triu(matrix, 1).nonzero()
    count = max(1, round(fraction * len(left)))
    if len(left) < 1:
        raise ValueError("the graph has no links to take out")
    chosen = rng.choice(len(left), count, replace=False)
    taken = np.stack([left[chosen], right[chosen]], axis=1)
    others = _non_links(matrix, count, rng)
    pairs = np.concatenate([taken, others])
    n = topology.n_node
    senders = np.asarray(topology.senders, np.int64)
    receivers = np.asarray(topology.receivers, np.int64)
    codes = np.minimum(senders, receivers) * n + np.maximum(senders, receivers)
    keep = ~np.isin(codes, taken[:, 0].astype(np.int64) * n + taken[:, 1])
    wanted = np.repeat([1, 0], [count, len(others)]).astype(np.int32)
    return _pairs(pairs, wanted, [0, len(pairs)]), 2, {"keep_edges": keep}


def _non_links(matrix, count, rng):
    n = matrix.shape[0]
    if n * (n - 1) // 2 - matrix.nnz // 2 < count:
        raise ValueError(f"the graph has fewer than {count} pairs that are no link")
    found = np.zeros((0, 2), np.int64)
    while len(found) < count:
        drawn = np.sort(rng.integers(0, n, (2 * count + 8, 2)), axis=1)
        drawn = drawn[drawn[:, 0] < drawn[:, 1]]
        linked = np.asarray(matrix[tuple(drawn.T)]).ravel() > 0
        both = np.concatenate([found, drawn[~linked]])
        _, first = np.unique(both, axis=0, return_index=True)
        found = both[np.sort(first)]
    return found[:count]


def _attribute_mask(
    topology, features, labels, *, classes, rng, guesses, fraction=0.1, components=128
):
    del topology, classes, guesses
    unlabelled = np.flatnonzero(labels < 0)
    count = max(1, round(fraction * len(unlabelled)))
    nodes = np.sort(rng.choice(unlabelled, min(count, len(unlabelled)), replace=False))
    rows: Any = sparse.csr_matrix(features, dtype=np.float64)
    sums = np.maximum(np.asarray(abs(rows).sum(axis=1)).ravel(), 1e-12)
    rows = sparse.diags(1.0 / sums) @ rows
    values = _principal_components(rows, min(components, rows.shape[1]), rng)
    hidden = np.zeros(len(labels), bool)
    hidden[nodes] = True
    arrays = {"nodes": nodes.astype(np.int32), "values": values}
    return arrays, values.shape[1], {"hide_nodes": hidden}


def _principal_components(rows: Any, components: int, rng: np.random.Generator) -> np.ndarray:
    from sklearn.decomposition import PCA

    dense = np.asarray(rows.todense())
    if components == dense.shape[1]:
        return dense.astype(np.float32)
    pca = PCA(components, svd_solver="randomized", random_state=int(rng.integers(2**31)))
    return np.asarray(pca.fit_transform(dense), np.float32)


def _pairwise_distance(topology, features, labels, *, classes, rng, guesses, sources=300):
    """Classes 1, 2, 3 and more from breadth-first searches that start at some random nodes."""
    del features, labels, classes, guesses
    matrix, n = adjacency(topology), topology.n_node
    starts = np.sort(rng.choice(n, min(sources, n), replace=False))
    hops = hops_from(matrix, starts, limit=_FAR - 1)
    groups = []
    for distance in range(1, _FAR + 1):
        at = hops == distance if distance < _FAR else hops > _FAR - 1
        row, node = np.nonzero(at)
        if len(row) > _BLOCK * _BLOCK:
            some = np.sort(rng.choice(len(row), _BLOCK * _BLOCK, replace=False))
            row, node = row[some], node[some]
        groups.append(np.stack([starts[row], node], axis=1))
    sizes = [len(group) for group in groups]
    wanted = np.repeat(np.arange(_FAR), sizes).astype(np.int32)
    return _pairs(np.concatenate(groups), wanted, np.cumsum([0, *sizes])), _FAR, {}


def _distance_to_clusters(
    topology, features, labels, *, classes, rng, guesses, clusters=10, local_centres=False
):
    """`local_centres` repeats a slip of the published code: the index within a part as a node."""
    del features, classes, guesses
    matrix = adjacency(topology)
    part = partition(matrix, min(clusters, topology.n_node), rng)
    degree = np.diff(matrix.indptr)
    centres = []
    for p in range(part.max() + 1):
        members = np.flatnonzero(part == p)
        best = int(degree[members].argmax())
        centres.append(best if local_centres else int(members[best]))
    values = closeness(hops_from(matrix, np.array(centres))).T.astype(np.float32)
    return _all_nodes(values, labels), values.shape[1], {}


def _pairwise_similarity(topology, features, labels, *, classes, rng, guesses, extremes=3):
    del topology, labels, classes, guesses
    rows: Any = sparse.csr_matrix(features, dtype=np.float64)
    lengths = np.sqrt(np.asarray(rows.multiply(rows).sum(axis=1)).ravel())
    rows = sparse.diags(1.0 / np.where(lengths > 0, lengths, 1.0)) @ rows
    n = rows.shape[0]
    count = min(extremes, (n - 1) // 2)
    lefts, rights, wanted = [], [], []
    for first in range(0, n, _BLOCK):
        nodes = np.arange(first, min(first + _BLOCK, n))
        block = (rows[nodes] @ rows.T).toarray()
        own = np.arange(len(nodes))
        block[own, nodes] = -np.inf
        most = np.argpartition(block, n - count, axis=1)[:, n - count :]
        block[own, nodes] = np.inf
        least = np.argpartition(block, count, axis=1)[:, :count]
        # Others than the node itself, uniformly.
        chance = (nodes[:, None] + rng.integers(1, n, (len(nodes), count))) % n
        other = np.concatenate([most, least, chance], axis=1)
        lefts.append(np.repeat(nodes, other.shape[1]))
        rights.append(other.ravel())
        wanted.append(block[own[:, None], other].ravel())
    pairs = np.stack([np.concatenate(lefts), np.concatenate(rights)], axis=1)
    values = np.concatenate(wanted).astype(np.float32)
    return _pairs(pairs, values, [0, len(pairs)]), 1, {}


def _distance_to_labelled(topology, features, labels, *, classes, rng, guesses):
    del features, rng, guesses
    matrix = adjacency(topology)
    values = np.zeros((topology.n_node, classes), np.float32)
    for c in range(classes):
        known = np.flatnonzero(labels == c)
        if not len(known):
            warnings.warn(
                f"labels has no node of class {c}; its column of distances is 0",
                UserWarning,
                stacklevel=4,
            )
        else:
            values[:, c] = closeness(hops_from(matrix, known)).mean(axis=0)
    return _all_nodes(values, labels, unlabelled=True), classes, {}


def _context_label(topology, features, labels, *, classes, rng, guesses):
    arrays, width, more = _corrected_label(
        topology, features, labels, classes=classes, rng=rng, guesses=guesses
    )
    return {name: arrays[name] for name in ("nodes", "values")}, width, more


def _corrected_label(topology, features, labels, *, classes, rng, guesses):
    del features, rng
    if guesses is None:
        raise ValueError("guesses is None; label contexts want a guessed label for every node")
    matrix = adjacency(topology)
    second = (matrix @ matrix).tocsr()
    second.setdiag(0)
    second.eliminate_zeros()
    second.data[:] = 1.0
    both = (matrix + second).tocoo()
    pattern, order = sparse_pattern(both.row, both.col, both.shape)
    counts = both @ np.eye(classes)[guesses]
    total = counts.sum(axis=1, keepdims=True)
    values = np.where(total > 0, counts / np.maximum(total, 1.0), 1.0 / classes)
    arrays = {
        **_all_nodes(values.astype(np.float32), labels, unlabelled=True),
        "guesses": guesses,
        "two_hop": pattern,
        "paths": both.data[order].astype(np.float32),
    }
    return arrays, classes, {}


def _all_nodes(values, labels, *, unlabelled=False):
    nodes = np.flatnonzero(labels < 0) if unlabelled else np.arange(len(labels))
    return {"nodes": nodes.astype(np.int32), "values": values}


def _pairs(pairs, wanted, starts):
    return {
        "left": pairs[:, 0].astype(np.int32),
        "right": pairs[:, 1].astype(np.int32),
        "wanted": wanted,
        "starts": np.asarray(starts, np.int32),
    }


MAKERS: Mapping[str, Any] = MappingProxyType(
    {
        "attribute_mask": _attribute_mask,
        "context_label": _context_label,
        "corrected_label": _corrected_label,
        "distance_to_clusters": _distance_to_clusters,
        "distance_to_labelled": _distance_to_labelled,
        "edge_mask": _edge_mask,
        "node_property": _node_property,
        "pairwise_distance": _pairwise_distance,
        "pairwise_similarity": _pairwise_similarity,
    }
)
