"""The noise against its law; what passes untouched, numbers of every width, refusals."""

import hashlib

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from tests.transforms.noise import KEY, drawn, same, tree, update
from trove_jax.transforms import (
    GradientNoiseState,
    apply_mask,
    gradient_noise,
    gradient_noise_from_std,
    masked,
    noise_at,
    noisy,
    reseed,
)

# The law


def test_follows_the_formula_written_in_numpy():
    eta, gamma, count = 0.3, 0.55, 7
    got = drawn(KEY, count, tree(), eta, gamma)
    assert same(noise_at(KEY, count, tree(), eta, gamma), got)
    for path in ("first/kernel", "first/bias", "last/kernel"):
        layer, name = path.split("/")
        digest = hashlib.sha256(path.encode()).digest()
        key = jax.random.fold_in(KEY, count)
        for word in (digest[:4], digest[4:8]):
            key = jax.random.fold_in(key, int.from_bytes(word, "little"))
        xi = jax.random.normal(key, got[layer][name].shape)
        # float32: square root, power, one product, and the bit less.
        want = np.sqrt(eta / (1 + count) ** gamma) * np.asarray(xi)
        np.testing.assert_allclose(got[layer][name], want, rtol=1e-6)


@pytest.mark.parametrize("count", [0, 1, 999])
def test_variance_decays_as_claimed(count):
    big = {"w": jnp.zeros(200_000)}
    x = np.asarray(drawn(KEY, count, big, 0.3, 0.55)["w"], np.float64)
    want = 0.3 / (1 + count) ** 0.55
    # Five standard errors of mean and variance of 200,000 normal values.
    assert abs(x.mean()) < 5 * np.sqrt(want / x.size)
    assert abs(x.var() / want - 1) < 5 * np.sqrt(2 / x.size)


def test_components_leaves_and_updates_are_uncorrelated():
    size = 100_000
    like = {"a": jnp.zeros(size), "b": jnp.zeros(size)}
    now, then = (drawn(KEY, count, like, 1.0, 0.0) for count in (0, 1))
    draws = [now["a"], now["b"], then["a"], then["b"], jnp.roll(now["a"], 1)]
    correlation = np.corrcoef(np.stack(draws)) - np.eye(5)
    # Ten pairs at five standard errors: one false alarm in 170,000.
    assert np.abs(correlation).max() < 5 / np.sqrt(size)


def test_the_transformation_adds_the_noise_and_counts():
    tx = gradient_noise(0.01, key=KEY)
    state = tx.init(tree())
    assert isinstance(state, GradientNoiseState)
    for count in range(3):
        got, state = update(tx, tree(), state)
        noise = drawn(KEY, count, tree(), 0.01)
        assert same(got, jax.tree.map(jnp.add, tree(), noise))
    assert int(state.count) == 3


def test_a_schedule_takes_the_place_of_eta_and_gamma():
    def variance(count):
        return 0.04 / (1 + count.astype(jnp.float32)) ** 0.55

    plain, scheduled = (
        gradient_noise(0.04, key=KEY),
        gradient_noise(None, key=KEY, schedule=variance),
    )
    state = GradientNoiseState(jnp.int32(9), KEY)
    got, want = update(scheduled, tree(), state)[0], update(plain, tree(), state)[0]
    np.testing.assert_allclose(got["last"]["kernel"], want["last"]["kernel"], rtol=1e-6)
    off = gradient_noise(1.0, key=KEY, schedule=lambda count: jnp.float32(0.0))
    assert same(update(off, tree(), state)[0], tree())


def test_from_std_squares_and_an_integer_is_a_key():
    a = gradient_noise_from_std(0.1, key=jax.random.key(5))
    b = gradient_noise(0.1 * 0.1, key=5)
    assert same(update(a, tree(), a.init(tree()))[0], update(b, tree(), b.init(tree()))[0])


def test_noisy_clips_before_the_noise_and_scales_after_it():
    tx = noisy(optax.sgd(0.5), eta=0.01, key=KEY, clip=1.0)
    grads = {"w": jnp.full(4, 10.0)}
    got, _ = update(tx, grads, tx.init(grads), grads)
    noise = drawn(KEY, 0, grads, 0.01)
    # The clipped gradient has norm 1, so components 0.5; float32 rounding of the norm.
    np.testing.assert_allclose(got["w"], -0.5 * (0.5 + noise["w"]), rtol=1e-5)
    decayed = noisy(optax.adamw(0.1), eta=0.01, key=KEY)
    update(decayed, grads, decayed.init(grads), grads)


# 7. The identity, and leaves that pass


@pytest.mark.parametrize("jit", [False, True])
@pytest.mark.parametrize("traced", [False, True])
def test_eta_zero_is_the_identity_bit_for_bit(jit, traced):
    grads = {"w": jnp.array([-0.0, 0.0, 1e-40, jnp.inf, 3.5], jnp.float32)}

    def run(eta):
        tx = gradient_noise(eta, key=KEY)
        return tx.update(grads, tx.init(grads))

    run = jax.jit(run) if jit else run
    got, state = (
        run(jnp.float32(0.0))
        if traced
        else (jax.jit if jit else lambda f: f)(
            lambda: gradient_noise(0, key=KEY).update(grads, gradient_noise(0, key=KEY).init(grads))
        )()
    )
    want = np.asarray(grads["w"]).view(np.uint32)
    np.testing.assert_array_equal(np.asarray(got["w"]).view(np.uint32), want)
    assert int(state.count) == 1


def test_leaves_that_take_no_noise_pass_untouched():
    grads = {
        "float": jnp.ones(3),
        "integer": jnp.arange(3),
        "boolean": jnp.array([True, False]),
        "none": None,
        "masked": optax.MaskedNode(),
        "float0": np.zeros(2, jax.dtypes.float0),
        "empty": jnp.zeros((0, 2)),
    }
    tx = gradient_noise(1.0, key=KEY)
    got, _ = tx.update(grads, tx.init(grads))
    assert not same(got["float"], grads["float"])
    for name in ("integer", "boolean", "float0", "empty"):
        assert got[name].dtype == grads[name].dtype
        assert same(got[name], grads[name])
    assert got["none"] is None
    assert got["masked"] == optax.MaskedNode()


@pytest.mark.parametrize(
    "mask",
    [
        {"first": {"kernel": False, "bias": True}, "last": {"kernel": False}},
        {"first": {"kernel": False, "bias": np.True_}, "last": False},
        lambda grads: jax.tree.map(lambda leaf: leaf.ndim == 1, grads),
    ],
)
def test_a_mask_keeps_noise_from_leaves(mask):
    tx = gradient_noise(0.01, key=KEY, mask=mask)
    got, _ = update(tx, tree(), tx.init(tree()))
    noise = drawn(KEY, 0, tree(), 0.01)
    assert same(got["first"]["bias"], tree()["first"]["bias"] + noise["first"]["bias"])
    assert same(got["first"]["kernel"], tree()["first"]["kernel"])
    assert same(got["last"], tree()["last"])
    empty = gradient_noise(0.01, key=KEY, mask=jax.tree.map(lambda _: False, tree()))
    assert same(update(empty, tree(), empty.init(tree()))[0], tree())


def test_under_a_pruning_mask_pruned_entries_stay_zero_and_others_have_the_same_noise():
    alive = jax.random.bernoulli(jax.random.key(1), 0.5, (6, 5))
    mask = {"first": {"kernel": alive, "bias": None}, "last": {"kernel": None}}
    tx = noisy(optax.sgd(0.1, momentum=0.9), eta=0.01, key=KEY)
    pruned, params = masked(tx, mask), apply_mask(tree(), mask)
    got, _ = update(pruned, tree(), pruned.init(params), params)
    dense, _ = update(tx, tree(), tx.init(tree()), tree())
    kernel = np.asarray(got["first"]["kernel"])
    assert not kernel[~np.asarray(alive)].any()
    np.testing.assert_array_equal(
        kernel[np.asarray(alive)], np.asarray(dense["first"]["kernel"])[np.asarray(alive)]
    )
    assert same(got["last"], dense["last"])


# 8. Numbers: float32 sigma, narrow leaves, complex leaves, saturation


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_narrow_leaves_get_float32_noise_rounded_once(dtype):
    # 1 + 100,000 and this power overflow or vanish in half precision.
    full = drawn(KEY, 100_000, {"w": jnp.zeros(64)}, 0.3, 0.55)["w"]
    narrow = drawn(KEY, 100_000, {"w": jnp.zeros(64, dtype)}, 0.3, 0.55)["w"]
    assert narrow.dtype == dtype
    assert same(narrow, full.astype(dtype))
    assert narrow.astype(jnp.float32).std() > 0


def test_wide_leaves_get_wide_noise():
    with jax.enable_x64(True):
        x = drawn(KEY, 0, {"w": jnp.zeros(1000, jnp.float64)}, 0.01)["w"]
    assert x.dtype == np.float64
    assert not np.array_equal(np.asarray(x), np.asarray(x).astype(np.float32))


def test_complex_leaves_get_circular_noise_of_the_total_variance():
    x = np.asarray(drawn(KEY, 0, {"w": jnp.zeros(100_000, jnp.complex64)}, 0.5)["w"])
    # Five standard errors; real and imaginary parts have half of the variance each.
    for part in (x.real, x.imag):
        assert abs(part.var() / 0.25 - 1) < 5 * np.sqrt(2 / x.size)
    assert abs(np.corrcoef(x.real, x.imag)[0, 1]) < 5 / np.sqrt(x.size)


def test_the_count_saturates():
    tx = gradient_noise(0.01, key=KEY)
    largest = jnp.int32(np.iinfo(np.int32).max)
    got, state = tx.update(tree(), GradientNoiseState(largest, KEY))
    assert state.count == largest
    assert all(bool(jnp.isfinite(leaf).all()) for leaf in jax.tree.leaves(got))


def test_no_array_of_noise_is_held():
    grads = {f"w{i}": jnp.zeros((256, 256)) for i in range(4)}
    tx = gradient_noise(0.01, key=KEY)
    compiled = jax.jit(tx.update, donate_argnums=0).lower(grads, tx.init(grads)).compile()
    # The goal is at most the largest leaf; fused there is not even that.
    assert compiled.memory_analysis().temp_size_in_bytes < grads["w0"].nbytes


def test_the_state_does_not_share_its_key_with_the_caller():
    """A donated state would take it along."""
    key = jax.random.key(1)
    tx = gradient_noise(0.01, key=key)
    state = reseed(tx.init(tree()), key)
    jax.jit(lambda s: jax.tree.map(jnp.copy, s), donate_argnums=0)(state)
    jax.jit(lambda s: jax.tree.map(jnp.copy, s), donate_argnums=0)(tx.init(tree()))
    assert jax.random.key_data(key).shape == (2,)


# Bad input


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"eta": -0.1}, "eta=-0.1 must be finite and not negative"),
        ({"eta": float("nan")}, "eta=nan"),
        ({"eta": float("inf")}, "eta=inf"),
        ({"eta": jnp.float32(-1.0)}, "eta=-1.0"),
        ({"eta": jnp.ones(2)}, r"eta has shape \(2,\)"),
        ({"gamma": -0.55}, "gamma=-0.55"),
        ({"gamma": float("nan")}, "gamma=nan"),
        ({"key": None}, "key=None"),
        ({"key": 0.5}, "key is float"),
        ({"key": jnp.zeros(2, jnp.uint32)}, "wrap_key_data"),
        ({"eta": None}, "eta=None needs schedule="),
    ],
)
def test_bad_arguments_are_refused(options, message):
    arguments = {"eta": 0.01, "gamma": 0.55, "key": KEY} | options
    with pytest.raises(ValueError, match=message):
        gradient_noise(arguments.pop("eta"), arguments.pop("gamma"), **arguments)


def test_other_bad_arguments_are_refused():
    with pytest.raises(ValueError, match=r"std=-0\.1"):
        gradient_noise_from_std(-0.1, key=KEY)
    with pytest.raises(ValueError, match="clip=0"):
        noisy(optax.sgd(0.1), eta=0.01, key=KEY, clip=0)
    with pytest.raises(ValueError, match=r"eta=-1\.0"):
        noise_at(KEY, 0, tree(), -1.0)
    entries = gradient_noise(0.01, key=KEY, mask=jax.tree.map(lambda x: x > 0, tree()))
    with pytest.raises(ValueError, match="want True or False per leaf"):
        update(entries, tree(), entries.init(tree()))
    other = gradient_noise(0.01, key=KEY, mask={"first": True})
    with pytest.raises(ValueError, match="no prefix of that of the gradients"):
        update(other, tree(), other.init(tree()))


def test_a_negative_variance_at_run_time_is_nan():
    tx = gradient_noise(None, key=KEY, schedule=lambda count: jnp.float32(-1.0))
    got, _ = update(tx, tree(), tx.init(tree()))
    assert bool(jnp.isnan(got["last"]["kernel"]).all())
