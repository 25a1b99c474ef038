"""What the experiments on citation graphs share: splits, the decay of one layer, rows alone."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from experiments.graphs import _planetoid as planetoid
from trove_jax import core, models

SET = planetoid.load("digits")
TOPOLOGY = SET.topology(**models.DepthGrid.TOPOLOGY)
DATA = SET.data(TOPOLOGY)


def test_parts_are_apart_and_rows_sum_to_one():
    parts = [set(SET.parts[part].tolist()) for part in planetoid.PARTS]
    assert sum(map(len, parts)) == len(set.union(*parts)) == SET.n_node
    labels = SET.labels[SET.parts["train"]]
    assert np.bincount(labels).tolist() == [5] * 10
    features = planetoid.dense(SET.features)
    np.testing.assert_allclose(features.sum(axis=1), 1.0, rtol=1e-5)
    np.testing.assert_array_equal(DATA.shared["features"].dense(), features)
    assert SET.edges.shape[0] == len(np.unique(np.sort(SET.edges, axis=1), axis=0))


def test_decay_is_coupled_and_can_be_of_one_layer():
    params = {"convs_0": {"kernel": jnp.array([2.0])}, "output": {"kernel": jnp.array([3.0])}}
    gradient = jax.tree.map(jnp.zeros_like, params)

    def step(tx):
        with jax.numpy_dtype_promotion("standard"):
            updates, _ = tx.update(gradient, tx.init(params), params)
        return optax.apply_updates(params, updates)

    # Adam's first step is the learning rate against the sign of what it is given.
    both = step(planetoid.coupled_adam(0.1, 1e-2))
    np.testing.assert_allclose(both["convs_0"]["kernel"], 1.9, rtol=1e-4)
    np.testing.assert_allclose(both["output"]["kernel"], 2.9, rtol=1e-4)
    first = step(planetoid.coupled_adam(0.1, 1e-2, "convs_0"))
    np.testing.assert_allclose(first["convs_0"]["kernel"], 1.9, rtol=1e-4)
    np.testing.assert_array_equal(first["output"]["kernel"], [3.0])


def test_rows_alone_give_what_all_nodes_give():
    module = models.DGMLP(classes=10)
    data = SET.data(TOPOLOGY, jnp.asarray(planetoid.dense(SET.features)))
    kernel = jax.random.normal(jax.random.key(0), (64, 10))
    layer = {"output": {"kernel": kernel, "bias": jnp.zeros(10)}}
    variables = {"params": {"ResidualMLP_0": layer}}
    alone, whole = (
        planetoid.node_task(module, 64, keep_best=False, by_rows=by_rows).metrics(variables, data)
        for by_rows in (True, False)
    )
    assert alone.keys() == whole.keys()
    for name, value in alone.items():
        np.testing.assert_allclose(value, whole[name], rtol=1e-5)


def test_training_may_end_from_half_of_the_steps_on():
    module = models.DGMLP(classes=10)
    assert planetoid.Arm(module, 0.1, 0.0, 300, window=20).ends() == [152, 202, 252, 300]
    assert planetoid.Arm(module, 0.1, 0.0, 300).ends() == [300]
    # The rule may stop at the step after its start, which the first end must have seen.
    assert core.windowed(20, start=150).update(
        {"last": jnp.zeros(20), "seen": jnp.int32(20)}, jnp.float32(1), jnp.bool(False), 151
    )[1]


def test_refusals():
    with pytest.raises(core.UsageError, match="select='auc'"):
        planetoid.node_task(models.DGMLP(classes=10), 64, select="auc")
