"""A training step described by shapes, to be compiled for devices that are not here."""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.sharding import NamedSharding, PartitionSpec

from trove_jax.core.keys import seed_keys
from trove_jax.core.mesh import axis_size, state_specs
from trove_jax.core.steps import OverSeeds, Program, TrainState, init_states, run_chunk
from trove_jax.core.task import Batch, Data, Task
from trove_jax.core.train import CHUNK_STEPS, STREAM_CHUNK_STEPS

# A chip works on rows in groups of eight: fewer examples on it do not make a step shorter.
_ROWS = 8


class PodStep(NamedTuple):
    """What an experiment trains, known before a byte of data is read.

    An experiment that has a function `pod_step(config) -> PodStep` can be compiled for a pod
    (`launch.pod --compile_only`).

    Attributes:
      name: what is trained on what, for a person.
      task: what is learned.
      tx: the optimiser, as the training loop gets it.
      data: `jax.ShapeDtypeStruct`s in place of arrays: `examples` `[n, ...]`, and `shared`.
      batch_size: examples per step, or None for all.
      seeds: networks trained together.
      streams: whether batches are read from the host; `examples` then only gives the shape of
        one, and n does not matter.
    """

    name: str
    task: Task
    tx: optax.GradientTransformation
    data: Data
    batch_size: int | None
    seeds: int
    streams: bool = False


def choose_pod_axes(step: PodStep, devices: int) -> dict[str, int]:
    """Lays a step on all devices of a pod so that each has the least to do.

    A device trains ceil(seeds / seed axis) networks, on batch / data axis examples of each, of
    which eight cost as much as one. Among equals the longer seed axis wins, since seeds need no
    communication.

    Args:
      step: what is trained.
      devices: how many devices there are.

    Returns:
      Sizes of the axes `seed` and `data`, whose product is `devices`.
    """
    batch = step.batch_size or 1
    work = [
        (math.ceil(step.seeds / (devices // data)) * max(batch // data, _ROWS), data)
        for data in range(1, devices + 1)
        if devices % data == 0 and batch % data == 0
    ]
    data = min(work)[1]
    return {"seed": devices // data, "data": data}


def lower_step(
    step: PodStep, mesh: jax.sharding.Mesh, *, platforms: Sequence[str] | None = None
) -> jax.stages.Lowered:
    """Lowers the very chunk that `core.train_seeds` runs, from shapes alone.

    Args:
      step: what is trained.
      mesh: its devices may be of a topology that is not here.
      platforms: what to lower for, such as `("tpu",)`; default: this process's own.

    Returns:
      The lowered chunk of steps, ready to compile.

    Raises:
      ValueError: the batch does not divide the mesh's data axis.
    """
    shards, lanes = axis_size(mesh, "data"), axis_size(mesh, "seed")
    if step.batch_size is not None and step.batch_size % shards:
        raise ValueError(
            f"batch_size={step.batch_size} is not divisible by the mesh's data axis of {shards}"
        )
    lanes *= math.ceil(step.seeds / lanes)
    length = STREAM_CHUNK_STEPS if step.streams else CHUNK_STEPS
    keys = jax.eval_shape(lambda: seed_keys(lanes))
    state = jax.eval_shape(lambda keys: init_states(step.task, step.tx, keys), keys)
    one = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape[1:], leaf.dtype), state[1])
    data = step.data._replace(examples=()) if step.streams else step.data
    program = Program(step.task, step.tx, step.batch_size, length, _over_seeds(step, one), mesh)
    by_seed, everywhere = _on(mesh, "seed"), _on(mesh)
    trained = (state.variables, state.opt_state)
    specs = state_specs(trained, mesh, lead=program.lead)
    trained = jax.tree.map(lambda leaf, spec: _shape(leaf, mesh, spec), trained, specs)
    with jax.set_mesh(mesh):
        traced = run_chunk.trace(
            program,
            TrainState(everywhere(state.step), *trained),
            everywhere(data),
            _on(mesh, "seed", None, "data")(_batches(step, lanes, length)),
            by_seed(keys),
            everywhere(jax.ShapeDtypeStruct((), jnp.int32)),
        )
        return traced.lower(lowering_platforms=None if platforms is None else tuple(platforms))


def _batches(step: PodStep, lanes: int, length: int) -> Any:
    """What `core.batches` hands to a chunk: examples of a stream, or places in resident data."""
    if step.batch_size is None:
        return None
    lead = (lanes, length, step.batch_size)
    if not step.streams:
        return jax.ShapeDtypeStruct(lead, jnp.int32)
    return jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct((*lead, *leaf.shape[1:]), leaf.dtype),
        step.data.examples,
    )


def _over_seeds(step: PodStep, variables: Any) -> OverSeeds:
    """The choice of `core.train_seeds` on an accelerator: no convolution is to become grouped."""
    examples = step.data.examples
    if step.batch_size is not None:
        examples = jax.tree.map(
            lambda leaf: jax.ShapeDtypeStruct((step.batch_size, *leaf.shape[1:]), leaf.dtype),
            examples,
        )
    loss = jax.make_jaxpr(step.task.loss)(
        variables, Batch(examples, step.data.shared), jax.random.key(0), jnp.int32(0)
    )
    return "map" if "conv_general_dilated" in str(loss) else "vmap"


def _on(mesh: jax.sharding.Mesh, *axes: str | None):
    """Gives the shapes of a pytree their place on a mesh; axes that it lacks are not cut."""
    spec = PartitionSpec(*(name if name in mesh.axis_names else None for name in axes))

    return lambda tree: jax.tree.map(lambda leaf: _shape(leaf, mesh, spec), tree)


def _shape(leaf: Any, mesh: jax.sharding.Mesh, spec: PartitionSpec) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=NamedSharding(mesh, spec))
