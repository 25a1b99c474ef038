"""Pooling against Flax's reduce-window, ties and NaNs included."""

import itertools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from trove_jax.layers import avg_pool, max_pool

# Few distinct values, so that most windows hold ties.
CASES = {
    "even": ((2, 6, 4, 3), (2, 2), (2, 2), "VALID"),
    "ragged": ((2, 7, 9, 3), (2, 3), (2, 3), "VALID"),
    "same, even": ((2, 6, 4, 3), (3, 2), (3, 2), "SAME"),
    "same, ragged": ((2, 7, 9, 3), (2, 3), (2, 3), "SAME"),
    "overlapping": ((2, 7, 9, 3), (3, 3), (2, 2), "VALID"),
    "stride one": ((2, 5, 5, 2), (2, 2), None, "VALID"),
    "padded": ((2, 6, 6, 2), (2, 2), (2, 2), ((1, 1), (0, 0))),
    "explicitly not padded": ((2, 6, 6, 2), (2, 2), (2, 2), ((0, 0), (0, 0))),
    "1-D": ((3, 8, 2), (4,), (4,), "VALID"),
    "3-D": ((2, 4, 4, 6, 2), (2, 2, 2), (2, 2, 2), "VALID"),
    "no batch axis": ((6, 6, 2), (3, 3), (3, 3), "VALID"),
    "two batch axes": ((2, 3, 4, 4, 1), (2, 2), (2, 2), "VALID"),
}


def draw(shape):
    return jnp.asarray(np.random.default_rng(0).integers(-2, 3, shape), jnp.float32)


def both(ours, theirs, x):
    def run(pool, x):
        y, pull = jax.vjp(pool, x)
        return y, pull(jnp.cos(jnp.arange(y.size, dtype=y.dtype)).reshape(y.shape))[0]

    return jax.jit(lambda x: (run(ours, x), run(theirs, x)))(x)


@pytest.mark.parametrize("case", CASES)
def test_max_pool_equals_flax_bit_for_bit(case):
    shape, *how = CASES[case]
    x = draw(shape)
    ours, theirs = both(lambda x: max_pool(x, *how), lambda x: nn.max_pool(x, *how), x)
    for name, got, want in zip(("output", "gradient"), ours, theirs, strict=True):
        np.testing.assert_array_equal(got, want, err_msg=name)
        assert got.dtype == x.dtype


@pytest.mark.parametrize("include", [True, False])
@pytest.mark.parametrize("case", CASES)
def test_avg_pool_equals_flax(case, include):
    shape, window, strides, padding = CASES[case]
    x = draw(shape)

    def theirs(x):
        with jax.numpy_dtype_promotion("standard"):
            return nn.avg_pool(x, window, strides, padding, include)

    def ours(x):
        return avg_pool(x, window, strides, padding, count_include_pad=include)

    # A division by the window's size against one by a counted size: one rounding apart.
    for name, got, want in zip(("output", "gradient"), *both(ours, theirs, x), strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-6, err_msg=name)
        assert got.dtype == x.dtype


def test_max_pool_equals_a_numpy_loop():
    x = np.random.default_rng(0).normal(size=(2, 5, 6, 3)).astype(np.float32)
    wanted = np.empty((2, 2, 3, 3), np.float32)
    for i, j in itertools.product(range(2), range(3)):
        wanted[:, i, j] = x[:, 2 * i : 2 * i + 2, 2 * j : 2 * j + 2].max((1, 2))
    np.testing.assert_array_equal(max_pool(jnp.asarray(x), (2, 2), (2, 2)), wanted)
    assert wanted.shape == (2, 2, 3, 3)


def test_nan_passes_through_as_in_flax():
    x = draw((1, 4, 4, 1)).at[0, 0, 1, 0].set(jnp.nan).at[0, 3, 3, 0].set(-jnp.inf)
    ours, theirs = max_pool(x, (2, 2), (2, 2)), nn.max_pool(x, (2, 2), (2, 2))
    np.testing.assert_array_equal(ours, theirs)
    assert jnp.isnan(ours[0, 0, 0, 0])


def test_first_of_equal_entries_gets_the_gradient():
    x = jnp.zeros((1, 2, 2, 1))
    gradient = jax.grad(lambda x: max_pool(x, (2, 2), (2, 2)).sum())(x)
    assert gradient.ravel().tolist() == [1.0, 0.0, 0.0, 0.0]


def test_forward_mode_and_vmap():
    x = jnp.asarray(np.random.default_rng(1).normal(size=(2, 4, 4, 3)), jnp.float32)

    def pool(x):
        return max_pool(x, (2, 2), (2, 2))

    _, forward = jax.jvp(pool, (x,), (jnp.ones_like(x),))
    np.testing.assert_allclose(forward, jnp.ones((2, 2, 2, 3)))
    np.testing.assert_array_equal(jax.vmap(pool)(x), jnp.stack([pool(row) for row in x]))
    assert forward.shape == (2, 2, 2, 3)


@pytest.mark.parametrize("pool", [max_pool, avg_pool])
def test_bfloat16_and_empty_batch(pool):
    assert pool(jnp.ones((2, 4, 4, 3), jnp.bfloat16), (2, 2), (2, 2)).dtype == jnp.bfloat16
    assert pool(jnp.ones((0, 4, 4, 3)), (2, 2), (2, 2)).shape == (0, 2, 2, 3)


@pytest.mark.parametrize("pool", [max_pool, avg_pool])
def test_bad_arguments_are_refused(pool):
    with pytest.raises(ValueError, match=r"window_shape=\(2, 2\) needs an x of rank 3"):
        pool(jnp.ones((4, 4)), (2, 2), (2, 2))
    with pytest.raises(ValueError, match=r"strides=\(2,\)"):
        pool(jnp.ones((1, 4, 4, 1)), (2, 2), (2,))
