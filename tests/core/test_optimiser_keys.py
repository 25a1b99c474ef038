"""Random keys in the optimiser's state: each run has its own, alone and among seeds."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from tests.core.problems import TASK, make_data
from trove_jax import core, transforms
from trove_jax.core.pytrees import is_key

TX = transforms.noisy(optax.sgd(0.1, momentum=0.9), eta=1.0, key=0)
KEYS = core.seed_keys(3)

# Without a learning signal the weights are initial values and noise, and nothing rounds otherwise.
QUIET = core.Task(
    TASK.init,
    lambda v, batch, key, step: (0.0 * TASK.loss(v, batch, key, step)[0], core.Aux()),
    TASK.metrics,
)


def words(tree):
    return [np.asarray(jax.random.key_data(leaf)) for leaf in jax.tree.leaves(tree) if is_key(leaf)]


def weights(state):
    return np.asarray(state.variables["params"]["w"])


@pytest.mark.parametrize("impl", ["threefry2x32", "rbg"])
def test_every_seed_gets_a_key_of_its_own_the_same_alone_as_among_others(impl):
    tx = transforms.gradient_noise(1.0, key=jax.random.key(5, impl=impl))
    [together] = words(core.init_states(TASK, tx, KEYS).opt_state)
    [stored] = words(tx.init({}))
    assert len(np.unique([*together, stored], axis=0)) == 4
    for key, got in zip(KEYS, together, strict=True):
        [alone] = words(core.init_state(TASK, tx, key).opt_state)
        np.testing.assert_array_equal(got, alone)


def test_keys_of_several_rules_stay_apart_and_all_else_is_what_init_gives():
    tx = optax.chain(
        transforms.gradient_noise(1.0, key=0), optax.add_noise(1.0, 0.55, 1), optax.adam(0.1)
    )
    state = core.init_state(TASK, tx, KEYS[0])
    plain = tx.init(state.variables["params"])
    assert jax.tree.structure(state.opt_state) == jax.tree.structure(plain)
    for got, want in zip(jax.tree.leaves(state.opt_state), jax.tree.leaves(plain), strict=True):
        assert got.dtype == want.dtype
        if is_key(want):
            assert got != want
        else:
            np.testing.assert_array_equal(got, want)
    first, second = words(state.opt_state)
    assert not np.array_equal(first, second)


def test_arrays_of_keys_keep_their_shape():
    held = jax.random.split(jax.random.key(0), (2, 3))
    tx = optax.GradientTransformation(lambda params: held, lambda u, s, p=None: (u, s))
    [got] = words(core.init_state(TASK, tx, KEYS[0]).opt_state)
    assert got.shape == (2, 3, 2)
    assert len(np.unique(got.reshape(6, 2), axis=0)) == 6


@pytest.mark.parametrize("over_seeds", ["vmap", "map"])
def test_seeds_draw_their_own_noise_the_same_bits_as_alone(over_seeds):
    options = {"steps": 6, "batch_size": 10}
    states, _ = core.train_seeds(QUIET, TX, make_data(), KEYS, over_seeds=over_seeds, **options)
    ends = []
    for key, got in zip(KEYS, weights(states), strict=True):
        alone, _ = core.train(QUIET, TX, make_data(), key, **options)
        np.testing.assert_array_equal(got, weights(alone))
        ends.append(weights(alone) - np.asarray(QUIET.init(core.init_key(key))["params"]["w"]))
    assert np.abs(np.corrcoef([end.ravel() for end in ends]) - np.eye(3)).max() < 0.9


def test_a_noisy_run_in_two_parts_is_the_straight_run(tmp_path):
    """Through a checkpoint: the key and the count come back."""

    def run(steps, folder):
        directory = core.RunDirectory(tmp_path / folder, {"run": 1})
        try:
            state, _ = core.Context(directory=directory).train_seeds(
                "noisy", TASK, TX, make_data(), KEYS, steps=steps, batch_size=10
            )
        finally:
            directory.close()
        return state

    straight = run(20, "a")
    run(7, "b")
    resumed = run(20, "b")
    np.testing.assert_array_equal(weights(straight), weights(resumed))
    np.testing.assert_array_equal(*(words(s.opt_state)[0] for s in (straight, resumed)))
    assert jnp.unique(straight.opt_state[0].count) == 20


def test_a_mesh_changes_nothing_about_the_noise():
    options = {"steps": 5, "batch_size": 10}
    alone, _ = core.train_seeds(QUIET, TX, make_data(), KEYS, **options)
    spread, _ = core.train_seeds(
        QUIET, TX, make_data(), KEYS, mesh=core.make_mesh({"seed": 2}), **options
    )
    np.testing.assert_array_equal(weights(alone), weights(spread))
