"""Layers on a sparse feature matrix against Flax's on the dense one, and scipy's sparse product."""

import types

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.sparse

from trove_jax import layers

RNG = np.random.default_rng(0)
DENSE_ROWS = np.where(RNG.random((30, 50)) < 0.1, RNG.normal(size=(30, 50)), 0.0)
DENSE_ROWS[7] = 0.0
ROWS = scipy.sparse.csr_array(DENSE_ROWS.astype(np.float32))


def features(matrix=ROWS, **changes):
    fields = {
        "starts": matrix.indptr,
        "columns": matrix.indices,
        "values": matrix.data,
        "shape": matrix.shape,
    }
    return types.SimpleNamespace(**{**fields, **changes})


X = layers.sparse_input(features())
DENSE = layers.SparseDense(4)
VARIABLES = DENSE.init(jax.random.key(0), X)
KEYS = jax.random.split(jax.random.key(1), 3)


def test_sparse_input_is_the_matrix():
    np.testing.assert_array_equal(X.dense(), ROWS.toarray())
    assert X.shape == (30, 50)
    assert X.dtype == jnp.float32
    # Rows may be given with their columns in any order, and one place twice.
    twice = features(starts=np.array([0, 3]), columns=[2, 0, 2], values=np.ones(3), shape=(1, 3))
    np.testing.assert_array_equal(layers.sparse_input(twice).dense(), [[1.0, 0.0, 2.0]])


def test_dense_equals_flax_and_scipy():
    flax = nn.Dense(4)
    assert jax.tree.all(
        jax.tree.map(
            lambda a, b: jnp.array_equal(a, b),
            VARIABLES,
            flax.init(jax.random.key(0), X.dense()),
        )
    )

    def measure(apply, x):
        def value(variables):
            y = apply(variables, x)
            return (y * jnp.arange(120.0).reshape(30, 4)).sum(), y

        return jax.jit(jax.grad(value, has_aux=True))(VARIABLES)

    grads, y = measure(DENSE.apply, X)
    for x, apply in ((X.dense(), DENSE.apply), (X.dense(), flax.apply)):
        other_grads, other = measure(apply, x)
        np.testing.assert_allclose(y, other, rtol=1e-5, atol=1e-6)
        for a, b in zip(jax.tree.leaves(grads), jax.tree.leaves(other_grads), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-4)
    np.testing.assert_allclose(
        y, ROWS @ np.asarray(VARIABLES["params"]["kernel"]), rtol=1e-5, atol=1e-6
    )


def test_without_bias_and_in_another_dtype():
    layer = layers.SparseDense(4, use_bias=False, dtype=jnp.bfloat16)
    y, variables = layer.init_with_output(jax.random.key(0), X)
    assert set(variables["params"]) == {"kernel"}
    assert variables["params"]["kernel"].dtype == jnp.float32
    assert y.dtype == jnp.bfloat16


def test_dropout_keeps_a_zero_a_zero_and_the_mean():
    layer = layers.SparseDropout(0.8)

    def drop(key):
        return layer.apply({}, X, deterministic=False, rngs={"dropout": key}).dense()

    found = np.asarray(jax.jit(jax.vmap(drop))(jax.random.split(jax.random.key(2), 400)))
    dense = np.asarray(X.dense())
    # Every entry is 0 or five times what it was; float32 rounds the product.
    kept = found != 0.0
    np.testing.assert_allclose(found, np.where(kept, 5.0 * dense, 0.0), rtol=1e-6)
    share = kept[:, dense != 0.0].mean(axis=0)
    # 400 draws of each of 150 entries; 5 standard deviations: a false alarm in 10,000.
    assert np.abs(share - 0.2).max() < 5 * np.sqrt(0.16 / 400)


def test_seeds_with_their_own_dropout_equal_the_loop():
    drop = layers.SparseDropout(0.5)

    def out(variables, key):
        return DENSE.apply(variables, drop.apply({}, X, deterministic=False, rngs={"dropout": key}))

    together = jax.jit(jax.vmap(out, in_axes=(None, 0)))(VARIABLES, KEYS)
    for i, key in enumerate(KEYS):
        np.testing.assert_allclose(together[i], out(VARIABLES, key), rtol=1e-5, atol=1e-6)


def test_nothing_is_drawn_where_nothing_is_dropped():
    assert layers.SparseDropout(0.5).apply({}, X) is X
    assert layers.SparseDropout(0.0).apply({}, X, deterministic=False) is X
    dense = layers.SparseDropout(0.5).apply(
        {}, jnp.ones((40, 5)), deterministic=False, rngs={"dropout": KEYS[0]}
    )
    assert set(np.unique(dense)) == {0.0, 2.0}


def test_refusals():
    with pytest.raises(ValueError, match="rate="):
        layers.SparseDropout(1.0).apply({}, X)
    with pytest.raises(ValueError, match="starts of shape"):
        layers.sparse_input(features(starts=ROWS.indptr[:-1]))
    with pytest.raises(ValueError, match="finite features"):
        layers.sparse_input(features(values=ROWS.data * np.float32(np.nan)))
    with pytest.raises(ValueError, match="columns"):
        layers.sparse_input(features(columns=ROWS.indices + 50))
