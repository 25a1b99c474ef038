"""Kernels on a mesh: each device runs one on the rows that it holds.

The compiler divides plain JAX among the devices of a mesh by itself, but no Pallas kernel: a TPU
refuses ("Mosaic kernels cannot be automatically partitioned"), a GPU gathers all rows everywhere.
"""

from collections.abc import Callable
from typing import Any

import jax
from jax import lax
from jax.sharding import AxisType, PartitionSpec


def by_rows(kernel: Callable[..., Any]) -> Callable[..., Any]:
    """Runs a kernel on each device's own rows, where the mesh has axes that are not divided yet.

    Rows go along the mesh's axis `data` where its size divides their first axis; else, and along
    all other axes, every device runs the kernel on all rows.

    Args:
      kernel: `(rows, shared, *more) -> (outs, sums)` on tuples of arrays, where `more` are
        cotangents of `outs` and of `sums`. `rows`, `outs` and their cotangents have the same first
        axis; `sums` are added up over rows; `shared` belongs to every row.

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
        first = arrays[0][0]
        splits = "data" in free and first.ndim > 1 and first.shape[0] % mesh.shape["data"] == 0
        own = PartitionSpec("data") if splits else PartitionSpec()

        def on_device(*arrays):
            outs, sums = kernel(*arrays)
            return outs, lax.psum(sums, "data") if splits else sums

        return jax.shard_map(
            on_device,
            in_specs=(own, PartitionSpec()) * (len(arrays) // 2),
            out_specs=(own, PartitionSpec()),
            axis_names=set(free),
            check_vma=False,
        )(*arrays)

    return run
