"""ListOps, evaluated by a machine with a stack that knows nothing of how it was drawn."""

import collections
import statistics

import jax
import numpy as np
import pytest

from trove_jax import data

SETTINGS = {"train": 1500, "validation": 200, "test": 200, "max_depth": 4, "max_args": 5,
            "min_length": 4, "max_length": 40}  # fmt: skip
FUNCTIONS = {
    "[MIN": min,
    "[MAX": max,
    "[MED": lambda values: int(statistics.median(values)),
    "[SM": lambda values: sum(values) % 10,
}


def words(row):
    return [data.LISTOPS_TOKENS[token] for token in row if token]


def evaluate(expression):
    """The value, the deepest nesting, and how many values each operation had."""
    stack, deepest, counts = [[]], 0, []
    for word in expression:
        if word in FUNCTIONS:
            stack.append([word])
            deepest = max(deepest, len(stack) - 1)
        elif word == "]":
            name, *values = stack.pop()
            counts.append(len(values))
            stack[-1].append(FUNCTIONS[name](values))
        else:
            stack[-1].append(int(word))
    ((value,),) = stack
    return value, deepest, counts


@pytest.fixture(scope="module")
def drawn():
    return data.listops(jax.random.key(5), **SETTINGS)


def test_labels_are_the_values(drawn):
    assert (drawn.vocabulary, drawn.outputs) == (16, 10)
    deepest, counts, labels = 0, set(), collections.Counter()
    for name in ("train", "validation", "test"):
        part = getattr(drawn, name)
        assert part["tokens"].shape == (SETTINGS[name], 40)
        np.testing.assert_array_equal(part["mask"], part["tokens"] != 0)
        assert (np.diff(part["mask"].astype(int), axis=1) <= 0).all()
        for row, label in zip(part["tokens"], part["label"], strict=True):
            expression = words(row)
            assert 4 <= len(expression) <= 40
            value, depth, values = evaluate(expression)
            assert value == label
            deepest = max(deepest, depth)
            counts.update(values)
            labels[value] += 1
    # Three levels of operations over one of digits, of two to five values.
    assert deepest == 3
    assert counts == {2, 3, 4, 5}
    assert set(labels) == set(range(10))


def test_no_expression_occurs_twice(drawn):
    rows = np.concatenate([drawn.train["tokens"], drawn.validation["tokens"], drawn.test["tokens"]])
    assert len(np.unique(rows, axis=0)) == len(rows)


def test_operations_and_digits_are_drawn_evenly():
    # Flat expressions of two digits: all operations and digits are as likely as each other.
    flat = data.listops(
        jax.random.key(1), train=300, validation=0, test=0, max_depth=2, max_args=2,
        min_length=4, max_length=4,
    )  # fmt: skip
    operations = np.bincount(flat.train["tokens"][:, 0] - 11, minlength=4)
    # 300 of the 400 expressions without replacement: a count has deviation 3.8, so 5 are 19.
    assert np.abs(operations - 75).max() <= 19
    assert (flat.train["tokens"][:, 3] == 15).all()


def test_the_key_decides_everything(drawn):
    again = data.listops(jax.random.key(5), **SETTINGS)
    np.testing.assert_array_equal(again.train["tokens"], drawn.train["tokens"])
    other = data.listops(jax.random.key(6), **SETTINGS)
    assert (other.train["tokens"] != drawn.train["tokens"]).any()


def test_the_published_sizes_are_long_expressions():
    long = data.listops(jax.random.key(0), train=2, validation=1, test=0)
    for row, label in zip(long.train["tokens"], long.train["label"], strict=True):
        expression = words(row)
        assert 500 <= len(expression) <= 2000
        assert evaluate(expression)[0] == label


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"train": -1}, "train=-1"),
        ({"max_args": 1}, "max_args=1, want an integer of 2 or more"),
        ({"min_length": 50}, "min_length=50 is above max_length=40"),
        ({"max_depth": 2, "max_length": 4, "train": 401}, "train=401 cannot be drawn: 400 expr"),
    ],
)
def test_what_cannot_be_drawn_is_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        data.listops(jax.random.key(0), **{**SETTINGS, **changes})
