"""Magnitude pruning against a NumPy loop written from the definition."""

import fractions
import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.contracts import ArrayContract, cases, holds
from trove_jax.transforms import (
    density,
    emptied_layers,
    layer_densities,
    magnitude_mask,
    ones_mask,
    random_mask,
)
from trove_jax.transforms.pruning import _share_of

SHAPES = {"a": (4, 5), "b": (3, 3, 2, 2), "c": (6, 3)}


def _draw(rng: np.random.Generator, n: int):
    return rng.normal(size=n).astype(np.float32), rng.random(n) < 0.7


CONTRACTS = {
    "magnitude_mask": ArrayContract(
        lambda w, m: magnitude_mask({"w": w}, {"w": m}, 0.3)["w"],
        _draw,
        properties=("jit", "vmap", "bfloat16", "permutation", "mask_is_slice"),
        masked_by={0: 1},
        equivariant=True,
    ),
    "magnitude_mask_layerwise": ArrayContract(
        lambda w, m: magnitude_mask(
            {"v": w, "w": w}, {"v": ~m, "w": m}, 0.3, scope="layerwise", rates={"v": 0.5}
        ),
        _draw,
        properties=("jit", "vmap", "permutation"),
        equivariant=True,
    ),
    "random_mask": ArrayContract(
        lambda m: random_mask(jax.random.key(0), {"w": m})["w"],
        lambda rng, n: (rng.random(n) < 0.7,),
        properties=("jit", "vmap", "empty", "single"),
    ),
}


@pytest.mark.parametrize(("name", "check"), cases(CONTRACTS))
def test_contract(name, check):
    assert holds(CONTRACTS[name], check)


def _network(seed, distinct=None):
    rng = np.random.default_rng(seed)
    params, mask = {}, {}
    for name, shape in SHAPES.items():
        kernel = rng.normal(size=shape).astype(np.float32)
        if distinct:
            kernel = rng.integers(-distinct, distinct + 1, size=shape).astype(np.float32) / 8
        params[name] = {"kernel": jnp.asarray(kernel), "bias": jnp.zeros(shape[-1])}
        mask[name] = {"kernel": jnp.asarray(rng.random(shape) < 0.8), "bias": None}
    return params, mask


def _kernels(tree):
    return [np.asarray(tree[name]["kernel"]) for name in SHAPES]


def _half_up(rate, n):
    exact = fractions.Fraction(str(rate)) * n
    return math.floor(exact + fractions.Fraction(1, 2))


def _prune_by_loop(weights, alive, drop):
    """Lexicographic order of (magnitude, flattened index), one entry after the other."""
    alive = alive.copy()
    for i in np.lexsort((np.arange(weights.size), np.abs(weights))):
        if drop and alive[i]:
            alive[i] = False
            drop -= 1
    return alive


_global = jax.jit(magnitude_mask, static_argnames=("scope", "rate", "count"))


@settings(max_examples=30, deadline=None)
@given(
    seed=st.integers(0, 2**31 - 1),
    distinct=st.sampled_from([None, 1, 3, 20]),
    rate=st.sampled_from([0.01, 0.1, 0.2, 0.25, 0.5, 0.7]),
    scope=st.sampled_from(["global", "layerwise"]),
)
def test_equals_the_loop_and_never_revives(seed, distinct, rate, scope):
    params, mask = _network(seed, distinct)
    got = _kernels(_global(params, mask, rate, scope=scope))
    weights = [w.ravel() for w in _kernels(params)]
    alive = [m.ravel() for m in _kernels(mask)]
    if scope == "global":
        weights, alive = [np.concatenate(weights)], [np.concatenate(alive)]
        got = [np.concatenate([m.ravel() for m in got])]
    for w, before, after in zip(weights, alive, got, strict=True):
        drop = _half_up(rate, int(before.sum()))
        np.testing.assert_array_equal(after.ravel(), _prune_by_loop(w, before, drop))
        assert not np.any(after.ravel() & ~before)
        assert before.sum() - after.sum() == drop


def test_rounds_reach_the_density_of_the_paper():
    """LeNet-300-100: ten rounds of 20 % (10 % in the output layer) leave 10.8 %."""
    rng = np.random.default_rng(0)
    sizes = {"hidden_0": (784, 300), "hidden_1": (300, 100), "output": (100, 10)}
    params = {
        name: {"kernel": jnp.asarray(rng.normal(size=shape), jnp.float32), "bias": jnp.zeros(1)}
        for name, shape in sizes.items()
    }
    prune = jax.jit(
        functools.partial(magnitude_mask, rate=0.2, scope="layerwise", rates={"output": 0.1})
    )
    mask = ones_mask(params)
    alive = {name: math.prod(shape) for name, shape in sizes.items()}
    for _ in range(10):
        mask = prune(params, mask)
        for name in sizes:
            alive[name] -= _half_up(0.1 if name == "output" else 0.2, alive[name])
            assert int(mask[name]["kernel"].sum()) == alive[name]
    np.testing.assert_allclose(layer_densities(mask)["hidden_0/kernel"], 0.8**10, rtol=1e-3)
    np.testing.assert_allclose(layer_densities(mask)["output/kernel"], 0.9**10, rtol=1e-2)
    np.testing.assert_allclose(density(mask), 0.108, atol=5e-4)


def test_one_shot_to_a_target_density():
    params, _ = _network(0)
    mask = magnitude_mask(params, None, 1 - 0.05)
    n = sum(math.prod(shape) for shape in SHAPES.values())
    assert sum(m.sum() for m in _kernels(mask)) == n - _half_up(0.95, n)


@settings(max_examples=60, deadline=None)
@given(
    n=st.integers(0, 20_000_000),
    rate=st.sampled_from([0.1, 0.2, 0.3, 0.5, 0.7, 0.9, 0.05, 0.125, 0.99]),
)
def test_counts_are_exact_for_millions_of_entries(n, rate):
    """rate * n is a multiple of 1/100 or 1/8 here, so a half is told from its neighbours by 1/100,
    more than twice the error n * 2^-33 < 1/400 within which halves are recognised."""
    assert int(_share_of(jnp.int32(n), rate)) == _half_up(rate, n)
    want = math.ceil(fractions.Fraction(str(rate)) * n)
    assert int(_share_of(jnp.int32(n), rate, up=True)) == want


def test_a_traced_rate_counts_with_its_own_digits():
    traced = jax.jit(_share_of)
    for rate in (0.2, 0.25, 0.9):
        for n in (7, 1000, 266_200, 16_777_217):
            exact = fractions.Fraction(float(np.float32(rate))) * n
            want = math.floor(exact + fractions.Fraction(1, 2))
            assert int(traced(jnp.int32(n), jnp.float32(rate))) == want


def test_rates_may_be_traced_and_differ_by_seed():
    networks = [_network(seed) for seed in range(3)]
    params, masks = (
        jax.tree.map(lambda *leaves: jnp.stack(leaves), *column)
        for column in zip(*networks, strict=True)
    )
    rates = jnp.array([0.25, 0.5, 0.125])
    together = jax.jit(jax.vmap(magnitude_mask))(params, masks, rates)
    for seed, (p, m) in enumerate(networks):
        alone = magnitude_mask(p, m, float(rates[seed]))
        mine = jax.tree.map(lambda leaf, s=seed: leaf[s], together)
        assert jax.tree.all(jax.tree.map(jnp.array_equal, mine, alone))


def test_rates_by_prefix_and_by_function_agree():
    params, mask = _network(3)
    by_prefix = magnitude_mask(
        params, mask, 0.2, scope="layerwise", rates={"b": 0.5, "b/kernel": 0.4, "c/kernel": 0.1}
    )
    table = {"a/kernel": 0.2, "b/kernel": 0.4, "c/kernel": 0.1}
    by_function = magnitude_mask(params, mask, 0.9, scope="layerwise", rates=table.__getitem__)
    assert jax.tree.all(jax.tree.map(jnp.array_equal, by_prefix, by_function))
    for name, before, after in zip(SHAPES, _kernels(mask), _kernels(by_prefix), strict=True):
        n = int(before.sum())
        assert n - after.sum() == _half_up(table[f"{name}/kernel"], n)


def test_prunable_keeps_the_other_masks():
    params, mask = _network(4)
    got = magnitude_mask(params, mask, 0.5, prunable=lambda path, leaf: not path.startswith("c"))
    np.testing.assert_array_equal(got["c"]["kernel"], mask["c"]["kernel"])
    n = int(mask["a"]["kernel"].sum() + mask["b"]["kernel"].sum())
    left = int(got["a"]["kernel"].sum() + got["b"]["kernel"].sum())
    assert n - left == _half_up(0.5, n)


@pytest.mark.parametrize("distinct", [None, 3, 20])
@pytest.mark.parametrize("ignored", ["", "c"])
def test_open_lth_count(distinct, ignored):
    """q = ceil(rate * living, ignored layers included); |w| <= sorted[q] go, ties together."""
    params, mask = _network(5, distinct)
    rate = 0.2

    def prunable(path, leaf):
        return not ignored or not path.startswith(ignored)

    got = magnitude_mask(params, mask, rate, count="open_lth", prunable=prunable)
    names = [name for name in SHAPES if name != ignored]
    living = np.concatenate(
        [np.asarray(params[n]["kernel"])[np.asarray(mask[n]["kernel"])] for n in names]
    )
    q = math.ceil(rate * sum(m.sum() for m in _kernels(mask)))
    threshold = np.sort(np.abs(living))[q]
    for name in names:
        w, before = np.asarray(params[name]["kernel"]), np.asarray(mask[name]["kernel"])
        np.testing.assert_array_equal(got[name]["kernel"], before & (np.abs(w) > threshold))
    if ignored:
        np.testing.assert_array_equal(got["c"]["kernel"], mask["c"]["kernel"])
    if distinct is None:
        left = sum(int(got[name]["kernel"].sum()) for name in names)
        assert living.size - left == q + 1


def test_pruned_entries_may_hold_anything():
    params = {"kernel": jnp.array([[jnp.nan, 1.0, 2.0, jnp.inf, 0.0, 3.0]])}
    mask = {"kernel": jnp.array([[False, True, True, True, False, True]])}
    got = magnitude_mask(params, mask, 0.5)["kernel"]
    np.testing.assert_array_equal(got, [[False, False, False, True, False, True]])


def test_nan_among_living_weights():
    params = {"d": {"kernel": jnp.array([[jnp.nan, 1.0, 2.0, jnp.nan]])}}
    with pytest.raises(ValueError, match="'d/kernel' has 2 NaN"):
        magnitude_mask(params, None, 0.5)
    # Traced values cannot be refused: there NaN is the largest of all.
    got = jax.jit(lambda p: magnitude_mask(p, None, 0.5))(params)["d"]["kernel"]
    np.testing.assert_array_equal(got, [[True, False, False, True]])


def test_global_ranking_may_empty_a_layer_and_says_so():
    params = {"weak": {"kernel": jnp.full((2, 2), 1e-3)}, "strong": {"kernel": jnp.ones((4, 4))}}
    mask = magnitude_mask(params, None, 0.5)
    assert emptied_layers(mask) == ("weak/kernel",)
    assert emptied_layers(magnitude_mask(params, None, 0.1)) == ()


@pytest.mark.parametrize("rate", [0.0, 1.0, -0.2, 1.5, float("nan")])
def test_rates_outside_the_unit_interval_are_refused(rate):
    params, mask = _network(0)
    with pytest.raises(ValueError, match=r"outside \(0, 1\)"):
        magnitude_mask(params, mask, rate)
    with pytest.raises(ValueError, match="rates for 'a/kernel'"):
        magnitude_mask(params, mask, 0.2, scope="layerwise", rates=lambda path: rate)
    assert magnitude_mask(params, mask, np.float32(0.2)) is not None


def test_wrong_calls_say_what_to_do():
    params, mask = _network(0)
    with pytest.raises(ValueError, match="did you mean 'layerwise'"):
        magnitude_mask(params, mask, 0.2, scope="layer_wise")
    with pytest.raises(ValueError, match="did you mean 'open_lth'"):
        magnitude_mask(params, mask, 0.2, count="openlth")
    with pytest.raises(ValueError, match="needs scope='layerwise'"):
        magnitude_mask(params, mask, 0.2, rates={"a": 0.1})
    with pytest.raises(ValueError, match="the nearest is 'a/kernel'"):
        magnitude_mask(params, mask, 0.2, scope="layerwise", rates={"a/kernl": 0.1})
    with pytest.raises(ValueError, match="selects none of the 3"):
        magnitude_mask(params, mask, 0.2, prunable=lambda path, leaf: False)
    with pytest.raises(ValueError, match="vmap over the axis"):
        magnitude_mask(params, mask, np.array([0.2, 0.3]))
    with pytest.raises(ValueError, match="'a/kernel' has shape"):
        magnitude_mask(params, {**mask, "a": {"kernel": jnp.ones((2, 2), bool), "bias": None}}, 0.2)
    with pytest.raises(ValueError, match="did you mean 'even'") as error:
        random_mask(jax.random.key(0), mask, mode="evenly")
    assert "'layerwise'" in str(error.value)


def test_a_rate_that_empties_a_leaf_is_refused():
    params = {"big": {"kernel": jnp.ones((4, 4))}, "small": {"kernel": jnp.ones((1, 2))}}
    for call in (magnitude_mask, jax.jit(magnitude_mask, static_argnames=("rate", "scope"))):
        with pytest.raises(ValueError, match="prune 2 of the 2 living entries of 'small/kernel'"):
            call(params, None, rate=0.8, scope="layerwise")
    one_left = {"big": {"kernel": jnp.ones((4, 4), bool)}, "small": {"kernel": jnp.eye(1, 2) > 0}}
    with pytest.raises(ValueError, match="prune 1 of the 1 living") as error:
        magnitude_mask(params, one_left, 0.5, scope="layerwise")
    assert "prunable" in str(error.value)


@pytest.mark.parametrize("mode", ["layerwise", "global", "even"])
def test_random_masks_keep_their_counts(mode):
    params, _ = _network(0)
    like = magnitude_mask(params, None, 0.6, scope="layerwise", rates={"c": 0.1})
    got = random_mask(jax.random.key(0), like, mode=mode)
    before, after = [m.sum() for m in _kernels(like)], [m.sum() for m in _kernels(got)]
    sizes = [math.prod(shape) for shape in SHAPES.values()]
    assert sum(after) == sum(before)
    assert got["a"]["bias"] is None
    if mode == "layerwise":
        assert after == before
    if mode == "even":
        even = [size * sum(before) / sum(sizes) for size in sizes]
        assert all(abs(a - e) <= 1 for a, e in zip(after, even, strict=True))
        assert after != before
    again = random_mask(jax.random.key(0), like, mode=mode)
    other = random_mask(jax.random.key(1), like, mode=mode)
    assert jax.tree.all(jax.tree.map(jnp.array_equal, got, again))
    assert not jax.tree.all(jax.tree.map(jnp.array_equal, got, other))


def test_random_masks_are_uniform():
    """Each entry lives with the same chance: chi-squared over 24 entries, 2000 draws.

    The statistic has mean 23 and, because the count is fixed, about the chi-squared law with 23
    degrees of freedom times (1 - density); 60 is passed by chance less than once in 20,000.
    """
    like = {"w": jnp.arange(24).reshape(4, 6) < 6}
    draws = jax.jit(jax.vmap(lambda key: random_mask(key, like)["w"]))(
        jax.random.split(jax.random.key(0), 2000)
    )
    assert bool(jnp.all(draws.sum((1, 2)) == 6))
    counts = np.asarray(draws.sum(0)).ravel()
    assert np.sum((counts - 500) ** 2 / 500) < 60


def test_random_mask_refuses_a_mask_without_arrays():
    with pytest.raises(ValueError, match="no prunable leaf") as error:
        random_mask(jax.random.key(0), {"bias": None})
    assert "ones_mask" in str(error.value)
