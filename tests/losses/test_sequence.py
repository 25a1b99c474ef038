"""Losses of tokens against NumPy loops, and the tasks of sequences in training."""

import functools

import flax
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from tests.contracts import ArrayContract, cases, holds
from trove_jax import core, data, losses, models

ACCURACY = ("jit", "vmap", "empty", "single", "permutation", "mask_is_slice")
LOSS = (*ACCURACY, "float64", "bfloat16", "gradient")


def draw(rng, n):
    """One sequence of n tokens; the first counts."""
    mask = rng.random(n) < 0.6
    mask[:1] = True
    return (
        rng.normal(size=(n, 4)).astype(np.float32),
        rng.integers(0, 4, n).astype(np.int32),
        mask,
    )


CONTRACTS = {
    "token_cross_entropy": ArrayContract(
        losses.token_cross_entropy, draw, LOSS, masked_by={0: 2, 1: 2}
    ),
    "bits_per_token": ArrayContract(losses.bits_per_token, draw, LOSS, masked_by={0: 2, 1: 2}),
    "token_accuracy": ArrayContract(losses.token_accuracy, draw, ACCURACY, masked_by={0: 2, 1: 2}),
    "sequence_accuracy": ArrayContract(
        losses.sequence_accuracy, draw, ACCURACY, masked_by={0: 2, 1: 2}
    ),
}
FUNCTIONS = [getattr(losses, name) for name in CONTRACTS]


@pytest.mark.parametrize(("name", "check"), cases(CONTRACTS))
def test_contract(name, check):
    assert holds(CONTRACTS[name], check)


def batch(b=6, t=5, k=3):
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(b, t, k)).astype(np.float32)
    targets = rng.integers(0, k, (b, t)).astype(np.int32)
    mask = rng.random((b, t)) < 0.5
    mask[0], mask[1] = False, True
    # One sequence that is right wherever it counts and wrong elsewhere.
    logits[2] = np.where(mask[2][:, None], 9 * np.eye(k)[targets[2]], -9 * np.eye(k)[targets[2]])
    return logits, targets, mask


def test_they_are_their_definitions():
    logits, targets, mask = batch()
    nats, right, rows = [], [], []
    for row in range(len(logits)):
        correct = []
        for i in np.flatnonzero(mask[row]):
            p = np.exp(logits[row, i].astype(np.float64))
            nats.append(-np.log(p[targets[row, i]] / p.sum()))
            correct.append(p.argmax() == targets[row, i])
        right += correct
        if correct:
            rows.append(all(correct))
    want = [np.mean(nats), np.mean(nats) / np.log(2), np.mean(right), np.mean(rows)]
    got = [function(*map(jnp.asarray, (logits, targets, mask))) for function in FUNCTIONS]
    assert 0 < want[3] < 1
    np.testing.assert_allclose(got, want, rtol=1e-5)


def test_what_lies_outside_the_mask_reaches_neither_value_nor_gradient():
    logits, targets, mask = batch()
    poisoned = np.where(mask[..., None], logits, np.nan), np.where(mask, targets, -77)
    for function in FUNCTIONS:
        value = jax.value_and_grad(function)
        clean = value(jnp.asarray(logits), jnp.asarray(targets), jnp.asarray(mask))
        got = value(*map(jnp.asarray, poisoned), jnp.asarray(mask))
        jax.tree.map(np.testing.assert_array_equal, got, clean)
        assert np.isfinite(clean[1]).all()


def test_where_nothing_counts_there_is_nothing_to_lose():
    logits, targets, mask = map(jnp.asarray, batch())
    for function in FUNCTIONS:
        value, gradient = jax.value_and_grad(function)(logits, targets, jnp.zeros_like(mask))
        assert float(value) == 0.0
        assert not gradient.any()


def test_a_failed_network_has_no_accuracy():
    logits, targets, mask = map(jnp.asarray, batch())
    logits = logits.at[1, 2, 0].set(jnp.nan)
    assert np.isnan([function(logits, targets, mask) for function in FUNCTIONS]).all()


def test_a_batch_spread_over_devices_has_the_mean_of_the_whole():
    logits, targets, mask = map(jnp.asarray, batch())
    parts = jax.tree.map(lambda x: x.reshape(2, 3, *x.shape[1:]), (logits, targets, mask))
    for function in FUNCTIONS:
        spread = jax.pmap(functools.partial(function, axis_name="data"), axis_name="data")(*parts)
        want = function(logits, targets, mask)
        np.testing.assert_allclose(spread, [want, want], rtol=1e-6)
    # The halves weigh differently, so that a mean of means would be another number.
    halves = [losses.token_cross_entropy(*[x[i] for x in parts]) for i in range(2)]
    assert abs(float(np.mean(halves)) - float(losses.token_cross_entropy(*batch()))) > 1e-3


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda a, b, c: (a[0, 0], b, c), "do not belong together"),
        (lambda a, b, c: (a, b[:, :4], c), "do not belong together"),
        (lambda a, b, c: (a, b, c[:4]), "do not belong together"),
        (lambda a, b, c: (a, b.astype(jnp.float32), c), "integer classes"),
        (lambda a, b, c: (a, b, c.astype(jnp.int32)), "bool is wanted"),
    ],
)
def test_arrays_that_do_not_fit_are_refused(change, message):
    for function in FUNCTIONS:
        with pytest.raises(ValueError, match=message):
            function(*change(*map(jnp.asarray, batch())))


def rnn(outputs, readout, dropout_rate=0.0):
    vocabulary = 3 if outputs == 2 else outputs
    return models.SimpleRNN(vocabulary, outputs, 8, 24, 1, "simple", readout, dropout_rate)


@pytest.fixture(scope="module")
def strings():
    parts = data.parity(jax.random.key(0), train=256, validation=0, test=0, max_length=5)
    return jax.tree.map(jnp.asarray, parts.train)


def test_parity_is_learned_below_chance_by_all_seeds(strings):
    task = losses.sequence_classification(rnn(2, "last"), length=5)
    state, history = core.train_seeds(
        task, optax.adam(1e-2), core.Data(strings), core.seed_keys(2), steps=250, batch_size=64
    )
    assert history.metrics["loss"].shape == (2, 250)
    found = core.evaluate_seeds(task, state.variables, core.Data(strings))
    # A coin pays log 2 = 0.69.
    assert (found["loss"] < 0.35).all()
    assert (found["accuracy"] > 0.85).all()


def test_dropout_comes_from_the_key_and_evaluation_in_batches_has_none(strings):
    model = rnn(2, "last", 0.5)
    build = functools.partial(losses.sequence_classification, model, length=5)
    variables = jax.jit(build().init)(jax.random.key(1))
    loss = jax.jit(lambda key: build().loss(variables, core.Batch(strings), key, 0)[0])
    a, b, c = (float(loss(jax.random.key(i))) for i in (1, 1, 2))
    assert a == b != c
    logits = jax.jit(model.apply)(variables, strings["tokens"], strings["mask"])
    for size in (100, None):
        found = jax.jit(build(evaluation_batch=size).metrics)(variables, core.Data(strings))
        want = losses.cross_entropy(logits, strings["label"])
        np.testing.assert_allclose(found["loss"], want, rtol=1e-5)
        np.testing.assert_allclose(found["accuracy"], losses.accuracy(logits, strings["label"]))


def test_token_prediction_trains_on_scored_tokens_only():
    parts = data.copy_paste(
        jax.random.key(0), train=40, validation=0, test=0, min_length=2, max_length=3, symbols=2
    )
    task = losses.token_prediction(rnn(5, "all"), length=8)
    variables = jax.jit(task.init)(jax.random.key(1))
    examples = jax.tree.map(jnp.asarray, parts.train)
    loss = jax.jit(task.loss)
    value, aux = loss(variables, core.Batch(examples), jax.random.key(0), jnp.int32(0))
    logits = jax.jit(rnn(5, "all").apply)(variables, examples["tokens"], examples["mask"])
    arguments = logits, examples["target"], examples["scored"]
    np.testing.assert_allclose(value, losses.token_cross_entropy(*arguments), rtol=1e-5)
    found = jax.jit(task.metrics)(variables, core.Data(examples))
    np.testing.assert_allclose(found["bits"], losses.bits_per_token(*arguments), rtol=1e-5)
    np.testing.assert_allclose(
        found["sequence_accuracy"], losses.sequence_accuracy(*arguments), rtol=1e-5
    )
    np.testing.assert_allclose(aux.metrics["accuracy"], found["accuracy"], rtol=1e-5)
    other = {**examples, "target": jnp.where(examples["scored"], examples["target"], 3)}
    again, _ = loss(variables, core.Batch(other), jax.random.key(0), jnp.int32(0))
    assert float(again) == float(value)


@pytest.mark.parametrize("build", [losses.sequence_classification, losses.token_prediction])
def test_sizes_that_are_none_are_refused(build):
    with pytest.raises(ValueError, match="length=0"):
        build(rnn(2, "last"), length=0)
    with pytest.raises(ValueError, match="evaluation_batch=0"):
        build(rnn(2, "last"), length=4, evaluation_batch=0)


def test_streams_get_keys_of_their_own():
    class Drawing(models.SimpleRNN):
        """Logits that are the first bits of what each stream draws."""

        def __call__(self, tokens, mask, *, train=False):
            if not train:
                return jnp.zeros((tokens.shape[0], 2))
            drawn = [jax.random.normal(self.make_rng(name)) for name in ("dropout", "a", "b")]
            return jnp.stack([drawn[0] - drawn[1], drawn[1] - drawn[2]])[None]

    module = Drawing(vocabulary=2, outputs=2, embedding=1, width=1, depth=1, readout="last")
    task = losses.sequence_classification(module, length=1, streams=("a", "b"))
    examples = {"tokens": jnp.zeros((1, 1), jnp.int32), "mask": jnp.ones((1, 1), bool),
                "label": jnp.zeros(1, jnp.int32)}  # fmt: skip

    def loss(key):
        return float(task.loss({}, core.Batch(examples), key, jnp.int32(0))[0])

    # Streams that shared a key would all draw the same: logits 0, and a loss of log 2.
    first, again, other = (loss(jax.random.key(seed)) for seed in (0, 0, 1))
    assert first == again != other
    assert abs(first - np.log(2)) > 1e-3
    plain = losses.sequence_classification(module, length=1)
    with pytest.raises(flax.errors.InvalidRngError, match="a"):
        plain.loss({}, core.Batch(examples), jax.random.key(0), jnp.int32(0))
