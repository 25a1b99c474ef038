"""Link splits: every link once, and no negative that is a link."""

import networkx as nx
import numpy as np
import pytest

from trove_jax import data


def codes(pairs):
    return set(map(tuple, np.asarray(pairs).tolist()))


@pytest.mark.parametrize("probability", [0.05, 0.7])
def test_parts_are_the_graph_and_negatives_its_complement(probability):
    graph = nx.gnp_random_graph(40, probability, seed=1)
    links = np.array(graph.edges)
    messy = np.concatenate([links, links[:5, ::-1], links[:2], [[3, 3]]])
    found = data.split_links(messy, 40, validation=0.1, test=0.2, seed=4)
    parts = [found.train, found.validation, found.test]
    assert [len(part) for part in parts[1:]] == [int(0.1 * len(links)), int(0.2 * len(links))]
    assert sum(map(len, parts)) == len(links)
    assert codes(np.concatenate(parts)) == {(min(e), max(e)) for e in graph.edges}
    assert found.dropped == 8
    negatives = np.concatenate([found.validation_negatives, found.test_negatives])
    assert [len(found.validation_negatives), len(found.test_negatives)] == [
        len(found.validation),
        len(found.test),
    ]
    assert len(codes(negatives)) == len(negatives)
    assert (negatives[:, 0] < negatives[:, 1]).all()
    assert codes(negatives) <= {(min(e), max(e)) for e in nx.complement(graph).edges}


def test_a_seed_fixes_the_split_and_another_changes_it():
    links = np.array(nx.cycle_graph(50).edges)
    first, again, other = (data.split_links(links, 50, seed=seed) for seed in (0, 0, 1))
    np.testing.assert_array_equal(first.test, again.test)
    np.testing.assert_array_equal(first.test_negatives, again.test_negatives)
    assert codes(first.test) != codes(other.test)


def test_negatives_are_uniform_over_pairs():
    """Of 4,950 - 100 pairs, those with node 0 are 97: a count of 20 draws of 30 is binomial."""
    links = np.array(nx.cycle_graph(100).edges)
    drawn = [data.split_links(links, 100, validation=0.1, seed=seed) for seed in range(40)]
    pairs = np.concatenate([np.r_[d.validation_negatives, d.test_negatives] for d in drawn])
    expected = len(pairs) * 97 / 4850
    # Five deviations: a false alarm in two million.
    assert abs((pairs == 0).any(axis=1).sum() - expected) < 5 * expected**0.5


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"edges": np.zeros((3, 3), np.int32)}, r"edges is int32 \[3, 3\]"),
        ({"edges": np.zeros((3, 2))}, "edges is float64"),
        ({"n_node": 5}, "edges names node 9"),
        ({"test": 0.9}, "leave no links to train"),
        ({"validation": -0.1}, "leave no links to train"),
        ({"negatives": -1.0}, "negatives=-1.0 is negative"),
        ({"negatives": 20.0}, "only 35 pairs have no link"),
    ],
)
def test_what_cannot_be_split_is_refused(changes, message):
    given = {"edges": np.array(nx.cycle_graph(10).edges), "n_node": 10, **changes}
    with pytest.raises(ValueError, match=message):
        data.split_links(given.pop("edges"), given.pop("n_node"), seed=0, **given)
