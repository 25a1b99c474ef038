"""Re-weighting by agreement against a loop over receivers."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from trove_jax import graphs

EDGES = np.array([[0, 1], [2, 1], [3, 1], [1, 0], [3, 3]])
TOPOLOGY = graphs.topology.from_edges(
    EDGES, 5, undirected=False, edge_weight=np.array([1.0, 2.0, 0.5, 3.0, 1.0])
)

reweight = jax.jit(graphs.reweight_by_agreement, static_argnames="alpha")


def test_weights_equal_a_loop_over_receivers():
    q = np.random.default_rng(0).normal(size=5).astype(np.float32)
    found = reweight(TOPOLOGY, jnp.asarray(q), alpha=0.7)
    weight, receivers = np.asarray(TOPOLOGY.weight), np.asarray(TOPOLOGY.receivers)
    for node in range(5):
        own = receivers == node
        share = np.exp(q[own]) / np.exp(q[own]).sum()
        expected = weight[own] + 0.7 * share * weight[own].sum()
        np.testing.assert_allclose(found[own], expected, rtol=1e-5)


def test_masked_edges_stay_without_weight():
    masked = graphs.topology.mask_edges(TOPOLOGY, jnp.array([True, False, True, True, True]))
    found = reweight(masked, jnp.zeros(5), alpha=1.0)
    assert found[1] == 0.0
    kept = jnp.asarray(masked.receivers) == 1
    # What comes in doubles with alpha = 1.
    np.testing.assert_allclose(found[kept].sum(), 2 * jnp.asarray(masked.weight)[kept].sum())


def test_bad_arguments_are_refused():
    with pytest.raises(ValueError, match=r"agreement is float32 \[4\], expected floating \[5\]"):
        graphs.reweight_by_agreement(TOPOLOGY, jnp.zeros(4))
    with pytest.raises(ValueError, match=r"alpha=-1.0 is negative"):
        graphs.reweight_by_agreement(TOPOLOGY, jnp.zeros(5), alpha=-1.0)
