"""Scores of pairs against networkx and against the inverse that Katz's sum has."""

import jax
import jax.numpy as jnp
import networkx
import numpy as np
import pytest

from trove_jax.graphs import heuristics
from trove_jax.graphs.topology import from_edges, mask_edges

N = 24
EDGES = np.array(list(networkx.gnm_random_graph(N - 2, 60, seed=3).edges))
TOPOLOGY = from_edges(np.concatenate([EDGES, [[0, 22]]]), N)
PAIRS = np.stack(np.triu_indices(N, 1), -1)


def graph_of(topology):
    kept = slice(None) if topology.edge_mask is None else np.asarray(topology.edge_mask)
    graph = networkx.Graph()
    graph.add_nodes_from(range(N))
    ends = np.asarray(topology.senders)[kept], np.asarray(topology.receivers)[kept]
    graph.add_edges_from(zip(*(end.tolist() for end in ends), strict=True))
    return graph


def masked():
    keep = np.random.default_rng(0).random(len(EDGES) + 1) < 0.7
    return mask_edges(TOPOLOGY, keep[TOPOLOGY.order])


@jax.jit
def scores(topology, pairs):
    return {
        name: getattr(heuristics, name)(topology, pairs) for name in ("cn", "aa", "ra", "jaccard")
    }


@pytest.mark.parametrize("topology", [TOPOLOGY, masked()], ids=["whole", "masked"])
def test_scores_are_those_of_networkx(topology):
    graph, pairs = graph_of(topology), [tuple(pair) for pair in PAIRS.tolist()]
    got = scores(topology, PAIRS)
    theirs = {
        "aa": networkx.adamic_adar_index,
        "ra": networkx.resource_allocation_index,
        "jaccard": networkx.jaccard_coefficient,
    }
    for name, function in theirs.items():
        want = [score for *_, score in function(graph, pairs)]
        np.testing.assert_allclose(got[name], want, rtol=1e-5, atol=1e-6)
    want = [len(list(networkx.common_neighbors(graph, *pair))) for pair in pairs]
    np.testing.assert_array_equal(got["cn"], want)
    assert max(want) > 1


def test_walks_are_counted_as_the_inverse_does():
    topology = masked()
    adjacency = networkx.to_numpy_array(graph_of(topology), nodelist=range(N))
    beta = 0.3 / np.linalg.eigvalsh(adjacency)[-1]
    whole = np.linalg.inv(np.eye(N) - beta * adjacency) - np.eye(N)
    # What is left out after 12 steps is at most 0.3^13 / 0.7.
    got = heuristics.katz(topology, PAIRS, beta=beta, length=12)
    np.testing.assert_allclose(got, whole[tuple(PAIRS.T)], rtol=1e-4, atol=3e-7)
    short = heuristics.katz(topology, PAIRS[:3], beta=0.5, length=2)
    want = 0.5 * adjacency + 0.25 * adjacency @ adjacency
    np.testing.assert_allclose(short, want[tuple(PAIRS[:3].T)], rtol=1e-6)


def test_nodes_with_one_neighbour_or_none():
    star = from_edges([[1, 0], [1, 2], [1, 3]], 5, undirected=False)
    pairs = np.array([[0, 2], [0, 0], [4, 4], [-1, 0]])
    # Node 1 is shared and has no neighbours itself.
    got = {name: score.tolist() for name, score in scores(star, pairs).items()}
    assert got["aa"] == got["ra"] == [0.0] * 4
    assert got["jaccard"] == [1.0, 1.0, 0.0, 0.0]
    # d_1 = 1 where node 1 hears of 0 alone: 1 / log 1 is left out.
    star = from_edges([[1, 0], [1, 2], [0, 1]], 5, undirected=False)
    got = {name: score.tolist() for name, score in scores(star, pairs).items()}
    assert (got["aa"], got["ra"]) == ([0.0] * 4, [1.0, 1.0, 0.0, 0.0])


def test_repeated_edges_are_one_neighbour():
    ends = np.concatenate([EDGES, [[0, 22]]])
    ends[-3:-1] = ends[:2]
    twice, once = from_edges(ends, N), from_edges(ends, N, duplicates="unique")
    assert once.n_edge == twice.n_edge - 4
    got = scores(twice, PAIRS)
    graph, pairs = graph_of(once), [tuple(pair) for pair in PAIRS.tolist()]
    want = [score for *_, score in networkx.resource_allocation_index(graph, pairs)]
    np.testing.assert_allclose(got["ra"], want, rtol=1e-5, atol=1e-6)
    want = [score for *_, score in networkx.jaccard_coefficient(graph, pairs)]
    np.testing.assert_allclose(got["jaccard"], want, rtol=1e-5, atol=1e-6)


def test_empty_graphs_and_what_is_refused():
    none = from_edges([], 3)
    for name in heuristics.__all__:
        function = getattr(heuristics, name)
        assert np.asarray(function(none, [[0, 1], [2, -1]])).tolist() == [0.0, 0.0]
        assert function(TOPOLOGY, jnp.zeros((0, 2), jnp.int32)).shape == (0,)
        with pytest.raises(ValueError, match=r"pairs\[0\] is \[0, 3\]; numbers below 3"):
            function(none, [[0, 3]])
    with pytest.raises(ValueError, match=r"beta=0\.0 must be above 0"):
        heuristics.katz(none, [[0, 1]], beta=0.0)
    with pytest.raises(ValueError, match="length=0 must be at least 1"):
        heuristics.katz(none, [[0, 1]], length=0)
