"""Sums over neighbours of one end against a dense matrix of weights."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from trove_jax import graphs

N, WIDTH = 8, 3
LINKS = np.array([[0, 1], [0, 2], [0, 3], [1, 2], [3, 4], [4, 5], [2, 5], [5, 6]])
TOPOLOGY = graphs.topology.from_edges(LINKS, N)
PAIRS = np.array([[0, 1], [0, 5], [5, 0], [3, 3], [7, 0], [1, 4]], np.int32)
X = np.random.default_rng(0).normal(size=(N, WIDTH)).astype(np.float32)
WEIGHT = np.random.default_rng(1).random((N, N)).astype(np.float32)
A = np.zeros((N, N), bool)
A[LINKS[:, 0], LINKS[:, 1]] = A[LINKS[:, 1], LINKS[:, 0]] = True


@functools.partial(jax.jit, static_argnames=("limit", "block"))
def summed(x, weights, *, limit=N, block=4, key=None):
    return graphs.difference_sum(
        TOPOLOGY,
        jnp.asarray(PAIRS),
        x,
        lambda pairs: weights[pairs[:, 0], pairs[:, 1]],
        limit=limit,
        block=block,
        key=key,
    )


def matrix():
    found = np.zeros((len(PAIRS), N))
    for row, (i, j) in enumerate(PAIRS.tolist()):
        for a, b in ((i, j), (j, i)):
            for u in range(N):
                found[row, u] += WEIGHT[b, u] if A[a, u] and not A[b, u] else 0.0
    return found


@pytest.mark.parametrize("block", [4, 64])
def test_values_and_gradients_are_those_of_a_matrix(block):
    out = summed(X, jnp.asarray(WEIGHT), block=block)
    np.testing.assert_allclose(out, matrix() @ X, rtol=1e-5, atol=1e-6)  # Float32 sums.
    c = jnp.asarray(np.random.default_rng(2).normal(size=(len(PAIRS), WIDTH)), jnp.float32)

    def loss(x, weights):
        return (c * summed(x, weights, block=block)).sum()

    d_x, d_weights = jax.grad(loss, argnums=(0, 1))(jnp.asarray(X), jnp.asarray(WEIGHT))
    np.testing.assert_allclose(d_x, matrix().T @ np.asarray(c), rtol=1e-5, atol=1e-6)
    assert not d_weights.any()


def test_few_neighbours_stand_for_all():
    x, ones = jnp.arange(float(N))[:, None], jnp.ones((N, N))
    drawn = [float(summed(x, ones, limit=1, key=jax.random.key(seed))[1, 0]) for seed in range(40)]
    # Pair 0, 5: 1 and 3 on one side, 4 and 6 on the other; one of each stands for two.
    assert set(drawn) == {2.0 * (u + v) for u in (1, 3) for v in (4, 6)}


def test_two_hops_are_those_of_the_squared_matrix():
    far = (A.astype(int) @ A.astype(int)) > 0
    i, j = PAIRS.T
    chosen = (A[i] & far[j]).astype(float) + (far[i] & A[j])
    got = jax.jit(graphs.two_hop_sum)(TOPOLOGY, jnp.asarray(PAIRS), X)
    np.testing.assert_allclose(got, chosen @ X, rtol=1e-5, atol=1e-6)


def test_what_does_not_fit_is_refused():
    with pytest.raises(ValueError, match="limit=0"):
        summed(X, jnp.asarray(WEIGHT), limit=0)
    large = graphs.topology.from_edges([[0, 1]], 20_000)
    with pytest.raises(ValueError, match="bytes; at most"):
        graphs.two_hop_sum(large, jnp.asarray(PAIRS), jnp.ones((20_000, 1)))
    empty = graphs.topology.from_edges(np.zeros((0, 2), np.int64), N)
    pairs = jnp.asarray(PAIRS)
    out = graphs.difference_sum(empty, pairs, jnp.asarray(X), lambda p: p[:, 0] * 1.0, limit=2)
    np.testing.assert_array_equal(out, np.zeros((len(PAIRS), WIDTH)))
