"""FastRP against the formulas on dense matrices, scikit-learn's scale, and finite differences."""

import jax
import jax.numpy as jnp
import jax.test_util
import numpy as np
import pytest
from sklearn.preprocessing import normalize, scale

from trove_jax import graphs

N = 90
RNG = np.random.default_rng(0)
# A directed graph with weights and repeated edges, in which nodes from 85 on are isolated.
EDGES = RNG.integers(0, 85, (400, 2))
TOPOLOGY = graphs.topology.from_edges(
    EDGES, N, undirected=False, edge_weight=RNG.uniform(0.5, 2.0, 400)
)
RING = np.stack([np.arange(N), (np.arange(N) + 1) % N], axis=1)
LINKED = graphs.topology.from_edges(np.concatenate([EDGES, RING]), N)
KEY = jax.random.key(0)
WEIGHTS = (0.5, 0.0, 1.0, 4.0)


def adjacency(topology=TOPOLOGY):
    a = np.zeros((topology.n_node, topology.n_node))
    np.add.at(a, (topology.receivers, topology.senders), np.asarray(topology.weight, float))
    return a


def by_formula(r, weights, beta, matrix="trans", normalise_rows=False, combine="sum"):
    a = adjacency()
    degree = a.sum(axis=1)
    safe = np.where(degree > 0, degree, 1.0)
    s = a / safe[:, None] if matrix == "trans" else a
    x = np.where(degree > 0, (safe / degree.sum()) ** beta, 0.0)[:, None] * np.float64(r)
    parts = []
    for weight in weights:
        x = s @ x
        if weight:
            parts.append(weight * (normalize(x) if normalise_rows else x))
    return sum(parts) if combine == "sum" else np.concatenate(parts, axis=1)


def embed(width=8, key=KEY, **options):
    with pytest.warns(UserWarning, match="of 90 nodes have no edge that comes in"):
        return graphs.fastrp(TOPOLOGY, key, width, **options)


# 70 columns are two blocks, of which the second overlaps the first.
@pytest.mark.parametrize(
    ("width", "options"),
    [
        (70, {}),
        (70, {"combine": "concatenate"}),
        (8, {"matrix": "adj"}),
        (70, {"normalise_rows": True}),
    ],
)
def test_equals_the_formula(width, options):
    r = graphs.random_projection(KEY, N, width)
    want = by_formula(r, WEIGHTS, -0.7, **options)
    raw = embed(width, weights=WEIGHTS, beta=-0.7, standardise=False, **options)
    # Sums of a few dozen float32 terms.
    np.testing.assert_allclose(raw, want, rtol=1e-4, atol=2e-6 * np.abs(want).max())
    assert not np.any(raw[85:])
    found = embed(width, weights=WEIGHTS, beta=-0.7, **options)
    np.testing.assert_allclose(found, scale(want), rtol=1e-3, atol=2e-4)


@pytest.mark.parametrize("projection", ["sparse", "gaussian", "rademacher"])
def test_projections_and_init_agree(projection):
    r = graphs.random_projection(KEY, N, 8, kind=projection)
    found, given = embed(projection=projection), embed(init=r)
    np.testing.assert_allclose(found, given, rtol=1e-4, atol=1e-5)


def test_keys_under_vmap_equal_a_loop():
    keys = jax.random.split(KEY, 2)
    with pytest.warns(UserWarning, match="no edge that comes in"):
        together = jax.vmap(lambda key: graphs.fastrp(TOPOLOGY, key, 8))(keys)
    for key, found in zip(keys, together, strict=True):
        np.testing.assert_allclose(found, embed(key=key), rtol=1e-4, atol=1e-5)


def test_gradients_to_weights_and_beta():
    with jax.enable_x64(True):
        r = jnp.asarray(RNG.standard_normal((N, 70)))
        target = jnp.asarray(RNG.standard_normal((N, 70)))

        @jax.jit
        def loss(weights, beta):
            x = graphs.fastrp(LINKED, KEY, 70, weights=weights, beta=beta, init=r, standardise=True)
            return jnp.mean(jnp.square(x - target)) + jnp.mean(jnp.sin(x))

        arguments = (jnp.array([0.0, 1.0, 3.0]), jnp.asarray(-0.4))
        # Central differences of step 1e-4 in float64 are good to about 1e-7.
        jax.test_util.check_grads(loss, arguments, order=1, modes=("rev",), rtol=1e-5, eps=1e-4)
        slopes = jax.jit(jax.grad(loss))(*arguments)
        assert float(jnp.abs(slopes[0])) > 0  # a weight of 0 has a slope when it is traced


def test_a_gradient_step_tunes_beta():
    """Towards the embedding that another beta made."""
    target = graphs.fastrp(LINKED, KEY, 8, beta=-0.9)

    @jax.jit
    def loss(beta):
        return jnp.mean(jnp.square(graphs.fastrp(LINKED, KEY, 8, beta=beta) - target))

    step = jax.jit(lambda beta: beta - 0.3 * jnp.clip(jax.grad(loss)(beta), -0.5, 0.5))
    beta = jnp.asarray(-0.3)
    start = loss(beta)
    for _ in range(40):
        beta = step(beta)
    assert loss(beta) < 0.1 * start
    assert abs(beta + 0.9) < 0.15


def test_a_graph_that_grows_keeps_its_coordinates():
    options = {"beta": 0.0, "density": 0.2, "standardise": False, "width": 8}
    small = graphs.topology.from_edges([[i, (i + 1) % 12] for i in range(12)], 12)
    more = [[i, (i + 1) % 12] for i in range(12)] + [[12 + i, 12 + (i + 1) % 9] for i in range(9)]
    grown = graphs.topology.from_edges(more, 21)
    found = [graphs.fastrp(each, KEY, **options) for each in (small, grown)]
    np.testing.assert_allclose(found[1][:12], found[0], rtol=1e-6)


def test_masked_edges_do_not_count():
    base = graphs.topology.from_edges(EDGES, N, undirected=False)
    keep = jnp.asarray(np.asarray(base.order) % 3 > 0)
    masked = graphs.topology.mask_edges(base, keep)
    kept = graphs.topology.from_edges(EDGES[np.arange(400) % 3 > 0], N, undirected=False)
    with pytest.warns(UserWarning, match="no edge that comes in") as warned:
        a, b = (graphs.fastrp(each, KEY, 8) for each in (masked, kept))
    assert str(warned[0].message) == str(warned[1].message)
    np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)


def test_constant_columns_become_0():
    ring = graphs.topology.from_edges([[i, (i + 1) % 10] for i in range(10)], 10)
    x = jnp.concatenate([jnp.full((10, 1), 3.7), jnp.eye(10)[:, :1]], axis=1)
    found = graphs.fastrp(ring, KEY, 2, init=x, weights=(1.0, 0.3))
    np.testing.assert_array_equal(found[:, 0], 0.0)
    np.testing.assert_allclose(found[:, 1].std(), 1.0, rtol=1e-5)


def test_similarity_and_its_transpose():
    a = adjacency()
    x = jnp.asarray(RNG.standard_normal((N, 5)), jnp.float32)
    options = {"weights": (1.0, 2.0), "beta": -0.3}

    def product(x):
        return graphs.similarity_product(TOPOLOGY, x, **options)

    dense = by_formula(np.eye(N), options["weights"], options["beta"])
    y, pull = jax.vjp(product, x)
    np.testing.assert_allclose(y, dense @ np.float64(x), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(pull(x)[0], dense.T @ np.float64(x), rtol=1e-4, atol=1e-4)
    assert a.sum() > 0


def test_refusals():
    negative = graphs.topology.from_edges(EDGES, N, edge_weight=np.full(400, -1.0))
    x = jnp.zeros((N, 8))
    for call, match in (
        (lambda: graphs.fastrp(TOPOLOGY, KEY, 0), "width=0"),
        (lambda: graphs.fastrp(TOPOLOGY, KEY, 91), "width=91 .* number of nodes, 90"),
        (lambda: graphs.fastrp(negative, KEY, 8), "negative weight -1"),
        (lambda: graphs.fastrp(LINKED, KEY, 8, weights=()), "one a power"),
        (lambda: graphs.fastrp(LINKED, KEY, 8, weights=(0.0, 0.0)), "all 0"),
        (lambda: graphs.fastrp(LINKED, KEY, 8, weights=[[1.0]]), "one a power"),
        (lambda: graphs.fastrp(LINKED, KEY, 8, init=x[:, :3]), r"init has shape \(90, 3\)"),
        (lambda: graphs.fastrp(LINKED, KEY, 8, init=x.astype(jnp.int32)), "int32"),
        (lambda: graphs.fastrp(LINKED, KEY, 8, projection="dense"), "kind='dense'"),
        (lambda: graphs.fastrp(LINKED, KEY, 8, combine="mean"), "combine='mean'"),
        (lambda: graphs.fastrp(LINKED, KEY, 8, matrix="laplacian"), "matrix='laplacian'"),
        (lambda: graphs.similarity_product(TOPOLOGY, x[:3]), "x has shape"),
    ):
        with pytest.raises(ValueError, match=match):
            call()
