"""The grid of depths against dense matrices, and its corners against the networks they are."""

import jax
import numpy as np
import pytest

from trove_jax import graphs, layers, models

N, D, HIDDEN, CLASSES = 10, 6, 4, 3
EDGES = np.array([[0, 1], [1, 2], [2, 3], [3, 0], [4, 5], [5, 6], [7, 8]])
TOPOLOGY = graphs.topology.from_edges(EDGES, N, **models.DepthGrid.TOPOLOGY)
X = jax.random.normal(jax.random.key(0), (N, D))
SIZES = {"hidden": HIDDEN, "classes": CLASSES}


def dense_adjacency():
    a = np.eye(N)
    for i, j in EDGES:
        a[i, j] = a[j, i] = 1.0
    scale = a.sum(1) ** -0.5
    return scale[:, None] * a * scale


def by_matrices(params, hops, skip):
    a, h, seen = dense_adjacency(), np.float64(X), []
    for i, count in enumerate(hops):
        kernel = np.float64(params[f"layer_{i}"]["kernel"])
        z = np.linalg.matrix_power(a, count) @ h @ kernel + np.float64(params[f"bias_{i}"])
        if i < len(hops) - 1:
            z = np.maximum(z, 0.0)
            if skip == "res" and seen:
                z = z + seen[-1]
            if skip == "dense" and seen:
                z = z + sum(seen)
            seen.append(z)
        h = z
    return h


@pytest.mark.parametrize(
    ("dp", "dt", "skip", "hops"),
    [
        (4, 4, None, [1, 1, 1, 1]),
        (4, 4, "res", [1, 1, 1, 1]),
        (4, 4, "dense", [1, 1, 1, 1]),
        (5, 2, None, [3, 2]),
        (6, 3, "res", [2, 2, 2]),
        (3, 1, None, [3]),
        (0, 3, "res", [0, 0, 0]),
    ],
)
def test_equals_dense_matrices(dp, dt, skip, hops):
    model = models.DepthGrid(dp, dt, skip=skip, **SIZES)
    assert model.hops() == hops
    y, variables = jax.jit(model.init_with_output)(jax.random.key(1), TOPOLOGY, X)
    expected = by_matrices(variables["params"], hops, skip)
    np.testing.assert_allclose(y, expected, rtol=1e-4, atol=1e-5)


def test_equal_depths_are_a_gcn_and_the_topology_matters():
    grid = models.DepthGrid(2, 2, **SIZES)
    variables = grid.init(jax.random.key(1), TOPOLOGY, X)
    p = variables["params"]
    gcn = {
        "convs_0": {"linear": {"kernel": p["layer_0"]["kernel"]}, "bias": p["bias_0"][0]},
        "output": {"linear": {"kernel": p["layer_1"]["kernel"]}, "bias": p["bias_1"][0]},
    }
    found = models.gcn(**SIZES).apply({"params": gcn}, TOPOLOGY, X)
    np.testing.assert_allclose(grid.apply(variables, TOPOLOGY, X), found, rtol=1e-5, atol=1e-6)


def test_dgmlp_is_a_residual_perceptron_on_rows():
    model = models.DGMLP(depth=3, **SIZES)
    y, variables = model.init_with_output(jax.random.key(2), None, X)
    p = jax.tree.map(np.float64, variables["params"]["ResidualMLP_0"])

    def dense(name, h):
        return h @ p[name]["kernel"] + p[name]["bias"]

    h = np.maximum(dense("hidden_0", np.float64(X)), 0.0)
    h = np.maximum(dense("hidden_1", h), 0.0) + h
    np.testing.assert_allclose(y, dense("output", h), rtol=1e-4, atol=1e-6)
    # Rows do not see each other, so that any batch of them is the same.
    np.testing.assert_allclose(model.apply(variables, None, X[3:5]), y[3:5], rtol=1e-5, atol=1e-6)
    linear, one = models.DGMLP(**SIZES).init_with_output(jax.random.key(2), None, X)
    kernel = one["params"]["ResidualMLP_0"]["output"]["kernel"]
    np.testing.assert_allclose(linear, X @ kernel, rtol=1e-5, atol=1e-6)


def test_dense_skips_of_the_perceptron_add_all_earlier_layers():
    model = layers.ResidualMLP(CLASSES, HIDDEN, depth=4, skip="dense")
    y, variables = model.init_with_output(jax.random.key(3), X)
    p, seen, h = variables["params"], [], X
    for i in range(3):
        h = jax.nn.relu(h @ p[f"hidden_{i}"]["kernel"] + p[f"hidden_{i}"]["bias"][None])
        h = sum(seen, h)
        seen.append(h)
    expected = h @ p["output"]["kernel"] + p["output"]["bias"][None]
    np.testing.assert_allclose(y, expected, rtol=1e-5, atol=1e-6)


def test_dropout_draws_in_training_alone():
    model = models.DGMLP(dropout=0.5, **SIZES)
    variables = model.init(jax.random.key(0), None, X)
    a, b = (
        model.apply(variables, None, X, train=True, rngs={"dropout": jax.random.key(i)})
        for i in range(2)
    )
    assert not np.allclose(a, b)
    model.apply(variables, None, X)  # asks for no key


@pytest.mark.parametrize(
    ("make", "match"),
    [
        (lambda: models.DepthGrid(-1, 2), "dp=-1"),
        (lambda: models.DepthGrid(1, 0), "dt=0"),
        (lambda: models.DepthGrid(1, 2, skip="add"), "skip='add'"),
        (lambda: models.DGMLP(depth=0), "depth=0"),
        (lambda: models.DGMLP(skip="add"), "skip='add'"),
    ],
)
def test_refusals(make, match):
    with pytest.raises(ValueError, match=match):
        make().init(jax.random.key(0), TOPOLOGY, X)
