"""Early stopping inside the compiled loop: the best variables so far travel with the run.

The wrapped task measures a validation loss at every step and keeps a copy of the variables at its
lowest; a rule says from which step on nothing is copied any more. Nothing leaves the device, so
that many seeds stop each at its own step within one program.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from trove_jax.core.task import Aux, Batch, PyTree, Task, Variables

BEST = "best"
Validate = Callable[[Variables, Batch], jax.Array]


class StoppingRule(NamedTuple):
    """When a run has seen enough, as a pair of pure functions; it vmaps over seeds.

    Attributes:
      init: gives the state before the first step, a pytree of arrays.
      update: `(state, loss, is_best, step) -> (state, stop)` with the validation loss of the step,
        float32 scalar, whether it is the lowest so far, and the number of updates made before.
    """

    init: Callable[[], PyTree]
    update: Callable[[PyTree, jax.Array, jax.Array, jax.Array], tuple[PyTree, jax.Array]]


def windowed(window: int, start: int) -> StoppingRule:
    """Stops when the validation loss exceeds the mean of those just before it.

    stop at t > start with v_t > mean(v_(t - window), ..., v_(t - 1)); fewer while t < window

    Args:
      window: number of earlier losses in the mean, at least 1 (the paper: 100).
      start: no stop up to this step (the paper: half of the steps).

    Raises:
      ValueError: `window` below 1 or `start` below 0.

    Example:
      >>> rule = windowed(2, start=0)
      >>> state = rule.init()
      >>> for step, loss in enumerate([3.0, 2.0, 1.0, 2.0]):
      ...     state, stop = rule.update(state, jnp.float32(loss), jnp.bool(True), jnp.int32(step))
      ...     print(bool(stop))
      False
      False
      False
      True

    Reference: Liu et al., Towards Deeper Graph Neural Networks, KDD 2020 (as its published
    training programs stop).
    """
    if window < 1 or start < 0:
        raise ValueError(f"window={window}, start={start}; window >= 1 and start >= 0 are wanted")

    def init():
        return {"last": jnp.zeros(window, jnp.float32), "seen": jnp.int32(0)}

    def update(state, loss, is_best, step):
        del is_best
        last, seen = state["last"], state["seen"]
        mean = last.sum() / jnp.maximum(1, jnp.minimum(seen, window)).astype(jnp.float32)
        stop = (step > start) & (seen > 0) & (loss > mean)
        return {"last": last.at[seen % window].set(loss), "seen": seen + 1}, stop

    return StoppingRule(init, update)


def patience(steps: int) -> StoppingRule:
    """Stops when the lowest validation loss is `steps` steps old.

    Args:
      steps: at least 1.

    Raises:
      ValueError: `steps` below 1.
    """
    if steps < 1:
        raise ValueError(f"steps={steps} stops before anything is learned; use at least 1")

    def update(since, loss, is_best, step):
        del loss, step
        since = jnp.where(is_best, 0, since + 1)
        return since, since >= steps

    return StoppingRule(lambda: jnp.int32(0), update)


def never() -> StoppingRule:
    """Trains to the end; the best variables are kept all the same."""
    return StoppingRule(lambda: (), lambda state, loss, is_best, step: (state, jnp.bool(False)))


def keep_best(
    task: Task, validate: Validate, rule: StoppingRule | None = None, *, every: int = 1
) -> Task:
    """Keeps the variables at the lowest validation loss, in a collection `"best"`.

    A step measures the variables that it starts from, before it changes them: what is measured at
    step t has had t updates, and the result of the very last update is not measured. Once the
    rule stops, `"best"` is frozen; the training itself goes on, since other seeds may need it.

    Args:
      task: what is learned. Its variables may not have a collection `"best"`.
      validate: `(variables, batch) -> scalar` to be low, without noise, from what every step sees
        (`batch.shared` holds the validation part). A NaN is never the best.
      rule: when to stop; default `never()`. It counts measurements.
      every: steps between two measurements; a pass over a whole graph may cost as much as a step.

    Returns:
      A task with one collection more. Its records also have `validation` (the value measured
      last) and `stopped` (0.0 or 1.0). Its `metrics` are those of `task`, of the variables as they
      stand, or of the best ones if `best_variables(state.variables)` is measured.

    Raises:
      ValueError: the variables already have a collection `"best"`; `every` below 1.
    """
    if every < 1:
        raise ValueError(f"every={every} steps is no interval; use at least 1")
    rule = never() if rule is None else rule

    def init(key):
        variables = dict(task.init(key))
        if BEST in variables:
            raise ValueError('the variables already have a collection "best"; wrap a task once')
        best = {
            "variables": variables,
            "loss": jnp.float32(jnp.inf),
            "now": jnp.float32(jnp.inf),
            "step": jnp.int32(-1),
            "rule": rule.init(),
            "stopped": jnp.bool(False),
        }
        return {**variables, BEST: best}

    def loss(variables, batch, key, step):
        inner, best = _split(variables)
        # The validation pass has no part in the gradient, and is not differentiated either.
        fixed = jax.lax.stop_gradient(inner)

        def look(best):
            return _look(rule, best, fixed, _measure(validate, fixed, batch), step, step // every)

        if every == 1:
            best = look(best)
        else:
            best = jax.lax.cond(step % every == 0, look, lambda best: best, best)
        value, aux = task.loss(inner, batch, key, step)
        records = {
            **aux.metrics,
            "validation": best["now"],
            "stopped": best["stopped"].astype(jnp.float32),
        }
        return value, Aux(records, {**aux.updates, BEST: best})

    def metrics(variables, data):
        return task.metrics(_without(variables), data)

    return Task(init, loss, metrics)


def best_variables(variables: Variables) -> Variables:
    """The variables at the lowest validation loss, as the task without `keep_best` knows them.

    Args:
      variables: of a task made by `keep_best`, with or without a leading seed axis.

    Raises:
      ValueError: there is no collection `"best"`.
    """
    return _best(variables)["variables"]


def best_step(variables: Variables) -> jax.Array:
    """Number of updates that the best variables have had, int32; -1 if nothing was measured."""
    return _best(variables)["step"]


def best_loss(variables: Variables) -> jax.Array:
    """The lowest validation loss, float32; infinite if nothing was measured."""
    return _best(variables)["loss"]


def has_stopped(variables: Variables) -> jax.Array:
    """Whether the rule has stopped, bool; from then on the best variables stay as they are."""
    return _best(variables)["stopped"]


def _best(variables: Variables) -> dict[str, Any]:
    if BEST not in variables:
        raise ValueError(
            f'the variables have the collections {sorted(variables)}, not "best"; train a task '
            "that keep_best made"
        )
    return variables[BEST]


def _split(variables: Variables) -> tuple[dict[str, Any], dict[str, Any]]:
    return _without(variables), dict(_best(variables))


def _without(variables: Variables) -> dict[str, Any]:
    return {name: value for name, value in variables.items() if name != BEST}


def _measure(validate, fixed, batch) -> jax.Array:
    loss = jnp.asarray(validate(fixed, batch))
    if loss.shape:
        raise ValueError(f"validate gives shape {loss.shape}; a scalar is wanted")
    return loss.astype(jnp.float32)


def _look(rule, best, variables, loss, step, count) -> dict[str, Any]:
    is_best = loss < best["loss"]
    takes = is_best & ~best["stopped"]
    state, stop = rule.update(best["rule"], loss, is_best, count)

    def choose(new, old):
        return jax.tree.map(lambda a, b: jnp.where(takes, a, b), new, old)

    return {
        "variables": choose(variables, best["variables"]),
        "loss": choose(loss, best["loss"]),
        "now": loss,
        "step": choose(jnp.asarray(step, jnp.int32), best["step"]),
        "rule": state,
        "stopped": best["stopped"] | stop,
    }
