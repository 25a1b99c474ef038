"""What other leaves, restarts, replicas, seeds and accumulation must not change about the noise."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from tests.transforms.noise import KEY, drawn, same, tree, update
from trove_jax import core
from trove_jax.transforms import (
    GradientNoiseState,
    gradient_noise,
    masked,
    noisy,
    reseed,
)

# 1. A leaf's bits do not depend on the other leaves


def test_a_leaf_has_the_same_noise_whatever_the_other_leaves_are():
    few = drawn(KEY, 4, tree(), 0.01)
    more = drawn(KEY, 4, tree(a=jnp.zeros(3), zz=[jnp.ones((2, 2))]), 0.01)
    assert same(few, {name: more[name] for name in few})
    alone = drawn(KEY, 4, {"last": tree()["last"]}, 0.01)
    assert same(alone["last"], few["last"])
    frozen = optax.masked(gradient_noise(0.01, key=KEY), {"first": False, "last": True})
    got, _ = update(frozen, tree(), frozen.init(tree()))
    assert same(got["first"], tree()["first"])
    assert same(
        got["last"]["kernel"],
        tree()["last"]["kernel"] + drawn(KEY, 0, tree(), 0.01)["last"]["kernel"],
    )


def test_optax_add_noise_lacks_that_guarantee():
    """The reason for another transformation; if optax changes, this may go."""
    tx = optax.add_noise(0.01, 0.55, key=3)
    few, more = tree(), tree(a=jnp.zeros(3))
    got, _ = update(tx, few, tx.init(few))
    other, _ = update(tx, more, tx.init(more))
    assert not same(got["last"], other["last"])


def test_paths_keys_and_counts_give_different_noise():
    like = {"a": jnp.zeros(4), "b": jnp.zeros(4)}
    draws = [
        drawn(KEY, 0, like, 1.0)["a"],
        drawn(KEY, 0, like, 1.0)["b"],
        drawn(KEY, 1, like, 1.0, 0.0)["a"],
        drawn(jax.random.key(4), 0, like, 1.0)["a"],
    ]
    assert len({np.asarray(draw).tobytes() for draw in draws}) == 4


# 2. Restart


def test_a_run_that_is_saved_and_restored_equals_the_straight_run(tmp_path):
    tx = noisy(optax.sgd(0.1, momentum=0.9), eta=0.01, key=KEY)
    step = jax.jit(lambda params, state: advance(tx, params, state))
    straight = restarted = (tree(), tx.init(tree()))
    for _ in range(7):
        straight = step(*straight)
    for _ in range(3):
        restarted = step(*restarted)
    saved = core.Checkpoints(tmp_path, identity="noise")
    saved.save(3, restarted, core.History.join([]))
    like = jax.eval_shape(lambda: (tree(), tx.init(tree())))
    state = saved.restore(like).state
    assert core.pytrees.is_key(state[1][0].key)
    for _ in range(4):
        state = step(*state)
    assert same(straight[0], state[0])
    assert int(state[1][0].count) == 7


def advance(tx, params, state):
    grads = jax.tree.map(lambda p: 0.1 * p, params)
    updates, state = update(tx, grads, state, params)
    return optax.apply_updates(params, updates), state


# 4. Data parallel: one draw, after the mean over replicas


def test_noise_after_the_mean_is_the_same_on_every_replica_and_not_averaged_down():
    tx = gradient_noise(1.0, key=KEY)
    state = tx.init(None)
    grads = {"w": jnp.stack([jnp.zeros(50_000), jnp.ones(50_000)])}

    def step(grads):
        mean = jax.lax.pmean(grads, "replica")
        return tx.update(mean, state)[0]

    got = np.asarray(jax.vmap(step, axis_name="replica")(grads)["w"])
    np.testing.assert_array_equal(got[0], got[1])
    np.testing.assert_array_equal(got[0], tx.update({"w": jnp.full(50_000, 0.5)}, state)[0]["w"])
    assert abs(got[0].var() - 1) < 5 * np.sqrt(2 / 50_000)


# 5. Seeds


@pytest.mark.parametrize("over", [jax.vmap, lambda f: lambda x: jax.lax.map(f, x)])
def test_seeds_in_one_program_equal_the_loop_bit_for_bit(over):
    tx = noisy(optax.sgd(0.1, momentum=0.9), eta=0.01, key=KEY)
    keys = core.seed_keys(3)
    states = reseed(jax.vmap(lambda _: tx.init(tree()))(keys), keys)

    # Counts have a lane axis of their own, as in `core.train_seeds`.
    def run(state):
        start = (tree(), state)
        return jax.lax.scan(lambda carry, _: (advance(tx, *carry), None), start, length=4)[0]

    together, alone = jax.jit(over(run))(states), jax.jit(run)
    ends = [alone(jax.tree.map(lambda leaf: leaf[i], states))[0] for i in range(3)]  # noqa: B023
    for i in range(3):
        assert same(jax.tree.map(lambda leaf: leaf[i], together[0]), ends[i])  # noqa: B023
    assert not same(ends[0], ends[1])


def test_vmap_over_eta_equals_each_eta():
    # The state is an argument: XLA would compute draws from a constant key itself, with another
    # rounding of the inverse error function.
    def one(eta, state):
        return gradient_noise(eta, key=KEY).update(tree(), state)[0]

    state, etas = GradientNoiseState(jnp.int32(5), KEY), jnp.array([0.0, 0.01, 1.0])
    together = jax.jit(jax.vmap(one, in_axes=(0, None)))(etas, state)
    for i, eta in enumerate(etas):
        got = jax.tree.map(lambda leaf: leaf[i], together)  # noqa: B023
        assert same(got, jax.jit(one)(eta, state))


def test_a_closed_over_key_is_shared_by_all_lanes_until_reseeded():
    tx = optax.chain(gradient_noise(0.01, key=KEY), optax.sgd(0.1))
    params = {"w": jnp.zeros((3, 4))}
    state = jax.vmap(tx.init)(params)
    assert len(np.unique(jax.random.key_data(state[0].key), axis=0)) == 1
    state = reseed(state, core.seed_keys(3))
    assert len(np.unique(jax.random.key_data(state[0].key), axis=0)) == 3


def test_rbg_keys_are_the_same_in_a_map_but_not_under_vmap():
    """What the docstring warns of; a generator without the guarantee must be known by name."""
    keys = jax.random.split(jax.random.key(0, impl="rbg"), 3)
    like = {"w": jnp.zeros(40)}

    def one(key):
        return drawn(key, 0, like, 1.0)["w"]

    alone = np.stack([jax.jit(one)(key) for key in keys])
    np.testing.assert_array_equal(jax.jit(lambda k: jax.lax.map(one, k))(keys), alone)
    assert not np.array_equal(jax.jit(jax.vmap(one))(keys), alone)


# 6. Gradient accumulation


def test_one_draw_per_real_update_under_multi_steps():
    tx = optax.MultiSteps(gradient_noise(0.01, key=KEY), every_k_schedule=3)
    state = tx.init(tree())
    outs = []
    for _ in range(6):
        got, state = update(tx, tree(), state, tree())
        outs.append(got)
    assert int(state.inner_opt_state.count) == 2
    for index, count in ((2, 0), (5, 1)):
        want = jax.tree.map(jnp.add, tree(), drawn(KEY, count, tree(), 0.01))
        for got, leaf in zip(jax.tree.leaves(outs[index]), jax.tree.leaves(want), strict=True):
            # The mean of three equal gradients, rounded.
            np.testing.assert_allclose(got, leaf, rtol=1e-6)
    for index in (0, 1, 3, 4):
        assert all(not np.any(leaf) for leaf in jax.tree.leaves(outs[index]))


# Reseeding


def test_reseed_finds_the_state_inside_other_states():
    noise = gradient_noise(0.01, key=KEY)
    labels = {"first": "a", "last": "b"}
    rules = {
        "chain": optax.chain(optax.clip(1.0), noise, optax.adam(0.1)),
        "masked": optax.masked(noise, {"first": True, "last": False}),
        "multi_transform": optax.multi_transform({"a": noise, "b": optax.sgd(0.1)}, labels),
        "pruned": masked(optax.chain(noise, optax.sgd(0.1))),
        "multi_steps": optax.MultiSteps(optax.chain(noise), 2),
    }
    key = jax.random.key(77)
    for name, tx in rules.items():
        state = reseed(tx.init(tree()), key)
        keys = [leaf for leaf in jax.tree.leaves(state) if core.pytrees.is_key(leaf)]
        assert len(keys) == 1, name
        assert keys[0] == key, name


def test_wrong_reseeding_is_refused():
    state = gradient_noise(0.01, key=KEY).init(tree())
    with pytest.raises(ValueError, match="holds no GradientNoiseState"):
        reseed(optax.sgd(0.1).init(tree()), KEY)
    with pytest.raises(ValueError, match=r"key<fry>\[3\], want key<fry>\[\]"):
        reseed(state, core.seed_keys(3))
    with pytest.raises(ValueError, match=r"key<rbg>\[\], want key<fry>"):
        reseed(state, jax.random.key(0, impl="rbg"))
