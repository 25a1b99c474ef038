"""Iterative magnitude pruning with rewinding: train, remove the smallest weights, go back, repeat.

    W_k = A^{0->k}(W_0)                     train to the step of rewinding
    W_T = A^{k->T}(m * W_k, m)              train the survivors to the end
    m <- m without the share p of smallest |W_T|

where A^{a->b} reads the learning rate and the data order at the absolute step. k = 0 is the
original lottery ticket.

Reference: Frankle et al., Stabilizing the Lottery Ticket Hypothesis, 2019 (Algorithm 1);
Frankle & Carbin, The Lottery Ticket Hypothesis, ICLR 2019 (k = 0).
"""

import functools
import logging
from collections.abc import Callable, Mapping
from typing import Any, Literal, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np
import optax

from trove_jax import core
from trove_jax.core.pytrees import is_key
from trove_jax.transforms import (
    apply_mask,
    density,
    get_mask,
    init_at_step,
    layer_densities,
    magnitude_mask,
    masked,
    set_mask,
)

PyTree = Any

_log = logging.getLogger(__name__)


class TrainFn(Protocol):
    """Trains one network per key from a state to a step, under a mask."""

    def __call__(
        self,
        start: core.TrainState,
        mask: PyTree | None,
        keys: jax.Array,
        *,
        stage: str,
        until: int | None = None,
    ) -> core.TrainState:
        """Trains.

        Args:
          start: states with a leading seed axis.
          mask: masks with a leading seed axis: the survivors of `start` are trained with a fresh
            optimiser whose schedule stands at `start.step`. None: all weights are trained, and
            the optimiser goes on.
          keys: one per seed, `[s]`; they decide the order of the data and its augmentation.
          stage: name of this training run, unique in the search.
          until: the step to stop at; None: the last one.

        Returns:
          States with a leading seed axis.
        """
        ...


class MaskedTraining(NamedTuple):
    """The pair of functions that pruning searches and stability measures are built on.

    Attributes:
      init: `keys [s] -> states` at step 0.
      train: a `TrainFn`.
    """

    init: Callable[[jax.Array], core.TrainState]
    train: TrainFn


class IMPResult(NamedTuple):
    """What the rounds left behind; round 0 is the dense network. Host arrays, except `rewound`.

    Attributes:
      masks: mask tree, leaves `[s, r + 1, ...]`.
      variables: variables at the end of every round, leaves `[s, r + 1, ...]`.
      metrics: what `evaluate` gave, `[s, r + 1]` each.
      densities: share of prunable weights that live, `[s, r + 1]`.
      rewound: the states at step k that every round starts from.
    """

    masks: PyTree
    variables: core.Variables
    metrics: dict[str, np.ndarray]
    densities: np.ndarray
    rewound: core.TrainState


def masked_training(
    task: core.Task,
    tx: optax.GradientTransformation,
    data: core.Data,
    *,
    steps: int,
    batch_size: int | None,
    train_seeds: Callable[..., tuple[core.TrainState, core.History]] | None = None,
    prunable: Callable[[str, jax.Array], bool] | None = None,
    rewind_opt_state: bool = False,
) -> MaskedTraining:
    """Makes training under a mask, compiled once for all masks, rounds and data orders.

    Args:
      task: what is learned.
      tx: the optimiser; it is wrapped in `transforms.masked`.
      data: what is learned from.
      steps: T, the last step of every run.
      batch_size: examples per step.
      train_seeds: how a stage is trained; default: `core.Context().train_seeds`. That of a run's
        context makes every stage resumable.
      prunable: `(path, leaf) -> bool`, which weights may be pruned; default: kernels.
      rewind_opt_state: whether the optimiser's moments are rewound with the weights; by default
        they start afresh.

    Returns:
      The functions `init` and `train`.
    """
    run = train_seeds or core.Context().train_seeds
    masked_tx = masked(tx, prunable=prunable)

    def init(keys):
        return core.init_states(task, masked_tx, keys)

    def train(start, mask, keys, *, stage, until=None):
        if mask is not None:
            start = _restart(masked_tx, rewind_opt_state, start, mask)
        end, _ = run(
            stage,
            task,
            masked_tx,
            data,
            keys,
            steps=steps if until is None else until,
            start=start,
            batch_size=batch_size,
        )
        return end

    return MaskedTraining(init, train)


@functools.partial(jax.jit, static_argnames=("tx", "keep_moments"))
def _restart(tx, keep_moments, state, mask):
    def one(variables, opt_state, mask):
        params = apply_mask(variables["params"], mask)
        if not keep_moments:
            fresh = init_at_step(tx, params, state.step)
            # Each seed keeps the keys of its own noise.
            opt_state = jax.tree.map(lambda new, old: old if is_key(old) else new, fresh, opt_state)
        return {**variables, "params": params}, set_mask(opt_state, mask)

    return core.TrainState(state.step, *jax.vmap(one)(state.variables, state.opt_state, mask))


def imp(
    train_fn: TrainFn,
    init_fn: Callable[[jax.Array], core.TrainState],
    keys: jax.Array,
    *,
    rounds: int,
    rewind: int = 0,
    rate: float = 0.2,
    scope: Literal["global", "layerwise"] = "global",
    rates: Mapping[str, float] | Callable[[str], float] | None = None,
    count: Literal["round", "open_lth"] = "round",
    one_shot: bool = False,
    evaluate: Callable[[core.Variables], Mapping[str, jax.Array]] | None = None,
    dense: core.Variables | None = None,
    stage: str = "imp",
) -> IMPResult:
    """Finds sparse subnetworks of one network per key.

    Args:
      train_fn: trains a stage (`masked_training(...).train`).
      init_fn: makes the states at step 0 (`masked_training(...).init`); their optimiser state
        holds the mask.
      keys: one per seed, `[s]`.
      rounds: n, how often to prune; 0 trains the dense network only.
      rewind: k, the step that weights, schedule and data order go back to.
      rate: p, share of the surviving weights that a round removes.
      scope: rank all prunable weights together, or each leaf for itself.
      rates: rates of single leaves, as `transforms.magnitude_mask` takes them.
      count: convention for the number of removed weights, as there.
      one_shot: prune once, to the density that `rounds` rounds would reach.
      evaluate: measures variables with a leading seed axis; gives `[s]` arrays.
      dense: variables of the dense networks of these keys, trained to the end, where they are
        known already; a sweep over k needs them once.
      stage: prefix of the stages' names.

    Returns:
      Masks, final variables, metrics and densities of every round, and the states at step k.

    Raises:
      ValueError: `rounds` or `rewind` is negative, a rate is out of range, or a round would leave
        a layer empty.
      NonFiniteLoss: trained weights hold NaN and cannot be ranked.
    """
    if rounds < 0 or rewind < 0:
        raise ValueError(f"rounds={rounds} and rewind={rewind} must not be negative")
    if one_shot and rates is not None:
        raise ValueError("one_shot=True takes one rate for all leaves; leave out rates")
    if one_shot and rounds:
        rate, rounds = 1.0 - (1.0 - rate) ** rounds, 1
    start = init_fn(keys)
    if rewind:
        start = train_fn(start, None, keys, stage=f"{stage}/to_rewind", until=rewind)
    if dense is None:
        dense = train_fn(start, None, keys, stage=f"{stage}/round_00").variables
    mask = get_mask(start.opt_state)
    fixed_rates = tuple(rates.items()) if isinstance(rates, Mapping) else rates
    masks, ends = [mask], [dense]
    for number in range(1, rounds + 1):
        _check_end(ends[-1]["params"], mask, number - 1)
        mask = _prune(ends[-1]["params"], mask, rate, scope, fixed_rates, count)
        _report_emptied(mask, number)
        masks.append(mask)
        ends.append(train_fn(start, mask, keys, stage=f"{stage}/round_{number:02d}").variables)
    _check_end(ends[-1]["params"], mask, rounds)
    metrics = [{} if evaluate is None else jax.device_get(evaluate(end)) for end in ends]
    stacked = _stack_rounds(masks)
    return IMPResult(
        masks=stacked,
        variables=_stack_rounds(ends),
        metrics={name: np.stack([m[name] for m in metrics], axis=1) for name in metrics[0]},
        densities=np.asarray(jax.vmap(jax.vmap(density))(stacked)),
        rewound=start,
    )


@functools.partial(jax.jit, static_argnames=("rate", "scope", "rates", "count"))
def _prune(params, mask, rate, scope, rates, count):
    one = functools.partial(
        magnitude_mask,
        rate=rate,
        scope=scope,
        rates=dict(rates) if isinstance(rates, tuple) else rates,
        count=count,
    )
    return jax.vmap(one)(params, mask)


def _check_end(params: PyTree, mask: PyTree, number: int) -> None:
    """Refuses weights that cannot be ranked, or that a training function did not hold at zero."""
    failed, revived = jax.device_get(_count_faults(params, mask))
    if failed.any():
        raise core.NonFiniteLoss(
            f"after round {number} the weights of seeds {np.flatnonzero(failed).tolist()} hold "
            "NaN and cannot be ranked: lower the learning rate or leave these seeds out"
        )
    if revived.any():
        raise ValueError(
            f"train_fn moved {int(revived.sum())} pruned weights away from 0 in round {number}; "
            "wrap the whole optimiser in transforms.masked"
        )


@jax.jit
def _count_faults(params, mask):
    def one(params, mask):
        leaves = [
            (weight, alive)
            for weight, alive in zip(
                jax.tree.leaves(params),
                jax.tree.leaves(mask, is_leaf=lambda leaf: leaf is None),
                strict=True,
            )
            if alive is not None
        ]
        failed = [jnp.any(jnp.isnan(weight)) for weight, _ in leaves]
        revived = [jnp.sum(~alive & (weight != 0)) for weight, alive in leaves]
        return jnp.stack(failed).any(), jnp.stack(revived).sum()

    return jax.vmap(one)(params, mask)


def _report_emptied(mask: PyTree, number: int) -> None:
    """Says which layers a global ranking has cut through, per seed."""
    shares = jax.device_get(jax.vmap(layer_densities)(mask))
    for name, share in shares.items():
        seeds = np.flatnonzero(np.asarray(share) == 0)
        if seeds.size:
            _log.warning("round %d left nothing of %s in seeds %s", number, name, seeds.tolist())


def _stack_rounds(trees: list[PyTree]) -> PyTree:
    """Stacks per-round trees with leaves `[s, ...]` to host leaves `[s, r, ...]`."""
    return jax.tree.map(lambda *leaves: np.stack([np.asarray(x) for x in leaves], axis=1), *trees)
