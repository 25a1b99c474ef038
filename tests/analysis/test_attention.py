"""Measurements of attention: closed forms, loops over tokens, and simulation."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.contracts import ArrayContract, cases, holds
from trove_jax import analysis
from trove_jax.kernels.drawn_keys import locally_biased_permutation


def draw_maps(rng, n):
    logits = rng.normal(size=(3, n, 4))
    return (np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)).astype(np.float32)


def redundancy(maps, mask):
    """Rows along the first axis, as the contract wants them."""
    return analysis.head_redundancy(maps.transpose(1, 0, 2)[None], mask=mask[None])


CONTRACTS = {
    "head_redundancy": ArrayContract(
        redundancy,
        lambda rng, n: (draw_maps(rng, n).transpose(1, 0, 2), rng.random(n) < 0.7),
        properties=("jit", "float64", "bfloat16"),
    ),
    "support_mass": ArrayContract(
        analysis.support_mass,
        lambda rng, n: (draw_maps(rng, n)[0], rng.random((n, 4)) < 0.5),
        properties=("vmap", "bfloat16", "gradient", "permutation", "empty"),
        equivariant=True,
    ),
}


@pytest.mark.parametrize(("name", "check"), cases(CONTRACTS))
def test_contract(name, check):
    assert holds(CONTRACTS[name], check)


def test_maps_are_a_softmax_over_the_keys_in_sight():
    rng = np.random.default_rng(0)
    q, k = (rng.normal(size=(2, n, 3, 5)).astype(np.float32) for n in (4, 6))
    mask = rng.random((2, 1, 4, 6)) < 0.6
    mask[1, 0, 2] = False
    bias = rng.normal(size=(3, 4, 6)).astype(np.float32)[None]
    found = analysis.attention_maps(q, k, mask=jnp.asarray(mask), bias=jnp.asarray(bias))
    for b in range(2):
        for h in range(3):
            for i in range(4):
                seen = np.flatnonzero(mask[b, 0, i])
                scores = [q[b, i, h] @ k[b, j, h] / math.sqrt(5) + bias[0, h, i, j] for j in seen]
                wanted = np.zeros(6)
                wanted[seen] = np.exp(scores) / np.exp(scores).sum() if seen.size else 0.0
                np.testing.assert_allclose(found[b, h, i], wanted, rtol=2e-5, atol=1e-6)
    half = analysis.attention_maps(jnp.asarray(q, jnp.bfloat16), jnp.asarray(k, jnp.bfloat16))
    assert half.dtype == jnp.float32
    np.testing.assert_allclose(half.sum(-1), 1.0, rtol=1e-5)


def test_heads_that_attend_alike_overlap_wholly_and_apart_not_at_all():
    alike = jnp.broadcast_to(jnp.array([0.1, 0.2, 0.7]), (2, 3, 4, 3))
    assert float(analysis.head_redundancy(alike)) == pytest.approx(1.0)
    apart = jnp.eye(3)[None, :, None, :]
    assert float(analysis.head_redundancy(apart)) == 0.0
    # Heads 0 and 1 alike, head 2 apart from both: one pair of three.
    mixed = jnp.eye(3)[jnp.array([0, 0, 1])][None, :, None, :]
    assert float(analysis.head_redundancy(mixed)) == pytest.approx(1 / 3)
    maps = draw_maps(np.random.default_rng(1), 5)
    total = [
        np.minimum(maps[a, i], maps[b, i]).sum()
        for a in range(3) for b in range(a) for i in range(5)
    ]  # fmt: skip
    assert float(analysis.head_redundancy(maps[None])) == pytest.approx(np.mean(total), rel=1e-5)


def test_queries_that_do_not_count_may_hold_anything():
    maps = jnp.asarray(draw_maps(np.random.default_rng(3), 6)[None])
    mask = jnp.array([[True, False, True, True, False, True]])
    poisoned = jnp.where(mask[:, None, :, None], maps, jnp.nan)
    measure = jax.value_and_grad(lambda maps: analysis.head_redundancy(maps, mask=mask))
    value, gradient = measure(poisoned)
    sliced = analysis.head_redundancy(maps[:, :, np.flatnonzero(mask[0])])
    assert float(value) == pytest.approx(float(sliced), rel=1e-6)
    assert np.isfinite(gradient).all()
    assert float(analysis.head_redundancy(poisoned, mask=jnp.zeros_like(mask))) == 0.0


def test_support_is_the_attention_that_a_sample_keeps():
    weights = jnp.full((2, 3, 4, 8), 1 / 8)
    visible = jnp.arange(8) < 2
    np.testing.assert_allclose(analysis.support_mass(weights, visible), 0.25)


def test_reach_is_what_a_walk_through_the_layers_reaches():
    rng = np.random.default_rng(2)
    masks = [rng.random((7, 7)) < 0.2 for _ in range(3)]

    def walk(residual):
        routes = 0
        for i in range(7):
            tokens = {i}
            for mask in reversed(masks):
                nearer = {j for t in tokens for j in np.flatnonzero(mask[t]).tolist()}
                tokens = nearer | tokens if residual else nearer
            routes += len(tokens)
        return routes / 49

    arrays = [jnp.asarray(mask) for mask in masks]
    for residual in (False, True):
        found = analysis.pathway_reach(arrays, residual=residual)
        assert float(found) == pytest.approx(walk(residual))
    both = analysis.pathway_reach([jnp.stack([m, ~m]) for m in arrays])
    assert both.shape == (2,)
    assert float(both[0]) == pytest.approx(walk(False))


@pytest.mark.parametrize(("n", "window", "sigma"), [(64, 16, 8.0), (64, 16, 40.0), (60, 16, 3.0)])
def test_keys_are_in_windows_as_often_as_the_law_says(n, window, sigma):
    draws = 4000
    keys = jax.random.split(jax.random.key(7), draws)
    perms = jax.jit(jax.vmap(lambda key: locally_biased_permutation(key, n, sigma)))(keys)
    law = analysis.inclusion_probability(n, window, sigma)
    found = np.zeros_like(law)
    for b in range(law.shape[1]):
        held = np.asarray(perms[:, b * window : (b + 1) * window])
        found[:, b] = np.bincount(held.ravel(), minlength=n) / draws
    # Six deviations of a frequency (false alarm below 1e-6 over all entries), and what the law
    # leaves out: the places of the cuts vary, which matters to first order 1 / (4 window).
    noise = 6 * np.sqrt(law * (1 - law) / draws) + 3 / draws
    assert (np.abs(found - law) < noise + 1 / (4 * window)).all()
    np.testing.assert_allclose(law.sum(axis=1), 1.0, atol=1e-12)
    whole = n // window
    np.testing.assert_allclose(law[:, :whole].sum(axis=0), window, atol=1e-8)


def test_the_ends_of_the_law():
    blocks = np.kron(np.eye(4), np.ones((8, 1)))
    np.testing.assert_array_equal(analysis.inclusion_probability(32, 8, 0.0), blocks)
    np.testing.assert_allclose(analysis.inclusion_probability(32, 8, 0.01), blocks, atol=1e-12)
    np.testing.assert_allclose(analysis.inclusion_probability(32, 8, 1e6), 0.25, atol=1e-4)


def test_what_cannot_be_measured_is_refused():
    q = jnp.zeros((1, 2, 3, 4))
    eye = jnp.eye(3, dtype=bool)
    law = functools.partial(analysis.inclusion_probability, 8)
    for call, message in (
        (lambda: analysis.attention_maps(q, jnp.zeros((1, 2, 2, 4))), "do not belong together"),
        (lambda: analysis.attention_maps(q, q, mask=jnp.zeros((1, 1, 2, 2))), "bool is wanted"),
        (lambda: analysis.head_redundancy(jnp.zeros((1, 1, 2, 2))), "two heads or more"),
        (lambda: analysis.head_redundancy(q, mask=eye), "is wanted"),
        (lambda: analysis.support_mass(q, jnp.zeros((3, 4))), "bool is wanted"),
        (lambda: analysis.pathway_reach([]), "masks is empty"),
        (lambda: analysis.pathway_reach([eye, eye[:2]]), r"masks\[1\] is bool \(2, 3\)"),
        (lambda: law(0, 1.0), "window=0"),
        (lambda: law(4, -1.0), "sigma=-1.0"),
    ):
        with pytest.raises(ValueError, match=message):
            call()
