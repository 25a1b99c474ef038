"""Starting an optimiser afresh in the middle of a schedule."""

import jax
import jax.numpy as jnp
import optax

from trove_jax.transforms.gradient_noise import GradientNoiseState

_COUNTERS = (optax.ScaleByScheduleState, GradientNoiseState)
_SCHEDULED = (
    *_COUNTERS,
    optax.schedules.InjectHyperparamsState,
    optax.schedules.InjectStatefulHyperparamsState,
)


def init_at_step(
    tx: optax.GradientTransformation, params: optax.Params, step: int | jax.Array
) -> optax.OptState:
    """Makes fresh optimiser state whose schedules stand at `step`.

    Rewinding weights to step k without this restarts the learning-rate schedule at 0, which is
    another method. Moments, and the counters that correct their bias, start at 0: a moment that
    holds nothing yet needs the correction of a first step.

    Args:
      tx: the optimiser.
      params: parameters, a pytree of arrays.
      step: steps done before, int32 scalar.

    Returns:
      State as `tx.init(params)`, with the counters of schedules (`optax.scale_by_schedule`,
      `optax.inject_hyperparams`) and of the decay of `gradient_noise` at `step`. Random keys are
      those of `tx.init`, the same for every seed.

    Example:
      >>> schedule = optax.piecewise_constant_schedule(1.0, {10: 0.1})
      >>> tx = optax.sgd(schedule)
      >>> state = init_at_step(tx, jnp.zeros(1), 10)
      >>> with jax.numpy_dtype_promotion("standard"):
      ...     print(tx.update(jnp.ones(1), state)[0].round(3))
      [-0.1]
    """

    def at_step(node):
        if not isinstance(node, _SCHEDULED):
            return node
        node = node._replace(count=jnp.full_like(node.count, step))
        if isinstance(node, _COUNTERS):
            return node
        if isinstance(node, optax.schedules.InjectStatefulHyperparamsState):
            # Each injected schedule counts for itself.
            counts = {
                name: state._replace(count=jnp.full_like(state.count, step))
                if hasattr(state, "count")
                else state
                for name, state in node.hyperparams_states.items()
            }
            node = node._replace(hyperparams_states=counts)
        return node._replace(inner_state=walk(node.inner_state))

    def walk(state):
        return jax.tree.map(at_step, state, is_leaf=lambda node: isinstance(node, _SCHEDULED))

    return walk(tx.init(params))
