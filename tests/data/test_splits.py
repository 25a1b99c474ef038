"""Stratified splits."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trove_jax import data


@settings(max_examples=60, deadline=None)
@given(
    labels=st.lists(st.integers(0, 6), min_size=1, max_size=80),
    share=st.floats(0, 1),
    seed=st.integers(0, 2**32 - 1),
)
def test_parts_are_disjoint_whole_and_in_proportion(labels, share, seed):
    labels = np.array(labels)
    size = round(share * len(labels))
    rest, held = data.stratified_split(labels, size=size, seed=seed)
    assert len(held) == size
    assert sorted([*rest, *held]) == list(range(len(labels)))
    for c in range(7):
        exact = size * (labels == c).sum() / len(labels)
        assert abs((labels[held] == c).sum() - exact) < 1
    again = data.stratified_split(labels, size=size, seed=seed)
    np.testing.assert_array_equal(again[0], rest)
    np.testing.assert_array_equal(again[1], held)


def test_the_draw_is_frozen():
    labels = np.repeat([0, 1], 5)
    rest, held = data.stratified_split(labels, size=4, seed=0)
    order = np.random.RandomState(0).permutation(10).tolist()
    assert order == [2, 8, 4, 9, 1, 6, 7, 3, 0, 5]
    assert held.tolist() == [2, 8, 4, 9]
    assert rest.tolist() == [1, 6, 7, 3, 0, 5]


def test_seeds_differ_and_every_example_is_drawn_in_turn():
    labels = np.arange(100) % 10
    drawn = [data.stratified_split(labels, size=20, seed=seed)[1] for seed in range(60)]
    assert len({tuple(sorted(part)) for part in drawn}) == 60
    # Each example is missed with probability 0.8^60 = 1.5e-6; 100 examples: 1.5e-4.
    assert len(np.unique(np.concatenate(drawn))) == 100


def test_largest_remainders_get_what_is_missing():
    labels = np.array([0] * 5 + [1] * 3 + [2] * 2)
    _, held = data.stratified_split(labels, size=5, seed=3)
    # Exact shares 2.5, 1.5, 1: the two halves tie and the earlier class wins.
    assert np.bincount(labels[held]).tolist() == [3, 1, 1]


@pytest.mark.parametrize("size", [-1, 4])
def test_split_refuses_impossible_sizes(size):
    with pytest.raises(ValueError, match=f"size={size} is not between 0 and the 3"):
        data.stratified_split(np.array([0, 1, 1]), size=size, seed=0)


@pytest.mark.parametrize("labels", [np.zeros((3, 2), int), np.zeros(3)])
def test_split_refuses_other_labels(labels):
    with pytest.raises(ValueError, match="expected integers"):
        data.stratified_split(labels, size=1, seed=0)


def test_holdout_keeps_examples_whole():
    train = data.load_images("digits").train
    rest, held = data.holdout(train, fraction=0.1, seed=4)
    assert (len(rest["label"]), len(held["label"])) == (1293, 144)
    assert held["image"].shape == (144, 8, 8, 1)
    assert held["image"].dtype == np.uint8
    share = np.bincount(held["label"]) - 0.1 * np.bincount(train["label"])
    assert np.abs(share).max() < 1.1
    pairs = {(image.tobytes(), int(label)) for image, label in zip(*train.values(), strict=True)}
    assert len(pairs) == len(train["label"]), "digits has no doubles, so a set tells them apart"
    parts = [
        {(image.tobytes(), int(label)) for image, label in zip(*part.values(), strict=True)}
        for part in (rest, held)
    ]
    assert parts[0] | parts[1] == pairs
    assert not parts[0] & parts[1]


@pytest.mark.parametrize("fraction", [0.0, 1.0, -0.5, 1e-6])
def test_holdout_refuses_empty_parts(fraction):
    examples = {"image": np.zeros((10, 2)), "label": np.arange(10) % 2}
    with pytest.raises(ValueError, match=f"fraction={fraction}"):
        data.holdout(examples, fraction=fraction, seed=0)
