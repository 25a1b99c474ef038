"""Connected parts against networkx, and the stationary state against many hops."""

import jax
import networkx
import numpy as np
import pytest

from trove_jax.graphs import components, hop_stack, stationary_features
from trove_jax.graphs.topology import from_edges, mask_edges

# Two triangles with a tail, a pair with a self-loop, and node 8 alone.
EDGES = np.array([[0, 1], [1, 2], [2, 0], [2, 3], [3, 4], [4, 2], [4, 5], [6, 7], [7, 7]])


def test_parts_are_networkx():
    for seed in range(3):
        nx_graph = networkx.gnp_random_graph(30, 0.04, seed=seed, directed=True)
        found = components(from_edges(list(nx_graph.edges), 30, undirected=False))
        want = {frozenset(part) for part in networkx.weakly_connected_components(nx_graph)}
        assert {frozenset(np.flatnonzero(found == c)) for c in np.unique(found)} == want
        assert found.max() + 1 == len(want)
    assert components(from_edges([], 0)).shape == (0,)


def test_removed_edges_connect_nothing():
    full = from_edges(EDGES, 9)
    cut = mask_edges(full, (full.order != 3) & (full.order != 5) & (full.order != 7))
    np.testing.assert_array_equal(components(cut), [0, 0, 0, 1, 1, 1, 2, 3, 4])


def test_stationary_state_is_what_hops_tend_to():
    x = np.random.default_rng(0).standard_normal((9, 3)).astype(np.float32)
    walk = from_edges(EDGES, 9, self_loops="add_remaining", norm="rw")
    # The second eigenvalue of this walk is below 0.9, so 300 hops leave 1e-13 of it.
    want = hop_stack(walk, x, 300)[-1]
    np.testing.assert_allclose(stationary_features(walk, x), want, atol=1e-5)
    got = jax.jit(stationary_features)(from_edges(EDGES, 9), x, components(walk))
    np.testing.assert_allclose(got, want, atol=1e-5)
    np.testing.assert_array_equal(got[8], x[8])


def test_shapes_that_do_not_fit():
    graph = from_edges(EDGES, 9)
    with pytest.raises(ValueError, match=r"x has shape \(8, 2\); \(9, f\)"):
        stationary_features(graph, np.zeros((8, 2), np.float32))
    with pytest.raises(ValueError, match=r"component has shape \(1,\); \(9,\)"):
        stationary_features(graph, np.zeros((9, 2), np.float32), np.zeros(1, np.int32))
