"""Parts of three papers in one step: a lottery-ticket mask, gradient noise and guidance.

Each can be taken out again, and what is left is the run without it, bit for bit.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from trove_jax import core, losses, models, transforms

SEEDS, STEPS = 3, 6
IMAGE = jax.ShapeDtypeStruct((8,), jnp.float32)
KEYS = core.seed_keys(SEEDS)
NOISE_KEY = jax.random.key(5)


@functools.cache
def data():
    rng = np.random.default_rng(0)
    examples = {"image": rng.normal(size=(40, 8)).astype(np.float32), "label": np.arange(40) % 3}
    return core.Data(jax.tree.map(jnp.asarray, examples))


@functools.cache
def plain_task():
    return losses.classification(models.DeepMLP(depth=3, width=16, classes=3), IMAGE)


@functools.cache
def guide():
    return losses.module_guide(models.DeepMLP(depth=2, width=12, classes=3), IMAGE)


def make(*, mask=None, eta=None, alpha=None):
    """The task and the optimiser with some of the three parts; None leaves a part out."""
    task = plain_task() if alpha is None else losses.guided(plain_task(), guide(), alpha=alpha)
    tx = optax.sgd(0.1, momentum=0.9)
    if eta is not None:
        tx = transforms.noisy(tx, eta=eta, key=NOISE_KEY)
    return task, tx if mask is None else transforms.masked(tx, mask)


@functools.cache
def start_params():
    return core.init_states(plain_task(), optax.sgd(0.1), KEYS).variables["params"]


@functools.cache
def ticket():
    return jax.vmap(lambda params: transforms.magnitude_mask(params, None, 0.8))(start_params())


MASKS = {
    None: lambda: None,
    "ticket": ticket,
    "all kept": lambda: jax.tree.map(jnp.ones_like, ticket()),
    "nothing to prune": lambda: jax.tree.map(lambda leaf: None, ticket()),
}


def start(task, tx, mask):
    """States of all seeds, each with its own mask."""
    state = core.init_states(task, tx, KEYS)
    if mask is None:
        return state
    params = jax.vmap(transforms.apply_mask)(state.variables["params"], mask)
    opt_state = jax.vmap(transforms.set_mask)(state.opt_state, mask)
    return core.TrainState(state.step, {**state.variables, "params": params}, opt_state)


@functools.cache
def train(masked=None, **parts):
    """Trains all seeds side by side in one compiled program, with a mask by its name."""
    mask = MASKS[masked]()
    first = None if mask is None else jax.tree.map(lambda leaf: leaf[0], mask)
    task, tx = make(mask=first, **parts)
    state, history = core.train_seeds(
        task,
        tx,
        data(),
        KEYS,
        steps=STEPS,
        start=start(task, tx, mask),
        batch_size=20,
        over_seeds="vmap",
    )
    return state.variables["params"], history.metrics


def bits(tree):
    return [np.asarray(leaf).tobytes() for leaf in jax.tree.leaves(tree)]


def test_pruned_entries_stay_exactly_zero_under_noise_and_guidance():
    params, metrics = train("ticket", eta=0.3, alpha=1.0)
    kept = pruned = 0
    for leaf, mask in zip(
        jax.tree.leaves(params), jax.tree.leaves(ticket(), is_leaf=lambda x: x is None), strict=True
    ):
        if mask is not None:
            assert (leaf[~mask] == 0.0).all()
            kept, pruned = kept + mask.sum(), pruned + (~mask).sum()
    assert pruned > 3 * kept > 0
    assert np.isfinite(metrics["loss"]).all()


@pytest.mark.parametrize(
    ("off", "without"),
    [
        ({"eta": 0.0, "alpha": 1.0}, {"alpha": 1.0}),
        ({"eta": 0.3, "alpha": 0.0}, {"eta": 0.3}),
        ({"eta": 0.0, "alpha": 0.0}, {}),
    ],
)
def test_noise_or_guidance_that_is_off_is_as_good_as_not_there(off, without):
    got = bits(train("ticket", **off)[0])
    assert got == bits(train("ticket", **without)[0])
    assert got != bits(train("ticket", eta=0.3, alpha=1.0)[0])


def test_a_mask_that_is_off_is_as_good_as_not_there():
    parts = {"eta": 0.3, "alpha": 1.0}
    want = train(**parts)[0]
    assert bits(train("nothing to prune", **parts)[0]) == bits(want)
    # A selection that keeps everything stands between product and sum of the last update, which
    # are one instruction without it: equal up to the rounding of that product.
    kept = train("all kept", **parts)[0]
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6), kept, want)


def test_the_noise_does_not_depend_on_the_mask():
    """What an update with noise adds to one without is the same for every entry that is kept."""
    params = jax.tree.map(lambda leaf: leaf[0], start_params())
    mask = jax.tree.map(lambda leaf: leaf[0], ticket())
    gradients = jax.tree.map(jnp.zeros_like, params)
    noise = transforms.gradient_noise(0.3, key=NOISE_KEY)
    bare, _ = noise.update(gradients, noise.init(params))
    inside = transforms.masked(noise, mask)
    masked, _ = inside.update(gradients, inside.init(params), params)
    for key, kept in mask.items():
        if kept["kernel"] is None:
            continue
        got, want = masked[key]["kernel"], bare[key]["kernel"]
        np.testing.assert_array_equal(got, jnp.where(kept["kernel"], want, 0.0))
        assert (want != 0).all()


def test_each_seed_draws_its_own_noise():
    task, tx = make(eta=0.3)
    keys = core.init_states(task, tx, KEYS).opt_state[0].key
    assert len({bytes(np.asarray(jax.random.key_data(key))) for key in keys}) == SEEDS
