"""Parts of the experiment on topological concentration that its smoke preset cannot hold to."""

import types

import numpy as np
import pytest

from experiments.graphs import topological_concentration as experiment
from trove_jax import data

LINKS = np.stack(np.triu_indices(12, 7), axis=1)


def test_queries_have_targets_and_leave_known_links_out():
    split = data.split_links(LINKS, 12, validation=0.2, test=0.2, seed=0)
    config = types.SimpleNamespace(queries=50)
    queries, padded, (targets, excluded) = experiment._queries(config, split, 12, seed=0)
    assert set(queries.tolist()) == set(split.test.ravel().tolist())
    assert padded.shape == (12,)
    known = np.concatenate([split.train, split.validation])
    for row, node in enumerate(queries.tolist()):
        own = {b if a == node else a for a, b in split.test.tolist() if node in (a, b)}
        assert set(np.flatnonzero(targets[row])) == own
        out = {b if a == node else a for a, b in known.tolist() if node in (a, b)}
        assert set(np.flatnonzero(excluded[row])) == out | {node}
    assert not targets[len(queries) :].any()


def test_bins_are_means_in_the_order_of_the_measure():
    values, f1 = np.arange(20.0)[::-1], np.arange(20.0)
    expected = 100 * np.array([18.5 - 2 * i for i in range(10)])
    np.testing.assert_allclose(experiment._in_bins(values, f1), expected)


def test_a_measure_that_does_not_vary_has_no_correlation():
    assert experiment._pearson(np.ones(4), np.arange(4.0)) == 0.0
    assert experiment._pearson(np.arange(4.0), -np.arange(4.0)) == pytest.approx(-1.0)


def test_claims_compare_arms_that_laptop_has():
    config = experiment.get_config("laptop")
    kinds = ["gcn", "reweighted", *experiment._MEASURES]
    kinds += ["training_neighbours", "test_neighbours"]
    arms = {f"{name}_{kind}" for name in config.sets for kind in kinds}
    for claim in experiment.CLAIMS:
        assert {claim.treatment, claim.baseline} <= arms
    assert len({claim.id for claim in experiment.CLAIMS}) == len(experiment.CLAIMS)
