"""The smoothness of rows against a loop over all pairs, and against the limits of propagation."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from trove_jax import analysis, graphs

X = np.random.default_rng(0).normal(size=(40, 6)).astype(np.float32)
X[3] = 0.0
smooth = jax.jit(analysis.smoothness, static_argnames="sample")


def by_pairs(x, others=None):
    x = np.float64(x)
    length = np.linalg.norm(x, axis=1, keepdims=True)
    unit = np.divide(x, length, out=np.zeros_like(x), where=length > 0)
    others = range(len(x)) if others is None else others
    return np.array(
        [
            np.mean([0.5 * np.linalg.norm(unit[i] - unit[j]) for j in others if j != i])
            for i in range(len(x))
        ]
    )


def test_equals_all_pairs():
    found = smooth(X)
    np.testing.assert_allclose(found.node, by_pairs(X), rtol=1e-5)
    np.testing.assert_allclose(found.graph, by_pairs(X).mean(), rtol=1e-5)
    # Lengths do not count, however large or small they are.
    np.testing.assert_allclose(smooth(X * np.float32(1e30)).node, found.node, rtol=1e-5)
    np.testing.assert_allclose(smooth(X * np.float32(1e-25)).node, found.node, rtol=1e-4)


def test_rows_that_are_nearly_alike_do_not_cancel():
    near = (1.0 + 1e-3 * np.random.default_rng(1).normal(size=(40, 6))).astype(np.float32)
    # The float32 input itself is good to 1e-4 of the distances.
    np.testing.assert_allclose(smooth(near).node, by_pairs(near), rtol=1e-3)
    assert float(smooth(np.ones((40, 6), np.float32)).graph) == 0.0


def test_opposite_rows_and_zero_rows():
    found = smooth(np.array([[1.0, 0.0], [-2.0, 0.0], [0.0, 0.0]], np.float32))
    np.testing.assert_allclose(found.node, [0.75, 0.75, 0.5], rtol=1e-6)
    np.testing.assert_array_equal(smooth(np.zeros((4, 2), np.float32)).node, np.zeros(4))
    np.testing.assert_array_equal(smooth(np.ones((1, 2), np.float32)).node, [0.0])
    assert smooth(np.ones((0, 2), np.float32)).node.shape == (0,)


def test_a_sample_is_right_in_the_mean():
    keys = jax.random.split(jax.random.key(0), 200)
    found = jax.jit(jax.vmap(lambda key: analysis.smoothness(X, sample=10, key=key).node))(keys)
    error = np.asarray(found).std(axis=0) / np.sqrt(len(keys))
    # 40 means of 200 draws, 5 standard errors: a false alarm in 40,000.
    assert (np.abs(found.mean(axis=0) - by_pairs(X)) <= 5 * error + 1e-6).all()
    whole = smooth(X, sample=40, key=jax.random.key(1)).node
    np.testing.assert_allclose(whole, by_pairs(X), rtol=1e-5)


def test_propagation_goes_to_its_limits_at_the_rate_of_the_second_eigenvalue():
    edges = np.array([[0, 1], [1, 2], [2, 3], [3, 4], [4, 0], [0, 2], [5, 6]])
    n = 8  # a component of five nodes, one of two, one isolated node
    x = np.random.default_rng(2).random((n, 3)).astype(np.float32)
    for norm, power in (("rw", 0.0), ("sym", 0.5)):
        options = {"self_loops": "add_remaining", "norm": norm}
        topology = graphs.topology.from_edges(edges, n, **options)
        degree = np.array([4.0, 3, 4, 3, 3, 2, 2, 1])
        limit = np.zeros_like(x)
        for nodes in ([0, 1, 2, 3, 4], [5, 6], [7]):
            d = degree[nodes]
            limit[nodes] = np.outer(d**power, d ** (1 - power) @ x[nodes]) / d.sum()
        stack = graphs.hop_stack(topology, jnp.asarray(x), 60)
        np.testing.assert_allclose(stack[60], limit, rtol=1e-4, atol=1e-6)
        a = np.zeros((n, n))
        a[np.asarray(topology.receivers), np.asarray(topology.senders)] = topology.weight
        second = sorted(np.abs(np.linalg.eigvals(a[:5, :5])))[-2]
        gap = np.linalg.norm(np.asarray(stack)[:, :5] - limit[:5], axis=(1, 2))
        assert gap[12] / gap[6] == pytest.approx(second**6, rel=0.5)
    found = graphs.stationary_features(topology, jnp.asarray(x))
    rows = graphs.hop_stack(
        graphs.topology.from_edges(edges, n, self_loops="add_remaining", norm="rw"),
        jnp.asarray(x),
        60,
    )
    np.testing.assert_allclose(found, rows[60], rtol=1e-4, atol=1e-6)
    assert (
        float(analysis.smoothness(rows[60, :5]).graph)
        < 1e-3
        < float(analysis.smoothness(x[:5]).graph)
    )


def test_refusals():
    for arguments in ((X[0],), (np.ones((3, 2), np.int32),)):
        with pytest.raises(ValueError, match="floating-point"):
            analysis.smoothness(*arguments)
    with pytest.raises(ValueError, match="belong together"):
        analysis.smoothness(X, sample=3)
    with pytest.raises(ValueError, match="sample=41"):
        analysis.smoothness(X, sample=41, key=jax.random.key(0))
