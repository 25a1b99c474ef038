"""Drawn keys: what the laws keep, where padding goes, and the same draws however asked for."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from trove_jax.kernels import (
    locally_biased_permutation,
    product_permutation_2d,
    unbiased_subset,
    window_order,
)

KEY = jax.random.key(0)
LENGTHS = jnp.array([12, 7, 1], jnp.int32)


def permute(key, sigma, lengths=None):
    return locally_biased_permutation(key, 12, sigma, lengths=lengths)


def choose(key, lengths=None):
    return unbiased_subset(key, 12, 5, lengths=lengths)


@pytest.mark.parametrize("noise", ["normal", "uniform", jax.random.cauchy])
def test_every_position_has_one_rank(noise):
    """So windows are balanced: each holds w keys, and each key is in one."""
    perm = locally_biased_permutation(KEY, 60, 9.0, noise=noise)
    assert perm.dtype == jnp.int32
    assert sorted(perm.tolist()) == list(range(60))
    assert perm.tolist() != list(range(60))


def test_order_is_that_of_places_with_noise():
    """The card's argsort in NumPy, from the same noise."""
    noise = np.asarray(jax.random.normal(KEY, (12,)))
    np.testing.assert_array_equal(permute(KEY, 4.0), np.argsort(np.arange(12) + 4.0 * noise))


def test_uniform_noise_has_the_same_spread():
    """Variance 1, and at most sqrt 3: no position moves further than 2 sqrt 3 sigma."""
    perm = locally_biased_permutation(KEY, 4000, 10.0, noise="uniform")
    moved = np.abs(np.asarray(perm) - np.arange(4000))
    assert 20 < moved.max() <= 2 * 3**0.5 * 10 + 1


def test_no_spread_is_no_change_and_a_wide_one_forgets_places():
    np.testing.assert_array_equal(permute(KEY, 0.0), np.arange(12))
    firsts = jax.vmap(lambda key: permute(key, 1e4)[0])(jax.random.split(KEY, 2400))
    counts = np.bincount(np.asarray(firsts), minlength=12)
    # Each of 12 counts has mean 200 and deviation 13.5: 4.5 deviations, false alarm below 1e-4.
    assert np.abs(counts - 200).max() < 61


def test_ties_keep_their_order():
    """With noise that undoes the places, all positions tie."""
    perm = locally_biased_permutation(
        KEY, 9, 1.0, noise=lambda _, shape: -jnp.arange(shape[0], dtype=jnp.float32)
    )
    np.testing.assert_array_equal(perm, np.arange(9))


def test_padding_comes_last_in_order():
    perm = permute(KEY, 3.0, LENGTHS)
    for drawn, length in zip(np.asarray(perm), [12, 7, 1], strict=True):
        assert sorted(drawn[:length]) == list(range(length))
        np.testing.assert_array_equal(drawn[length:], np.arange(length, 12))


def test_padding_comes_last_behind_infinite_noise():
    def noise(_, shape):
        return jnp.full(shape, jnp.inf)

    perm = locally_biased_permutation(KEY, 5, 1.0, lengths=jnp.int32(3), noise=noise)
    np.testing.assert_array_equal(perm, np.arange(5))


def test_same_key_same_draw():
    """Under vmap, and for an example alone or in a batch of another size."""

    @jax.jit
    def draw(key, lengths):
        return jnp.concatenate([permute(key, 3.0, lengths), choose(key, lengths)], axis=-1)

    wanted = np.asarray(draw(KEY, LENGTHS))
    np.testing.assert_array_equal(draw(KEY, LENGTHS[:2]), wanted[:2])
    alone = [draw(jax.random.fold_in(KEY, i), LENGTHS[i]) for i in range(3)]
    np.testing.assert_array_equal(alone, wanted)
    keys = jax.random.split(KEY, 3)
    looped = [draw(key, length) for key, length in zip(keys, LENGTHS, strict=True)]
    np.testing.assert_array_equal(jax.vmap(draw)(keys, LENGTHS), looped)


def test_all_subsets_are_equally_likely():
    draws = jax.vmap(lambda key: unbiased_subset(key, 5, 2))(jax.random.split(KEY, 4000))
    drawn = [tuple(pair) for pair in np.asarray(draws).tolist()]
    counts = np.array([drawn.count(pair) for pair in itertools.combinations(range(5), 2)])
    assert counts.sum() == 4000  # ascending and distinct, all of them
    # Each of 10 counts has mean 400 and deviation 19: 4.5 deviations, false alarm below 1e-4.
    assert np.abs(counts - 400).max() < 86


def test_subset_is_of_valid_keys_first():
    subset = np.asarray(choose(KEY, LENGTHS))
    assert subset.dtype == np.int32
    assert (np.diff(subset, axis=1) > 0).all()
    assert subset[1].max() < 7
    np.testing.assert_array_equal(subset[2], np.arange(5))


def test_whole_subset_is_every_key():
    np.testing.assert_array_equal(unbiased_subset(KEY, 12, 12), np.arange(12))


def test_product_moves_whole_rows_and_columns():
    draw = jax.jit(lambda key: product_permutation_2d(key, (4, 6), (1.0, 2.0)))
    perm = np.asarray(draw(KEY)).reshape(4, 6)
    assert sorted(perm.ravel()) == list(range(24))
    assert (perm // 6 == perm[:, :1] // 6).all()
    assert (perm % 6 == perm[:1] % 6).all()
    assert perm.ravel().tolist() != list(range(24))


def test_windows_of_a_grid_are_rectangles():
    order = window_order((4, 6), (2, 3)).reshape(4, 2, 3)
    for cells, (top, left) in zip(order, [(0, 0), (0, 3), (2, 0), (2, 3)], strict=True):
        wanted = [[6 * (top + r) + left + c for c in range(3)] for r in range(2)]
        np.testing.assert_array_equal(cells, wanted)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: permute(KEY, -0.5), "sigma=-0.5 is no spread"),
        (lambda: permute(KEY, float("nan")), "sigma=nan is no spread"),
        (lambda: locally_biased_permutation(KEY, 0, 1.0), "n=0 must be at least 1"),
        (lambda: locally_biased_permutation(KEY, 3, 1.0, noise="gaussian"), "'gaussian'"),  # type: ignore[arg-type]
        (
            lambda: locally_biased_permutation(KEY, 3, 1.0, noise=lambda key, shape: jnp.ones(2)),
            r"noise returned shape \(2,\)",
        ),
        (lambda: permute(KEY, 1.0, jnp.array([3, 0])), "lengths go from 0 to 3"),
        (lambda: permute(KEY, 1.0, jnp.array([13])), "lengths go from 13 to 13"),
        (lambda: permute(KEY, 1.0, jnp.ones(2)), "dtype float32"),
        (lambda: permute(KEY, 1.0, jnp.ones((2, 1), int)), r"shape \(2, 1\)"),
        (lambda: unbiased_subset(KEY, 5, 6), "k=6 keys cannot be drawn from n=5"),
        (lambda: unbiased_subset(KEY, 5, 0), "k=0 must be at least 1"),
        (lambda: unbiased_subset(KEY, 5, 2, lengths=jnp.int32(0)), "lengths go from 0 to 0"),
        (lambda: product_permutation_2d(KEY, (4, 0), 1.0), "n=0 must be at least 1"),
        (lambda: window_order((4, 6), (2, 4)), "does not divide the 6 columns"),
    ],
)
def test_bad_arguments_are_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()
