"""Iterative magnitude pruning against a loop written from the paper, and its guarantees."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from tests.core.problems import TASK, make_data
from trove_jax import core, search, transforms

SEEDS, STEPS = 2, 24


def prunable(path, leaf):
    return path == "w"


def schedule(step):
    return jnp.where(step < 12, 0.1, 0.01)


def make_training(tx=None, **options):
    tx = tx or optax.chain(optax.add_decayed_weights(1e-2), optax.sgd(schedule, momentum=0.9))
    return search.masked_training(
        TASK, tx, make_data(), steps=STEPS, batch_size=10, prunable=prunable, **options
    )


def run_imp(training=None, **options):
    training = training or make_training()
    return search.imp(training.train, training.init, core.seed_keys(SEEDS), **options)


def loop_from_the_paper(key, *, rewind, rounds, rate):
    """Algorithm 1 for one seed, with plain SGD steps."""

    @jax.jit
    def gradient_at(variables, batch, step):
        def loss(variables):
            return TASK.loss(variables, core.Batch(batch), core.step_key(key, step), step)[0]

        return jax.grad(loss)(variables)["params"]["w"]

    def train(weights, mask, first, momentum):
        for step in range(first, STEPS):
            order = orders[step // 10]
            batch = jax.tree.map(
                lambda x: x[order[(step % 10) * 10 : (step % 10 + 1) * 10]],  # noqa: B023
                make_data().examples,
            )
            variables = {"params": {"w": weights * mask}, "statistics": {"seen": jnp.zeros(())}}
            gradient = gradient_at(variables, batch, jnp.int32(step))
            momentum = 0.9 * momentum + (gradient + 1e-2 * weights) * mask
            weights = (weights - schedule(step) * momentum) * mask
            if step + 1 == rewind:
                at_k.append(weights)
        return weights

    orders = [core.epoch_order(key, epoch, 100) for epoch in range(3)]
    at_k = []
    start = TASK.init(core.init_key(key))["params"]["w"]
    dense = np.ones(start.shape, np.float32)
    if rewind == 0:
        at_k.append(start)
    end = np.asarray(train(start, dense, 0, jnp.zeros_like(start)))
    masks = [dense]
    for _ in range(rounds):
        mask = masks[-1].copy()
        alive = np.flatnonzero(mask)
        drop = int(np.floor(rate * alive.size + 0.5))
        order = alive[np.argsort(np.abs(end.ravel()[alive]), kind="stable")]
        mask.ravel()[order[:drop]] = 0
        masks.append(mask)
        end = np.asarray(train(at_k[0] * mask, mask, rewind, jnp.zeros_like(start)))
    return np.stack(masks), end


@pytest.mark.parametrize("rewind", [0, 5, 15])
def test_equals_the_loop_from_the_paper(rewind):
    found = run_imp(rounds=3, rate=0.3, rewind=rewind)
    for i, key in enumerate(core.seed_keys(SEEDS)):
        masks, end = loop_from_the_paper(key, rewind=rewind, rounds=3, rate=0.3)
        np.testing.assert_array_equal(found.masks["w"][i], masks.astype(bool))
        # Two programs with other orders of summation, over 24 steps of SGD.
        np.testing.assert_allclose(found.variables["params"]["w"][i, -1], end, rtol=1e-4, atol=1e-5)
    assert int(found.rewound.step) == rewind


def test_counts_densities_and_zeros_are_exact():
    found = run_imp(rounds=3, rate=0.25)
    np.testing.assert_allclose(found.densities, [[1.0, 24 / 32, 18 / 32, 13 / 32]] * SEEDS)
    pruned = ~found.masks["w"]
    assert (found.variables["params"]["w"][pruned] == 0).all()
    assert (~found.masks["w"][:, 1:] | found.masks["w"][:, :-1]).all()  # nothing comes back


def test_one_shot_prunes_once_to_the_density_of_all_rounds():
    found = run_imp(rounds=3, rate=0.5, one_shot=True)
    assert found.masks["w"].shape[:2] == (SEEDS, 2)
    np.testing.assert_allclose(found.densities[:, 1], 0.125)


def test_all_rounds_and_rewinding_points_use_one_compilation():
    training = make_training(optax.sgd(0.05))
    before = core.compilations()
    run_imp(training, rounds=3, rewind=0)
    run_imp(training, rounds=2, rewind=7)
    assert core.compilations() == before + 1


def test_known_dense_networks_are_not_trained_again():
    training, trained = make_training(), []

    def count(start, mask, keys, *, stage, until=None):
        trained.append(stage)
        return training.train(start, mask, keys, stage=stage, until=until)

    first = search.imp(count, training.init, core.seed_keys(SEEDS), rounds=1)
    dense = jax.tree.map(lambda leaf: leaf[:, 0], first.variables)
    again = search.imp(count, training.init, core.seed_keys(SEEDS), rounds=1, dense=dense)
    assert trained == ["imp/round_00", "imp/round_01", "imp/round_01"]
    np.testing.assert_array_equal(again.masks["w"], first.masks["w"])


def test_moments_can_be_rewound_with_the_weights():
    fresh = run_imp(rounds=1, rewind=6)
    kept = run_imp(make_training(rewind_opt_state=True), rounds=1, rewind=6)
    np.testing.assert_array_equal(fresh.masks["w"], kept.masks["w"])
    assert not np.array_equal(
        fresh.variables["params"]["w"][:, 1], kept.variables["params"]["w"][:, 1]
    )


def test_metrics_have_seeds_and_rounds():
    def evaluate(variables):
        return core.evaluate_seeds(TASK, variables, make_data())

    found = run_imp(rounds=2, evaluate=evaluate)
    assert found.metrics["loss"].shape == (SEEDS, 3)
    last = jax.tree.map(lambda leaf: leaf[:, 2], found.variables)
    np.testing.assert_array_equal(found.metrics["loss"][:, 2], evaluate(last)["loss"])


def test_resumes_after_any_round(tmp_path):
    keys, straight = core.seed_keys(SEEDS), run_imp(rounds=2, rewind=4)

    def attempt(stop_after):
        directory = core.RunDirectory(tmp_path / str(stop_after), {"run": 1})
        training = make_training(train_seeds=core.Context(directory=directory).train_seeds)
        trained = []

        def train(start, mask, keys, *, stage, until=None):
            if len(trained) == stop_after:
                raise KeyboardInterrupt
            trained.append(stage)
            return training.train(start, mask, keys, stage=stage, until=until)

        try:
            return search.imp(train, training.init, keys, rounds=2, rewind=4)
        except KeyboardInterrupt:
            return None
        finally:
            directory.close()

    for stop_after in (1, 3):
        assert attempt(stop_after) is None
        directory = core.RunDirectory(tmp_path / str(stop_after), {"run": 1})
        training = make_training(train_seeds=core.Context(directory=directory).train_seeds)
        resumed = search.imp(training.train, training.init, keys, rounds=2, rewind=4)
        directory.close()
        np.testing.assert_array_equal(resumed.masks["w"], straight.masks["w"])
        np.testing.assert_array_equal(
            resumed.variables["params"]["w"], straight.variables["params"]["w"]
        )


def test_a_training_function_that_revives_weights_is_refused():
    training = make_training()

    def forgets_the_mask(start, mask, keys, *, stage, until=None):
        return training.train(start, None, keys, stage=stage, until=until)

    with pytest.raises(ValueError, match=r"train_fn moved \d+ pruned weights away from 0"):
        search.imp(forgets_the_mask, training.init, core.seed_keys(SEEDS), rounds=1)


def test_weights_with_nan_are_not_ranked():
    training = make_training()

    def breaks(start, mask, keys, *, stage, until=None):
        end = training.train(start, mask, keys, stage=stage, until=until)
        broken = end.variables["params"]["w"].at[1, 0, 0].set(jnp.nan)
        return end._replace(variables={**end.variables, "params": {"w": broken}})

    with pytest.raises(core.NonFiniteLoss, match=r"seeds \[1\] hold NaN"):
        search.imp(breaks, training.init, core.seed_keys(SEEDS), rounds=1)


def test_a_layer_that_global_ranking_empties_is_reported(caplog):
    def init(key):
        params = {"small": {"kernel": jnp.full((2, 2), 1e-3)}, "big": {"kernel": jnp.ones((4, 4))}}
        return {"params": params}

    def loss(variables, batch, key, step):
        return sum(jnp.sum(x) for x in jax.tree.leaves(variables["params"])) * 0.0, core.Aux()

    training = search.masked_training(
        core.Task(init, loss, lambda v, d: {}), optax.sgd(0.1), make_data(), steps=1, batch_size=10
    )
    search.imp(training.train, training.init, core.seed_keys(2), rounds=1, rate=0.3)
    assert "left nothing of small/kernel in seeds [0, 1]" in caplog.text


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"rounds": -1}, "rounds=-1"),
        ({"rounds": 1, "rewind": -2}, "rewind=-2"),
        ({"rounds": 1, "rate": 1.5}, "outside"),
        ({"rounds": 1, "one_shot": True, "rates": {"w": 0.1}}, "one_shot=True"),
        ({"rounds": 1, "rewind": STEPS + 1}, "lies before the start"),
    ],
)
def test_bad_arguments_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        run_imp(**options)


def test_a_restarted_optimiser_reads_the_schedule_at_its_step():
    tx = optax.chain(optax.scale_by_adam(), optax.scale_by_learning_rate(schedule))
    state = transforms.init_at_step(tx, {"w": jnp.zeros(3)}, 12)
    assert int(state[0].count) == 0  # Adam's bias correction belongs to its empty moments
    assert int(state[1].count) == 12


def test_injected_hyperparameters_restart_at_their_step():
    tx = optax.inject_hyperparams(optax.sgd)(learning_rate=schedule)
    state = transforms.init_at_step(tx, {"w": jnp.zeros(3)}, 12)
    updates, _ = tx.update({"w": jnp.ones(3)}, state)
    np.testing.assert_allclose(updates["w"], -0.01, rtol=1e-6)


def test_the_decay_of_gradient_noise_restarts_at_its_step():
    tx = transforms.noisy(optax.adam(schedule), eta=1.0, key=0)
    state = transforms.init_at_step(tx, {"w": jnp.zeros(3)}, 12)
    assert int(state[0].count) == 12
    assert int(state[1][0].count) == 0


def test_each_seed_keeps_the_key_of_its_noise_through_the_rounds():
    tx = transforms.noisy(optax.sgd(0.05, momentum=0.9), eta=1e-4, key=0)
    training, seen = make_training(tx), {}

    def spy(start, mask, keys, *, stage, until=None):
        end = training.train(start, mask, keys, stage=stage, until=until)
        noise = end.opt_state.inner_state[0]
        seen[stage] = (jax.random.key_data(noise.key), noise.count)
        return end

    search.imp(spy, training.init, core.seed_keys(SEEDS), rounds=2, rewind=6)
    want = jax.random.key_data(training.init(core.seed_keys(SEEDS)).opt_state.inner_state[0].key)
    assert len(np.unique(want, axis=0)) == SEEDS
    assert len(seen) >= 3
    for stage, (words, count) in seen.items():
        np.testing.assert_array_equal(words, want, err_msg=stage)
        assert set(count.tolist()) <= {6, STEPS}
