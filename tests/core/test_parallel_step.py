"""A step of ours under a user's jax.pmap and on a mesh: the same weights, from the same batches."""

import warnings

import jax
import jax.numpy as jnp
import numpy as np
import optax

from tests.core.problems import make_data
from trove_jax import core, losses, models, transforms
from trove_jax.core.batches import BatchOrder

STEPS, BATCH, DEVICES = 6, 10, 2
MODEL = models.DeepMLP(2, 16, classes=4)


def init(key):
    return MODEL.init(key, jnp.zeros((1, 8)))


def loss(variables, batch, key, step):
    del key, step
    logits = MODEL.apply(variables, batch.examples["x"])
    return losses.cross_entropy(logits, batch.examples["label"]), core.Aux()


TASK = core.Task(init, loss, lambda variables, data: {})


def rule(*first):
    """Masked Adam under gradient noise, which is drawn alike wherever a gradient lies."""
    return optax.chain(*first, transforms.noisy(optax.adam(1e-2), eta=0.01, key=0))


def labelled():
    data = make_data()
    label = jnp.argmax(data.examples["y"], axis=1).astype(jnp.int32)
    return core.Data({"x": data.examples["x"], "label": label})


def on_a_mesh(key):
    state, _ = core.train(
        TASK,
        rule(),
        labelled(),
        key,
        steps=STEPS,
        batch_size=BATCH,
        mesh=core.make_mesh({"data": DEVICES}),
    )
    return state.variables["params"]


def under_pmap(key):
    mean = optax.stateless(lambda updates, params: jax.lax.pmean(updates, "data"))
    tx, examples = rule(mean), labelled().examples
    order = BatchOrder(key, size=len(examples["x"]), batch_size=BATCH).indices(0, STEPS)

    def step(state, examples):
        return core.train_step(TASK, tx, state, core.Batch(examples), key)[0]

    mapped = jax.pmap(step, axis_name="data")
    state = core.init_state(TASK, tx, key)
    state = jax.tree.map(lambda leaf: jnp.stack([leaf] * DEVICES), state)
    for rows in order:
        shards = jax.tree.map(
            lambda leaf: leaf[rows].reshape(DEVICES, -1, *leaf.shape[1:]),  # noqa: B023
            examples,
        )
        state = mapped(state, shards)
    return state.variables["params"]


def test_pmap_and_a_mesh_take_the_same_steps():
    key = core.seed_keys(1)[0]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        replicas = under_pmap(key)
    for mapped, laid in zip(
        jax.tree.leaves(replicas), jax.tree.leaves(on_a_mesh(key)), strict=True
    ):
        np.testing.assert_array_equal(mapped[0], mapped[1])
        np.testing.assert_allclose(mapped[0], laid, rtol=1e-4, atol=1e-6)
    start = jax.tree.leaves(TASK.init(core.init_key(key))["params"])
    assert all(
        float(jnp.abs(a[0] - b).max()) > 1e-3
        for a, b in zip(jax.tree.leaves(replicas), start, strict=True)
    )
