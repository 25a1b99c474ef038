"""The readout over hops against its equation in NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from trove_jax import layers

STACK = jax.random.normal(jax.random.key(0), (4, 6, 3))
READOUT = layers.AdaptiveHopReadout()
VARIABLES = jax.tree.map(
    lambda leaf: leaf + 0.3, READOUT.init(jax.random.key(1), STACK)
)  # a bias that is not 0


def by_loops(stack, kernel, bias):
    out, scores = np.zeros(stack.shape[1:]), np.zeros(stack.shape[1::-1])
    for i in range(stack.shape[1]):
        for k in range(stack.shape[0]):
            scores[i, k] = 1 / (1 + np.exp(-(stack[k, i] @ kernel[:, 0] + bias[0])))
            out[i] += scores[i, k] * stack[k, i]
    return out, scores


def test_equals_the_equation():
    out, scores = READOUT.apply(VARIABLES, STACK, with_scores=True)
    params = jax.tree.map(np.float64, VARIABLES["params"])
    expected = by_loops(np.float64(STACK), params["kernel"], params["bias"])
    # Sums of 4 and 3 terms in float32.
    np.testing.assert_allclose(out, expected[0], rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(scores, expected[1], rtol=1e-5)
    np.testing.assert_array_equal(READOUT.apply(VARIABLES, STACK), out)
    assert sum(leaf.size for leaf in jax.tree.leaves(VARIABLES)) == 4


@pytest.mark.parametrize("shape", [(1, 6, 3), (4, 1, 3), (4, 6, 1), (4, 0, 3)])
def test_one_hop_node_or_class_keeps_its_axis(shape):
    stack = jnp.ones(shape)
    out, variables = READOUT.init_with_output(jax.random.key(0), stack)
    assert out.shape == shape[1:]
    assert READOUT.apply(variables, stack, with_scores=True)[1].shape == shape[1::-1]


def test_refuses_what_is_no_stack():
    with pytest.raises(ValueError, match="hop_stack"):
        READOUT.apply(VARIABLES, STACK[0])
    with pytest.raises(ValueError, match="hop_stack"):
        READOUT.apply(VARIABLES, STACK[:0])
