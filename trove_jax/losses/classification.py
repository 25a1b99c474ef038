"""Classification of images or vectors with one network: loss, evaluation, and both as a Task."""

from collections.abc import Callable
from typing import Any, Literal

import jax
import jax.numpy as jnp
from flax import linen as nn

from trove_jax.core import Aux, Batch, Data, Task

Augment = Callable[[jax.Array, jax.Array], jax.Array]
Prepare = Callable[[jax.Array], jax.Array]


def cross_entropy(logits: jax.Array, labels: jax.Array, *, smoothing: float = 0.0) -> jax.Array:
    """Mean cross-entropy of integer labels.

    -mean log softmax(logits)[label], with labels smoothed to (1 - s) one_hot + s / k.

    Args:
      logits: `[b, k]`; computed in float32 at least.
      labels: classes from 0 to k - 1, integer `[b]`.
      smoothing: s in [0, 1).

    Returns:
      Scalar, at least float32.

    Raises:
      ValueError: the shapes do not belong together, or `smoothing` is outside [0, 1).
    """
    _check_pair(logits, labels)
    if not 0.0 <= smoothing < 1.0:
        raise ValueError(f"smoothing={smoothing} is outside [0, 1)")
    if logits.dtype.itemsize < 4:
        logits = logits.astype(jnp.float32)
    log_p = jax.nn.log_softmax(logits)
    picked = jnp.take_along_axis(log_p, labels[:, None], axis=1)[:, 0]
    if smoothing:
        picked = (1.0 - smoothing) * picked + smoothing * log_p.mean(axis=1)
    return -picked.mean()


def accuracy(logits: jax.Array, labels: jax.Array) -> jax.Array:
    """Share of examples whose largest logit is the label's, in [0, 1].

    Args:
      logits: `[b, k]`.
      labels: integer `[b]`.

    Returns:
      float32 scalar; NaN where a logit is NaN, since a network that failed has no accuracy.

    Raises:
      ValueError: the shapes do not belong together.
    """
    _check_pair(logits, labels)
    right = (jnp.argmax(logits, axis=1).astype(labels.dtype) == labels).astype(jnp.float32)
    return jnp.where(jnp.isnan(logits).any(), jnp.nan, right.mean())


def classification(
    module: nn.Module,
    example: jax.ShapeDtypeStruct,
    *,
    augment: Augment | None = None,
    prepare: Prepare | None = None,
    smoothing: float = 0.0,
    evaluation: Literal["running", "batch"] = "running",
    evaluation_batch: int | None = 1000,
) -> Task:
    """Makes the task of classifying `{"image": [b, ...], "label": int [b]}`.

    Args:
      module: a Flax module called as `module(inputs, train=bool)` that gives logits `[b, k]`. All
        its collections but `params` are carried along; its `dropout` stream gets the step's key.
      example: shape and dtype of one prepared input, without the batch axis.
      augment: `(key, images) -> images`, in training only.
      prepare: what turns stored images into inputs (after `augment`), such as standardisation.
      smoothing: of the labels in the training loss.
      evaluation: normalise with the `running` statistics of batch-norm, or with those of the whole
        evaluated set (`batch`; the set is then one batch).
      evaluation_batch: images per evaluated batch; None for all at once.

    Returns:
      A task whose metrics are `accuracy`, in [0, 1], and `loss`, means over the whole data.

    Raises:
      ValueError: `evaluation` is unknown.
    """
    if evaluation not in ("running", "batch"):
        raise ValueError(f'evaluation={evaluation!r} is unknown; use "running" or "batch"')

    def ready(images: jax.Array) -> jax.Array:
        return images if prepare is None else prepare(images)

    def apply(variables, images, *, train, key=None):
        mutable = [name for name in variables if name != "params"] if train else False
        rngs = None if key is None else {"dropout": key}
        out: Any = module.apply(variables, ready(images), train=train, mutable=mutable, rngs=rngs)
        return out if train else (out, {})

    def init(key):
        inputs = jnp.zeros((1, *example.shape), example.dtype)
        return module.init(key, inputs, train=False)

    def loss(variables, batch: Batch, key, step):
        del step
        images, labels = batch.examples["image"], batch.examples["label"]
        augment_key, dropout_key = jax.random.split(key)
        if augment is not None:
            images = augment(augment_key, images)
        logits, updates = apply(variables, images, train=True, key=dropout_key)
        value = cross_entropy(logits, labels, smoothing=smoothing)
        return value, Aux({"accuracy": accuracy(logits, labels)}, dict(updates))

    def metrics(variables, data: Data):
        images, labels = data.examples["image"], data.examples["label"]
        if evaluation == "batch":
            # The key only feeds dropout, which a network with batch-norm in this mode should not
            # have; a fixed one keeps the measurement a function of its arguments.
            logits, _ = apply(variables, images, train=True, key=jax.random.key(0))
        else:
            logits = jax.lax.map(
                lambda image: apply(variables, image[None], train=False)[0][0],
                images,
                batch_size=evaluation_batch or images.shape[0],
            )
        return {
            "accuracy": accuracy(logits, labels),
            "loss": cross_entropy(logits, labels),
        }

    return Task(init, loss, metrics)


def _check_pair(logits, labels):
    if logits.ndim != 2 or labels.shape != logits.shape[:1]:
        raise ValueError(
            f"logits {logits.shape} and labels {labels.shape} do not belong together; "
            "[b, k] and [b] are wanted"
        )
    if not jnp.issubdtype(labels.dtype, jnp.integer):
        raise ValueError(f"labels has dtype {labels.dtype}; integer classes are wanted")
