"""Meshes of named devices: `seed` for independent runs, `data` for the examples of a batch."""

import math
from collections.abc import Mapping

import jax

AXES = ("seed", "data", "model")


def make_mesh(axes: Mapping[str, int] | None = None) -> jax.sharding.Mesh:
    """Lays this process group's devices out along named axes.

    Args:
      axes: size of each axis, by name (`seed`, `data`, `model`). Default: all devices along
        `seed`, which needs no communication.

    Returns:
      A mesh for `core.train` and `core.train_seeds`.

    Raises:
      ValueError: an axis is unknown, or the sizes ask for more devices than there are.
    """
    sizes = dict(axes) if axes else {"seed": jax.device_count()}
    for name in sizes:
        if name not in AXES:
            raise ValueError(f"axes names {name!r}; the axes of a mesh are {', '.join(AXES)}")
    wanted = math.prod(sizes.values())
    if wanted > jax.device_count():
        raise ValueError(f"axes={sizes} asks for {wanted} devices, but {jax.device_count()} exist")
    return jax.make_mesh(
        tuple(sizes.values()),
        tuple(sizes),
        axis_types=(jax.sharding.AxisType.Auto,) * len(sizes),
        devices=jax.devices()[:wanted],
    )


def axis_size(mesh: jax.sharding.Mesh | None, name: str) -> int:
    """Size of a mesh axis; 1 where there is no mesh or no such axis."""
    return 1 if mesh is None else dict(mesh.shape).get(name, 1)
