"""Prints as JSON what sharded noise costs and whether its bits are right; a program of its own.

    python tests/transforms/sharded_noise.py 4

The number of CPU devices is fixed when a process starts, so that each number needs a process.
"""

import json
import os
import sys

if __name__ == "__main__":
    os.environ["XLA_FLAGS"] = f"--xla_force_host_platform_device_count={sys.argv[1]}"
    os.environ["JAX_PLATFORMS"] = "cpu"

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from trove_jax import core
from trove_jax.transforms import GradientNoiseState, gradient_noise, noise_at

COMMUNICATION = ("all-gather", "all-reduce", "all-to-all", "collective", "reduce-scatter")
SPECS = {
    "replicated": PartitionSpec(),
    "rows": PartitionSpec("model"),
    "columns": PartitionSpec(None, "model"),
}


def check(devices: int) -> dict[str, object]:
    """One update of three leaves that are laid out in three ways, under jit and shard_map."""
    mesh = core.make_mesh({"model": devices})
    layout = {name: NamedSharding(mesh, spec) for name, spec in SPECS.items()}
    grads = {name: jnp.full((16, 12), 0.5) for name in SPECS}
    placed = jax.device_put(grads, layout)
    tx = gradient_noise(0.01, key=0)
    state = GradientNoiseState(jnp.int32(3), jax.random.key(7))
    compiled = jax.jit(tx.update).lower(placed, state).compile()
    got, _ = compiled(placed, state)
    want, _ = jax.jit(tx.update)(grads, state)
    text = compiled.as_text()

    def shard(grads, key):
        return tx.update(grads, GradientNoiseState(jnp.int32(3), key))[0]

    specs = dict(SPECS)
    mapped = jax.jit(
        jax.shard_map(shard, mesh=mesh, in_specs=(specs, PartitionSpec()), out_specs=specs)
    )
    inside = mapped(placed, state.key)
    rows = np.asarray(inside["rows"]).reshape(devices, -1)
    columns = np.asarray(inside["columns"]).reshape(16, devices, -1).swapaxes(0, 1)
    alone = noise_at(state.key, 3, {"replicated": grads["replicated"]}, 0.01)["replicated"]
    return {
        "devices": len(mesh.devices.ravel()),
        "equal": {name: bool(np.array_equal(got[name], want[name])) for name in SPECS},
        "sharding": {name: got[name].sharding.is_equivalent_to(layout[name], 2) for name in SPECS},
        "communication": [word for word in COMMUNICATION if word in text],
        "shard_map_replicated": float(np.abs(inside["replicated"] - 0.5 - alone).max()),
        "shard_map_distinct": [
            len({part.tobytes() for part in parts}) for parts in (rows, columns)
        ],
    }


if __name__ == "__main__":
    print(json.dumps(check(int(sys.argv[1]))))
