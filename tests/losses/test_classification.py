"""Classification against NumPy written from the definitions, and against plain Flax use."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from trove_jax import core, losses


def logits_and_labels(b=7, k=4):
    rng = np.random.default_rng(0)
    return rng.normal(size=(b, k)).astype(np.float32), rng.integers(0, k, b).astype(np.int32)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_cross_entropy_is_the_definition(smoothing):
    logits, labels = logits_and_labels()
    total = 0.0
    for row, label in zip(logits.astype(np.float64), labels, strict=True):
        p = np.exp(row) / np.exp(row).sum()
        target = (1 - smoothing) * np.eye(4)[label] + smoothing / 4
        total -= (target * np.log(p)).sum()
    value = losses.cross_entropy(jnp.asarray(logits), jnp.asarray(labels), smoothing=smoothing)
    np.testing.assert_allclose(value, total / 7, rtol=1e-6)


def test_cross_entropy_is_finite_for_large_logits_and_computed_in_float32():
    logits = jnp.array([[1e4, 0.0]], jnp.bfloat16)
    value = losses.cross_entropy(logits, jnp.array([1]))
    assert value.dtype == jnp.float32
    np.testing.assert_allclose(value, 1e4, rtol=1e-2)


def test_accuracy_counts_and_a_failed_network_has_none():
    logits = jnp.array([[2.0, 1.0], [0.0, 1.0], [3.0, 0.0]])
    assert float(losses.accuracy(logits, jnp.array([0, 1, 1]))) == pytest.approx(2 / 3)
    assert np.isnan(losses.accuracy(logits.at[0, 0].set(jnp.nan), jnp.array([0, 1, 1])))


@pytest.mark.parametrize(
    ("logits", "labels", "message"),
    [
        (jnp.zeros((3, 2)), jnp.zeros(4, jnp.int32), "do not belong together"),
        (jnp.zeros(3), jnp.zeros(3, jnp.int32), "do not belong together"),
        (jnp.zeros((3, 2)), jnp.zeros(3), "integer classes"),
    ],
)
def test_pairs_that_do_not_fit_are_refused(logits, labels, message):
    for function in (losses.cross_entropy, losses.accuracy):
        with pytest.raises(ValueError, match=message):
            function(logits, labels)


def test_smoothing_outside_its_range_is_refused():
    with pytest.raises(ValueError, match=r"smoothing=1.0"):
        losses.cross_entropy(*map(jnp.asarray, logits_and_labels()), smoothing=1.0)


class Net(nn.Module):
    """Normalisation, dropout and a dense layer."""

    dropout: float = 0.0

    @nn.compact
    def __call__(self, x, *, train):
        x = x.reshape(x.shape[0], -1)
        x = nn.BatchNorm(use_running_average=not train, momentum=0.9)(x)
        x = nn.Dropout(self.dropout, deterministic=not train)(x)
        return nn.Dense(4)(x)


def images(n=30):
    rng = np.random.default_rng(1)
    return {
        "image": jnp.asarray(rng.integers(0, 256, (n, 2, 3, 1)), jnp.uint8),
        "label": jnp.asarray(rng.integers(0, 4, n), jnp.int32),
    }


def scale(x):
    return x.astype(jnp.float32) / 255.0


SHAPE = jax.ShapeDtypeStruct((2, 3, 1), jnp.float32)


def test_the_loss_is_that_of_the_module_and_updates_the_statistics():
    task = losses.classification(Net(), SHAPE, prepare=scale)
    variables, batch = task.init(jax.random.key(0)), images()
    value, aux = task.loss(variables, core.Batch(batch), jax.random.key(1), jnp.int32(0))
    logits, updates = Net().apply(
        variables, scale(batch["image"]), train=True, mutable=["batch_stats"]
    )
    np.testing.assert_allclose(value, losses.cross_entropy(logits, batch["label"]), rtol=1e-6)
    jax.tree.map(np.testing.assert_array_equal, aux.updates["batch_stats"], updates["batch_stats"])
    assert float(aux.metrics["accuracy"]) == float(losses.accuracy(logits, batch["label"]))


@pytest.mark.parametrize("evaluation_batch", [7, 1000, None])
def test_evaluation_in_batches_is_evaluation_at_once(evaluation_batch):
    task = losses.classification(Net(), SHAPE, prepare=scale, evaluation_batch=evaluation_batch)
    variables, batch = task.init(jax.random.key(0)), images()
    found = task.metrics(variables, core.Data(batch))
    logits = Net().apply(variables, scale(batch["image"]), train=False)
    np.testing.assert_allclose(
        found["loss"], losses.cross_entropy(logits, batch["label"]), rtol=1e-5
    )
    np.testing.assert_allclose(found["accuracy"], losses.accuracy(logits, batch["label"]))


def test_evaluation_with_batch_statistics_ignores_the_running_ones():
    task = losses.classification(Net(), SHAPE, prepare=scale, evaluation="batch")
    variables, batch = task.init(jax.random.key(0)), images()
    other = {**variables, "batch_stats": jax.tree.map(lambda x: x + 3.0, variables["batch_stats"])}
    a, b = (task.metrics(v, core.Data(batch)) for v in (variables, other))
    assert float(a["loss"]) == float(b["loss"])
    logits, _ = Net().apply(variables, scale(batch["image"]), train=True, mutable=["batch_stats"])
    np.testing.assert_allclose(a["loss"], losses.cross_entropy(logits, batch["label"]), rtol=1e-6)


def test_augmentation_and_dropout_come_from_the_key_and_only_in_training():
    def darken(key, x):
        return x * jax.random.bernoulli(key, 0.5, (x.shape[0], 1, 1, 1)).astype(x.dtype)

    task = losses.classification(Net(0.5), SHAPE, prepare=scale, augment=darken)
    variables, batch = task.init(jax.random.key(0)), images()
    values = [
        float(task.loss(variables, core.Batch(batch), jax.random.key(i), jnp.int32(0))[0])
        for i in (1, 1, 2)
    ]
    assert values[0] == values[1] != values[2]
    plain = losses.classification(Net(), SHAPE, prepare=scale)
    a, b = (t.metrics(variables, core.Data(batch))["loss"] for t in (task, plain))
    assert float(a) == float(b)


def test_an_unknown_way_of_evaluating_is_refused():
    with pytest.raises(ValueError, match="evaluation='test'"):
        losses.classification(Net(), SHAPE, evaluation="test")
