"""The training loop: compiled chunks of steps, and the shell around them.

Between chunks the shell hands the new records to the hooks, which log, show progress and save; it
answers a request to stop, and refuses to go on from a loss that is no number.
"""

import contextlib
import functools
import math
import time
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import PartitionSpec

from trove_jax.core import processes, stopping
from trove_jax.core.batches import Batches, count_examples, is_stream
from trove_jax.core.errors import Interrupted, NonFiniteLoss
from trove_jax.core.history import History, Hook, Moment
from trove_jax.core.mesh import axis_size, place, state_specs
from trove_jax.core.steps import (
    OverSeeds,
    Program,
    TrainState,
    init_state,
    init_states,
    run_chunk,
)
from trove_jax.core.task import Batch, Data, Task

# Steps in one compiled chunk, and the time between two looks of the shell. The look decides how
# soon Ctrl-C is answered; the length only bounds how often a very fast step returns to Python.
CHUNK_STEPS = 1000
STREAM_CHUNK_STEPS = 8
SECONDS_PER_CHUNK = 1.0

# From this many parameters on, the weights of one seed fill a CPU's cache, and seeds trained one
# after the other are faster than seeds trained together.
_CACHE_PARAMETERS = 1 << 16


def train(
    task: Task,
    tx: optax.GradientTransformation,
    data: Data,
    key: jax.Array,
    *,
    steps: int,
    start: TrainState | None = None,
    batch_size: int | None,
    mesh: jax.sharding.Mesh | None = None,
    hooks: Sequence[Hook] = (),
    chunk_steps: int | None = None,
    stop_at_nonfinite: bool = True,
) -> tuple[TrainState, History]:
    """Trains one network.

    Args:
      task: what is learned.
      tx: the optimiser, any `optax.GradientTransformation`.
      data: what is learned from; examples on the device, or a stream that reads batches.
      key: decides the initial variables, the order of the examples and all noise.
      steps: the step to stop at, counted from 0 also when `start` is given.
      start: where to begin; default: `init_state(task, tx, key)`. With the same `key` the run
        goes on exactly as if it had not been interrupted; with another key the same state is
        trained on another order of the data.
      batch_size: examples per step; `None` for all of them, as for one graph.
      mesh: devices; an axis `data` shards the batch.
      hooks: what to do between chunks.
      chunk_steps: length of the compiled loop; default 1000, or 8 for a stream.
      stop_at_nonfinite: whether a loss that is NaN or infinite raises.

    Returns:
      The state after `steps` steps, and the records of the steps taken here.

    Raises:
      ValueError: `steps` lies before `start`; `batch_size` does not fit the data or the mesh.
      NonFiniteLoss: the loss became NaN or infinite.
      Interrupted: a signal asked to stop (see `core.catch_signals`).
    """
    start = init_state(task, tx, key) if start is None else start
    return _train(
        Program(task, tx, batch_size, _length(data, chunk_steps), None, mesh),
        data,
        key,
        steps=steps,
        start=start,
        hooks=hooks,
        stop_at_nonfinite=stop_at_nonfinite,
    )


def train_seeds(
    task: Task,
    tx: optax.GradientTransformation,
    data: Data,
    keys: jax.Array,
    *,
    steps: int,
    start: TrainState | None = None,
    batch_size: int | None,
    mesh: jax.sharding.Mesh | None = None,
    hooks: Sequence[Hook] = (),
    chunk_steps: int | None = None,
    stop_at_nonfinite: bool = True,
    over_seeds: OverSeeds | None = None,
) -> tuple[TrainState, History]:
    """Trains one network per key, all in one compiled program.

    Args:
      task: what is learned.
      tx: the optimiser.
      data: what is learned from, the same for all seeds.
      keys: one key per run, `[s]`.
      steps: the step to stop at.
      start: states with a leading seed axis (`init_states`); the step counter has none.
      batch_size: examples per step of each run.
      mesh: devices; an axis `seed` trains that many runs at a time, an axis `data` shards the
        batch of each.
      hooks: what to do between chunks.
      chunk_steps: length of the compiled loop.
      stop_at_nonfinite: whether one bad seed stops all; if not, the other seeds go on and the
        bad one's records show from where on it cannot be used.
      over_seeds: `"vmap"` trains seeds side by side, `"map"` one after the other. Default: `map`
        where vmap would turn convolutions into slow grouped ones, and on a CPU for networks
        that fill its cache; else `vmap`.

    Returns:
      The states after `steps` steps, and the records, both with a leading seed axis.

    Raises:
      ValueError: as `train`.
      NonFiniteLoss: the loss of a seed became NaN or infinite.
      Interrupted: a signal asked to stop.
    """
    if over_seeds not in (None, "vmap", "map"):
        raise ValueError(f'over_seeds={over_seeds!r} is unknown; use "vmap", "map" or None')
    if keys.ndim != 1:
        raise ValueError(f"keys has shape {keys.shape}; one key per seed, [s], is wanted")
    start = init_states(task, tx, keys) if start is None else start
    for leaf in jax.tree.leaves(start._replace(step=None)):
        if leaf.shape[:1] != keys.shape:
            raise ValueError(
                f"start has a leaf of shape {leaf.shape} for {keys.shape[0]} keys; every leaf "
                "but the step needs a leading seed axis, as core.init_states makes it"
            )
    return _train(
        Program(
            task,
            tx,
            batch_size,
            _length(data, chunk_steps),
            over_seeds or _choose_over_seeds(task, start, data, batch_size),
            mesh,
        ),
        data,
        keys,
        steps=steps,
        start=start,
        hooks=hooks,
        stop_at_nonfinite=stop_at_nonfinite,
    )


def _train(program: Program, data, keys, *, steps, start, hooks, stop_at_nonfinite):
    step = int(start.step)
    if steps < step:
        raise ValueError(f"steps={steps} lies before the start at step {step}")
    _check_batch(program, data)
    seeds = None if program.over_seeds is None else keys.shape[0]
    start, keys = _fill_lanes(program, start, keys)
    batches = Batches(
        data, keys, batch_size=program.batch_size, length=program.length, mesh=program.mesh
    )
    state, keys = _place(program, start, keys)
    resident = _replicate(program, batches.resident)
    history: list[History] = []
    seen = [0] * len(hooks)
    look = program.length if batches.streaming else 10  # the speed is not known yet
    try:
        while step < steps:
            end = min(step + min(look, program.length), _next_call(hooks, step, steps))
            began = time.perf_counter()
            with _on(program.mesh):
                state, records = run_chunk(
                    program, state, resident, batches.read(step, end), keys, end
                )
            if batches.streaming:
                batches.prefetch(end, min(end + program.length, _next_call(hooks, end, steps)))
            records = jax.tree.map(np.asarray, records)
            speed = (end - step) / (time.perf_counter() - began)
            new = _history(records, step, end, seeds)
            failed = ~np.isfinite(new.metrics["loss"])
            if failed.any():
                if stop_at_nonfinite:
                    raise _nonfinite(new, failed)
                state, new = _give_up(state, new, failed)
            history.append(new)
            step = end
            if not batches.streaming:
                look = max(1, math.ceil(speed * SECONDS_PER_CHUNK))
            look, stop = processes.agree(min(look, program.length), stopping.stop_requested())
            for i, hook in enumerate(hooks):
                if stop or step == steps or not hook.every or step % hook.every == 0:
                    new = History.join(history[seen[i] :])
                    seen[i] = len(history)
                    state_now = functools.partial(_without_padding, state, seeds)
                    hook(Moment(step, steps, state_now, new, stop or step == steps, speed))
            if stop:
                raise Interrupted(f"stopped at step {step} of {steps}")
    finally:
        batches.close()
    return _without_padding(state, seeds), History.join(history)


def _next_call(hooks, step, steps):
    """The next step, up to `steps`, at which a hook wants to be called."""
    return min([steps, *(step - step % hook.every + hook.every for hook in hooks if hook.every)])


def _length(data, chunk_steps):
    if chunk_steps is not None and chunk_steps < 1:
        raise ValueError(f"chunk_steps={chunk_steps} is no length; use at least 1")
    return chunk_steps or (STREAM_CHUNK_STEPS if is_stream(data.examples) else CHUNK_STEPS)


def _check_batch(program, data):
    if program.batch_size is None:
        if is_stream(data.examples):
            raise ValueError("batch_size=None takes all examples, but data.examples is a stream")
        return
    size = count_examples(data.examples)
    if not 1 <= program.batch_size <= size:
        raise ValueError(
            f"batch_size={program.batch_size} does not fit data of {size} examples; "
            f"use 1 to {size}, or None for all of them"
        )
    shards = axis_size(program.mesh, "data")
    if program.batch_size % shards:
        raise ValueError(
            f"batch_size={program.batch_size} is not divisible by the mesh's data axis of {shards}"
        )


def _on(mesh):
    return contextlib.nullcontext() if mesh is None else jax.set_mesh(mesh)


def _replicate(program, tree):
    return tree if program.mesh is None else place(tree, program.mesh, PartitionSpec())


def _fill_lanes(program, state, keys):
    """Repeats first seeds where there are too few to fill the mesh."""
    missing = 0
    if program.over_seeds is not None:
        missing = -keys.shape[0] % axis_size(program.mesh, "seed")
    if not missing:
        return state, keys

    def fill(leaf):
        # Fewer seeds than lanes that are missing are repeated more than once.
        rows = np.arange(keys.shape[0] + missing) % keys.shape[0]
        return leaf[rows]

    variables, opt_state, keys = jax.tree.map(fill, (state.variables, state.opt_state, keys))
    return TrainState(state.step, variables, opt_state), keys


def _place(program, state, keys):
    """Copies the start, whose arrays the loop will reuse, to the devices it runs on."""
    state = jax.tree.map(lambda leaf: jnp.array(leaf, copy=True), state)
    if program.mesh is None:
        return state, keys
    lead = program.lead
    lanes = (state.variables, state.opt_state)
    lanes = place(lanes, program.mesh, state_specs(lanes, program.mesh, lead=lead))
    keys = place(keys, program.mesh, PartitionSpec(*lead))
    return TrainState(_replicate(program, state.step), *lanes), keys


def _without_padding(state, seeds):
    """Drops the lanes that only fill the mesh."""
    if seeds is None:
        return state
    lanes = jax.tree.map(
        lambda leaf: leaf if leaf.shape[0] == seeds else leaf[:seeds],
        (state.variables, state.opt_state),
    )
    return TrainState(state.step, *lanes)


def _history(records, step, end, seeds):
    metrics = {
        name: values[: end - step] if seeds is None else values[:seeds, : end - step]
        for name, values in records.items()
    }
    return History(np.arange(step, end), metrics)


def _nonfinite(new, failed):
    failed, losses = np.atleast_2d(failed), np.atleast_2d(new.metrics["loss"])
    at = int(failed.any(axis=0).argmax())
    seeds = np.flatnonzero(failed[:, at]).tolist()
    where = f"seed {', '.join(map(str, seeds))}, " if failed.shape[0] > 1 else ""
    step = int(new.steps[at])
    return NonFiniteLoss(f"the loss is {losses[seeds[0], at]} at {where}step {step}")


def _give_up(state, new, failed):
    """Marks failed seeds with NaN, from the step on at which they failed.

    A later loss may happen to be finite again; nothing of such a network may be used.
    """
    since = np.logical_or.accumulate(failed, axis=-1)
    metrics = {name: np.where(since, np.nan, x) for name, x in new.metrics.items()}
    lost = since[..., -1]

    def mark(leaf):
        if not jnp.issubdtype(leaf.dtype, jnp.floating):
            return leaf
        lanes = np.zeros(leaf.shape[: lost.ndim], bool)
        lanes[... if lost.ndim == 0 else slice(lost.size)] = lost
        lanes = lanes.reshape(lanes.shape + (1,) * (leaf.ndim - lost.ndim))
        return jnp.where(lanes, jnp.array(jnp.nan, leaf.dtype), leaf)

    return state._replace(variables=jax.tree.map(mark, state.variables)), new._replace(
        metrics=metrics
    )


def _choose_over_seeds(task, start, data, batch_size) -> OverSeeds:
    one = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape[1:], leaf.dtype), start)
    variables = one.variables
    examples = data.examples
    if batch_size is not None:
        rows = examples[np.arange(1)] if is_stream(examples) else examples
        examples = jax.tree.map(
            lambda leaf: jax.ShapeDtypeStruct((batch_size, *leaf.shape[1:]), leaf.dtype), rows
        )
    program = jax.make_jaxpr(task.loss)(
        variables, Batch(examples, data.shared), jax.random.key(0), jnp.int32(0)
    )
    if "conv_general_dilated" in str(program):
        return "map"
    parameters = sum(leaf.size for leaf in jax.tree.leaves(variables["params"]))
    return "map" if jax.default_backend() == "cpu" and parameters >= _CACHE_PARAMETERS else "vmap"
