"""Concentration against networkx, against a loop over walks, and in expectation."""

import itertools
from collections import Counter

import jax
import jax.numpy as jnp
import networkx as nx
import numpy as np
import pytest

from trove_jax import analysis, graphs

GRAPH = nx.gnp_random_graph(24, 0.18, seed=5)
LINKS = np.array(GRAPH.edges)
TRAIN, TEST = LINKS[::2], LINKS[1::2]


def loop(train, query, n, hops, beta, mode):
    """Definition 1, by walking from every node."""
    near = {i: set() for i in range(n)}
    for i, j in train.tolist():
        near[i].add(j)
        near[j].add(i)
    walks = {}
    for i in range(n):
        ends = Counter({i: 1})
        for k in range(1, hops + 1):
            ends = Counter(v for u in ends.elements() for v in near[u])
            walks[i, k] = ends if mode == "multiset" else Counter(set(ends))
    found, valid = np.zeros(n), np.zeros(n, bool)
    for i in range(n):
        others = {b if a == i else a for a, b in query.tolist() if i in (a, b)}
        is_training = bool(others & near[i])
        if not others or not near[i] or (is_training and len(near[i]) <= 1):
            continue
        scores = []
        for j in others:
            shared = whole = 0.0
            for k, m in itertools.product(range(1, hops + 1), repeat=2):
                factor = beta ** (k + m - 2)
                shared += factor * sum(c for u, c in walks[i, k].items() if u in walks[j, m])
                size = sum(walks[i, k].values())
                whole += factor * (size - (k == m == 1 and j in near[i]))
            scores.append(shared / whole)
        found[i], valid[i] = np.mean(scores), True
    return found, valid


@pytest.mark.parametrize("mode", ["multiset", "set"])
@pytest.mark.parametrize("hops", [1, 2, 3])
@pytest.mark.parametrize("query", [TRAIN, TEST], ids=["train", "test"])
def test_concentration_equals_a_loop_over_walks(mode, hops, query):
    found = analysis.topological_concentration(TRAIN, query, 24, hops=hops, beta=0.4, mode=mode)
    value, valid = loop(TRAIN, query, 24, hops, 0.4, mode)
    np.testing.assert_allclose(found.value, value, atol=1e-12)
    np.testing.assert_array_equal(found.is_valid, valid)


def test_with_one_hop_it_is_the_clustering_coefficient():
    found = analysis.topological_concentration(LINKS, LINKS, 24)
    expected = nx.clustering(GRAPH)
    np.testing.assert_allclose(found.value, [expected[i] for i in range(24)], atol=1e-12)


def test_repetitions_and_self_loops_change_nothing():
    messy = np.concatenate([TEST, TEST[:3, ::-1], [[4, 4]]])
    found = analysis.topological_concentration(TRAIN, messy, 24)
    clean = analysis.topological_concentration(TRAIN, TEST, 24)
    np.testing.assert_array_equal(found.value, clean.value)
    assert (found.dropped, clean.dropped) == (4, 0)


def test_density_is_that_of_the_ego_graph():
    found = analysis.subgraph_density(LINKS, 24)
    expected = [nx.density(nx.ego_graph(GRAPH, i)) for i in range(24)]
    np.testing.assert_allclose(found, expected, atol=1e-12)


def test_shift_is_over_nodes_that_have_both():
    train = analysis.topological_concentration(TRAIN, TRAIN, 24)
    test = analysis.topological_concentration(TRAIN, TEST, 24)
    both = train.is_valid & test.is_valid
    assert 0 < both.sum() < 24
    expected = np.mean([train.value[i] - test.value[i] for i in np.flatnonzero(both)])
    np.testing.assert_allclose(analysis.concentration_shift(train, test), expected)


def row_normalised(links):
    return graphs.topology.from_edges(links, 24, norm="rw")


approximate = jax.jit(
    analysis.approximate_concentration, static_argnames=("hops", "width", "similarity")
)


def test_the_approximation_has_the_expectation_of_walkers_that_meet():
    topology, query = row_normalised(TRAIN), row_normalised(TEST)
    keys = jax.random.split(jax.random.key(0), 200)
    drawn = jax.vmap(lambda key: approximate(topology, query, key, hops=2, width=64))(keys)
    dense = np.zeros((24, 24))
    dense[TRAIN[:, 0], TRAIN[:, 1]] = dense[TRAIN[:, 1], TRAIN[:, 0]] = 1.0
    dense /= np.maximum(dense.sum(axis=1, keepdims=True), 1.0)
    walks = dense + dense @ dense
    meeting = walks @ walks.T
    asked = np.zeros((24, 24))
    asked[TEST[:, 0], TEST[:, 1]] = asked[TEST[:, 1], TEST[:, 0]] = 1.0
    asked /= np.maximum(asked.sum(axis=1, keepdims=True), 1.0)
    expected = (meeting * asked).sum(axis=1)
    error = np.asarray(drawn.std(axis=0)) / 200**0.5
    # Five standard errors at 24 nodes: one false alarm in 70,000.
    assert (np.abs(drawn.mean(axis=0) - expected) <= 5 * error + 1e-6).all()
    wide = jax.vmap(lambda key: approximate(topology, query, key, hops=2, width=256))(keys)
    ratio = np.asarray(drawn.std(axis=0).sum() / wide.std(axis=0).sum())
    # The deviation falls as the root of the width: 2 for a fourfold one.
    assert 1.8 < ratio < 2.2


def test_cosines_of_a_pair_with_the_same_neighbours_are_one():
    square = np.array([[0, 2], [0, 3], [1, 2], [1, 3]])
    query = graphs.topology.from_edges(np.array([[0, 1]]), 24, norm="rw")
    found = approximate(
        row_normalised(square), query, jax.random.key(1), hops=1, width=64, similarity="cosine"
    )
    np.testing.assert_allclose(found[:2], 1.0, rtol=1e-5)
    assert not found[2:].any()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"hops": 0}, "hops=0 must be at least 1"),
        ({"beta": 0.0}, "beta=0.0 must be above 0"),
        ({"mode": "bag"}, "mode='bag' is unknown"),
        ({"query_edges": np.array([[0, 24]])}, "query_edges names node 24"),
        ({"train_edges": np.zeros((2, 3), int)}, r"train_edges is int64 \[2, 3\]"),
    ],
)
def test_what_cannot_be_measured_is_refused(changes, message):
    given = {"train_edges": TRAIN, "query_edges": TEST, "n_node": 24, **changes}
    with pytest.raises(ValueError, match=message):
        analysis.topological_concentration(**given)


def test_many_hops_are_warned_of():
    with pytest.warns(UserWarning, match="hops=4"):
        analysis.topological_concentration(TRAIN, TEST, 24, hops=4)


def test_what_cannot_be_approximated_is_refused():
    topology, key = row_normalised(TRAIN), jax.random.key(0)
    other = graphs.topology.from_edges(np.array([[0, 1]]), 3, norm="rw")
    with pytest.raises(ValueError, match="query has 3 nodes, topology 24"):
        analysis.approximate_concentration(topology, other, key)
    with pytest.raises(ValueError, match="alpha has 1 weights"):
        analysis.approximate_concentration(topology, topology, key, alpha=[1.0])
    with pytest.raises(ValueError, match="width=0"):
        analysis.approximate_concentration(topology, topology, key, width=0)
    assert jnp.isfinite(approximate(topology, topology, key, hops=1, width=4)).all()
