"""The training loop against plain loops, and its promises: exact resumption, one compilation."""

import os
import signal

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from tests.core.problems import TASK, init, loss, make_data
from trove_jax import core

TX = optax.adam(1e-2)


def same(a, b):
    return jax.tree.all(jax.tree.map(lambda x, y: np.array_equal(x, y, equal_nan=True), a, b))


def close(a, b):
    # Sums over a batch in another order: a few units in the last place, grown over 30 steps.
    return jax.tree.all(jax.tree.map(lambda x, y: np.allclose(x, y, rtol=1e-4, atol=1e-5), a, b))


def run(key, **options):
    options = {"steps": 30, "batch_size": 10} | options
    return core.train(TASK, TX, make_data(), key, **options)


def run_seeds(keys, **options):
    options = {"steps": 30, "batch_size": 10} | options
    return core.train_seeds(TASK, TX, make_data(), keys, **options)


def plain_loop(key, steps, batch_size):
    """The same training written without the library's loop."""
    data = make_data()
    variables = init(core.init_key(key))
    opt_state = TX.init(variables["params"])
    losses = []
    per_epoch = 100 // batch_size
    for step in range(steps):
        order = core.epoch_order(key, step // per_epoch, 100)
        first = (step % per_epoch) * batch_size
        batch = core.Batch(
            jax.tree.map(lambda x: x[order[first : first + batch_size]], data.examples)  # noqa: B023
        )

        def of_params(params):
            return loss({**variables, "params": params}, batch, core.step_key(key, step), step)  # noqa: B023

        (value, aux), gradient = jax.value_and_grad(of_params, has_aux=True)(variables["params"])
        with jax.numpy_dtype_promotion("standard"):
            updates, opt_state = TX.update(gradient, opt_state, variables["params"])
        params = optax.apply_updates(variables["params"], updates)
        variables = {"params": params, **aux.updates}
        losses.append(value)
    return variables, np.array(losses)


def test_equals_a_plain_loop():
    key = jax.random.key(3)
    state, history = run(key)
    variables, losses = plain_loop(key, 30, 10)
    assert int(state.step) == 30
    assert close(state.variables, variables)
    np.testing.assert_allclose(history.metrics["loss"], losses, rtol=1e-4)
    assert history.steps.tolist() == list(range(30))
    assert float(state.variables["statistics"]["seen"]) == 30.0


@pytest.mark.parametrize("k", [1, 7, 10, 29, 30])
def test_a_run_in_two_parts_is_the_straight_run_bit_for_bit(k):
    key = jax.random.key(4)
    straight, history = run(key)
    first, before = run(key, steps=k)
    second, after = run(key, start=first)
    assert same(straight, second)
    assert same(history, core.History.join([before, after]))


def test_the_start_is_not_consumed():
    start = core.init_state(TASK, TX, jax.random.key(0))
    before = jax.device_get(start)
    run(jax.random.key(0), start=start)
    assert same(jax.device_get(start), before)


def test_another_key_gives_the_same_start_another_order():
    start, _ = run(jax.random.key(0), steps=10)
    a, _ = run(jax.random.key(1), start=start)
    b, _ = run(jax.random.key(2), start=start)
    assert not same(a.variables, b.variables)


@pytest.mark.parametrize("over_seeds", ["vmap", "map", None])
def test_seeds_equal_single_runs(over_seeds):
    keys = core.seed_keys(3)
    states, history = run_seeds(keys, over_seeds=over_seeds)
    for i in range(3):
        state, single = run(keys[i])
        assert close(jax.tree.map(lambda x: x[i], states.variables), state.variables)  # noqa: B023
        np.testing.assert_allclose(history.metrics["loss"][i], single.metrics["loss"], rtol=1e-4)


@pytest.mark.parametrize("axes", [{"seed": 2}, {"data": 2}, {"seed": 1, "data": 2}])
@pytest.mark.parametrize("seeds", [2, 3])
def test_a_mesh_changes_nothing_but_the_place(axes, seeds):
    keys = core.seed_keys(seeds)
    alone, records = run_seeds(keys)
    spread, spread_records = run_seeds(keys, mesh=core.make_mesh(axes))
    assert close(jax.device_get(alone), jax.device_get(spread))
    assert spread_records.metrics["loss"].shape == (seeds, 30)
    np.testing.assert_allclose(records.metrics["loss"], spread_records.metrics["loss"], rtol=1e-4)


def test_one_compilation_serves_spans_starts_and_orders():
    keys = core.seed_keys(2, root=9)
    tx = optax.sgd(0.01)  # a program of this test's own
    options = {"batch_size": 10, "over_seeds": "vmap"}
    before = core.compilations()
    start, _ = core.train_seeds(TASK, tx, make_data(), keys, steps=7, **options)
    core.train_seeds(TASK, tx, make_data(), keys, steps=30, start=start, **options)
    other = core.seed_keys(2, root=8)
    core.train_seeds(TASK, tx, make_data(), other, steps=23, start=start, **options)
    assert core.compilations() == before + 1


class Stream:
    """The same examples, read from the host."""

    def __init__(self):
        self._examples = jax.device_get(make_data().examples)

    def __len__(self):
        return 100

    def __getitem__(self, indices):
        return {name: values[indices] for name, values in self._examples.items()}


@pytest.mark.parametrize("chunk_steps", [4, None])
def test_a_stream_gives_what_arrays_give(chunk_steps):
    keys = core.seed_keys(2)
    arrays, _ = run_seeds(keys)
    stream, history = core.train_seeds(
        TASK, TX, core.Data(Stream()), keys, steps=30, batch_size=10, chunk_steps=chunk_steps
    )
    assert close(arrays, stream)
    assert history.metrics["error"].shape == (2, 30)


def test_all_examples_are_the_batch_when_batch_size_is_none():
    state, _ = run(jax.random.key(0), batch_size=None, steps=3)
    assert int(state.step) == 3


def test_an_epoch_visits_every_example_once():
    order = core.epoch_order(jax.random.key(0), jnp.int32(5), 100)
    assert sorted(order.tolist()) == list(range(100))
    assert not np.array_equal(order, core.epoch_order(jax.random.key(0), jnp.int32(6), 100))


def test_hooks_are_called_at_their_multiples_and_at_the_end():
    seen = []

    class Look:
        every = 8

        def __call__(self, moment):
            seen.append((moment.step, moment.new.steps.tolist(), moment.final))
            assert int(moment.state().step) == moment.step

    run(jax.random.key(0), steps=20, hooks=[Look()])
    assert [s for s, _, _ in seen] == [8, 16, 20]
    assert [step for _, steps, _ in seen for step in steps] == list(range(20))
    assert [final for _, _, final in seen] == [False, False, True]


def explodes_at(step_of_seed):
    def bad_loss(variables, batch, key, step):
        value, aux = loss(variables, batch, key, step)
        mark = variables["statistics"]["mark"]
        value = jnp.where(step == mark, jnp.nan, value)
        return value, core.Aux(aux.metrics, {"statistics": variables["statistics"]})

    def bad_init(key):
        return init(key) | {"statistics": {"mark": jnp.int32(-1), "seen": jnp.zeros(())}}

    task = core.Task(bad_init, bad_loss, lambda v, d: {})
    start = core.init_states(task, TX, core.seed_keys(3))
    start.variables["statistics"]["mark"] = jnp.array(step_of_seed, jnp.int32)
    return task, start


def test_a_loss_that_is_not_finite_names_seed_and_step():
    task, start = explodes_at([-1, 11, -1])
    with pytest.raises(core.NonFiniteLoss, match="nan at seed 1, step 11"):
        core.train_seeds(
            task, TX, make_data(), core.seed_keys(3), steps=30, start=start, batch_size=10
        )


def test_other_seeds_can_go_on_after_one_failed():
    task, start = explodes_at([-1, 11, -1])
    state, history = core.train_seeds(
        task,
        TX,
        make_data(),
        core.seed_keys(3),
        steps=30,
        start=start,
        batch_size=10,
        stop_at_nonfinite=False,
    )
    assert np.isnan(np.asarray(state.variables["params"]["w"][1])).all()
    assert np.isfinite(np.asarray(state.variables["params"]["w"])[[0, 2]]).all()
    assert np.isnan(history.metrics["loss"][1, 11])


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_the_run_after_a_last_call_of_the_hooks(number):
    calls, before = [], signal.getsignal(signal.SIGINT)

    class Ask:
        every = 5

        def __call__(self, moment):
            calls.append((moment.step, moment.final))
            if moment.step == 10:
                os.kill(os.getpid(), number)

    with core.catch_signals(), pytest.raises(core.Interrupted, match="of 30"):
        run(jax.random.key(0), hooks=[Ask()])
    assert calls[-1][1]
    assert calls[-1][0] < 30
    assert signal.getsignal(signal.SIGINT) is before


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": 0}, "batch_size=0"),
        ({"batch_size": 101}, "batch_size=101 does not fit data of 100"),
        ({"steps": -1}, "steps=-1 lies before"),
        ({"chunk_steps": 0}, "chunk_steps=0"),
    ],
)
def test_bad_arguments_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        run(jax.random.key(0), **options)


def test_bad_seed_arguments_are_refused():
    with pytest.raises(ValueError, match="over_seeds='pmap'"):
        run_seeds(core.seed_keys(2), over_seeds="pmap")
    with pytest.raises(ValueError, match="one key per seed"):
        run_seeds(jax.random.key(0))
    with pytest.raises(ValueError, match="leading seed axis"):
        run_seeds(core.seed_keys(2), start=core.init_states(TASK, TX, core.seed_keys(3)))
    with pytest.raises(ValueError, match="data axis of 2"):
        run_seeds(core.seed_keys(2), batch_size=9, mesh=core.make_mesh({"data": 2}))
    with pytest.raises(ValueError, match="seeds=0"):
        core.seed_keys(0)


def test_seed_keys_do_not_depend_on_how_many_there_are():
    few, many = core.seed_keys(2), core.seed_keys(5)
    assert np.array_equal(jax.random.key_data(few), jax.random.key_data(many)[:2])


def test_a_mesh_refuses_unknown_axes_and_too_many_devices():
    with pytest.raises(ValueError, match="'batch'"):
        core.make_mesh({"batch": 1})
    with pytest.raises(ValueError, match="asks for 64 devices"):
        core.make_mesh({"seed": 64})


def test_evaluation_over_seeds_is_evaluation_of_each():
    keys = core.seed_keys(2)
    states, _ = run_seeds(keys)
    together = core.evaluate_seeds(TASK, states.variables, make_data())["loss"]
    for i in range(2):
        one = jax.tree.map(lambda x: x[i], states.variables)  # noqa: B023
        alone = core.evaluate(TASK, one, make_data())["loss"]
        streamed = core.evaluate(TASK, one, core.Data(Stream()), batch_size=30)["loss"]
        np.testing.assert_allclose(together[i], alone, rtol=1e-6)
        np.testing.assert_allclose(streamed, alone, rtol=1e-5)
