"""What is compiled: one step, and a chunk of steps as one loop, for one run or many.

A chunk is a rolled loop up to a traced step, into records of fixed length, so that every span of
steps, of every run with the same shapes, uses one compiled program.
"""

import dataclasses
import functools
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.sharding import NamedSharding, PartitionSpec

from trove_jax.core.keys import give_own_keys, init_key, step_key
from trove_jax.core.mesh import axis_size, state_specs
from trove_jax.core.task import Batch, PyTree, Task, Variables

OverSeeds = Literal["vmap", "map"]


class TrainState(NamedTuple):
    """All that training changes.

    Attributes:
      step: steps done so far, int32 scalar; one counter for all seeds.
      variables: the model's variable collections; with seeds, every leaf is `[s, ...]`.
      opt_state: state of the optimiser; with seeds, every leaf is `[s, ...]`.
    """

    step: jax.Array
    variables: Variables
    opt_state: PyTree


def train_step(
    task: Task, tx: optax.GradientTransformation, state: TrainState, batch: Batch, key: jax.Array
) -> tuple[TrainState, dict[str, jax.Array]]:
    """Takes one step of one run; pure, for use in a loop of one's own.

    Args:
      task: what is learned.
      tx: the optimiser; it sees `variables["params"]`.
      state: state before the step, without a seed axis.
      batch: what the step sees.
      key: the run's key; the step's own key is folded from it and the counter.

    Returns:
      The state after the step, and `loss` with the metrics of the loss.
    """
    variables = dict(state.variables)
    params = variables.pop("params")

    def loss(params):
        return task.loss({"params": params, **variables}, batch, noise, state.step)

    noise = step_key(key, state.step)
    (value, aux), gradients = jax.value_and_grad(loss, has_aux=True)(params)
    # Optax mixes dtypes (Adam raises a float to an integer count): strict mode is for our own code.
    with jax.numpy_dtype_promotion("standard"):
        updates, opt_state = optax.with_extra_args_support(tx).update(
            gradients, state.opt_state, params, value=value
        )
    variables = {"params": optax.apply_updates(params, updates), **variables, **aux.updates}
    return TrainState(state.step + 1, variables, opt_state), {"loss": value, **aux.metrics}


def init_state(task: Task, tx: optax.GradientTransformation, key: jax.Array) -> TrainState:
    """The state before the first step of the run that `key` names.

    Typed random keys in the optimiser's state become this run's own: `key` is folded into them.
    """
    variables = task.init(init_key(key))
    return TrainState(jnp.int32(0), variables, give_own_keys(tx.init(variables["params"]), key))


def init_states(task: Task, tx: optax.GradientTransformation, keys: jax.Array) -> TrainState:
    """The states before the first step of one run per key, with a leading seed axis."""
    variables = _init_variables(task, keys)
    return TrainState(jnp.int32(0), variables, _init_opt_states(tx, variables["params"], keys))


# Apart, so that optimisers share the first; and a map, since XLA takes twice as long to compile
# the random numbers of a vmap.
@functools.partial(jax.jit, static_argnames="task")
def _init_variables(task, keys):
    return jax.lax.map(lambda key: task.init(init_key(key)), keys)


@functools.partial(jax.jit, static_argnames="tx")
def _init_opt_states(tx, params, keys):
    return jax.vmap(lambda params, key: give_own_keys(tx.init(params), key))(params, keys)


@dataclasses.dataclass(frozen=True)
class Program:
    """What a compiled chunk depends on beside the shapes of its arguments."""

    task: Task
    tx: optax.GradientTransformation
    batch_size: int | None
    length: int
    over_seeds: OverSeeds | None
    mesh: jax.sharding.Mesh | None

    @property
    def lead(self) -> tuple[str | None, ...]:
        """The mesh axis of the leading axis of states; nothing for one run."""
        if self.over_seeds is None:
            return ()
        return ("seed" if self.mesh is not None and "seed" in self.mesh.axis_names else None,)


def _one_run(program: Program, state, data, batches, key, stop):
    """A chunk of one run: at most `length` steps, none from `stop` on."""
    streaming = not jax.tree.leaves(data.examples)

    def take(batch):
        if batch is None:
            return data.examples
        examples = batch if streaming else jax.tree.map(lambda leaf: leaf[batch], data.examples)
        if axis_size(program.mesh, "data") == 1:
            return examples
        return jax.lax.with_sharding_constraint(examples, PartitionSpec("data"))

    def step(state, batch):
        return train_step(program.task, program.tx, state, Batch(take(batch), data.shared), key)

    def body(i, carry):
        state, records = carry
        state, new = step(state, jax.tree.map(lambda leaf: leaf[i], batches))
        return state, jax.tree.map(lambda leaf, x: leaf.at[i].set(x), records, new)

    shapes = jax.eval_shape(lambda: step(state, jax.tree.map(lambda leaf: leaf[0], batches))[1])
    records = jax.tree.map(lambda x: jnp.zeros((program.length, *x.shape), x.dtype), shapes)
    # The bound is traced: a scan of fixed length would have to skip the steps past it, and a
    # skipped step copies the whole state on a CPU.
    count = jnp.clip(stop - state.step, 0, program.length)
    return jax.lax.fori_loop(0, count, body, (state, records))


_traced: list[Program] = []


def compilations() -> int:
    """How many training programs this process has compiled; a whole search should add one."""
    return len(_traced)


@functools.partial(jax.jit, static_argnames="program", donate_argnames="state")
def run_chunk(program: Program, state, data, batches, keys, stop):
    """Takes the steps before `stop`, at most `program.length`; gives the state and the records."""
    _traced.append(program)
    run = functools.partial(_one_run, program)
    if program.over_seeds is None:
        return _lay(program, *run(state, data, batches, keys, stop))

    def runs(state, data, batches, keys, stop):
        # The counter stays out of the seed axis, so that the bound of the loop is one number.
        def one(variables, opt_state, batches, key):
            end, records = run(
                TrainState(state.step, variables, opt_state), data, batches, key, stop
            )
            return end.variables, end.opt_state, records

        lanes = (state.variables, state.opt_state, batches, keys)
        if program.over_seeds == "vmap":
            ends = jax.vmap(one)(*lanes)
        else:
            ends = jax.lax.map(lambda lane: one(*lane), lanes)
        step = jnp.minimum(jnp.maximum(stop, state.step), state.step + program.length)
        return TrainState(step, *ends[:2]), ends[2]

    if axis_size(program.mesh, "seed") > 1:
        here, everywhere = PartitionSpec("seed"), PartitionSpec()
        specs: Any = TrainState(everywhere, here, here)  # pyright: ignore[reportArgumentType]
        runs = jax.shard_map(
            runs,
            mesh=program.mesh,
            in_specs=(specs, everywhere, here, here, everywhere),
            out_specs=(specs, here),
            axis_names={"seed"},
            check_vma=False,
        )
    return _lay(program, *runs(state, data, batches, keys, stop))


def _lay(program: Program, state: TrainState, records):
    """Holds the state to the mesh as it came in, and gives the records to every process."""
    if program.mesh is None:
        return state, records
    mesh, lanes = program.mesh, (state.variables, state.opt_state)
    specs = state_specs(lanes, mesh, lead=program.lead)
    # With the mesh in them, the places need none in the context of the caller.
    places = jax.tree.map(lambda spec: NamedSharding(mesh, spec), specs)
    lanes = jax.lax.with_sharding_constraint(lanes, places)
    if jax.process_count() > 1:
        everywhere = NamedSharding(mesh, PartitionSpec())
        records = jax.lax.with_sharding_constraint(records, everywhere)
    return TrainState(state.step, *lanes), records
