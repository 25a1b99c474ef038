"""Attacks on models whose worst case is known, and the promises on key, box and clip range."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.contracts import ArrayContract, cases, holds
from trove_jax.analysis import fgsm, pgd, robust_accuracy, untargeted_loss
from trove_jax.losses import cross_entropy

_KERNEL = np.random.default_rng(7).normal(size=(6, 3))


def _linear(x):
    return x @ jnp.asarray(_KERNEL, x.dtype)


def _two(x):
    return _linear(x)[:, :2]


def _batch(n=32, seed=0):
    rng = np.random.default_rng(seed)
    return (
        jnp.asarray(rng.uniform(0.2, 0.8, (n, 6)), jnp.float32),
        jnp.asarray(rng.integers(0, 3, n), jnp.int32),
    )


def _draw(rng: np.random.Generator, n: int):
    # Eighths, a power of two as epsilon: exact in bfloat16, where a rounded sum would be compared.
    return (rng.integers(1, 7, (n, 6)) / 8).astype(np.float32), rng.integers(0, 3, n)


CONTRACTS = {
    "fgsm": ArrayContract(
        lambda x, y: fgsm(untargeted_loss(_linear), x, y, epsilon=0.125, clip=(0.0, 1.0)),
        _draw,
        # Steps have no gradient.
        properties=("jit", "vmap", "float64", "empty", "single", "permutation"),
        equivariant=True,
    ),
    "pgd": ArrayContract(
        lambda x, y: pgd(
            untargeted_loss(_linear), x, y, epsilon=0.125, step_size=0.0625, steps=3, clip=(0, 1)
        ),
        _draw,
        properties=("jit", "vmap", "float64", "empty", "single", "permutation"),
        equivariant=True,
    ),
    "untargeted_loss": ArrayContract(
        lambda x, y: untargeted_loss(_linear)(x, y),
        _draw,
        properties=("jit", "vmap", "float64", "gradient", "empty", "single", "permutation"),
        equivariant=True,
    ),
}


@pytest.mark.parametrize(("name", "check"), cases(CONTRACTS))
def test_contract(name, check):
    assert holds(CONTRACTS[name], check)


def test_two_classes_of_a_linear_model_have_a_closed_form():
    # L = (w_other - w_y) x: the worst corner lowers the margin by epsilon |w_other - w_y|_1.
    x, y = _batch()
    y = y % 2
    difference = (_KERNEL[:, 1] - _KERNEL[:, 0]) * np.where(np.asarray(y) == 0, 1, -1)[:, None]
    changed = fgsm(untargeted_loss(_two), x, y, epsilon=0.05)
    np.testing.assert_allclose(changed, x + 0.05 * np.sign(difference), atol=1e-7)
    for attack in (fgsm, functools.partial(pgd, steps=4), functools.partial(pgd, key=_key(0))):
        changed = attack(untargeted_loss(_two), x, y, epsilon=0.05)
        gained = untargeted_loss(_two)(changed, y) - untargeted_loss(_two)(x, y)
        np.testing.assert_allclose(gained, 0.05 * np.abs(difference).sum(axis=1), rtol=1e-4)


def test_robust_accuracy_of_two_classes_is_the_share_of_large_margins():
    x = _batch(200)[0]
    logits = np.asarray(x, np.float64) @ _KERNEL[:, :2]
    margin, reach = np.abs(logits[:, 0] - logits[:, 1]), np.abs(_KERNEL[:, 0] - _KERNEL[:, 1]).sum()
    labels = jnp.asarray(logits.argmax(axis=1), jnp.int32)
    for epsilon in (0.0, 0.02, 0.1):
        attack = functools.partial(fgsm, epsilon=epsilon)
        want = (margin > 2 * epsilon * reach / 2).mean()
        assert abs(float(robust_accuracy(_two, x, labels, attack)) - want) < 1e-6
    half = labels.at[:100].set(1 - labels[:100])
    attack = functools.partial(fgsm, epsilon=0.0)
    assert float(robust_accuracy(_two, x, half, attack)) == 0.5


@pytest.mark.parametrize("key", [None, 3])
@pytest.mark.parametrize("steps", [1, 7])
def test_the_change_stays_in_the_box_and_in_the_range(key, steps):
    x, y = _batch(64)
    x = x.at[:20].set(0.01).at[20:40].set(0.97)
    key = None if key is None else _key(key)
    loss = untargeted_loss(_linear)
    for changed in (
        pgd(loss, x, y, key, epsilon=0.1, step_size=0.08, steps=steps, clip=(0.0, 1.0)),
        fgsm(loss, x, y, epsilon=0.1, clip=(0.0, 1.0)),
    ):
        # x + 0.1 rounds to half a unit of 2^-23.
        assert float(jnp.abs(changed - x).max()) <= 0.1 + 2**-23
        assert float(changed.min()) >= 0.0
        assert float(changed.max()) <= 1.0
        assert bool((loss(changed, y) > loss(x, y)).all())


def test_projected_steps_are_as_strong_as_one_on_a_convex_loss():
    x, y = _batch(128, seed=1)
    loss = untargeted_loss(_linear)
    one = loss(fgsm(loss, x, y, epsilon=0.2, clip=(0.0, 1.0)), y)
    many = loss(pgd(loss, x, y, epsilon=0.2, steps=20, clip=(0.0, 1.0)), y)
    assert float((many - one).min()) > -1e-4
    # Of three classes the second nearest can be the better one to aim at.
    assert float((many - one).max()) > 1e-2, (
        "three classes: the best corner is not always the first"
    )


def test_a_concave_loss_is_climbed_to_its_top():
    target = jnp.array([[0.53, 0.2], [0.4, 0.9]])
    x = jnp.full((2, 2), 0.5)

    def loss(x, y):
        return -jnp.sum((x - y) ** 2, axis=1)

    got = pgd(loss, x, target, _key(1), epsilon=0.25, step_size=0.01, steps=60)
    np.testing.assert_allclose(got, [[0.53, 0.25], [0.4, 0.75]], atol=0.0101)


def test_same_key_same_bits_and_another_key_another_start():
    x, y = _batch()

    def flat(x, y):
        # Leaves what the start drew.
        return jnp.zeros(x.shape[0])

    starts = [pgd(flat, x, y, _key(k), epsilon=0.1, clip=(0.0, 1.0)) for k in (0, 0, 1)]
    np.testing.assert_array_equal(starts[0], starts[1])
    assert float((starts[0] != starts[2]).mean()) > 0.9
    np.testing.assert_array_equal(pgd(flat, x, y, epsilon=0.1), x)
    keys = jax.random.split(_key(2), 3)
    side_by_side = jax.vmap(lambda k: pgd(flat, x, y, k, epsilon=0.1))(keys)
    for found, k in zip(side_by_side, keys, strict=True):
        np.testing.assert_array_equal(found, pgd(flat, x, y, k, epsilon=0.1))
    share = (starts[0] - x) / 0.1
    # 192 uniform numbers: the mean of their absolute values has deviation 0.021.
    assert abs(float(jnp.abs(share).mean()) - 0.5) < 0.11


def test_standardised_images_are_attacked_in_their_own_units():
    rng = np.random.default_rng(4)
    mean, std = np.array([0.5, 0.3], np.float32), np.array([0.25, 0.5], np.float32)
    pixels = jnp.asarray(rng.uniform(0, 1, (5, 4, 4, 2)), jnp.float32)
    kernel = jnp.asarray(rng.normal(size=(32, 3)), jnp.float32)
    y = jnp.array([0, 1, 2, 0, 1])

    def on_pixels(x):
        return ((x - mean.reshape(1, 1, 1, 2)) / std.reshape(1, 1, 1, 2)).reshape(5, -1) @ kernel

    def on_inputs(x):
        return x.reshape(5, -1) @ kernel

    inputs = (pixels - mean.reshape(1, 1, 1, 2)) / std.reshape(1, 1, 1, 2)
    for attack in (fgsm, pgd):
        want = attack(untargeted_loss(on_pixels), pixels, y, epsilon=0.125, clip=(0.0, 1.0))
        changed = attack(
            untargeted_loss(on_inputs),
            inputs,
            y,
            epsilon=0.125 / std,
            clip=(-mean / std, (1 - mean) / std),
        )
        got = changed * std.reshape(1, 1, 1, 2) + mean.reshape(1, 1, 1, 2)
        np.testing.assert_allclose(got, want, atol=1e-6)
        assert float(got.min()) >= -1e-6
        assert float(got.max()) <= 1 + 1e-6


def test_the_gradient_has_the_sign_of_the_cross_entropy():
    x, y = _batch(seed=2)
    ours = jax.grad(lambda x: untargeted_loss(_linear)(x, y).sum())(x)
    cross = jax.grad(lambda x: cross_entropy(_linear(x), y))(x)
    np.testing.assert_array_equal(jnp.sign(ours), jnp.sign(cross))
    p = jax.nn.softmax(_linear(x))[jnp.arange(32), y]
    np.testing.assert_allclose(untargeted_loss(_linear)(x, y), jnp.log((1 - p) / p), rtol=1e-3)


def test_a_sure_network_does_not_look_robust():
    # Scaled by 1e3 the label's probability is 1 in float32, and the cross-entropy's gradient lost.
    x, _ = _batch(64)

    def sure(x):
        return 1e3 * _linear(x)

    labels = jnp.argmax(_linear(x), axis=1).astype(jnp.int32)
    attack = functools.partial(fgsm, epsilon=0.1)
    plain = robust_accuracy(_linear, x, labels, attack)
    scaled = robust_accuracy(sure, x, labels, attack)
    changed = attack(lambda x, y: cross_entropy(sure(x), y), x, labels)
    hidden = (jnp.argmax(sure(changed), axis=1) == labels).mean()
    assert abs(float(scaled - plain)) < 0.05
    assert float(hidden) > float(plain) + 0.2


def test_a_failed_network_has_no_robustness():
    x, y = _batch()
    attack = functools.partial(fgsm, epsilon=0.1)
    assert jnp.isnan(robust_accuracy(lambda x: _linear(x) * jnp.nan, x, y, attack))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"epsilon": -0.1}, r"epsilon=-0.1 must be at least 0"),
        ({"epsilon": 0.1, "clip": (1.0, 0.0)}, r"clip=\(1.0, 0.0\) leaves no value"),
        ({"epsilon": np.ones(5)}, r"epsilon has the shape \[5\], which does not broadcast"),
        ({"epsilon": 0.1, "clip": (np.zeros((1, 1, 6)), 1.0)}, r"clip has the shape \[1, 1, 6\]"),
        ({"epsilon": np.ones((2, 6))}, r"epsilon has the shape \[2, 6\]"),
    ],
)
def test_bad_options_are_refused(options, message):
    x, y = _batch(4)
    for attack in (fgsm, pgd):
        with pytest.raises(ValueError, match=message):
            attack(untargeted_loss(_linear), x, y, **options)


def test_bad_arguments_are_refused():
    x, y = _batch(4)
    loss = untargeted_loss(_linear)
    with pytest.raises(ValueError, match="x is uint8"):
        fgsm(loss, x.astype(jnp.uint8), y, epsilon=0.1)
    with pytest.raises(ValueError, match="steps=0"):
        pgd(loss, x, y, epsilon=0.1, steps=0)
    with pytest.raises(ValueError, match="step_size=0 must be above 0"):
        pgd(loss, x, y, epsilon=0.1, step_size=0)
    with pytest.raises(ValueError, match="do not belong together"):
        loss(x, y[:3])
    with pytest.raises(ValueError, match="k at least 2"):
        untargeted_loss(lambda x: x[:, :1])(x, y)
    with pytest.raises(ValueError, match="labels has dtype float32"):
        loss(x, y.astype(jnp.float32))
    with pytest.raises(ValueError, match=r"attack gives float32 \[3, 6\]"):
        robust_accuracy(_linear, x, y, lambda loss_fn, x, y: x[:3])


def _key(seed):
    return jax.random.key(seed)
