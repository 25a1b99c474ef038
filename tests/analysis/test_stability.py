"""Distances, angles and barriers against NumPy, and on training that has a closed form."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.contracts import ArrayContract, cases, holds
from trove_jax.analysis import (
    linear_barrier,
    masked_angle,
    masked_distance,
    stability_to_order,
    stability_to_pruning,
)
from trove_jax.transforms import apply_mask


def _draw(rng: np.random.Generator, n: int):
    a, b = rng.normal(size=(2, n)).astype(np.float32)
    mask = rng.random(n) < 0.7
    mask[:1] = True
    mask[1:2] = False
    return a, b, mask


CONTRACTS = {
    "masked_distance": ArrayContract(
        lambda a, b, m: masked_distance({"w": a}, {"w": b}, {"w": m}),
        _draw,
        masked_by={0: 2, 1: 2},
    ),
    "masked_angle": ArrayContract(
        lambda a, b, m: masked_angle({"w": a}, {"w": b}, {"w": m}),
        _draw,
        masked_by={0: 2, 1: 2},
    ),
    "linear_barrier": ArrayContract(
        lambda a, b: linear_barrier(lambda v: jnp.sum(jnp.cos(v)), a, b, n=5),
        lambda rng, n: _draw(rng, n)[:2],
        # The barrier is a maximum, and the positions are float32: neither has a derivative or
        # another width to compare.
        properties=("jit", "vmap", "bfloat16", "empty", "single", "permutation"),
    ),
}


@pytest.mark.parametrize(("name", "check"), cases(CONTRACTS))
def test_contract(name, check):
    assert holds(CONTRACTS[name], check)


def _networks(seed=0):
    rng = np.random.default_rng(seed)

    def draw():
        return {
            "a": {"kernel": rng.normal(size=(4, 5)), "bias": rng.normal(size=5)},
            "b": {"kernel": rng.normal(size=(5, 3)), "bias": rng.normal(size=3)},
        }

    trees = [jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), draw()) for _ in range(2)]
    mask = {
        name: {
            "kernel": jnp.asarray(rng.random(trees[0][name]["kernel"].shape) < 0.6),
            "bias": None,
        }
        for name in ("a", "b")
    }
    return *trees, mask


def _vector(tree, mask):
    parts = [
        np.asarray(tree[name]["kernel"], np.float64)[np.asarray(mask[name]["kernel"])]
        for name in ("a", "b")
    ]
    return np.concatenate(parts)


@pytest.mark.parametrize("seed", range(3))
def test_distance_and_angle_equal_the_definitions(seed):
    a, b, mask = _networks(seed)
    u, v = _vector(a, mask), _vector(b, mask)
    np.testing.assert_allclose(masked_distance(a, b, mask), np.linalg.norm(u - v), rtol=1e-5)
    cosine = u @ v / np.linalg.norm(u) / np.linalg.norm(v)
    np.testing.assert_allclose(masked_angle(a, b, mask), np.degrees(np.arccos(cosine)), rtol=1e-5)


@pytest.mark.parametrize("degrees", [1e-3, 0.01, 1.0, 90.0, 179.0, 179.99])
def test_small_and_straight_angles_are_resolved(degrees):
    """arccos in float32 gives 0 or 0.028 for the first two."""
    radians = np.radians(degrees)
    a = {"w": jnp.array([2.0, 0.0])}
    b = {"w": jnp.asarray([3 * np.cos(radians), 3 * np.sin(radians)], jnp.float32)}
    got = masked_angle(a, b, {"w": jnp.ones(2, bool)})
    # The second network is rounded to float32 itself: 1e-7 of a right angle near 0 and 180.
    np.testing.assert_allclose(got, degrees, rtol=1e-5, atol=1e-5)


def test_angle_ignores_scale_and_distance_does_not():
    a, b, mask = _networks()
    tripled = jax.tree.map(lambda x: 3 * x, b)
    np.testing.assert_allclose(masked_angle(a, tripled, mask), masked_angle(a, b, mask), rtol=1e-5)
    assert masked_distance(a, tripled, mask) > 1.5 * masked_distance(a, b, mask)
    assert masked_distance(a, a, mask) == 0
    assert masked_angle(a, a, mask) < 1e-5
    opposite = jax.tree.map(jnp.negative, a)
    np.testing.assert_allclose(masked_angle(a, opposite, mask), 180.0, rtol=1e-6)


def test_zero_networks_have_no_angle():
    zero, one, mask = {"w": jnp.zeros(3)}, {"w": jnp.ones(3)}, {"w": jnp.ones(3, bool)}
    assert jnp.isnan(masked_angle(zero, one, mask))
    assert jnp.isnan(masked_angle(one, one, {"w": jnp.zeros(3, bool)}))
    assert masked_distance(one, zero, {"w": jnp.zeros(3, bool)}) == 0
    for measure in (masked_distance, masked_angle):
        gradient = jax.grad(measure)(one, one, mask)["w"]
        assert bool(jnp.all(jnp.isfinite(gradient)))


def test_half_precision_weights_are_compared_in_float32():
    a = {"w": jnp.full(4096, 1.0, jnp.bfloat16)}
    b = {"w": jnp.full(4096, 1.0078125, jnp.bfloat16)}
    got = masked_distance(a, b, {"w": jnp.ones(4096, bool)})
    assert got.dtype == jnp.float32
    np.testing.assert_allclose(got, 64 * 0.0078125, rtol=1e-6)


def _train(start, mask, keys):
    """Doubles the weights and adds noise that the order decides."""

    def one(start, mask, key):
        w = apply_mask(start, mask)["w"]
        return apply_mask({"w": 2 * w + jax.random.normal(key, w.shape)}, mask)

    return jax.vmap(one)(start, mask, keys)


def test_stability_of_training_with_a_closed_form():
    rng = np.random.default_rng(0)
    start = {"w": jnp.asarray(rng.normal(size=(3, 8)), jnp.float32)}
    mask = {"w": jnp.asarray(rng.random((3, 8)) < 0.6)}
    orders = jax.random.split(jax.random.key(0), (3, 4))
    # The same order: survivors of the dense and the masked run agree exactly.
    same = stability_to_pruning(_train, start, mask, orders)
    assert same.distance.shape == same.angle.shape == (3, 4)
    np.testing.assert_array_equal(same.distance, 0)
    # The two norms may be summed in another order: an ulp, 1e-7 radians.
    np.testing.assert_allclose(same.angle, 0, atol=1e-5)

    pairs = jax.random.split(jax.random.key(1), (3, 4, 2))
    moved = stability_to_order(_train, start, mask, pairs)
    for seed in range(3):
        alive = np.asarray(mask["w"][seed])
        for pair in range(4):
            ends = [
                2 * np.asarray(start["w"][seed])
                + np.asarray(jax.random.normal(pairs[seed, pair, i], (8,)))
                for i in range(2)
            ]
            u, v = ends[0][alive], ends[1][alive]
            np.testing.assert_allclose(moved.distance[seed, pair], np.linalg.norm(u - v), rtol=1e-5)
            cosine = u @ v / np.linalg.norm(u) / np.linalg.norm(v)
            np.testing.assert_allclose(
                moved.angle[seed, pair], np.degrees(np.arccos(cosine)), rtol=1e-3
            )


def test_stability_to_pruning_sees_what_the_pruned_weights_did():
    def train(start, mask, keys):
        def one(start, mask, key):
            w = apply_mask(start, mask)["w"]
            return {"w": w + jnp.sum(w)}

        return jax.vmap(one)(start, mask, keys)

    start = {"w": jnp.array([[1.0, 2.0, 4.0, 8.0]])}
    mask = {"w": jnp.array([[True, True, False, False]])}
    got = stability_to_pruning(train, start, mask, jax.random.split(jax.random.key(0), (1, 1)))
    # Both survivors end 12 = 4 + 8 higher in the dense run.
    np.testing.assert_allclose(got.distance, [[12 * np.sqrt(2)]], rtol=1e-6)


def test_barrier_of_a_bump_and_of_a_valley():
    def bump(v):
        return jnp.exp(-jnp.square(v["w"]))

    ends = {"w": jnp.array(-2.0)}, {"w": jnp.array(3.0)}
    line = linear_barrier(bump, *ends, n=31)
    alphas = np.linspace(0, 1, 31)
    errors = np.exp(-np.square(-2 + 5 * alphas))
    np.testing.assert_allclose(line.alphas, alphas, rtol=1e-6)
    np.testing.assert_allclose(line.errors, errors, rtol=1e-4, atol=1e-7)
    want = errors.max() - (errors[0] + errors[-1]) / 2
    np.testing.assert_allclose(line.barrier, want, rtol=1e-5)
    assert linear_barrier(lambda v: v["w"], *ends).barrier == 2.5
    assert linear_barrier(lambda v: jnp.square(v["w"]), *ends).errors.shape == (30,)


def test_barrier_interpolates_all_variables_but_counters():
    a = {"params": jnp.zeros(2), "batch_stats": jnp.ones(2), "count": jnp.array(3)}
    b = {"params": jnp.ones(2), "batch_stats": jnp.full(2, 3.0), "count": jnp.array(5)}

    def error(v):
        return v["params"][0] + 10 * v["batch_stats"][0] + 100.0 * v["count"].astype(jnp.float32)

    line = linear_barrier(error, a, b, n=3)
    np.testing.assert_allclose(line.errors, [310.0, 320.5, 331.0])


def test_wrong_calls_say_what_to_do():
    a, b, mask = _networks()
    for measure in (masked_distance, masked_angle):
        with pytest.raises(ValueError, match="no array"):
            measure(a, b, jax.tree.map(lambda m: None, mask))
        with pytest.raises(ValueError, match="another tree"):
            measure(a, {"a": b["a"]}, mask)
        with pytest.raises(ValueError, match="has a mask of shape"):
            measure(a, b, {**mask, "a": {"kernel": jnp.ones((2, 2), bool), "bias": None}})
    keys = jax.random.split(jax.random.key(0), (2, 3))
    with pytest.raises(ValueError, match=r"want \[s, pairs, 2\]"):
        stability_to_order(_train, a, mask, keys)
    with pytest.raises(ValueError, match="two runs a pair"):
        stability_to_order(_train, a, mask, jax.random.split(jax.random.key(0), (2, 3, 3)))
    with pytest.raises(ValueError, match="at least one pair"):
        stability_to_pruning(_train, a, mask, keys[:, :0])
    with pytest.raises(ValueError, match="want random keys"):
        stability_to_pruning(_train, a, mask, jnp.zeros((2, 3), jnp.uint32))
    with pytest.raises(ValueError, match="n >= 2"):
        linear_barrier(lambda v: 0.0, a, b, n=1)
    with pytest.raises(ValueError, match="another tree"):
        linear_barrier(lambda v: 0.0, a, b["a"])
    with pytest.raises(ValueError, match="two copies") as error:
        linear_barrier(lambda v: 0.0, {"w": jnp.ones(2)}, {"w": jnp.ones(3)})
    assert "float32[3]" in str(error.value)
