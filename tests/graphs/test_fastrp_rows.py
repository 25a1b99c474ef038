"""Rows of FastRP against the formula on dense matrices."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from trove_jax import graphs

N, WIDTH, KEY = 90, 8, jax.random.key(0)
RNG = np.random.default_rng(0)
# A directed graph with weights and repeated edges, some of them masked; nodes from 85 on have none.
TOPOLOGY = graphs.topology.mask_edges(
    graphs.topology.from_edges(
        RNG.integers(0, 85, (400, 2)), N, undirected=False, edge_weight=RNG.uniform(0.5, 2.0, 400)
    ),
    jnp.asarray(RNG.random(400) < 0.7),
)
RING = [[node, (node + 1) % N] for node in range(N)]


def by_formula(topology, weights, beta, matrix="trans", normalise_rows=False, **projection):
    n = topology.n_node
    r = graphs.random_projection(KEY, n, WIDTH, **projection)
    a = np.zeros((n, n))
    np.add.at(a, (topology.receivers, topology.senders), np.asarray(topology.weight, float))
    degree = a.sum(axis=1)
    safe = np.where(degree > 0, degree, 1.0)
    x = np.where(degree > 0, (safe / degree.sum()) ** beta, 0.0)[:, None] * np.float64(r)
    total = np.zeros_like(x)
    for weight in weights:
        x = (a / safe[:, None] if matrix == "trans" else a) @ x
        length = np.linalg.norm(x, axis=1, keepdims=True) if normalise_rows else 1.0
        total += weight * x / np.where(length > 0, length, 1.0)
    return total


@pytest.mark.parametrize(
    "options",
    [
        {"weights": (0.0, 0.0, 1.0, 8.0), "beta": -0.5},
        {"weights": (1.0, 2.0), "beta": -0.3, "matrix": "adj", "kind": "gaussian"},
        {"weights": (0.5, 0.0, 3.0), "beta": 0.0, "normalise_rows": True, "density": 0.3},
    ],
)
def test_rows_are_those_of_the_whole(options):
    nodes = np.array([3, 88, 17, 3, 0])
    whole = by_formula(TOPOLOGY, **options)
    given = {"projection" if name == "kind" else name: value for name, value in options.items()}
    found = graphs.fastrp_rows(TOPOLOGY, KEY, nodes, WIDTH, **given)
    assert found.dtype == jnp.float32
    # Sums of a few dozen float32 terms.
    np.testing.assert_allclose(found, whole[nodes], rtol=1e-4, atol=2e-6 * np.abs(whole).max())
    assert np.any(found)
    assert not np.any(found[1])
    assert graphs.fastrp_rows(TOPOLOGY, KEY, [], WIDTH, **given).shape == (0, WIDTH)


def test_they_equal_the_compiled_embedding():
    with pytest.warns(UserWarning, match="no edge that comes in"):
        whole = graphs.fastrp(TOPOLOGY, KEY, WIDTH, standardise=False)
    found = graphs.fastrp_rows(TOPOLOGY, KEY, np.arange(N), WIDTH)
    np.testing.assert_allclose(found, whole, rtol=1e-4, atol=2e-6 * np.abs(whole).max())


def test_a_node_that_comes_later_changes_only_rows_within_its_reach():
    """A new node 90 cuts a ring: two powers reach two steps."""
    options = {"weights": (1.0, 2.0), "density": 0.3, "beta": 0.0}
    ring = graphs.topology.from_edges(RING, N)
    grown = graphs.topology.from_edges([*RING[:-1], [N - 1, N], [N, 0]], N + 1)
    after = by_formula(grown, **options)
    touched = [88, 89, 90, 0, 1]
    updated = np.concatenate([by_formula(ring, **options), np.zeros((1, WIDTH))])
    assert not np.allclose(updated[89], after[89])
    updated[touched] = graphs.fastrp_rows(grown, KEY, touched, WIDTH, **options)
    np.testing.assert_allclose(updated, after, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("nodes", "message"),
    [
        ([[1]], r"shape \(1, 1\)"),
        ([0.5], "dtype float64"),
        ([0, 90], "nodes go from 0 to 90; 0 to 89 is wanted"),
        ([-1], "nodes go from -1"),
    ],
)
def test_rows_of_no_nodes_are_refused(nodes, message):
    with pytest.raises(ValueError, match=message):
        graphs.fastrp_rows(TOPOLOGY, KEY, nodes, WIDTH)


def test_negative_weights_are_refused():
    topology = graphs.topology.from_edges([[0, 1]], 8, edge_weight=[-1.0])
    with pytest.raises(ValueError, match="negative weight -1"):
        graphs.fastrp_rows(topology, KEY, [0], WIDTH)
