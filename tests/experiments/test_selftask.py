"""What the arms of `selftask` see and start from, without training them."""

import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.graphs import _planetoid as planetoid
from experiments.graphs import _selftask, selftask
from launch.lookup import resolve_config
from trove_jax import core

CONFIG = resolve_config(selftask, "smoke", [])


@pytest.fixture(scope="module")
def problem():
    node_set = planetoid.load("digits")
    return selftask._problem(CONFIG, node_set, node_set.parts["train"])


def test_hidden_links_leave_the_graph_that_is_trained_on(problem):
    _, data = selftask._with_pretext(CONFIG, problem, selftask._Arm("a", "edge_mask"))
    whole, seen = data.shared["topology"], data.shared["seen"]["topology"]
    links = len(problem.set.edges)
    assert whole.n_edge - seen.n_edge == 2 * round(0.1 * links)
    targets = data.shared["pretext"]
    n = problem.set.n_node
    codes = {int(i) * n + int(j) for i, j in zip(seen.receivers, seen.senders, strict=True)}
    pairs = zip(targets["left"], targets["right"], targets["wanted"], strict=True)
    assert not any(int(i) * n + int(j) in codes for i, j, linked in pairs if linked)


def test_hidden_features_are_zero_in_training_and_whole_in_validation(problem):
    _, data = selftask._with_pretext(CONFIG, problem, selftask._Arm("a", "attribute_mask"))
    seen = np.asarray(data.shared["seen"]["features"].dense())
    whole = np.asarray(data.shared["features"].dense())
    hidden = np.isin(np.arange(len(seen)), data.shared["pretext"]["nodes"])
    assert np.all(seen[hidden] == 0.0)
    np.testing.assert_array_equal(seen[~hidden], whole[~hidden])
    assert np.all(whole[hidden].sum(1) > 0)
    assert not hidden[problem.train].any()


def test_lambda_is_that_of_the_task_and_set(problem):
    arms = {arm.name: arm for arm in selftask._arms(resolve_config(selftask, "laptop", []))}
    assert selftask._weight(arms["corrected_lp"], "cora") == 50.0
    assert selftask._weight(arms["few_corrected_lp"], "cora") == 5.0
    assert selftask._weight(arms["two_stage"], "citeseer") == 5.0
    assert {c.treatment for c in selftask.CLAIMS} <= {
        f"{name}_{arm}" for name in ("cora", "citeseer") for arm in arms
    }


def test_both_guesses_are_the_largest_sum_of_scores(problem):
    scores = problem._lp + problem._ica
    guesses = {kind: problem.guesses(kind) for kind in ("lp", "ica", "both")}
    np.testing.assert_array_equal(guesses["both"], scores.argmax(axis=1))
    agreed = guesses["lp"] == guesses["ica"]
    assert 0 < agreed.sum() < len(agreed)
    np.testing.assert_array_equal(guesses["both"][agreed], guesses["lp"][agreed])


def test_two_stages_hand_over_parameters_and_nothing_else(problem, monkeypatch):
    calls = []

    def train_seeds(stage, task, tx, data, keys, *, steps, start=None, batch_size):
        calls.append((stage, start))
        state = start or core.TrainState(jnp.int32(steps), {"params": {"w": jnp.full(2, 7.0)}}, ())
        return state, types.SimpleNamespace(metrics={"label_loss": np.ones((2, 1))})

    fresh = core.TrainState(jnp.int32(0), {"params": {"w": jnp.zeros(2)}, "best": 1}, ("new",))
    monkeypatch.setattr(core, "init_states", lambda task, tx, keys: fresh)
    monkeypatch.setattr(core, "best_variables", lambda variables: variables)
    monkeypatch.setattr(
        _selftask,
        "_measure_seeds",
        lambda *args: {"accuracy_test": np.ones(2), "accuracy_validation": np.ones(2)},
    )
    arm = selftask._Arm("a", "node_property")
    pretext, data = selftask._with_pretext(CONFIG, problem, arm)
    found = _selftask.train(
        types.SimpleNamespace(train_seeds=train_seeds),
        "a",
        selftask._module(CONFIG, 10),
        pretext,
        data,
        seeds=2,
        steps=3,
        two_stage=True,
    )
    assert [stage for stage, _ in calls] == ["a/pretrain", "a"]
    assert calls[0][1] is None
    start = calls[1][1]
    assert (int(start.step), start.opt_state, start.variables["best"]) == (0, ("new",), 1)
    np.testing.assert_array_equal(start.variables["params"]["w"], 7.0)
    np.testing.assert_array_equal(found["accuracy"], 100.0)
    assert jax.tree.leaves(found)
