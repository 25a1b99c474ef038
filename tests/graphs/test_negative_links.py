"""Pairs without a link: never a link, never a node and itself, all others equally often."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from trove_jax import graphs

draw = functools.partial(jax.jit, static_argnums=2)(graphs.draw_non_links)


def test_every_pair_without_a_link_is_drawn_equally_often():
    links = np.array([[0, 1], [4, 2], [2, 4], [3, 3], [5, 0], [6, 5], [1, 2]])
    pairs = {(i, j) for j in range(7) for i in range(j)}
    absent = pairs - {(min(a, b), max(a, b)) for a, b in links.tolist()}
    found = graphs.non_links(links, 7)
    assert found.count == len(absent) == 16
    drawn = np.asarray(draw(jax.random.key(0), found, 16_000))
    seen, counts = np.unique(drawn, axis=0, return_counts=True)
    assert {tuple(row) for row in seen.tolist()} == absent
    # A false alarm has a probability of 1e-3, under a fixed seed.
    assert scipy.stats.chisquare(counts).pvalue > 1e-3


def test_numbers_of_the_largest_graph_are_exact():
    # Pair (i, j) is number j (j - 1) / 2 + i; roots of such numbers are not exact in float32.
    n = 65536
    drawn = np.asarray(draw(jax.random.key(1), graphs.non_links([[0, 1]], n), 16_000), np.int64)
    assert (drawn[:, 0] >= 0).all()
    assert (drawn[:, 0] < drawn[:, 1]).all()
    assert drawn[:, 1].max() < n
    assert drawn[:, 1].max() > 0.999 * n
    ranks = jax.random.randint(jax.random.key(1), (16_000,), 0, n * (n - 1) // 2 - 1, jnp.int32)
    number = drawn[:, 1] * (drawn[:, 1] - 1) // 2 + drawn[:, 0]
    np.testing.assert_array_equal(number, np.asarray(ranks, np.int64) + 1)


@pytest.mark.parametrize(
    ("links", "n", "message"),
    [
        ([[0, 1], [0, 2], [2, 1]], 3, "all 3 pairs of 3 nodes have a link"),
        ([[0, 3]], 3, "links name node 3"),
        ([[0, 1]], 65537, "n_node=65537 is too large"),
        ([[0, 1, 2]], 3, r"\[1, 3\]"),
    ],
)
def test_what_cannot_be_drawn_from_is_refused(links, n, message):
    with pytest.raises(ValueError, match=message):
        graphs.non_links(links, n)
