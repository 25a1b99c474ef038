"""Exact selection against NumPy's stable sort."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trove_jax.transforms.selection import magnitude_keys, select_smallest


def _reference(keys, eligible, count):
    order = np.lexsort((np.arange(keys.size), keys))
    order = order[eligible[order]]
    marks = np.zeros(keys.size, bool)
    marks[order[:count]] = True
    return marks


@jax.jit
def _select_one(keys, eligible, count):
    return select_smallest([keys], [eligible], count[None], groups=[0])[0]


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 2**31 - 1),
    distinct=st.sampled_from([1, 2, 5, 2**31 - 1]),
    count=st.integers(0, 40),
)
def test_equals_a_stable_sort(seed, distinct, count):
    rng = np.random.default_rng(seed)
    keys = rng.integers(0, distinct, size=37).astype(np.uint32)
    eligible = rng.random(37) < 0.7
    got = _select_one(keys, eligible, np.int32(count))
    np.testing.assert_array_equal(got, _reference(keys, eligible, count))


def test_groups_are_ranked_apart_and_leaves_of_a_group_together():
    rng = np.random.default_rng(0)
    keys = [rng.integers(0, 4, size=n).astype(np.uint32) for n in (9, 1, 12, 6)]
    eligible = [rng.random(k.size) < 0.8 for k in keys]
    got = select_smallest(
        [jnp.asarray(k) for k in keys],
        [jnp.asarray(e) for e in eligible],
        jnp.array([7, 3]),
        groups=[0, 1, 0, 1],
    )
    for members, count in (((0, 2), 7), ((1, 3), 3)):
        want = _reference(
            np.concatenate([keys[i] for i in members]),
            np.concatenate([eligible[i] for i in members]),
            count,
        )
        np.testing.assert_array_equal(np.concatenate([got[i] for i in members]), want)


def test_whole_ties_go_together():
    keys = jnp.array([5, 1, 2, 2, 2, 9], jnp.uint32)
    everyone = [jnp.ones(6, bool)]
    got = select_smallest([keys], everyone, jnp.array([2]), groups=[0], whole_ties=True)[0]
    np.testing.assert_array_equal(got, [False, True, True, True, True, False])
    none = select_smallest([keys], everyone, jnp.array([0]), groups=[0], whole_ties=True)[0]
    assert not none.any()


def test_more_than_there_are_marks_all_that_are_eligible():
    eligible = jnp.array([True, False, True])
    got = select_smallest([jnp.zeros(3, jnp.uint32)], [eligible], jnp.array([9]), groups=[0])[0]
    np.testing.assert_array_equal(got, eligible)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.float16, jnp.bfloat16])
def test_keys_are_ordered_as_magnitudes(dtype):
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.normal(size=500) * 10.0 ** rng.integers(-3, 3, 500), dtype)
    special = jnp.asarray([0.0, -0.0, jnp.inf, -jnp.inf], dtype)
    x = jnp.concatenate([x, special])
    keys, size = np.asarray(magnitude_keys(x), np.int64), np.abs(np.asarray(x, np.float64))
    pairs = rng.integers(0, x.size, (2000, 2))
    ordered = np.sign(keys[pairs[:, 0]] - keys[pairs[:, 1]])
    a, b = size[pairs[:, 0]], size[pairs[:, 1]]
    np.testing.assert_array_equal(ordered, (a > b).astype(int) - (a < b).astype(int))
    assert int(magnitude_keys(jnp.asarray([jnp.nan], dtype))[0]) > keys.max()


def test_other_dtypes_are_refused():
    with pytest.raises(ValueError, match="dtype int32") as error:
        magnitude_keys(jnp.ones(3, jnp.int32))
    assert "float32" in str(error.value)
