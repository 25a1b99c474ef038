"""Predictions at the tokens of sequences: loss, bits, accuracy, and Tasks of sequences."""

import functools
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from trove_jax.core import Aux, Batch, Data, Task
from trove_jax.losses.classification import accuracy, cross_entropy


def token_cross_entropy(
    logits: jax.Array, targets: jax.Array, mask: jax.Array, *, axis_name: str | None = None
) -> jax.Array:
    """Mean cross-entropy of the targets of all tokens under the mask, in nats.

    -sum_m log softmax(logits)[target] / sum_m 1, over the tokens m under the mask: every token of
    the batch weighs the same, however long its sequence is.

    Args:
      logits: `[..., t, k]`; computed in float32 at least.
      targets: classes from 0 to k - 1, integer `[..., t]`.
      mask: which tokens count, bool `[..., t]`; logits and targets elsewhere may be anything.
      axis_name: a mapped axis over which the batch is spread; the mean is over all of it.

    Returns:
      Scalar, at least float32; 0 where no token counts.

    Raises:
      ValueError: the shapes do not belong together, or a dtype is of another kind.
    """
    _check(logits, targets, mask)
    if logits.dtype.itemsize < 4:
        logits = logits.astype(jnp.float32)
    # Hidden before, not after, the logarithm: its gradient would bring a NaN back.
    logits = jnp.where(mask[..., None], logits, jnp.zeros((), logits.dtype))
    targets = jnp.where(mask, targets, jnp.zeros((), targets.dtype))
    log_p = jax.nn.log_softmax(logits)
    picked = jnp.take_along_axis(log_p, targets[..., None], axis=-1)[..., 0]
    picked = jnp.where(mask, picked, jnp.zeros((), picked.dtype))
    return -_mean(picked.sum(), mask.sum(), axis_name)


def bits_per_token(
    logits: jax.Array, targets: jax.Array, mask: jax.Array, *, axis_name: str | None = None
) -> jax.Array:
    """Mean cross-entropy of the tokens under the mask in bits; 2 to its power is the perplexity.

    Args:
      logits: as `token_cross_entropy`.
      targets: likewise.
      mask: likewise.
      axis_name: likewise.

    Returns:
      Scalar, at least float32.

    Raises:
      ValueError: as `token_cross_entropy`.

    Example:
      >>> even = jnp.zeros((1, 3, 4))
      >>> print(bits_per_token(even, jnp.array([[0, 3, 9]]), jnp.array([[True, True, False]])))
      2.0
    """
    return token_cross_entropy(logits, targets, mask, axis_name=axis_name) / math.log(2.0)


def token_accuracy(
    logits: jax.Array, targets: jax.Array, mask: jax.Array, *, axis_name: str | None = None
) -> jax.Array:
    """Share of the tokens under the mask whose largest logit is the target's, in [0, 1].

    Args:
      logits: as `token_cross_entropy`.
      targets: likewise.
      mask: likewise.
      axis_name: likewise.

    Returns:
      float32 scalar; 0 where no token counts, NaN where a logit that counts is NaN, since a
      network that failed has no accuracy.

    Raises:
      ValueError: as `token_cross_entropy`.
    """
    right = _right(logits, targets, mask)
    share = _mean((right & mask).sum().astype(jnp.float32), mask.sum(), axis_name)
    return jnp.where(_failed(logits, mask, axis_name), jnp.nan, share)


def sequence_accuracy(
    logits: jax.Array, targets: jax.Array, mask: jax.Array, *, axis_name: str | None = None
) -> jax.Array:
    """Share of the sequences all of whose tokens under the mask are predicted, in [0, 1].

    Args:
      logits: as `token_cross_entropy`.
      targets: likewise.
      mask: likewise; a sequence without any token that counts does not count itself.
      axis_name: likewise.

    Returns:
      float32 scalar; 0 where no sequence counts, NaN as in `token_accuracy`.

    Raises:
      ValueError: as `token_cross_entropy`.

    Example:
      >>> logits = jax.nn.one_hot(jnp.array([[0, 1], [1, 0]]), 2)
      >>> mask = jnp.array([[True, True], [True, True]])
      >>> print(sequence_accuracy(logits, jnp.array([[0, 1], [1, 1]]), mask))
      0.5
    """
    right = _right(logits, targets, mask)
    counts = mask.any(axis=-1)
    whole = counts & (right | ~mask).all(axis=-1)
    share = _mean(whole.sum().astype(jnp.float32), counts.sum(), axis_name)
    return jnp.where(_failed(logits, mask, axis_name), jnp.nan, share)


def sequence_classification(
    module: nn.Module,
    *,
    length: int,
    evaluation_batch: int | None = 1000,
    streams: tuple[str, ...] = (),
) -> Task:
    """Makes the task of classifying whole sequences, as `data.parity` draws them.

    Args:
      module: a Flax module called as `module(tokens, mask, train=bool)` that gives logits
        `[b, k]`. All its collections but `params` are carried along; its `dropout` stream gets
        the step's key.
      length: t of the examples.
      evaluation_batch: sequences per evaluated batch; None for all at once.
      streams: random streams that the module draws from in training beside `dropout`, such as
        `ssa`; each gets a key of its own, folded from the step's.

    Returns:
      A task of `{"tokens": int [b, t], "mask": bool [b, t], "label": int [b]}` whose metrics are
      `accuracy`, in [0, 1], and `loss`, means over sequences.

    Raises:
      ValueError: `length` or `evaluation_batch` is not positive.
    """

    def measure(logits, examples):
        labels = examples["label"]
        return {"accuracy": accuracy(logits, labels), "loss": cross_entropy(logits, labels)}

    return _task(module, length, evaluation_batch, streams, measure)


def token_prediction(
    module: nn.Module,
    *,
    length: int,
    evaluation_batch: int | None = 1000,
    streams: tuple[str, ...] = (),
) -> Task:
    """Makes the task of predicting a target at each scored token, as `data.copy_paste` draws them.

    Args:
      module: a Flax module called as `module(tokens, mask, train=bool)` that gives logits
        `[b, t, k]`; otherwise as in `sequence_classification`.
      length: t of the examples.
      evaluation_batch: sequences per evaluated batch; None for all at once.
      streams: random streams that the module draws from in training beside `dropout`, such as
        `ssa`; each gets a key of its own, folded from the step's.

    Returns:
      A task of `{"tokens": int [b, t], "mask": bool [b, t], "target": int [b, t], "scored":
      bool [b, t]}` whose metrics are `accuracy` (of tokens), `sequence_accuracy`, `bits` and
      `loss` (of tokens, in nats).

    Raises:
      ValueError: `length` or `evaluation_batch` is not positive.
    """

    def measure(logits, examples):
        arguments = logits, examples["target"], examples["scored"]
        loss = token_cross_entropy(*arguments)
        return {
            "accuracy": token_accuracy(*arguments),
            "sequence_accuracy": sequence_accuracy(*arguments),
            "bits": loss / math.log(2.0),
            "loss": loss,
        }

    return _task(module, length, evaluation_batch, streams, measure)


def _task(
    module: nn.Module,
    length: int,
    evaluation_batch: int | None,
    streams: tuple[str, ...],
    measure: Callable[[jax.Array, Any], dict[str, jax.Array]],
) -> Task:
    for name, size in (("length", length), ("evaluation_batch", evaluation_batch)):
        if size is not None and size < 1:
            raise ValueError(f"{name}={size}, want 1 or more")

    def init(key):
        tokens, mask = jnp.zeros((1, length), jnp.int32), jnp.ones((1, length), bool)
        return module.init(key, tokens, mask, train=False)

    def loss(variables, batch: Batch, key, step):
        del step
        examples = batch.examples
        mutable = [name for name in variables if name != "params"]
        out: Any = module.apply(
            variables,
            examples["tokens"],
            examples["mask"],
            train=True,
            mutable=mutable,
            rngs={
                "dropout": key,
                **{name: jax.random.fold_in(key, i) for i, name in enumerate(streams)},
            },
        )
        logits, updates = out
        found = measure(logits, examples)
        return found.pop("loss"), Aux(found, dict(updates))

    def metrics(variables, data: Data):
        tokens, mask = data.examples["tokens"], data.examples["mask"]
        apply = functools.partial(module.apply, variables, train=False)
        logits: Any = jax.lax.map(
            lambda one: apply(one[0][None], one[1][None])[0],
            (tokens, mask),
            batch_size=evaluation_batch or tokens.shape[0],
        )
        return measure(logits, data.examples)

    return Task(init, loss, metrics)


def _right(logits, targets, mask):
    _check(logits, targets, mask)
    return jnp.argmax(logits, axis=-1).astype(targets.dtype) == targets


def _failed(logits, mask, axis_name):
    failed = (jnp.isnan(logits) & mask[..., None]).sum()
    return (failed if axis_name is None else jax.lax.psum(failed, axis_name)) > 0


def _mean(total, count, axis_name):
    if axis_name is not None:
        total, count = jax.lax.psum((total, count), axis_name)
    return total / jnp.maximum(count, 1).astype(total.dtype)


def _check(logits, targets, mask):
    if logits.ndim < 2 or targets.shape != logits.shape[:-1] or mask.shape != targets.shape:
        raise ValueError(
            f"logits {logits.shape}, targets {targets.shape} and mask {mask.shape} do not belong "
            "together; [..., t, k], [..., t] and [..., t] are wanted"
        )
    if not jnp.issubdtype(targets.dtype, jnp.integer):
        raise ValueError(f"targets has dtype {targets.dtype}; integer classes are wanted")
    if mask.dtype != jnp.bool_:
        raise ValueError(f"mask has dtype {mask.dtype}; bool is wanted")
