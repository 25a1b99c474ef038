"""Random walks: edges, frequencies, ends, and what is refused."""

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
