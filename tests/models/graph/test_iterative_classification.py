"""Iterative classification where features say nothing of most nodes and neighbours say all."""

import numpy as np
import pytest
from scipy import sparse

from trove_jax import graphs, models

# Two cliques of six; each has three known nodes, and features tell one more.
CLIQUES = [(i, j) for start in (0, 6) for i in range(start, start + 6) for j in range(start, i)]
TOPOLOGY = graphs.topology.from_edges(np.array(CLIQUES), 13)
X = np.zeros((13, 2))
X[[0, 1, 2, 3], 0] = X[[6, 7, 8, 9], 1] = 1.0
LABELS = np.full(13, -1)
LABELS[:3], LABELS[6:9] = 0, 1


@pytest.mark.parametrize("make", [np.asarray, sparse.csr_matrix])
def test_neighbours_tell_what_features_do_not(make):
    found = models.iterative_classification(TOPOLOGY, make(X), LABELS, classes=3)
    np.testing.assert_array_equal(found[:12].argmax(1), np.repeat([0, 1], 6))
    np.testing.assert_allclose(found.sum(1), 1.0, rtol=1e-6)
    np.testing.assert_array_equal(found[LABELS >= 0], np.eye(3)[LABELS[LABELS >= 0]])
    np.testing.assert_array_equal(found[:, 2], 0.0)  # no known node has it
    alone = models.iterative_classification(TOPOLOGY, make(X), LABELS, classes=3, rounds=0)
    np.testing.assert_allclose(alone[4], alone[10], rtol=1e-6)  # features alone: no difference


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (LABELS[:4], "labels have shape"),
        (np.full(13, 5), "labels go from 5 to 5"),
        (np.where(LABELS == 0, 0, -1), "fewer than two classes"),
    ],
)
def test_refuses(labels, message):
    with pytest.raises(ValueError, match=message):
        models.iterative_classification(TOPOLOGY, X, labels, classes=3)
