"""Taking links out is building the graph without them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from trove_jax import graphs

LINKS = np.array([[0, 1], [1, 2], [2, 3], [3, 0], [3, 3], [0, 2]])
TOPOLOGY = graphs.topology.from_edges(LINKS, 6, self_loops="add_remaining")


def dense(topology):
    found = np.zeros((6, 6))
    np.add.at(found, (topology.receivers, topology.senders), np.asarray(topology.weight))
    return found


@pytest.mark.parametrize("norm", [None, "sym", "rw"])
@pytest.mark.parametrize("gone", [[0], [1, 3], [5, 5, 0], []])
def test_weights_are_those_of_the_graph_without_them(gone, norm):
    got = jax.jit(graphs.remove_links, static_argnames="norm")(
        TOPOLOGY, jnp.asarray(gone, jnp.int32), norm=norm
    )
    rest = np.delete(LINKS, gone, axis=0)
    expected = graphs.topology.from_edges(rest, 6, self_loops="add_remaining", norm=norm)
    np.testing.assert_allclose(dense(got), dense(expected), rtol=1e-6)
    assert got.n_edge - int(got.edge_mask.sum()) == 2 * len(set(gone))


def test_rows_that_are_not_there_remove_nothing():
    got = graphs.remove_links(TOPOLOGY, jnp.array([-1, -7, 6, 1000]))
    np.testing.assert_array_equal(got.weight, TOPOLOGY.weight)
    with pytest.raises(ValueError, match="index is float32"):
        graphs.remove_links(TOPOLOGY, jnp.array([1.0]))
