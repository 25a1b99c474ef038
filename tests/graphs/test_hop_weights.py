"""Hop weights against the published loops over nodes and hops, with dense matrices."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from trove_jax import graphs, layers

N, D, K = 14, 5, 4
EDGES = np.array([[0, 1], [1, 2], [2, 3], [3, 0], [0, 2], [4, 5], [5, 6], [8, 9], [9, 10], [8, 10]])
TOPOLOGY = graphs.topology.from_edges(EDGES, N, self_loops="add_remaining", norm="sym")
X = np.random.default_rng(0).random((N, D)).astype(np.float32)
X[6] = 0.0  # an empty row with neighbours; node 12 is isolated
X_INF = graphs.stationary_features(TOPOLOGY, jnp.asarray(X))
mix = jax.jit(graphs.mix_hops, static_argnames=("hops", "weighting"))


def by_loops():
    """Scores and mix as in the published program: a loop over nodes and one over hops."""
    a = np.zeros((N, N))
    for i, j in EDGES:
        a[i, j] = a[j, i] = 1.0
    degree = a.sum(1) + 1
    part = graphs.components(TOPOLOGY)
    x_inf = np.zeros((N, D))
    for c in range(part.max() + 1):
        nodes = part == c
        x_inf[nodes] = degree[nodes] @ X[nodes] / (a[nodes].sum() + nodes.sum())
    norm = (a + np.eye(N)) / np.sqrt(np.outer(degree, degree))
    stack = [np.float64(X)]
    for _ in range(K):
        stack.append(norm @ stack[-1])

    def cos(u, v):
        return u @ v / ((np.linalg.norm(u) + 1e-10) * (np.linalg.norm(v) + 1e-10))

    scores, out = np.zeros((K + 1, N)), np.zeros((N, D))
    for i in range(N):
        for k in range(K + 1):
            scores[k, i] = cos(stack[k][i], X[i]) * (1 - cos(stack[k][i], x_inf[i]))
        weight = np.exp(scores[:, i]) / np.exp(scores[:, i]).sum()
        out[i] = sum(weight[k] * stack[k][i] for k in range(K + 1))
    return scores, out, np.stack(stack)


SCORES, MIX, STACK = by_loops()


def test_scores_and_mix_equal_the_published_loops():
    scores = jax.jit(graphs.hop_scores, static_argnames="hops")(TOPOLOGY, X, hops=K, x_inf=X_INF)
    # Cosines near 1 in float32; 1 - cos loses a few units of 1e-7.
    np.testing.assert_allclose(scores, SCORES, rtol=1e-4, atol=2e-6)
    np.testing.assert_allclose(mix(TOPOLOGY, X, hops=K, x_inf=X_INF), MIX, rtol=1e-5, atol=1e-6)


def test_two_passes_equal_the_mix_of_the_stack():
    stack = graphs.hop_stack(TOPOLOGY, jnp.asarray(X), K)
    np.testing.assert_allclose(layers.HopMix().apply({}, stack, X_INF), MIX, rtol=1e-5, atol=1e-6)
    uniform = layers.HopMix("uniform").apply({}, stack)
    np.testing.assert_allclose(uniform, STACK.mean(axis=0), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(
        mix(TOPOLOGY, X, hops=K, weighting="uniform"), uniform, rtol=1e-5, atol=1e-6
    )


def test_isolated_and_empty_nodes_mix_evenly():
    scores = graphs.hop_scores(TOPOLOGY, jnp.asarray(X), K, X_INF)
    # An isolated node is its own stationary state, and an empty row is like nothing.
    np.testing.assert_allclose(scores[:, jnp.array([6, 12])], 0.0, atol=1e-6)
    found = mix(TOPOLOGY, X, hops=K, x_inf=X_INF)
    np.testing.assert_allclose(found[12], X[12], rtol=1e-5)
    np.testing.assert_allclose(found[6], STACK[:, 6].mean(axis=0), rtol=1e-5, atol=1e-6)


def test_no_hops_leave_the_features():
    np.testing.assert_allclose(mix(TOPOLOGY, X, hops=0, x_inf=X_INF), X, rtol=1e-6)


def test_refusals():
    x = jnp.asarray(X)
    for call, match in (
        (lambda: graphs.mix_hops(TOPOLOGY, x, -1, x_inf=X_INF), "hops=-1"),
        (lambda: graphs.mix_hops(TOPOLOGY, x, 2), "x_inf is wanted"),
        (lambda: graphs.mix_hops(TOPOLOGY, x, 2, weighting="even"), "weighting='even'"),
        (lambda: graphs.node_smoothing_level(x, x, x[:3]), "do not belong together"),
        (lambda: layers.HopMix().apply({}, x[None]), "x_inf is wanted"),
        (lambda: layers.HopMix("even").apply({}, x[None]), "weighting='even'"),
    ):
        with pytest.raises(ValueError, match=match):
            call()
