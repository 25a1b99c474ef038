"""Distillation against the definition, and what it leaves alone."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import scipy.special
import scipy.stats

from tests.contracts import ArrayContract, cases, holds
from trove_jax import core, losses, models
from trove_jax.losses import distillation_loss, distilled


def draw(rng, n):
    return tuple(rng.normal(size=(2, n, 4)).astype(np.float32))


CONTRACTS = {
    "distillation_loss": ArrayContract(
        lambda logits, teacher: distillation_loss(
            logits, jax.lax.stop_gradient(teacher), temperature=2.0
        ),
        draw,
        # The teacher has no gradient, which finite differences would not know.
        properties=("jit", "vmap", "float64", "bfloat16", "single", "permutation"),
        rtol=1e-4,
    )
}


@pytest.mark.parametrize(("name", "check"), cases(CONTRACTS))
def test_contract(name, check):
    assert holds(CONTRACTS[name], check)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 4.0])
def test_the_loss_is_the_divergence(temperature):
    ours, theirs = draw(np.random.default_rng(0), 6)
    p, q = (scipy.special.softmax(x.astype(np.float64) / temperature, 1) for x in (theirs, ours))
    want = temperature**2 * np.mean(scipy.stats.entropy(p, q, axis=1))
    got = distillation_loss(jnp.asarray(ours), jnp.asarray(theirs), temperature=temperature)
    np.testing.assert_allclose(got, want, rtol=1e-4)


def test_the_gradient_is_that_of_soft_labels():
    ours, theirs = (jnp.asarray(x) for x in draw(np.random.default_rng(1), 6))
    slopes = jax.grad(lambda a, b: distillation_loss(a, b, temperature=3.0), (0, 1))(ours, theirs)
    want = 3.0 * (jax.nn.softmax(ours / 3.0) - jax.nn.softmax(theirs / 3.0)) / 6
    np.testing.assert_allclose(slopes[0], want, rtol=1e-4, atol=1e-6)
    assert not np.any(slopes[1])


SHAPE = jax.ShapeDtypeStruct((6,), jnp.float32)
PLAIN = losses.classification(models.MLP((5, 3)), SHAPE)
TEACHER = models.MLP((7, 3))


def teach(variables, batch):
    return TEACHER.apply(variables, batch.examples["image"])


def init(key):
    return TEACHER.init(key, jnp.zeros((1, 6)))


def test_the_task_is_mixed_with_the_teacher():
    rng = np.random.default_rng(2)
    x, labels = jnp.asarray(rng.normal(size=(24, 6)), jnp.float32), jnp.arange(24) % 3
    batch = core.Batch({"image": x, "label": labels})
    task = distilled(PLAIN, teach, init, weight=0.3, temperature=2.0)
    variables = task.init(jax.random.key(0))
    value, aux = task.loss(variables, batch, jax.random.key(1), 0)
    params = {"params": variables["params"]}
    base, _ = PLAIN.loss(params, batch, jax.random.key(1), 0)
    logits = models.MLP((5, 3)).apply(params, x)
    extra = distillation_loss(logits, teach(variables["teacher"], batch), temperature=2.0)
    np.testing.assert_allclose(value, 0.7 * base + 0.3 * extra, rtol=1e-6)
    np.testing.assert_allclose(aux.metrics["distillation_loss"], extra, rtol=1e-6)

    all_of_it = distilled(PLAIN, teach, init, weight=1.0)
    start = core.init_state(all_of_it, optax.adam(0.05), jax.random.key(0))
    end, history = core.train(
        all_of_it, optax.adam(0.05), core.Data(batch.examples), jax.random.key(0),
        steps=120, batch_size=None,
    )  # fmt: skip
    distances = history.metrics["distillation_loss"]
    assert distances[-1] < 0.1 * distances[0]
    jax.tree.map(
        np.testing.assert_array_equal, end.variables["teacher"], start.variables["teacher"]
    )


def test_bad_input_is_refused():
    with pytest.raises(ValueError, match=r"logits \(2, 3\) and teacher \(2, 4\)"):
        distillation_loss(jnp.ones((2, 3)), jnp.ones((2, 4)))
    with pytest.raises(ValueError, match="temperature=0 must be above 0"):
        distillation_loss(jnp.ones((2, 3)), jnp.ones((2, 3)), temperature=0)
    with pytest.raises(ValueError, match="weight=2 is outside"):
        distilled(PLAIN, teach, init, weight=2)
    with pytest.raises(ValueError, match="hand the teacher to the optimiser"):
        distilled(PLAIN, teach, init, collection="params")
    with pytest.raises(ValueError, match="collection='teacher' is taken"):
        distilled(distilled(PLAIN, teach, init), teach, init).init(jax.random.key(0))
    with pytest.raises(ValueError, match="has no collection 'teacher'"):
        distilled(PLAIN, teach, init).loss(PLAIN.init(jax.random.key(0)), None, None, 0)
