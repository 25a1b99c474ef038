"""Meshes of named devices, and how a run lies on them.

`seed` has independent runs beside each other, `data` the examples of a batch, `model` the large
arrays of one network. The devices of all processes belong to one mesh.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from trove_jax.core.pytrees import is_key

AXES = ("seed", "data", "model")

# Smaller arrays stay whole on every device: cutting them saves nothing and costs a transfer.
_LARGE = 1 << 14


def parse_mesh(text: str) -> dict[str, int]:
    """Reads the axes of a mesh, as `--mesh` writes them.

    Args:
      text: axes and sizes such as `seed:2,data:4`.

    Returns:
      Size of each axis, by name, in the order of the text.

    Raises:
      ValueError: `text` is no such list; an axis is unknown or named twice; a size is no positive
        integer.

    Example:
      >>> parse_mesh("seed:2,data:4")
      {'seed': 2, 'data': 4}
    """
    sizes: dict[str, int] = {}
    for part in text.split(","):
        name, _, size = part.strip().partition(":")
        if name not in AXES or name in sizes:
            fault = "names an axis twice" if name in sizes else f"names {name!r}"
            raise ValueError(
                f"mesh={text!r} {fault}; it is a list such as seed:2,data:4 of the axes "
                f"{', '.join(AXES)}"
            )
        if not (size.isascii() and size.isdigit() and int(size)):
            raise ValueError(f"mesh={text!r} gives {name} the size {size!r}; 1 or more is wanted")
        sizes[name] = int(size)
    return sizes


def choose_axes(seeds: int) -> dict[str, int]:
    """The axes for so many seeds where nobody says otherwise: seeds first, they never communicate.

    One process takes the fewest devices that need no further round of seeds. Of many processes
    none may be left out, so what seeds cannot use becomes `data`.

    Args:
      seeds: number of seeds that are trained together, 1 or more.

    Returns:
      Size of each axis, by name.

    Example:
      >>> choose_axes(1)
      {'seed': 1}
    """
    devices = jax.device_count()
    if jax.process_count() == 1:
        rounds = math.ceil(seeds / devices)
        return {"seed": math.ceil(seeds / rounds)}
    most = max(n for n in range(1, devices + 1) if devices % n == 0 and n <= max(seeds, 1))
    return {"seed": most} if most == devices else {"seed": most, "data": devices // most}


def make_mesh(axes: Mapping[str, int] | None = None) -> jax.sharding.Mesh:
    """Lays this process group's devices out along named axes.

    Args:
      axes: size of each axis, by name (`seed`, `data`, `model`). Default: all devices along
        `seed`, which needs no communication.

    Returns:
      A mesh for `core.train` and `core.train_seeds`.

    Raises:
      ValueError: an axis is unknown; the sizes ask for more devices than there are, or, with many
        processes, for fewer.
    """
    sizes = dict(axes) if axes else {"seed": jax.device_count()}
    for name in sizes:
        if name not in AXES:
            raise ValueError(f"axes names {name!r}; the axes of a mesh are {', '.join(AXES)}")
    wanted, found = math.prod(sizes.values()), jax.device_count()
    if wanted > found:
        raise ValueError(f"axes={sizes} asks for {wanted} devices, but {found} exist")
    if wanted < found and jax.process_count() > 1:
        raise ValueError(
            f"axes={sizes} asks for {wanted} devices, but {jax.process_count()} processes have "
            f"{found}, and each takes part with all it has"
        )
    return jax.make_mesh(
        tuple(sizes.values()),
        tuple(sizes),
        axis_types=(jax.sharding.AxisType.Auto,) * len(sizes),
        devices=jax.devices()[:wanted],
    )


def axis_size(mesh: jax.sharding.Mesh | None, name: str) -> int:
    """Size of a mesh axis; 1 where there is no mesh or no such axis."""
    return 1 if mesh is None else dict(mesh.shape).get(name, 1)


def place(tree: Any, mesh: jax.sharding.Mesh, spec: Any) -> Any:
    """Puts a pytree, which every process has whole, on the devices of a mesh.

    Args:
      tree: arrays, typed random keys among them.
      mesh: of all processes.
      spec: a `PartitionSpec` for all leaves, or a pytree of them.

    Returns:
      The same tree, as arrays that lie on the mesh.
    """
    if isinstance(spec, PartitionSpec):
        spec = jax.tree.map(lambda _: spec, tree)
    return jax.tree.map(lambda leaf, one: _place(leaf, NamedSharding(mesh, one)), tree, spec)


def state_specs(tree: Any, mesh: jax.sharding.Mesh, *, lead: Sequence[str | None] = ()) -> Any:
    """How variables or an optimiser's state lie on a mesh.

    Leading axes go along `lead`. On a mesh with a `model` axis a large array is cut along its
    longest other axis that the size of `model` divides; all else is whole on every device.

    Args:
      tree: arrays or their shapes.
      mesh: the mesh.
      lead: name of the mesh axis of each leading axis; None for one that is not cut.

    Returns:
      A `PartitionSpec` for each leaf.
    """
    size = axis_size(mesh, "model")

    def spec(leaf):
        shape = leaf.shape[len(lead) :]
        dims: list[str | None] = [None] * len(shape)
        if size > 1 and not is_key(leaf) and math.prod(shape) >= _LARGE:
            fits = [i for i, n in enumerate(shape) if n % size == 0]
            if fits:
                dims[max(fits, key=lambda i: shape[i])] = "model"
        return PartitionSpec(*lead, *dims)

    return jax.tree.map(spec, tree)


def _place(leaf: Any, sharding: NamedSharding) -> jax.Array:
    if jax.process_count() == 1:
        return jax.device_put(leaf, sharding)
    if is_key(leaf):
        words = _place(jax.random.key_data(leaf), sharding)
        return jax.random.wrap_key_data(words, impl=jax.random.key_impl(leaf))
    host = np.asarray(leaf)
    return jax.make_array_from_callback(host.shape, sharding, lambda index: host[index])
