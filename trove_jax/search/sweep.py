"""Training at many values of numeric settings, all in one compiled program.

A setting that only scales, mixes or decays (a learning rate, a weight of a loss, a variance of
noise) need not be a constant of the program. Here it is an argument: the values of a point are
carried in its state, beside the weights, and points x seeds are the lanes of `core.train_seeds`.
What changes a shape (a width, a batch size, a number of steps) needs a program of its own.
"""

import functools
import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from trove_jax import core
from trove_jax.core.keys import give_own_keys

PyTree = Any
MakeTask = Callable[..., core.Task]
MakeTx = Callable[..., optax.GradientTransformation]

VALUES = "grid_values"
"""The collection of `variables` that holds the values which the loss of a lane reads."""


class GridLanes(NamedTuple):
    """Points x seeds as lanes: the arguments of `core.train_seeds`, point by point.

    Attributes:
      task: reads the values of its lane from `variables["grid_values"]`.
      tx: reads the values of its lane from its own state.
      start: states before the first step, every leaf but the step `[p * s, ...]`.
      keys: the key of each lane, `[p * s]`; seed i has one key at all points.
      shape: (p, s).
    """

    task: core.Task
    tx: optax.GradientTransformation
    start: core.TrainState
    keys: jax.Array
    shape: tuple[int, int]

    def split(self, tree: PyTree) -> PyTree:
        """Gives the leaves of a tree, `[p * s, ...]`, the axes `[p, s, ...]`."""
        return jax.tree.map(lambda leaf: leaf.reshape(self.shape + leaf.shape[1:]), tree)


class GridResult(NamedTuple):
    """What `train_grid` returns.

    Attributes:
      states: the end states; every leaf but the step is `[p, s, ...]`. `variables` are those of
        the task that was given.
      history: records, each metric `[p, s, t]`.
      metrics: what the task measures on `measure_on`, `[p, s]` by name; empty without it.
    """

    states: core.TrainState
    history: core.History
    metrics: dict[str, np.ndarray]


def grid_lanes(
    task: core.Task | MakeTask,
    tx: optax.GradientTransformation | MakeTx,
    keys: jax.Array,
    values: Mapping[str, Sequence[float] | np.ndarray | jax.Array],
    *,
    variables: PyTree | None = None,
) -> GridLanes:
    """Makes the lanes of a grid, for a train loop of one's own.

    Args:
      task: the task of all points, or a function that makes it from values by name. It is called
        while the program is traced, with float32 scalars, and before that once per point with
        plain numbers, so that it can refuse them.
      tx: the optimiser, or a function that makes it, in the same way. Both functions should live
        as long as the program: another function object is another program.
      keys: one key per seed, `[s]`; every point starts from the same weights and sees the data in
        the same order.
      values: one number per point, `[p]`, by name; a function takes those that its parameters
        name. A parameter with a default that has no values keeps it.
      variables: initial variables, every leaf `[p * s, ...]`; default: from the task.

    Returns:
      The lanes.

    Raises:
      ValueError: no values, or of unequal lengths, or not numbers; a name that neither function
        takes, or a parameter without values; what the functions themselves refuse.
    """
    if keys.ndim != 1:
        raise ValueError(f"keys has shape {keys.shape}; one key per seed, [s], is wanted")
    arrays = _check_values(values)
    for_task, for_tx = _names(task, arrays, "task"), _names(tx, arrays, "tx")
    for name in arrays:
        if name not in (*for_task, *for_tx):
            raise ValueError(
                f"values has {name!r}, which neither task nor tx takes; a function that takes it "
                f"has a parameter of that name"
            )
    _check_complete(task, for_task, "task")
    _check_complete(tx, for_tx, "tx")
    _check_numbers(task, for_task, values)
    _check_numbers(tx, for_tx, values)
    lanes = {name: jnp.repeat(array, keys.shape[0]) for name, array in arrays.items()}
    lane_keys = jnp.tile(keys, len(next(iter(arrays.values()))))
    task_values = {name: lanes[name] for name in for_task}
    begin: Any = _init_variables(task, lane_keys, task_values) if variables is None else variables
    opt_states = _init_opt_states(
        tx, begin["params"], lane_keys, {name: lanes[name] for name in for_tx}
    )
    if for_task:
        begin = {**begin, VALUES: task_values}
    start = core.TrainState(jnp.int32(0), begin, opt_states)
    return GridLanes(
        task if isinstance(task, core.Task) else _reading_task(task, for_task),
        tx if isinstance(tx, optax.GradientTransformation) else _reading_tx(tx, for_tx),
        start,
        lane_keys,
        (lane_keys.shape[0] // keys.shape[0], keys.shape[0]),
    )


def train_grid(
    task: core.Task | MakeTask,
    tx: optax.GradientTransformation | MakeTx,
    data: core.Data,
    keys: jax.Array,
    values: Mapping[str, Sequence[float] | np.ndarray | jax.Array],
    *,
    steps: int,
    batch_size: int | None,
    start: core.TrainState | None = None,
    measure_on: core.Data | None = None,
    train_seeds: Callable[..., tuple[core.TrainState, core.History]] = core.train_seeds,
    **options: Any,
) -> GridResult:
    """Trains every seed at every point of a grid, in one compiled program.

    A point's run is that of `core.train_seeds` with the same numbers written into the program; the
    two differ by rounding, as any two programs do, and by nothing else.

    Args:
      task: as `grid_lanes`.
      tx: as `grid_lanes`.
      data: what all are trained on.
      keys: one key per seed, `[s]`.
      values: one number per point, `[p]`, by name. All combinations of two settings:
        `a, b = np.meshgrid(a, b)` and their `ravel()`.
      steps: the step to stop at.
      batch_size: as `core.train_seeds`.
      start: where to begin, such as `GridResult.states` of the same grid; default: the beginning.
      measure_on: data for the task's metrics, after training.
      train_seeds: what trains the lanes; `functools.partial(context.train_seeds, stage)` trains
        them as a resumable stage of a run.
      **options: further arguments of `core.train_seeds`, such as `mesh` and `stop_at_nonfinite`.

    Returns:
      States, records and measurements with leading axes `[p, s]`.

    Raises:
      ValueError: as `grid_lanes` and `core.train_seeds`.
      NonFiniteLoss: a lane's loss became NaN or infinite (`stop_at_nonfinite=False` goes on with
        the others).
      Interrupted: a signal asked to stop.

    Example:
      >>> def loss(variables, batch, key, step):
      ...     return ((variables["params"]["w"] - batch.examples) ** 2).mean(), core.Aux()
      >>> task = core.Task(lambda key: {"params": {"w": jnp.zeros(())}}, loss, lambda v, d: {})
      >>> found = train_grid(
      ...     task, optax.sgd, core.Data(jnp.ones(4)), core.seed_keys(2),
      ...     {"learning_rate": [0.0, 0.25, 0.5]}, steps=1, batch_size=None,
      ... )
      >>> print(found.states.variables["params"]["w"])
      [[0.  0. ] [0.5 0.5] [1.  1. ]]
    """
    lanes = grid_lanes(task, tx, keys, values)
    begin = lanes.start if start is None else _continued(lanes, start)
    state, history = train_seeds(
        lanes.task,
        lanes.tx,
        data,
        lanes.keys,
        steps=steps,
        start=begin,
        batch_size=batch_size,
        **options,
    )
    metrics = {}
    if measure_on is not None:
        found = core.evaluate_seeds(lanes.task, state.variables, measure_on)
        metrics = lanes.split({name: np.asarray(values) for name, values in found.items()})
    variables = {name: tree for name, tree in state.variables.items() if name != VALUES}
    return GridResult(
        core.TrainState(state.step, lanes.split(variables), lanes.split(state.opt_state)),
        core.History(history.steps, lanes.split(history.metrics)),
        metrics,
    )


def _check_values(values) -> dict[str, jax.Array]:
    if not values:
        raise ValueError("values is empty; give at least one array of numbers by name")
    arrays = {}
    for name, numbers in values.items():
        array = np.asarray(numbers)
        if array.ndim != 1 or not array.size or array.dtype.kind not in "fiu":
            raise ValueError(
                f"values[{name!r}] has shape {array.shape} and dtype {array.dtype}; one number "
                "per point, [p], is wanted"
            )
        arrays[name] = jnp.asarray(array, jnp.float32)
    lengths = {name: array.size for name, array in arrays.items()}
    if len(set(lengths.values())) > 1:
        raise ValueError(f"values has arrays of {lengths} points; all points need all values")
    return arrays


def _parameters(part) -> Mapping[str, inspect.Parameter]:
    if isinstance(part, core.Task | optax.GradientTransformation):
        return {}
    return inspect.signature(part).parameters


def _names(part, arrays, what: str) -> tuple[str, ...]:
    """The values that a function takes; a task or a transformation that is made already: none."""
    parameters = _parameters(part)
    for name, parameter in parameters.items():
        if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
            raise ValueError(
                f"{what} takes {name} without naming its values; name each as a parameter"
            )
    return tuple(name for name in parameters if name in arrays)


def _check_complete(part, names, what: str) -> None:
    for name, parameter in _parameters(part).items():
        if parameter.default is parameter.empty and name not in names:
            raise ValueError(
                f"{what} needs {name!r}, which values has not; add it, or give it a default"
            )


def _check_numbers(part, names, values) -> None:
    """Calls a function with plain numbers: of traced ones it cannot refuse any for its size."""
    if not isinstance(part, core.Task | optax.GradientTransformation):
        for point in zip(*(np.asarray(values[name]).tolist() for name in names), strict=True):
            part(**dict(zip(names, point, strict=True)))


# Keyed by the function and not by the numbers, so that all grids of an experiment, and all its
# stages, give the same objects and share one compiled program.
@functools.lru_cache(maxsize=64)
def _reading_task(make_task: MakeTask, names: tuple[str, ...]) -> core.Task:
    def made(variables):
        rest = dict(variables)
        values = rest.pop(VALUES) if names else {}
        return make_task(**values), rest

    def init(key):
        del key
        raise ValueError("the task of a grid has no values of its own; begin with its `start`")

    def loss(variables, batch, key, step):
        task, rest = made(variables)
        return task.loss(rest, batch, key, step)

    def metrics(variables, data):
        task, rest = made(variables)
        return task.metrics(rest, data)

    return core.Task(init, loss, metrics)


@functools.lru_cache(maxsize=64)
def _reading_tx(make_tx: MakeTx, names: tuple[str, ...]) -> optax.GradientTransformation:
    # The numbers given here are never used: `_init_opt_states` puts each lane's into its state.
    return _injected(make_tx, dict.fromkeys(names, 1.0))


def _injected(make_tx: MakeTx, values: Mapping[str, Any]) -> optax.GradientTransformation:
    static = set(inspect.signature(make_tx).parameters) - set(values)
    return optax.inject_hyperparams(make_tx, static_args=static, hyperparam_dtype=jnp.float32)(  # pyright: ignore[reportArgumentType]
        **values
    )


@functools.partial(jax.jit, static_argnames="task")
def _init_variables(task, keys, values):
    def one(lane):
        key, values = lane
        made = task if isinstance(task, core.Task) else task(**values)
        return made.init(core.init_key(key))

    return jax.lax.map(one, (keys, values))


@functools.partial(jax.jit, static_argnames="tx")
def _init_opt_states(tx, params, keys, values):
    def one(params, key, values):
        made = tx if isinstance(tx, optax.GradientTransformation) else _injected(tx, values)
        return give_own_keys(made.init(params), key)

    return jax.vmap(one)(params, keys, values)


def _continued(lanes: GridLanes, start: core.TrainState) -> core.TrainState:
    """A state `[p, s, ...]` of a task without values, as lanes with theirs."""
    variables, opt_state = jax.tree.map(
        lambda leaf: leaf.reshape((-1, *leaf.shape[2:])), (start.variables, start.opt_state)
    )
    carried = {name: tree for name, tree in lanes.start.variables.items() if name == VALUES}
    return core.TrainState(start.step, {**variables, **carried}, opt_state)
