"""Masked training against training of the sub-vector that the mask leaves."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from tests.contracts import ArrayContract, cases, holds
from trove_jax.transforms import (
    MaskedState,
    apply_mask,
    check_mask,
    density,
    emptied_layers,
    get_mask,
    is_kernel,
    layer_densities,
    masked,
    ones_mask,
    set_mask,
)

OPTIMISERS = {
    "sgd": optax.sgd(0.1),
    "momentum_decay": optax.chain(
        optax.add_decayed_weights(1e-2), optax.sgd(0.1, momentum=0.9, nesterov=True)
    ),
    "adam": optax.adam(1e-2),
    "adamw": optax.adamw(1e-2, weight_decay=0.1),
    "rmsprop": optax.rmsprop(1e-2, momentum=0.9),
    "clipped": optax.chain(optax.clip_by_global_norm(0.5), optax.sgd(0.1, momentum=0.9)),
}


def _draw(rng: np.random.Generator, n: int):
    x = rng.normal(size=n).astype(np.float32)
    return x, rng.random(n) < 0.6


CONTRACTS = {
    "apply_mask": ArrayContract(
        lambda x, m: apply_mask({"w": x}, {"w": m}), _draw, masked_by={0: 1}, equivariant=True
    ),
    "density": ArrayContract(
        lambda m: density({"w": m}),
        lambda rng, n: (rng.random(n) < 0.6,),
        properties=("jit", "vmap", "single", "permutation"),
    ),
    "layer_densities": ArrayContract(
        lambda m: layer_densities({"w": m, "b": None}),
        lambda rng, n: (rng.random(n) < 0.6,),
        properties=("jit", "vmap", "single", "permutation"),
    ),
}


@pytest.mark.parametrize(("name", "check"), cases(CONTRACTS))
def test_contract(name, check):
    assert holds(CONTRACTS[name], check)


def _network(key, *, shapes=((6, 5), (5, 3))):
    return {
        f"Dense_{i}": {
            "kernel": jax.random.normal(jax.random.fold_in(key, i), shape),
            "bias": jnp.full(shape[1], 0.1, jnp.float32),
        }
        for i, shape in enumerate(shapes)
    }


def _random_mask(key, params):
    mask = ones_mask(params)
    for i, layer in enumerate(mask.values()):
        draw = jax.random.fold_in(key, i)
        layer["kernel"] = jax.random.bernoulli(draw, 0.5, layer["kernel"].shape)
    return mask


def _loss(params, x):
    first, second = params["Dense_0"], params["Dense_1"]
    hidden = jax.nn.relu(x @ first["kernel"] + first["bias"][None])
    return 0.01 * jnp.sum(jnp.square(hidden @ second["kernel"] + second["bias"][None]))


def _update(tx, grads, state, params, **extra):
    # Adam's own arithmetic mixes an integer step with float decay rates.
    with jax.numpy_dtype_promotion("standard"):
        return tx.update(grads, state, params, **extra)


def _train(tx, params, state, x, steps=12):
    def step(carry, _):
        params, state = carry
        updates, state = _update(tx, jax.grad(_loss)(params, x), state, params)
        return (optax.apply_updates(params, updates), state), None

    return jax.lax.scan(step, (params, state), length=steps)[0]


@pytest.mark.parametrize("name", OPTIMISERS)
def test_pruned_entries_stay_exactly_zero_and_living_ones_train(name):
    key = jax.random.key(0)
    params, x = _network(key), jax.random.normal(jax.random.key(1), (8, 6))
    mask = _random_mask(jax.random.key(2), params)
    start = apply_mask(params, mask)
    tx = masked(OPTIMISERS[name], mask)
    final, _ = jax.jit(lambda p: _train(tx, p, tx.init(p), x))(start)
    for layer, old in start.items():
        kernel, alive = np.asarray(final[layer]["kernel"]), np.asarray(mask[layer]["kernel"])
        assert np.all(kernel[~alive] == 0.0)
        assert np.any(kernel[alive] != np.asarray(old["kernel"])[alive])
        assert np.all(np.isfinite(kernel))
        assert np.any(np.asarray(final[layer]["bias"]) != np.asarray(old["bias"]))


@pytest.mark.parametrize("name", OPTIMISERS)
def test_living_entries_follow_the_unmasked_run_on_the_subvector(name):
    """These rules see entries one by one, or through norms over living entries only."""
    rng = np.random.default_rng(0)
    target, w = rng.normal(size=(2, 4, 5)).astype(np.float32)
    alive = rng.random((4, 5)) < 0.5

    def run(tx, params, goal):
        state = tx.init(params)
        for _ in range(20):
            grads = jax.tree.map(lambda p: p - goal, params)
            updates, state = _update(tx, grads, state, params)
            params = optax.apply_updates(params, updates)
        return params["kernel"]

    start = jnp.where(alive, jnp.asarray(w), 0.0)
    tx = masked(OPTIMISERS[name], {"kernel": jnp.asarray(alive)})
    sparse = run(tx, {"kernel": start}, jnp.asarray(target))
    small = run(OPTIMISERS[name], {"kernel": jnp.asarray(w[alive])}, jnp.asarray(target[alive]))
    # Norms sum in another order: a few units in the last place over 20 steps.
    np.testing.assert_allclose(np.asarray(sparse)[alive], small, rtol=2e-5, atol=1e-7)
    assert np.all(np.asarray(sparse)[~alive] == 0.0)


def test_nan_in_pruned_entries_reaches_nothing():
    alive = jnp.array([[True, False, True]])
    params = {"kernel": jnp.array([[1.0, jnp.nan, -2.0]])}
    grads = {"kernel": jnp.array([[0.5, jnp.nan, 0.1]])}
    rule = optax.chain(optax.clip_by_global_norm(1.0), optax.lamb(0.1, weight_decay=0.1))
    tx = masked(rule, {"kernel": alive})
    updates, state = _update(tx, grads, tx.init(params), params)
    assert updates["kernel"][0, 1] == 0.0
    assert bool(jnp.all(jnp.isfinite(updates["kernel"])))
    arrays = [leaf for leaf in jax.tree.leaves(state) if leaf.dtype == jnp.float32]
    assert arrays
    assert all(bool(jnp.all(jnp.isfinite(leaf))) for leaf in arrays)


def test_vmap_over_seeds_equals_the_loop():
    x = jax.random.normal(jax.random.key(1), (8, 6))
    networks = [_network(jax.random.key(seed)) for seed in range(3)]
    masks = [_random_mask(jax.random.key(9 + seed), p) for seed, p in enumerate(networks)]

    def run(params, mask):
        tx = masked(OPTIMISERS["adamw"], mask)
        start = apply_mask(params, mask)
        final, state = _train(tx, start, tx.init(start), x)
        return final, state.mask

    def stack(trees):
        return jax.tree.map(lambda *leaves: jnp.stack(leaves), *trees)

    alone, together = jax.jit(run), jax.jit(jax.vmap(run))(stack(networks), stack(masks))
    loop = stack([alone(params, mask) for params, mask in zip(networks, masks, strict=True)])
    for got, want in zip(jax.tree.leaves(together), jax.tree.leaves(loop), strict=True):
        # Batched matmuls sum in another order; Adam divides by small second moments.
        np.testing.assert_allclose(got, want, rtol=1e-3, atol=1e-5)


def test_another_mask_in_the_state_does_not_compile_again():
    params = _network(jax.random.key(0))
    tx = optax.chain(masked(OPTIMISERS["adam"]))

    @jax.jit
    def step(params, state):
        updates, state = _update(tx, jax.tree.map(jnp.ones_like, params), state, params)
        return optax.apply_updates(params, updates), state

    state = tx.init(params)
    step(params, state)
    for seed in range(3):
        mask = _random_mask(jax.random.key(seed), params)
        state = set_mask(state, mask)
        new, state = step(apply_mask(params, mask), state)
        gone = ~np.asarray(mask["Dense_0"]["kernel"])
        assert np.all(np.asarray(new["Dense_0"]["kernel"])[gone] == 0.0)
        assert jax.tree.all(jax.tree.map(jnp.array_equal, get_mask(state), mask))
    assert step._cache_size() == 1


def test_state_does_not_share_buffers_with_the_callers_mask():
    """A donated state would take them along."""
    mask = {"kernel": jnp.ones((2, 2), bool)}
    tx = masked(optax.sgd(0.1), mask)
    state = set_mask(tx.init({"kernel": jnp.ones((2, 2))}), mask)
    jax.jit(lambda s: jax.tree.map(jnp.copy, s), donate_argnums=0)(state)
    assert bool(mask["kernel"].all())


def test_extra_arguments_reach_the_inner_rule():
    tx = masked(optax.contrib.reduce_on_plateau(factor=0.5, patience=0, cooldown=0))
    params = {"kernel": jnp.ones((2, 2))}
    state = tx.init(params)
    for value in (1.0, 2.0, 3.0):
        updates, state = _update(tx, params, state, params, value=value)
    assert float(updates["kernel"][0, 0]) < 1.0


def test_default_mask_covers_kernels_only():
    params = {
        "Conv_0": {"kernel": jnp.ones((3, 3, 1, 2))},
        "BatchNorm_0": {"scale": jnp.ones(2), "bias": jnp.ones(2)},
        "Embed_0": {"embedding": jnp.ones((4, 2))},
        "Dense_0": {"kernel": jnp.ones((2, 3)), "bias": jnp.ones(3)},
    }
    mask = ones_mask(params)
    assert layer_densities(mask) == {"Conv_0/kernel": 1.0, "Dense_0/kernel": 1.0}
    assert density(mask) == 1.0
    assert masked(optax.sgd(1.0)).init(params).mask["BatchNorm_0"] == {"scale": None, "bias": None}
    own = ones_mask(params, lambda path, leaf: is_kernel(path, leaf) and "Conv" in path)
    assert list(layer_densities(own)) == ["Conv_0/kernel"]


def test_densities_count_prunable_entries_only():
    mask = {
        "a": {"kernel": jnp.array([[True, False], [False, False]]), "bias": None},
        "b": {"kernel": jnp.zeros((1, 4), bool), "bias": None},
    }
    assert density(mask) == 1 / 8
    assert layer_densities(mask) == {"a/kernel": 0.25, "b/kernel": 0.0}
    assert emptied_layers(mask) == ("b/kernel",)


def test_gradient_through_apply_mask_ignores_what_is_pruned():
    mask = {"kernel": jnp.array([[True, False]])}
    params = {"kernel": jnp.array([[2.0, jnp.nan]])}
    grads = jax.grad(lambda p: jnp.sum(apply_mask(p, mask)["kernel"] ** 2))(params)
    np.testing.assert_array_equal(grads["kernel"], [[4.0, 0.0]])


@pytest.mark.parametrize(
    ("mask", "message"),
    [
        ({"d": {"kernel": jnp.ones((3, 2), bool), "bias": None}}, r"'d/kernel' has shape \(3, 2\)"),
        ({"d": {"kernel": jnp.ones((2, 3)), "bias": None}}, "'d/kernel' has dtype float32"),
        ({"d": {"kernel": jnp.ones((2, 3), bool)}}, "no leaf for the parameter 'd/bias'"),
        (
            {"d": {"kernels": jnp.ones((2, 3), bool), "bias": None}},
            "'d/kernels' is not among .* the nearest is 'd/kernel'",
        ),
    ],
)
def test_a_mask_of_other_parameters_is_refused_by_name(mask, message):
    params = {"d": {"kernel": jnp.ones((2, 3)), "bias": jnp.ones(3)}}
    for refuse in (check_mask, apply_mask, lambda p, m: masked(optax.sgd(1.0), m).init(p)):
        with pytest.raises(ValueError, match=message):
            refuse(params, mask)
    assert check_mask(params, ones_mask(params)) is None


@pytest.mark.parametrize("dtype", [jnp.int32, jnp.complex64])
def test_a_prunable_leaf_that_is_not_real_is_refused(dtype):
    params = {"kernel": jnp.ones((2, 2), dtype)}
    with pytest.raises(ValueError, match="'kernel' has dtype"):
        masked(optax.sgd(1.0)).init(params)
    with pytest.raises(ValueError, match="'kernel' has dtype") as error:
        check_mask(params, {"kernel": jnp.ones((2, 2), bool)})
    assert "prunable" in str(error.value)


def test_wrong_calls_say_what_to_do():
    params = {"kernel": jnp.ones((2, 2)), "bias": jnp.ones(2)}
    with pytest.raises(ValueError, match="selects none of the 2 leaves"):
        ones_mask(params, lambda path, leaf: False)
    with pytest.raises(ValueError, match="both mask and prunable"):
        masked(optax.sgd(1.0), ones_mask(params), prunable=is_kernel)
    with pytest.raises(ValueError, match="no prunable entry"):
        density({"bias": None})
    with pytest.raises(ValueError, match="holds no MaskedState"):
        set_mask(optax.sgd(1.0).init(params), ones_mask(params))
    with pytest.raises(ValueError, match="holds 0 MaskedState"):
        get_mask(optax.sgd(1.0).init(params))
    state = masked(optax.sgd(1.0)).init(params)
    with pytest.raises(ValueError, match="in only one of"):
        set_mask(state, {"kernel": None, "bias": None})
    with pytest.raises(ValueError, match="new mask leaf 'kernel' is bool"):
        set_mask(state, {"kernel": jnp.ones((5, 2, 2), bool), "bias": None})
    assert isinstance(state, MaskedState)
