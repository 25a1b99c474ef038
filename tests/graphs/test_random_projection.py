"""Random projections: their law, the node that every row belongs to, and what is refused."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from trove_jax import graphs
from trove_jax.graphs import very_sparse_projection
from trove_jax.graphs.random_projection import _places

KEY = jax.random.key(3)
KINDS = ("sparse", "gaussian", "rademacher")


@functools.partial(jax.jit, static_argnames=("nodes", "width", "kind", "density"))
def draw(key, nodes, width, kind="sparse", density=None):
    return graphs.random_projection(key, nodes, width, kind=kind, density=density)


@pytest.mark.parametrize("kind", KINDS)
def test_a_row_belongs_to_its_node(kind):
    whole = draw(KEY, 40, 16, kind, 0.2 if kind == "sparse" else None)
    options = {"kind": kind, "density": 0.2 if kind == "sparse" else None}
    numbers = jnp.array([31, 4, 4])
    found = graphs.random_projection(KEY, numbers, 16, **options)
    np.testing.assert_array_equal(found, whole[numbers])
    assert len(np.unique(np.asarray(whole), axis=0)) > 30
    keys = jax.random.split(KEY, 2)
    together = jax.vmap(lambda key: graphs.random_projection(key, 40, 16, **options))(keys)
    alone = graphs.random_projection(keys[1], 40, 16, **options)
    np.testing.assert_array_equal(together[1], alone)


@pytest.mark.parametrize("kind", KINDS)
def test_entries_have_mean_0_and_variance_1_and_are_independent(kind):
    n, d = 4000, 24
    x = np.asarray(draw(KEY, n, d, kind), np.float64)
    fourth = {"sparse": n**0.5, "gaussian": 3.0, "rademacher": 1.0}[kind]
    # Five standard errors each: a false alarm in fewer than one run of a thousand.
    assert abs(x.mean()) < 5 / np.sqrt(n * d)
    assert abs((x**2).mean() - 1) < 5 * np.sqrt(max(fourth - 1, 0.0) / (n * d)) + 1e-6
    gram = x.T @ x / n - np.eye(d)
    assert np.abs(gram[~np.eye(d, dtype=bool)]).max() < 5 / np.sqrt(n)
    columns = (x != 0).mean(axis=0)
    if kind == "sparse":
        density = n**-0.5
        # Every column, the first and the last too, is as full as the others.
        assert np.abs(columns - density).max() < 5 * np.sqrt(density / n)
        assert set(np.unique(np.abs(x)).round(3)) == {0.0, round(n**0.25, 3)}


def test_every_pattern_of_a_row_is_as_likely_as_it_should_be():
    n, density = 20_000, 0.3
    rows = jax.jit(lambda key: very_sparse_projection(key, n, 3, density=density))(KEY)
    signs = np.sign(np.asarray(rows.dense(3))).astype(int) + 1
    counts = np.bincount(signs @ [9, 3, 1], minlength=27)
    single = np.array([density / 2, 1 - density, density / 2])
    want = n * np.einsum("i,j,k->ijk", single, single, single).ravel()
    # One false alarm in a thousand keys; the key is fixed.
    assert stats.chisquare(counts, want).pvalue > 1e-3


def test_places_suffice():
    for width, density in ((128, 1000**-0.5), (128, 1e-3), (512, 1e-3), (8, 0.25), (5, 1.0)):
        places = _places(width, density)
        assert stats.binom.sf(places, width, density) < 1e-12
        assert places == 1 or stats.binom.sf(places - 1, width, density) >= 1e-12


def test_a_window_of_columns_is_a_slice():
    rows = very_sparse_projection(KEY, 30, 20, density=0.3)
    whole = rows.dense(20)
    np.testing.assert_array_equal(rows.dense(6, 9), whole[:, 9:15])
    assert int((whole != 0).sum()) == int((rows.columns < 20).sum())


def test_lengths_are_kept():
    x = np.zeros((4000, 1), np.float32)
    x[::7] = 0.5
    r = draw(KEY, 4000, 256)
    # The variance of the estimate is below 3 |x|^4 / d, so this is four standard errors.
    ratio = float(np.sum((x.T @ np.asarray(r)) ** 2) / 256 / np.sum(x**2))
    assert abs(ratio - 1) < 4 * np.sqrt(3 / 256)


def test_refusals():
    for call, match in (
        (lambda: graphs.random_projection(KEY, 3, 0), "width=0"),
        (lambda: graphs.random_projection(KEY, 3, 2, kind="dense"), "kind='dense'"),
        (lambda: graphs.random_projection(KEY, 3, 2, kind="gaussian", density=0.5), "no zeros"),
        (lambda: very_sparse_projection(KEY, 3, 2, density=0.0), "density=0.0"),
        (lambda: very_sparse_projection(KEY, 3, 2, density=1.5), "density=1.5"),
    ):
        with pytest.raises(ValueError, match=match):
            call()
