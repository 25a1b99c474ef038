"""A small regression problem that the tests of the training loop share."""

import jax
import jax.numpy as jnp

from trove_jax.core import Aux, Data, Task


def init(key):
    return {"params": {"w": jax.random.normal(key, (8, 4))}, "statistics": {"seen": jnp.zeros(())}}


def loss(variables, batch, key, step):
    del step
    noise = 0.1 * jax.random.normal(key, (batch.examples["x"].shape[0], 4))
    error = batch.examples["x"] @ variables["params"]["w"] - batch.examples["y"] + noise
    seen = variables["statistics"]["seen"] + 1.0
    return (error**2).mean(), Aux({"error": jnp.abs(error).mean()}, {"statistics": {"seen": seen}})


def metrics(variables, data):
    error = data.examples["x"] @ variables["params"]["w"] - data.examples["y"]
    return {"loss": (error**2).mean()}


TASK = Task(init, loss, metrics)


def make_data(size=100):
    return Data(
        {
            "x": jax.random.normal(jax.random.key(1), (size, 8)),
            "y": jax.random.normal(jax.random.key(2), (size, 4)),
        }
    )
