"""Gradient noise on 1, 2 and 4 devices: the same bits, where the gradients are, nothing sent."""

import json
import os
import pathlib
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from tests.core.problems import TASK, make_data
from tests.transforms import sharded_noise
from trove_jax import core
from trove_jax.transforms import gradient_noise, noisy

ROOT = pathlib.Path(__file__).parents[2]


def in_a_process(devices):
    found = subprocess.run(
        [sys.executable, "-m", "tests.transforms.sharded_noise", str(devices)],
        cwd=ROOT,
        env={**os.environ, "XLA_FLAGS": ""},
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    )
    return json.loads(found.stdout)


@pytest.mark.parametrize("devices", [1, 2, 4])
def test_bits_and_place_are_those_of_the_gradients(devices):
    found = sharded_noise.check(devices) if devices <= 2 else in_a_process(devices)
    assert found["devices"] == devices
    assert all(found["equal"].values())
    assert all(found["sharding"].values())
    assert found["communication"] == []
    # Inside shard_map: shards differ from each other, replicated leaves nowhere.
    assert found["shard_map_distinct"] == [devices, devices]
    # 0.5 + noise rounds at 2^-24 of values below 1.
    assert found["shard_map_replicated"] < 1e-7


def test_the_noise_of_a_data_parallel_run_is_that_of_one_device():
    """Zero learning signal, so that the weights are the noise and nothing else."""
    zero = core.Task(
        TASK.init,
        lambda v, b, key, step: (0.0 * TASK.loss(v, b, key, step)[0], core.Aux()),
        TASK.metrics,
    )
    tx = noisy(optax.sgd(0.1), eta=1.0, key=0)
    key = jax.random.key(1)

    def run(mesh):
        state, _ = core.train(zero, tx, make_data(), key, steps=5, batch_size=10, mesh=mesh)
        return np.asarray(state.variables["params"]["w"])

    np.testing.assert_array_equal(run(core.make_mesh({"data": 2})), run(None))


def test_under_pmap_every_replica_adds_the_same_noise_once():
    tx = gradient_noise(1.0, key=0)
    state = tx.init(None)
    grads = {"w": jnp.stack([jnp.zeros((4, 3)), jnp.ones((4, 3))])}

    def step(grads, state):
        return tx.update(jax.lax.pmean(grads, "data"), state)[0]

    replicas = jax.pmap(step, axis_name="data", in_axes=(0, None))(grads, state)["w"]
    np.testing.assert_array_equal(replicas[0], replicas[1])
    alone = jax.jit(tx.update)({"w": jnp.full((4, 3), 0.5)}, state)[0]["w"]
    np.testing.assert_array_equal(np.asarray(replicas[0]), alone)
