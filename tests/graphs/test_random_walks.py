"""Random walks: edges, frequencies, ends, and what is refused."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from trove_jax import graphs

KEY = jax.random.key(5)
# Node 0 leads to 1, 2 (twice) and 3; 4 is a dead end; 5 is isolated.
EDGES = np.array([[0, 1], [0, 2], [0, 2], [0, 3], [1, 0], [2, 0], [3, 4]])
TOPOLOGY = graphs.topology.from_edges(EDGES, 6, undirected=False)
walk = jax.jit(graphs.random_walks, static_argnums=3)


def test_every_step_is_an_edge_and_dead_ends_stay():
    walks = np.asarray(walk(TOPOLOGY, KEY, jnp.arange(6).repeat(50), 9))
    assert walks.shape == (300, 9)
    assert walks.dtype == np.int32
    np.testing.assert_array_equal(walks[:, 0], np.arange(6).repeat(50))
    allowed = {tuple(edge) for edge in EDGES.tolist()} | {(4, 4), (5, 5)}
    steps = {tuple(step) for step in np.stack([walks[:, :-1], walks[:, 1:]], -1).reshape(-1, 2)}
    assert steps == allowed


def test_edges_are_as_likely_as_each_other():
    walks = np.asarray(walk(TOPOLOGY, KEY, jnp.zeros(4000, jnp.int32), 2))
    counts = np.bincount(walks[:, 1], minlength=6)[1:4]
    # One false alarm in a thousand keys; the key is fixed.
    assert stats.chisquare(counts, [1000, 2000, 1000]).pvalue > 1e-3


def test_walks_differ_and_the_key_decides():
    starts = jnp.zeros(40, jnp.int32)
    first = walk(TOPOLOGY, KEY, starts, 5)
    np.testing.assert_array_equal(first, graphs.random_walks(TOPOLOGY, KEY, starts, 5))
    assert len(np.unique(np.asarray(first), axis=0)) > 5


def test_no_edges_and_one_node():
    empty = graphs.topology.from_edges([], 3)
    np.testing.assert_array_equal(
        graphs.random_walks(empty, KEY, jnp.array([2, 0]), 3), [[2, 2, 2], [0, 0, 0]]
    )
    np.testing.assert_array_equal(graphs.random_walks(TOPOLOGY, KEY, jnp.array([3]), 1), [[3]])


def test_refusals():
    starts = jnp.array([0])
    masked = graphs.topology.mask_edges(TOPOLOGY, jnp.arange(7) > 2)
    for call, match in (
        (lambda: graphs.random_walks(TOPOLOGY, KEY, starts, 0), "length=0"),
        (lambda: graphs.random_walks(TOPOLOGY, KEY, jnp.zeros(1), 3), "float32"),
        (lambda: graphs.random_walks(TOPOLOGY, KEY, starts[None], 3), "vector of integers"),
        (lambda: graphs.random_walks(masked, KEY, starts, 3), "masked edges"),
    ):
        with pytest.raises(ValueError, match=match):
            call()


@pytest.mark.parametrize(("p", "q"), [(0.25, 4.0), (4.0, 0.5), (1.0, 1.0)])
def test_steps_have_the_probabilities_of_node2vec(p, q):
    """Second-order transitions, written out for every pair of an edge and a step after it."""
    edges = np.array([[0, 1], [0, 2], [1, 2], [2, 3], [3, 4], [1, 3], [4, 4]])
    adjacency = np.zeros((5, 5), bool)
    adjacency[edges[:, 0], edges[:, 1]] = adjacency[edges[:, 1], edges[:, 0]] = True
    topology = graphs.topology.from_edges(edges, 5)
    walks = np.asarray(walk_biased(topology, KEY, jnp.arange(5).repeat(400), 6, p, q))
    counts = np.zeros((5, 5, 5))
    np.add.at(counts, tuple(np.stack([walks[:, i : i + 4] for i in range(3)])), 1)
    for before, node in np.argwhere(adjacency):
        chance = np.where(adjacency[before], 1.0, 1 / q)
        chance[before] = 1 / p
        chance = np.where(adjacency[node], chance, 0.0)
        seen = counts[before, node]
        assert not seen[chance == 0].any()
        wanted = seen.sum() * chance / chance.sum()
        # 11 tests for each case: one false alarm in 900 keys; the key is fixed.
        if (chance > 0).sum() > 1:
            assert stats.chisquare(seen[chance > 0], wanted[chance > 0]).pvalue > 1e-4
        else:
            assert seen.sum() == wanted.sum()


def test_biased_walks_start_evenly_and_stay_where_they_cannot_go_on():
    walks = np.asarray(walk_biased(TOPOLOGY, KEY, jnp.arange(6).repeat(400), 6, 0.3, 3.0))
    counts = np.bincount(walks[:400, 1], minlength=6)[1:4]
    assert stats.chisquare(counts, [100, 200, 100]).pvalue > 1e-3
    allowed = {tuple(edge) for edge in EDGES.tolist()} | {(4, 4), (5, 5)}
    steps = {tuple(step) for step in np.stack([walks[:, :-1], walks[:, 1:]], -1).reshape(-1, 2)}
    assert steps == allowed
    assert graphs.node2vec_walks(TOPOLOGY, KEY, jnp.array([3]), 1).tolist() == [[3]]
    empty = graphs.topology.from_edges([], 3)
    assert graphs.node2vec_walks(empty, KEY, jnp.array([2]), 3).tolist() == [[2, 2, 2]]
    for name in ("p", "q"):
        with pytest.raises(ValueError, match=f"{name}=0.0 is wanted positive"):
            graphs.node2vec_walks(TOPOLOGY, KEY, jnp.array([0]), 3, **{name: 0.0})
    with pytest.raises(ValueError, match="length=0"):
        graphs.node2vec_walks(TOPOLOGY, KEY, jnp.array([0]), 0)


@functools.partial(jax.jit, static_argnums=(3, 4, 5))
def walk_biased(topology, key, starts, length, p, q):
    return graphs.node2vec_walks(topology, key, starts, length, p=p, q=q)
