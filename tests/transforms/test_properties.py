"""Whatever numbers and trees come in: public functions of transforms refuse them by name, or keep
what they promise."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from trove_jax import transforms

MANY = settings(max_examples=40, deadline=None, derandomize=True, database=None)
FEW = settings(max_examples=10, deadline=None, derandomize=True, database=None)

NUMBERS = st.sampled_from([-1.0, -1e-9, 0.0, 0.3, 1.0, 2.5, math.inf, -math.inf, math.nan])
SHAPES = st.sampled_from([(), (3,), (0, 2), (2, 2), (2, 3), (1, 2, 2)])
DTYPES = st.sampled_from(["float32", "float16", "int32", "bool", "complex64"])


@st.composite
def leaves(draw, dtypes=DTYPES):
    shape, dtype = draw(SHAPES), draw(dtypes)
    values = np.random.RandomState(draw(st.integers(0, 99))).randint(-3, 4, shape)
    return jnp.asarray(np.asarray(values).astype(dtype))


def trees(leaf):
    names = st.sampled_from(["kernel", "bias", "a"])
    return st.dictionaries(names, leaf | st.dictionaries(names, leaf, max_size=2), max_size=3)


def refusal(function, *arguments, **options):
    """What a function gives, or the message of its ValueError; another error ends the test."""
    try:
        return function(*arguments, **options), None
    except ValueError as error:
        return None, str(error)


@FEW
@given(trees(leaves()))
def test_the_dense_mask_of_any_tree(params):
    mask, said = refusal(transforms.ones_mask, params)
    if said is not None:
        assert said.startswith(("prunable selects none", "prunable leaf"))
        return
    transforms.check_mask(params, mask)
    flat = jax.tree_util.tree_flatten_with_path(params)[0]
    kernels = sum(leaf.size for path, leaf in flat if path[-1].key == "kernel" and leaf.ndim > 1)
    assert sum(leaf.size for leaf in jax.tree.leaves(mask)) == kernels
    applied = transforms.apply_mask(params, mask)
    assert jax.tree.all(jax.tree.map(lambda x, y: bool((x == y).all()), applied, params))


@MANY
@given(trees(leaves()), trees(leaves(st.sampled_from(["bool", "float32"])) | st.none()))
def test_a_mask_of_any_tree_fits_or_is_refused_by_the_name_of_the_leaf(params, mask):
    _, said = refusal(transforms.check_mask, params, mask)
    applied, said_again = refusal(transforms.apply_mask, params, mask)
    assert said == said_again
    if said is not None:
        assert said.startswith(("mask leaf '", "mask has ", "prunable leaf '"))
        return
    for found, before in zip(jax.tree.leaves(applied), jax.tree.leaves(params), strict=True):
        assert found.dtype == before.dtype
    share, said = refusal(transforms.density, mask)
    assert said is None or "no prunable entry" in said
    assert share is None or 0.0 <= float(share) <= 1.0


@st.composite
def networks(draw):
    """Kernels with ties, and their mask."""
    draws = np.random.RandomState(draw(st.integers(0, 99)))
    shapes = [(2, 3), (3, 2)]
    params = {
        str(i): {"kernel": jnp.asarray(draws.randint(-4, 5, shape).astype(np.float32))}
        for i, shape in enumerate(shapes)
    }
    mask = {
        str(i): {"kernel": jnp.asarray(draws.rand(*shape) < 0.8)} for i, shape in enumerate(shapes)
    }
    return params, mask


def flat(tree):
    return np.concatenate([np.asarray(leaf).reshape(-1) for leaf in jax.tree.leaves(tree)])


@FEW
@given(networks(), NUMBERS | st.floats(0.01, 0.99), st.sampled_from(["global", "layerwise", "all"]))
def test_pruning_takes_exactly_the_smallest(network, rate, scope):
    params, mask = network
    found, said = refusal(transforms.magnitude_mask, params, mask, rate, scope=scope)
    if said is not None:
        assert said.startswith(("scope=", "rate="))
        return
    layers = [(params, mask, found)]
    if scope == "layerwise":
        layers = [(params[i], mask[i], found[i]) for i in params]
    for weights, before, after in layers:
        weights, before, after = np.abs(flat(weights)), flat(before), flat(after)
        assert not (after & ~before).any()
        living = int(before.sum())
        assert before.sum() - after.sum() == math.floor(rate * living + 0.5)
        pruned, kept = weights[before & ~after], weights[after]
        assert pruned.max(initial=0.0) <= kept.min(initial=np.inf)


@FEW
@given(networks(), st.sampled_from(["layerwise", "global", "even", "rows"]), st.integers(0, 9))
def test_random_masks_keep_the_counts(network, mode, seed):
    _, like = network
    found, said = refusal(transforms.random_mask, jax.random.key(seed), like, mode=mode)
    if said is not None:
        assert mode == "rows"
        assert said.startswith("mode='rows'")
        return
    assert flat(found).sum() == flat(like).sum()
    if mode == "layerwise":
        for i in like:
            assert flat(found[i]).sum() == flat(like[i]).sum()


@MANY
@given(NUMBERS, NUMBERS, NUMBERS, st.integers(-1, 3))
def test_recipes_of_any_numbers(learning_rate, momentum, weight_decay, warmup):
    _, said = refusal(
        transforms.momentum_sgd,
        learning_rate,
        momentum=momentum,
        weight_decay=weight_decay,
        warmup=warmup,
    )
    good = (
        0 < learning_rate < math.inf
        and 0 <= momentum < 1
        and 0 <= weight_decay < math.inf
        and warmup >= 0
    )
    assert (said is None) == good
    assert good or said.startswith("learning_rate=")


@MANY
@given(NUMBERS, NUMBERS, NUMBERS)
def test_noise_of_any_numbers(eta, gamma, clip):
    good = all(0 <= x < math.inf for x in (eta, gamma))
    for function in (transforms.gradient_noise, transforms.gradient_noise_from_std):
        _, said = refusal(function, eta, gamma, key=0)
        assert (said is None) == good
        assert good or said.startswith(("eta=", "gamma=", "std="))
    _, said = refusal(transforms.noisy, optax.sgd(0.1), eta=eta, gamma=gamma, key=0, clip=clip)
    assert (said is None) == (good and clip > 0)
    std, said = refusal(transforms.expected_weight_std, 0.1, eta, gamma, steps=10)
    assert (said is None) == good
    if good:
        loop = sum(eta / (1.0 + t) ** gamma for t in range(10))
        np.testing.assert_allclose(std, 0.1 * math.sqrt(loop), rtol=1e-9)


@FEW
@given(st.none() | st.text(max_size=2) | st.floats() | leaves())
def test_keys_of_noise_are_keys_or_integers(key):
    assume(not (isinstance(key, jax.Array) and key.shape == () and key.dtype == jnp.int32))
    _, said = refusal(transforms.gradient_noise, 0.1, key=key)
    assert said is not None
    assert said.startswith("key")


@MANY
@given(NUMBERS, NUMBERS, NUMBERS, NUMBERS)
def test_riemannian_adam_of_any_numbers(rate, b1, eps, curvature):
    _, said = refusal(
        transforms.riemannian_adam, rate, is_ball=True, b1=b1, eps=eps, curvature=curvature
    )
    good = 0 <= rate < math.inf and 0 <= b1 < 1 and 0 <= eps < math.inf and 0 < curvature < math.inf
    assert (said is None) == good
    assert good or said.startswith(("learning_rate=", "b1=", "eps=", "curvature="))


@settings(max_examples=4, deadline=None, derandomize=True, database=None)
@given(st.integers(0, 7), st.dictionaries(st.integers(1, 6), st.floats(0.1, 0.9), max_size=3))
def test_a_schedule_started_later_goes_on_where_it_would_have_been(step, drops):
    tx = transforms.momentum_sgd(0.5, momentum=0.0, drops=drops)
    params = {"kernel": jnp.ones((1, 1))}
    state = transforms.init_at_step(tx, params, step)
    with jax.numpy_dtype_promotion("standard"):  # optax mixes dtypes
        updates, _ = tx.update({"kernel": jnp.ones((1, 1))}, state, params)
    wanted = 0.5 * math.prod(factor for at, factor in drops.items() if at <= step)
    np.testing.assert_allclose(updates["kernel"], -wanted, rtol=1e-6)
