"""The neural common neighbour: a link that is taken out leaves no trace in any score."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from trove_jax import graphs, layers, models

N = 10
SAGE = models.GNN("sage", hidden=4, classes=4, depth=2, dropout=0.0)
NETWORKS = {
    "pure": models.NCN(
        layers.PureGCN(4), layers.CNHead("ncnc", features=4, offset=0.0, limit=N), table=4
    ),
    "sage": models.NCN(SAGE, layers.CNHead("ncn", features=4), table=4),
}
NOTHING = np.full(5, -1)
PAIRS = jnp.asarray(np.stack(np.triu_indices(N, 1), axis=1), jnp.int32)


def build(links):
    return graphs.topology.from_edges(links, N, self_loops="add_remaining", duplicates="error")


@functools.partial(jax.jit, static_argnums=0)
def outputs(model, variables, topology, index):
    topology = graphs.remove_links(topology, index, norm="sym")
    h = model.apply(variables, topology, None, method="embed")
    return h, model.apply(variables, topology, h, PAIRS, method="decode")


@pytest.mark.parametrize("name", NETWORKS)
def test_removed_links_leave_no_trace(name):
    model = NETWORKS[name]
    pairs = np.asarray(PAIRS)
    start = jax.jit(model.init)
    variables = start(jax.random.key(0), build(pairs[:15]), None, PAIRS)
    for seed in range(3):
        order = np.random.default_rng(seed).permutation(len(pairs))
        links, index = pairs[order[:15]], np.array([3, 7, 7, -1, 14])
        rest = np.delete(links, [3, 7, 14], axis=0)
        seen = outputs(model, variables, build(links), index)
        never = outputs(model, variables, build(rest), NOTHING)
        for got, expected in zip(seen, never, strict=True):
            # Float32 sums in another order; layer normalisation divides by what may be small.
            np.testing.assert_allclose(got, expected, rtol=1e-3, atol=1e-4)
        present = outputs(model, variables, build(links), NOTHING)
        assert np.abs(present[1] - seen[1]).max() > 1e-2


def test_the_table_starts_orthogonal_and_is_asked_for():
    model = NETWORKS["pure"]
    topology = build(np.asarray(PAIRS)[:15])
    variables = jax.jit(model.init)(jax.random.key(0), topology, None, PAIRS)
    table = variables["params"]["table"]
    np.testing.assert_allclose(table.T @ table, np.eye(4), atol=1e-5)
    with pytest.raises(ValueError, match="x is None and table=0"):
        model.clone(table=0).init(jax.random.key(0), topology, None, PAIRS[:2])
