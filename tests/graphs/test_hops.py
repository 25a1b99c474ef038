"""Distances, harmonic functions and paths of two edges, against networkx and dense matrices."""

import jax
import jax.numpy as jnp
import networkx
import numpy as np
import pytest

from trove_jax import graphs
from trove_jax.graphs import topology as topologies

N, E = 14, 22
bfs = jax.jit(graphs.bfs, static_argnums=2)
harmonic = jax.jit(graphs.harmonic, static_argnames="steps")


def directed(seed):
    """Distinct edges with self-loops among the first 12 nodes; 12 and 13 are isolated."""
    rng = np.random.default_rng(seed)
    codes = rng.permutation(144)[:E]
    edges = np.stack([codes // 12, codes % 12], axis=1)
    edges[0] = (3, 3)
    return edges


def shortest(edges, cutoff):
    """Hops by networkx, -1 where no path is."""
    graph = networkx.DiGraph()
    graph.add_nodes_from(range(N))
    graph.add_edges_from(edges.tolist())
    out = np.full((N, N), -1)
    for source in range(N):
        found = networkx.single_source_shortest_path_length(graph, source, cutoff)
        out[source, list(found)] = list(found.values())
    return out


@pytest.mark.parametrize("cutoff", [None, 2, 0])
def test_bfs_is_that_of_networkx(cutoff):
    for seed in range(3):
        edges = directed(seed)
        found = bfs(topologies.from_edges(edges, N, undirected=False), jnp.arange(N), cutoff)
        assert found.dtype == jnp.int32
        np.testing.assert_array_equal(found, shortest(edges, cutoff))


def test_bfs_leaves_masked_edges_and_weights_out():
    edges = directed(0)
    weight = np.where(np.arange(E) % 3 == 0, 0.0, -2.0)
    whole = topologies.from_edges(edges, N, undirected=False, edge_weight=weight)
    np.testing.assert_array_equal(bfs(whole, jnp.arange(N), None), shortest(edges, None))
    kept = np.arange(E) > 7
    masked = topologies.mask_edges(whole, whole.arrange(kept))
    np.testing.assert_array_equal(bfs(masked, jnp.arange(N), None), shortest(edges[kept], None))


def test_bfs_of_nothing():
    empty = topologies.from_edges([], 3)
    np.testing.assert_array_equal(graphs.bfs(empty, jnp.array([1])), [[-1, 0, -1]])
    path = topologies.from_edges([[0, 1]], 2)
    assert graphs.bfs(path, jnp.zeros(0, jnp.int32)).shape == (0, 2)
    # An index that is no node does not wrap around to one.
    np.testing.assert_array_equal(graphs.bfs(path, jnp.array([-1, 2])), np.full((2, 2), -1))


def test_harmonic_takes_the_steps_of_networkx():
    """Its `harmonic_function` gives classes alone: those of the same number of steps."""
    club = networkx.karate_club_graph()
    labels = np.full(34, -1)
    labels[[0, 5, 33, 8]] = [0, 0, 1, 1]
    for node in np.flatnonzero(labels >= 0):
        club.nodes[int(node)]["label"] = int(labels[node])
    edges = np.array(club.edges)
    weight = np.array([club.edges[edge]["weight"] for edge in club.edges], float)
    whole = topologies.from_edges(edges, 34, edge_weight=weight)
    scores = harmonic(whole, jax.nn.one_hot(labels, 2), jnp.asarray(labels >= 0))
    wanted = networkx.node_classification.harmonic_function(club, max_iter=30, label_name="label")
    np.testing.assert_array_equal(np.argmax(scores, axis=1), wanted)


def test_harmonic_ends_at_the_harmonic_function():
    """(I - P) F = 0 at every other node, solved densely; weights, NaN and an isolated node."""
    edges = np.array([[0, 1], [1, 2], [2, 3], [3, 4], [4, 0], [1, 3], [2, 5]])
    weight = np.array([1.0, 2.0, 0.5, 1.0, 3.0, 1.0, 1.0])
    whole = topologies.from_edges(edges, 7, edge_weight=weight)
    adjacency = np.zeros((7, 7))
    adjacency[edges[:, 0], edges[:, 1]] = adjacency[edges[:, 1], edges[:, 0]] = weight
    known = np.array([True, False, False, True, False, False, False])
    values = np.full((7, 2), np.nan, np.float32)
    values[known] = [[2.0, -1.0], [4.0, 1.0]]
    laplacian = np.diag(adjacency.sum(1)) - adjacency
    free = [1, 2, 4, 5]
    wanted = np.linalg.solve(
        laplacian[np.ix_(free, free)], adjacency[np.ix_(free, [0, 3])] @ values[known]
    )
    found = harmonic(whole, values, known, steps=200)
    np.testing.assert_allclose(found[np.array(free)], wanted, atol=1e-5)
    np.testing.assert_array_equal(found[known], values[known])
    np.testing.assert_array_equal(found[6], [0.0, 0.0])
    assert not np.asarray(graphs.harmonic(whole, values, known, steps=0)).any()
    half = graphs.harmonic(whole, jnp.asarray(values, jnp.bfloat16), known, steps=3)
    assert half.dtype == jnp.bfloat16


@pytest.mark.parametrize("strict", [False, True])
def test_two_hop_is_the_square_without_its_diagonal(strict):
    for seed in range(4):
        edges = directed(seed)
        weight = np.random.default_rng(seed).choice([-1.0, 1.0, 2.0], E)
        kept = np.arange(E) > 3
        whole = topologies.from_edges(edges, N, undirected=False, edge_weight=weight)
        whole = whole.replace(node_graph=np.arange(N) // 7, n_graph=2)
        masked = topologies.mask_edges(whole, whole.arrange(kept))
        links, weights = np.zeros((2, N, N))
        links[edges[kept, 1], edges[kept, 0]] = 1.0
        weights[edges[kept, 1], edges[kept, 0]] = weight[kept]
        has_path = (links @ links > 0) & ~np.eye(N, dtype=bool)
        if strict:
            has_path &= links == 0
        found = graphs.two_hop(masked, strict=strict)
        places = np.nonzero(has_path)
        np.testing.assert_array_equal([found.receivers, found.senders], places)
        np.testing.assert_array_equal(found.weight, (weights @ weights)[places])
        assert found.n_graph == 2
        np.testing.assert_array_equal(found.node_graph, np.arange(N) // 7)


def test_two_hop_of_little():
    for edges, size in (([], 0), ([], 3), ([[0, 0]], 1), ([[0, 1]], 2)):
        assert graphs.two_hop(topologies.from_edges(edges, size)).n_edge == 0


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda path: graphs.bfs(path, jnp.zeros(1)), "float32; a vector of integers"),
        (lambda path: graphs.bfs(path, jnp.zeros((1, 1), int)), r"shape \(1, 1\)"),
        (lambda path: graphs.bfs(path, jnp.array([0]), -1), "cutoff=-1 is negative"),
        (lambda path: graphs.harmonic(path, jnp.zeros(2), jnp.ones(2, bool)), r"\(2, k\)"),
        (lambda path: graphs.harmonic(path, jnp.zeros((2, 1), int), jnp.ones(2, bool)), "one-hot"),
        (lambda path: graphs.harmonic(path, jnp.zeros((2, 1)), jnp.ones(2)), "float32; .* bool"),
        (
            lambda path: graphs.harmonic(path, jnp.zeros((2, 1)), jnp.ones(2, bool), steps=-1),
            "steps=-1",
        ),
    ],
)
def test_what_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call(topologies.from_edges([[0, 1]], 2))
