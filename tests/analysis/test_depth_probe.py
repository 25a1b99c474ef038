"""The probe of depth: curves against the stack of hops, gradients against a plain norm."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from trove_jax import analysis, graphs

EDGES = np.array([[0, 1], [1, 2], [2, 3], [3, 4], [4, 0], [0, 2]])
TOPOLOGY = graphs.topology.from_edges(EDGES, 5, self_loops="add_remaining", norm="rw")
X = jax.random.uniform(jax.random.key(0), (5, 4))
X_INF = graphs.stationary_features(TOPOLOGY, X)


def test_curves_are_those_of_the_stack_and_end_smooth():
    found = analysis.smoothing_curve(TOPOLOGY, X, 40, X_INF)
    stack = graphs.hop_stack(TOPOLOGY, X, 40)
    for k in (0, 1, 7):
        level = graphs.node_smoothing_level(stack[k], X, X_INF).mean()
        # 1 - cos loses digits where a hop is nearly stationary.
        np.testing.assert_allclose(found.level[k], level, rtol=1e-4, atol=1e-6)
        np.testing.assert_allclose(
            found.distance[k], analysis.smoothness(stack[k]).graph, rtol=1e-4
        )
    # What is left after 40 hops is |lambda_2|^40 of the start.
    assert found.distance[40] < 1e-3 * found.distance[0]
    assert abs(float(found.level[40])) < 1e-5 < float(found.level[0])


def test_gradient_norms():
    gradients = {"a": {"w": jnp.array([[3.0]]), "b": jnp.array([4.0])}, "b": jnp.zeros(3)}
    found = analysis.layer_gradient_norms(gradients)
    assert {name: float(norm) for name, norm in found.items()} == {"a": 5.0, "b": 0.0}


def test_negative_hops_are_refused():
    with pytest.raises(ValueError, match="hops=-1"):
        analysis.smoothing_curve(TOPOLOGY, X, -1, X_INF)
