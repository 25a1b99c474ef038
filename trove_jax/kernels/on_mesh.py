"""Kernels on a mesh: each device runs one on the rows that it holds.

The compiler divides plain JAX among the devices of a mesh by itself, but no Pallas kernel: a TPU
refuses ("Mosaic kernels cannot be automatically partitioned"), a GPU gathers all rows everywhere.
"""

from collections.abc import Callable
from typing import Any

import jax
from jax import lax
from jax.sharding import AxisType, PartitionSpec


def on_own_rows(kernel: Callable[..., Any], takes: Any, gives: Any) -> Callable[..., Any]:
    """Runs a kernel on each device's own rows, where the mesh has axes that are not divided yet.

    Rows go along the mesh's axis `data` where its size divides their first axis; else, and along
    all other axes, every device runs the kernel on all rows.

    Args:
      kernel: `(*arrays) -> results`, on pytrees.
      takes: a prefix of the tree of arguments, a tuple: True for arrays whose first axis is that of
        rows, False for what belongs to every row.
      gives: a prefix of the tree of results: True for rows, False for sums over rows, which are
        added across devices.

    Returns:
      The same function, for use inside `jit` under `jax.set_mesh`.
    """

    def run(*arrays):
        mesh = jax.sharding.get_abstract_mesh()
        free = [
            name
            for name, kind in zip(mesh.axis_names, mesh.axis_types, strict=True)
            if kind == AxisType.Auto
        ]
        if not free:
            return kernel(*arrays)
        lengths = set()
        jax.tree.map(
            lambda is_rows, part: lengths.update(
                leaf.shape[0] for leaf in jax.tree.leaves(part) if is_rows
            ),
            takes,
            arrays,
        )
        splits = "data" in free and all(n % mesh.shape["data"] == 0 for n in lengths)

        def spec(is_rows):
            return PartitionSpec("data") if splits and is_rows else PartitionSpec()

        def add_up(is_rows, part):
            return lax.psum(part, "data") if splits and not is_rows else part

        return jax.shard_map(
            lambda *arrays: jax.tree.map(add_up, gives, kernel(*arrays)),
            in_specs=jax.tree.map(spec, takes),
            out_specs=jax.tree.map(spec, gives),
            axis_names=set(free),
            check_vma=False,
        )(*arrays)

    return run


def by_rows(kernel: Callable[..., Any]) -> Callable[..., Any]:
    """Runs a kernel of rows and of what they share on each device's own rows.

    Args:
      kernel: `(rows, shared, *more) -> (outs, sums)` on tuples of arrays, where `more` are
        cotangents of `outs` and of `sums`. `rows`, `outs` and their cotangents have the same first
        axis, or are vectors, one row each; `sums` are added up over rows; `shared` belongs to every
        row.

    Returns:
      The same function, for use inside `jit` under `jax.set_mesh`.
    """

    def run(*arrays):
        are_rows = arrays[0][0].ndim > 1
        takes = (are_rows, False) * (len(arrays) // 2)
        # A single row is everywhere, and so is what it sums up to: nothing is added.
        return on_own_rows(kernel, takes, (True, False) if are_rows else True)(*arrays)

    return run
