"""Ranking measures against scikit-learn, loops and closed forms."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.metrics import ndcg_score, roc_auc_score

from trove_jax import core

measures = jax.jit(
    lambda p, n: (core.auc(p, n), core.hits_at_k(p, n, 5), core.mean_reciprocal_rank(p, n))
)
per_node = jax.jit(functools.partial(core.node_ranking, k=4))


def scores(seed, *, ties):
    rng = np.random.default_rng(seed)
    drawn = rng.normal(size=70).astype(np.float32)
    drawn = np.round(2 * drawn) / 2 if ties else drawn
    return jnp.asarray(drawn[:30]), jnp.asarray(drawn[30:])


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("seed", range(3))
def test_measures_of_pairs_equal_scikit_learn_and_loops(seed, ties):
    positive, negative = scores(seed, ties=ties)
    found = measures(positive, negative)
    labels = np.repeat([1, 0], [30, 40])
    expected_auc = roc_auc_score(labels, np.concatenate([positive, negative]))
    best = sorted(np.asarray(negative).tolist(), reverse=True)
    hits = np.mean([p > best[4] for p in positive.tolist()])
    ranks = [
        1 + sum(n > p for n in best) + sum(n == p for n in best) / 2 for p in positive.tolist()
    ]
    expected = [expected_auc, hits, np.mean(1 / np.array(ranks))]
    np.testing.assert_allclose(found, expected, rtol=1e-5)  # Means in float32.


def test_own_negatives_of_each_positive_equal_common_ones_where_these_agree():
    positive, negative = scores(7, ties=True)
    own = jnp.tile(negative[None], (30, 1))
    np.testing.assert_allclose(
        core.mean_reciprocal_rank(positive, own),
        core.mean_reciprocal_rank(positive, negative),
        rtol=1e-6,
    )


def test_one_score_for_all_gains_nothing():
    same = jnp.ones(8)
    assert core.auc(same, same) == 0.5
    assert core.hits_at_k(same, same, 8) == 0.0
    assert core.hits_at_k(same, same, 9) == 1.0


def test_a_nan_is_never_a_rank():
    positive, negative = scores(0, ties=False)
    for found in measures(positive.at[3].set(jnp.nan), negative):
        assert jnp.isnan(found)
    for found in measures(positive, negative.at[3].set(jnp.nan)):
        assert jnp.isnan(found)


def test_lists_of_nodes_equal_a_loop():
    rng = np.random.default_rng(3)
    table = rng.permuted(np.tile(np.arange(15.0), (6, 1)), axis=1).astype(np.float32)
    targets, excluded = rng.random((6, 15)) < 0.3, rng.random((6, 15)) < 0.2
    targets[2] = False
    excluded[4] = targets[4]
    found = per_node(*map(jnp.asarray, (table, targets, excluded)))
    for query in range(6):
        listed = [i for i in np.argsort(-table[query]) if not excluded[query, i]]
        wanted = {i for i in np.flatnonzero(targets[query]) if not excluded[query, i]}
        got = [i in wanted for i in listed]
        hits = sum(got[:4])
        assert bool(found.is_valid[query]) == bool(wanted)
        first = got.index(True) + 1 if wanted else np.inf
        recall, precision = hits / max(len(wanted), 1), hits / 4
        f1 = 2 * recall * precision / (recall + precision) if hits else 0.0
        gain = 0.0
        if len(wanted) > 0:
            gain = ndcg_score([got], [-np.arange(len(got), dtype=float)], k=4)
        expected = (recall, precision, f1, gain, float(hits > 0), 1 / first)
        np.testing.assert_allclose([m[query] for m in found[:6]], expected, rtol=1e-5)
    assert not bool(found.is_valid[2])
    assert not bool(found.is_valid[4])


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda x: core.hits_at_k(x, x, 0), "k=0 must be at least 1"),
        (lambda x: core.auc(x[:0], x), r"positive is float32 \[0\]"),
        (lambda x: core.auc(x, x.astype(jnp.bfloat16)), "negative bfloat16"),
        (lambda x: core.mean_reciprocal_rank(x, jnp.ones((2, 3))), r"negative has shape \[2, 3\]"),
        (lambda x: core.node_ranking(x, x > 0), r"scores is float32 \[4\]"),
        (lambda x: core.node_ranking(x[None], x[None]), "targets is float32"),
        (lambda x: core.node_ranking(x[None], x[None] > 0, k=5), "k=5 is not between 1"),
    ],
)
def test_what_cannot_be_ranked_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call(jnp.arange(4.0))
