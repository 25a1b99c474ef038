"""Parts of the experiment on neural common neighbours that its smoke preset cannot hold to."""

import types

import jax
import numpy as np
import pytest

from experiments.graphs import _common_neighbours as networks
from experiments.graphs import neural_common_neighbor as experiment
from trove_jax import core

N = 12
LINKS = np.stack(np.triu_indices(N, 5), axis=1)


def test_deleted_links_are_in_neither_graph_nor_batches():
    whole, fewer = (networks.data_of(LINKS, N, None, 2, deleted=share) for share in (0.0, 0.5))
    like = jax.tree.map(np.shape, whole)
    assert jax.tree.map(np.shape, fewer) == like  # One program serves both.
    for seed in range(2):
        own, all_of_it = (
            networks.own_split({"split": {"number": seed}}, data.shared) for data in (fewer, whole)
        )
        for name in ("train", "test", "test_negatives", "validation", "validation_negatives"):
            np.testing.assert_array_equal(own[name], all_of_it[name])
        count = len(own["train"])
        kept = set(np.asarray(own["kept"]).tolist())
        assert len(kept) == count - count // 2
        assert len(own["kept"]) == count
        assert set(np.asarray(all_of_it["kept"]).tolist()) == set(range(count))
        topology = own["topology"]
        seen = set(np.asarray(topology.order)[np.asarray(topology.edge_mask)].tolist())
        assert seen == kept | {-1}
        held = {tuple(row) for row in np.asarray(own["test"]).tolist()}
        assert not held & {tuple(row) for row in np.asarray(own["train"]).tolist()}


def test_a_batch_without_a_step_is_refused():
    config = types.SimpleNamespace(batches=0)
    with pytest.raises(core.UsageError, match="a pass would take no step"):
        experiment._batch(config, "cora", 1000)
    assert experiment._batch(types.SimpleNamespace(batches=4), "cora", 1003) == (250, 4)


def test_gaps_are_differences_on_the_same_split():
    config = types.SimpleNamespace(deleted_set="cora", deleted=(20,), kinds=("ncn", "ncnc"))
    arms = {
        "cora_ncn": {"hits": [50.0, 60.0]},
        "cora_ncnc": {"hits": [51.0, 59.0]},
        "cora_ncn_20": {"hits": [40.0, 45.0]},
        "cora_ncnc_20": {"hits": [44.0, 45.5]},
    }
    counts = {("cora", 0): np.array([2.0, 3.0]), ("cora", 20): np.array([1.0, 1.5])}
    found = experiment._sweep(config, arms, counts)
    assert arms["cora_gap_00"] == {"gap": [1.0, -1.0]}
    assert arms["cora_gap_20"] == {"gap": [4.0, 0.5]}
    np.testing.assert_array_equal(found["ncnc"], [[51.0, 44.0], [59.0, 45.5]])
    np.testing.assert_array_equal(found["common_neighbours"], [[2.0, 1.0], [3.0, 1.5]])


def test_claims_compare_arms_that_laptop_has():
    config = experiment.get_config("laptop")
    arms = {
        experiment._stage(name, kind, deleted)
        for name, kinds, deleted in experiment._jobs(config)
        for kind in kinds
    }
    arms |= {f"{name}_{kind}" for name in config.sets for kind in config.heuristics}
    arms |= {f"{config.deleted_set}_gap_{share:02d}" for share in (0, *config.deleted)}
    for claim in experiment.CLAIMS:
        assert {claim.treatment, claim.baseline} <= arms


def test_encoder_and_head_have_their_own_learning_rates():
    tx = networks._two_rates(0.5, 0.25)
    params = {"head": np.zeros(2), "encoder": np.zeros(2), "table": np.zeros(2)}
    ones = jax.tree.map(np.ones_like, params)
    with jax.numpy_dtype_promotion("standard"):  # optax's own code mixes dtypes
        updates, _ = tx.update(ones, tx.init(params))
    # Adam's first step is as long as its learning rate.
    np.testing.assert_allclose(updates["head"], -0.25, rtol=1e-5)
    np.testing.assert_allclose(updates["encoder"], -0.5, rtol=1e-5)
    np.testing.assert_allclose(updates["table"], -0.5, rtol=1e-5)
