"""The link predictor: a pair's score does not depend on its order, nor on other pairs."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from trove_jax import graphs, models

TOPOLOGY = graphs.topology.from_edges(
    [[0, 1], [1, 2], [2, 3]], 5, self_loops="add_remaining", norm="sym"
)
MODEL = models.LinkPredictor(
    models.GNN("gcn", classes=6, depth=1, dropout=0.0), models.HadamardDecoder(hidden=8), table=4
)
start = jax.jit(MODEL.init_with_output)
PAIRS = jnp.array([[0, 2], [2, 0], [3, 4]])


def test_scores_are_those_of_a_loop_over_pairs():
    scores, variables = start(jax.random.key(0), TOPOLOGY, None, PAIRS)
    h = np.asarray(MODEL.apply(variables, TOPOLOGY, None, method="embed"))
    assert h.shape == (5, 6)
    first, second = (variables["params"]["decoder"][f"Dense_{i}"] for i in (0, 1))
    for (i, j), score in zip(PAIRS.tolist(), scores, strict=True):
        hidden = np.maximum(h[i] * h[j] @ first["kernel"] + first["bias"], 0.0)
        expected = hidden @ second["kernel"] + second["bias"]
        np.testing.assert_allclose(score, expected[0], rtol=1e-5, atol=1e-6)  # Float32 sums.
    assert scores[0] == scores[1]


def test_features_take_the_place_of_the_table():
    x = jnp.ones((5, 3))
    scores, variables = jax.eval_shape(start, jax.random.key(0), TOPOLOGY, x, PAIRS)
    assert scores.shape == (3,)
    assert "table" not in variables["params"]


def test_nothing_to_embed_is_refused():
    model = MODEL.clone(table=0)
    with pytest.raises(ValueError, match="x is None and table=0"):
        model.init(jax.random.key(0), TOPOLOGY, None, PAIRS)
