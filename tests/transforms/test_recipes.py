"""Momentum SGD against its equation, step by step."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from trove_jax import transforms


def test_follows_its_equation():
    tx = transforms.momentum_sgd(
        0.2, momentum=0.8, weight_decay=0.1, drops={3: 0.5, 5: 0.1}, warmup=2
    )
    rng = np.random.default_rng(0)
    params = {"kernel": rng.normal(size=(2, 3)), "bias": rng.normal(size=3)}
    ours = jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), params)
    state, velocity = tx.init(ours), {"kernel": 0.0, "bias": 0.0}
    rates = [0.0, 0.1, 0.2, 0.1, 0.1, 0.01, 0.01]  # a drop at n counts from step n on
    for rate in rates:
        gradient = {name: rng.normal(size=x.shape) for name, x in params.items()}
        with jax.numpy_dtype_promotion("standard"):
            updates, state = tx.update(
                jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), gradient), state, ours
            )
        ours = optax.apply_updates(ours, updates)
        for name, decay in (("kernel", 0.1), ("bias", 0.0)):
            velocity[name] = 0.8 * velocity[name] + gradient[name] + decay * params[name]
            params[name] = params[name] - rate * velocity[name]
    for name in params:
        np.testing.assert_allclose(ours[name], params[name], rtol=1e-5)


@pytest.mark.parametrize(
    "options", [{"momentum": 1.0}, {"weight_decay": -1.0}, {"warmup": -1}, {"learning_rate": 0.0}]
)
def test_arguments_outside_their_range_are_refused(options):
    with pytest.raises(ValueError, match=next(iter(options))):
        transforms.momentum_sgd(**{"learning_rate": 0.1} | options)
