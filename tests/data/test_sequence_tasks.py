"""Parity and copying, example by example from the definition."""

import jax
import numpy as np
import pytest

from trove_jax import data

PARTS = ("train", "validation", "test")


def strings(part):
    return [
        tuple(row[mask].tolist()) for row, mask in zip(part["tokens"], part["mask"], strict=True)
    ]


def whole(**settings):
    return data.parity(
        jax.random.key(3), train=6000, validation=700, test=900, max_length=12, **settings
    )


def test_parity_is_the_parity_of_the_bits():
    parts = whole()
    assert (parts.vocabulary, parts.outputs) == (3, 2)
    for name, size in zip(PARTS, (6000, 700, 900), strict=True):
        part = getattr(parts, name)
        assert {key: (x.shape, x.dtype) for key, x in part.items()} == {
            "tokens": ((size, 12), np.dtype(np.int32)),
            "mask": ((size, 12), np.dtype(bool)),
            "label": ((size,), np.dtype(np.int32)),
        }
        for string, label in zip(strings(part), part["label"], strict=True):
            assert 2 <= len(string) <= 12
            assert set(string) <= {0, 1}
            assert string.count(1) % 2 == label
        assert (part["tokens"][~part["mask"]] == 2).all()
        assert (np.diff(part["mask"].astype(int), axis=1) <= 0).all()


def test_lengths_are_uniform_and_bits_fair():
    train = whole().train
    lengths = train["mask"].sum(1)
    # 4.5 standard deviations: false alarms below 1e-4 over the eleven lengths. Which strings are
    # in the part moves the share of short lengths; from 7 on it is that of the part to 5 %.
    for length in range(7, 13):
        share = (lengths == length).mean() * 11
        assert abs(share - 1) < 4.5 * np.sqrt(11 / 6000) + 0.1
    for n in (train["tokens"] == 1).sum(), (train["tokens"] == 0).sum():
        assert abs(n / train["mask"].sum() - 0.5) < 4.5 * 0.5 / np.sqrt(train["mask"].sum()) + 0.01
    assert abs(train["label"].mean() - 0.5) < 0.05


def test_parts_share_no_string_however_short_and_training_has_short_ones():
    parts = whole()
    train, validation, test = (set(strings(getattr(parts, name))) for name in PARTS)
    assert not train & validation
    assert not train & test
    assert not validation & test
    everything = train | validation | test
    for length in range(2, 7):
        assert sum(len(string) == length for string in everything) == 2**length
        assert sum(len(string) == length for string in train) > 0.4 * 2**length


def test_the_key_decides_everything():
    a, b = whole(), whole()
    jax.tree.map(np.testing.assert_array_equal, (a.train, a.test), (b.train, b.test))
    other = data.parity(jax.random.key(4), train=6000, validation=700, test=900, max_length=12)
    assert (other.train["tokens"] != a.train["tokens"]).any()
    assert a.provenance == {
        "name": "parity",
        "source": "drawn from a key",
        "split": {"train": 6000, "validation": 700, "test": 900},
        "min_length": 2,
        "max_length": 12,
    }


def test_copies_are_as_defined():
    parts = data.copy_paste(
        jax.random.key(0), train=500, validation=40, test=60, min_length=3, max_length=6, symbols=4
    )
    assert (parts.vocabulary, parts.outputs) == (7, 7)
    lengths, seen = set(), set()
    for name, size in zip(PARTS, (500, 40, 60), strict=True):
        part = getattr(parts, name)
        assert all(x.shape == (size, 14) for x in part.values())
        for row in range(size):
            tokens = part["tokens"][row].tolist()
            n = tokens.index(5)
            s = tokens[:n]
            padding = [0] * (14 - 2 * n - 2)
            assert tokens == [*s, 5, *[0] * n, 6, *padding]
            assert part["target"][row].tolist() == [*[0] * (n + 1), *s, 6, *padding]
            assert part["mask"][row].tolist() == [True] * (2 * n + 2) + [False] * len(padding)
            lengths.add(n)
            seen.update(s)
        np.testing.assert_array_equal(part["scored"], part["target"] != 0)
    assert lengths == {3, 4, 5, 6}
    assert seen == {0, 1, 2, 3}


def test_copies_have_the_published_form_by_default():
    parts = data.copy_paste(jax.random.key(0), train=50, validation=5, test=5)
    assert parts.train["tokens"].shape == (50, 82)
    assert parts.vocabulary == 13
    assert parts.train["tokens"].max() == 12
    lengths = parts.train["mask"].sum(1) // 2 - 1
    assert lengths.min() >= 20
    assert lengths.max() <= 40


def test_a_part_may_be_empty():
    parts = data.parity(jax.random.key(0), train=5, validation=0, test=0, max_length=4)
    assert parts.validation["tokens"].shape == (0, 4)
    assert parts.train["tokens"].shape == (5, 4)
    empty = data.copy_paste(jax.random.key(0), train=0, validation=0, test=0)
    assert empty.test["target"].shape == (0, 82)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"train": -1}, "train=-1, want a number"),
        ({"test": 2.5}, "test=2.5"),
        ({"min_length": 0}, "min_length=0"),
        ({"max_length": 2.0}, "max_length=2.0"),
        ({"min_length": 8, "max_length": 7}, "min_length=8 is above max_length=7"),
        (
            {"train": 9, "validation": 1, "test": 1, "min_length": 1, "max_length": 1},
            "cannot be drawn: strings of length 1 to 1 are too few",
        ),
    ],
)
def test_bad_input_is_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        data.parity(jax.random.key(0), **settings)


@pytest.mark.parametrize("symbols", [1, 2.0])
def test_copies_of_too_few_symbols_are_refused(symbols):
    with pytest.raises(ValueError, match=f"symbols={symbols}"):
        data.copy_paste(jax.random.key(0), symbols=symbols)
