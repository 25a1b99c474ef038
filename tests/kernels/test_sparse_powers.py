"""Powers of a sparse matrix against dense powers and against products one by one."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from trove_jax.kernels import sparse_pattern, sparse_powers, sparse_product

N, E, F, COUNT = 7, 15, 3, 3
RNG = np.random.default_rng(0)
PATTERN, _ = sparse_pattern(RNG.integers(0, N, E), RNG.integers(0, N, E), (N, N))
VALUES = RNG.uniform(-1, 1, (4, E)).astype(np.float32)
X = RNG.standard_normal((4, N, F)).astype(np.float32)
G = RNG.standard_normal((4, COUNT + 1, N, F)).astype(np.float32)


def one_by_one(values, x):
    held = [x]
    for _ in range(COUNT):
        held.append(sparse_product(PATTERN, values, held[-1], implementation="reference"))
    return jnp.stack(held)


@functools.partial(jax.jit, static_argnums=0)
def both(function, values, x, g):
    out, pull = jax.vjp(function, values, x)
    return out, *pull(g)


FORMS = {
    name: functools.partial(
        lambda name, values, x: sparse_powers(PATTERN, values, x, COUNT, implementation=name), name
    )
    for name in (None, "bcsr", "chunked", "reference")
}


@pytest.mark.parametrize("name", FORMS)
def test_powers_and_gradients(name):
    got = both(FORMS[name], VALUES[0], X[0], G[0])
    want = both(one_by_one, VALUES[0], X[0], G[0])
    for one, other in zip(got, want, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-5)
    dense = np.zeros((N, N))
    np.add.at(dense, (PATTERN.rows, PATTERN.columns), VALUES[0])
    for power in range(COUNT + 1):
        want = np.linalg.matrix_power(dense, power) @ X[0]
        np.testing.assert_allclose(got[0][power], want, atol=1e-5)


@pytest.mark.parametrize("axes", [(None, 0, 0), (0, 0, None)])
def test_seeds_are_a_loop(axes):
    arguments = [a if axis == 0 else a[0] for a, axis in zip((VALUES, X, G), axes, strict=True)]
    got = jax.vmap(functools.partial(both, FORMS[None]), in_axes=axes)(*arguments)
    for seed in range(4):
        one = [a[seed] if axis == 0 else a for a, axis in zip(arguments, axes, strict=True)]
        for found, want in zip(got, both(FORMS[None], *one), strict=True):
            np.testing.assert_allclose(found[seed], want, rtol=1e-5, atol=1e-5)
    together = sparse_powers(PATTERN, *arguments[:2], COUNT)
    np.testing.assert_allclose(together.swapaxes(0, 1), got[0], rtol=1e-5, atol=1e-5)


@functools.partial(jax.jit, static_argnums=0)
def curvature(function, values, x):
    """The gradient of what a gradient adds up to, squared."""

    def slopes(values, x):
        out, pull = jax.vjp(function, values, x)
        return sum(jnp.sum(slope**2) for slope in pull(out**2))

    return jax.grad(slopes, argnums=(0, 1))(values, x)


def test_gradients_of_gradients():
    got, want = curvature(FORMS[None], VALUES[0], X[0]), curvature(one_by_one, VALUES[0], X[0])
    for one, other in zip(got, want, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-3, atol=1e-4 * np.abs(other).max())


def test_bfloat16_is_rounded_once():
    pattern, _ = sparse_pattern([0], [0], (1, 1))
    third = jnp.full(1, 1.0078125, jnp.bfloat16)
    out = sparse_powers(pattern, third, jnp.ones((1, 1), jnp.bfloat16), 40)
    assert out.dtype == jnp.bfloat16
    # Rounding every step to bfloat16 would stay at multiples of 2^-7 and end at 1.3125.
    np.testing.assert_allclose(float(out[40, 0, 0]), 1.0078125**40, rtol=2**-8)


def test_nothing_to_multiply():
    np.testing.assert_array_equal(sparse_powers(PATTERN, VALUES[0], X[0], 0), X[:1])
    empty, _ = sparse_pattern([], [], (N, N))
    got = sparse_powers(empty, jnp.zeros(0), X[0], 2)
    np.testing.assert_array_equal(got, np.stack([X[0], 0 * X[0], 0 * X[0]]))


def test_what_is_refused():
    with pytest.raises(ValueError, match="count=-1 is negative"):
        sparse_powers(PATTERN, VALUES[0], X[0], -1)
    wide, _ = sparse_pattern([0], [1], (1, 2))
    with pytest.raises(ValueError, match=r"shape \(1, 2\) .* must be square"):
        sparse_powers(wide, jnp.ones(1), jnp.ones((2, 1)), 1)
    with pytest.raises(ValueError, match="'coo' is unknown"):
        sparse_powers(PATTERN, VALUES[0], X[0], 1, implementation="coo")
