"""Supervised local learning: every part of a network is trained by a loss of its own.

The gradient of each loss reaches its own part only. Since nothing is waiting for a gradient from
behind, a part's gradient can be taken as soon as the part has been applied, and its activations
forgotten before the next part begins: `isolated` does that inside an ordinary scalar loss.
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp

from trove_jax.core import Aux, Batch, PyTree, Task, Variables
from trove_jax.losses.classification import (
    Augment,
    Prepare,
    accuracy,
    classification,
    cross_entropy,
)

Implementation = Literal["isolated", "stop_gradient"]


class LocalLosses(NamedTuple):
    """What the parts of a network gave.

    Attributes:
      values: loss of each part, `[K]`.
      logits: outputs of the network's head, `[b, k]`; no gradient passes.
      updates: new values of variable collections other than `params`, of all parts.
    """

    values: jax.Array
    logits: jax.Array
    updates: dict[str, PyTree]


def similarity_matching(x: jax.Array, labels: jax.Array, *, classes: int) -> jax.Array:
    """Mean squared difference between similarity matrices of vectors and of their labels.

    mean_ij (S(x)_ij - S(one_hot(labels))_ij)^2 with S the cosine similarity of vectors less their
    own mean. A vector of equal entries has similarity 0 to all.

    Args:
      x: vectors, `[b, d]`, floating.
      labels: classes from 0 to k - 1, integer `[b]`.
      classes: k, at least 2.

    Returns:
      Scalar.

    Raises:
      ValueError: the shapes do not belong together.

    Example:
      >>> x = jnp.array([[2.0, 0.0], [0.0, 1.0]])
      >>> print(similarity_matching(x, jnp.array([0, 1]), classes=2).round(4))
      0.0

    Reference: Nokland & Eidnes, Training Neural Networks with Local Error Signals, ICML 2019
    (equation 2, with the adjusted cosine of the published code).
    """
    if x.ndim != 2 or labels.shape != x.shape[:1]:
        raise ValueError(
            f"x {x.shape} and labels {labels.shape} do not belong together; [b, d] and [b] wanted"
        )
    one_hot = jax.nn.one_hot(labels, classes, dtype=x.dtype)
    return jnp.mean(jnp.square(_similarity(x) - _similarity(one_hot)))


def reconstruction_loss(logits: jax.Array, images: jax.Array) -> jax.Array:
    """Mean binary cross-entropy between images and their reconstruction.

    Args:
      logits: of the reconstructed brightness, `[b, height, width, channels]`.
      images: brightness in [0, 1], or uint8, of the same shape.

    Returns:
      Scalar, the mean over all entries.

    Raises:
      ValueError: the shapes differ.

    Example:
      >>> print(reconstruction_loss(jnp.zeros((1, 1, 1, 1)), jnp.ones((1, 1, 1, 1))).round(4))
      0.6931

    Reference: Wang et al., Revisiting Locally Supervised Learning: an Alternative to End-to-end
    Training, ICLR 2021.
    """
    if logits.shape != images.shape:
        raise ValueError(f"logits {logits.shape} and images {images.shape} must have one shape")
    if not jnp.issubdtype(images.dtype, jnp.floating):
        images = images.astype(logits.dtype) / 255
    return jnp.mean(jax.nn.softplus(logits) - images.astype(logits.dtype) * logits)


def local_losses(
    chain: Any,
    variables: Variables,
    inputs: jax.Array,
    labels: jax.Array | None,
    *,
    images: jax.Array | None = None,
    key: jax.Array | None = None,
    implementation: Implementation = "isolated",
) -> LocalLosses:
    """Applies a network part by part in training, and takes the loss of each part.

    x_l = f_l(stop_gradient(x_{l-1})); the loss of part l is the weighted sum over the outputs of
    its auxiliary network (of the head, for the last part): the cross-entropy of `logits`,
    `similarity_matching` of `similarity`, `reconstruction_loss` of `reconstruction`. The gradient
    of loss l reaches the parameters of part l and of its auxiliary network only.

    `"isolated"` computes the gradient of a part together with the part, and keeps only that until
    the backward pass: live memory is that of one part with its auxiliary network. It has no
    forward-mode derivative, and activations inside it cannot be captured. `"stop_gradient"` is
    plain automatic differentiation, which keeps the activations of all parts.

    Args:
      chain: a network with `parts`, `auxiliaries`, `variable_names` and `part`, such as
        `models.LocalChain`.
      variables: of the network.
      inputs: `[b, ...]`.
      labels: classes, integer `[b]`.
      images: what a reconstruction is compared with, of the shape that the rule was made for;
        default: `inputs`.
      key: of dropout; None where nothing is drawn.
      implementation: see above.

    Returns:
      Losses, outputs and updates.

    Raises:
      ValueError: `labels` is None; `implementation` is unknown; an auxiliary network without an
        output that it weighs.

    Reference: Ma et al., Scaling Supervised Local Learning with Augmented Auxiliary Networks,
    ICLR 2024 (section 3).
    """
    if implementation not in ("isolated", "stop_gradient"):
        raise ValueError(
            f'implementation={implementation!r} is unknown; use "isolated" or "stop_gradient"'
        )
    isolated = implementation == "isolated"
    images = inputs if images is None else images
    values, x, logits = [], inputs, None
    updates: dict[str, Any] = {name: {} for name in _state(variables)}
    for part in range(chain.parts):
        call = _part_function(chain, part)
        params, rest = _arguments(chain, variables, part, x, labels, images, key)
        found: Any = _isolated(call, params, rest) if isolated else call(params, rest)
        value, out = found
        x, logits, new = jax.lax.stop_gradient(out)
        values.append(value)
        _merge(updates, new)
    assert logits is not None
    return LocalLosses(jnp.stack(values), logits, updates)


def local_value_and_grad(
    chain: Any,
    variables: Variables,
    inputs: jax.Array,
    labels: jax.Array | None,
    *,
    images: jax.Array | None = None,
    key: jax.Array | None = None,
) -> tuple[LocalLosses, PyTree]:
    """Applies and differentiates a network part by part, for a training loop of one's own.

    Args:
      chain: as `local_losses`.
      variables: as `local_losses`.
      inputs: as `local_losses`.
      labels: as `local_losses`.
      images: as `local_losses`.
      key: as `local_losses`.

    Returns:
      Losses, outputs and updates; and the gradient of the sum of the losses, like
      `variables["params"]`.

    Raises:
      ValueError: as `local_losses`.

    Reference: as `local_losses`.
    """
    images = inputs if images is None else images
    values, gradients, x, logits = [], {}, inputs, None
    updates: dict[str, Any] = {name: {} for name in _state(variables)}
    for part in range(chain.parts):
        params, rest = _arguments(chain, variables, part, x, labels, images, key)
        call = jax.value_and_grad(_part_function(chain, part), has_aux=True)
        (value, (x, logits, new)), gradient = call(params, rest)
        values.append(value)
        gradients |= gradient
        _merge(updates, new)
    assert logits is not None
    return LocalLosses(jnp.stack(values), logits, updates), gradients


def local_learning(
    chain: Any,
    example: jax.ShapeDtypeStruct,
    *,
    augment: Augment | None = None,
    prepare: Prepare | None = None,
    implementation: Implementation = "isolated",
    evaluation_batch: int | None = 1000,
) -> Task:
    """Makes the task of classifying `{"image": [b, ...], "label": int [b]}` by local losses.

    The scalar is the sum of `local_losses`; it is evaluated, and so is `accuracy` in training,
    with the network alone. A chain without auxiliary networks is trained end to end.

    Args:
      chain: a network such as `models.local_chain` makes.
      example: shape and dtype of one prepared input, without the batch axis.
      augment: `(key, images) -> images`, in training only.
      prepare: what turns stored images into inputs (after `augment`), such as standardisation.
      implementation: as `local_losses`.
      evaluation_batch: images per evaluated batch; None for all at once.

    Returns:
      A task whose metrics are `accuracy`, in [0, 1], and `loss` of the network's own outputs. In
      training it records `accuracy` and the loss of the last part, `head_loss`.

    Raises:
      ValueError: from the task: a batch without labels.

    Reference: Ma et al., Scaling Supervised Local Learning with Augmented Auxiliary Networks,
    ICLR 2024.
    """
    task = classification(chain, example, prepare=prepare, evaluation_batch=evaluation_batch)

    def loss(variables, batch: Batch, key, step):
        del step
        images, labels = batch.examples["image"], batch.examples.get("label")
        augment_key, dropout_key = jax.random.split(key)
        if augment is not None:
            images = augment(augment_key, images)
        found = local_losses(
            chain,
            variables,
            images if prepare is None else prepare(images),
            labels,
            images=images,
            key=dropout_key,
            implementation=implementation,
        )
        metrics = {"accuracy": accuracy(found.logits, labels), "head_loss": found.values[-1]}
        return found.values.sum(), Aux(metrics, found.updates)

    return dataclasses.replace(task, loss=loss)


def without_auxiliaries(variables: Variables) -> dict[str, PyTree]:
    """Drops the variables of the auxiliary networks, which only training needs.

    Args:
      variables: of a `models.LocalChain`.

    Returns:
      Variables of the network without them, for a chain without auxiliary networks.
    """
    return {
        name: {key: leaf for key, leaf in part.items() if not key.startswith("auxiliaries_")}
        for name, part in variables.items()
    }


_Rest = tuple[PyTree, jax.Array, jax.Array, jax.Array, jax.Array | None]
_Part = Callable[[PyTree, _Rest], tuple[jax.Array, tuple[jax.Array, jax.Array, PyTree]]]


def _part_function(chain: Any, part: int) -> _Part:
    """A part's loss as a function of its parameters; keeps no array."""
    hidden = part < len(chain.auxiliaries)
    weights = dict(chain.auxiliaries[part].weights) if hidden else {"logits": 1.0}

    def call(params, rest):
        state, x, labels, images, key = rest
        rngs = None if key is None else {"dropout": jax.random.fold_in(key, part)}
        (y, outputs), updates = chain.apply(
            {"params": params, **state},
            part,
            x,
            train=True,
            mutable=list(state),
            rngs=rngs,
            method="part",
        )
        missing = set(weights) - set(outputs)
        if missing:
            raise ValueError(
                f"auxiliary network {part} weighs {sorted(missing)}, but gives {sorted(outputs)}"
            )
        logits = outputs["logits"]
        terms = {
            "logits": lambda: cross_entropy(logits, labels),
            "similarity": lambda: similarity_matching(
                outputs["similarity"], labels, classes=logits.shape[1]
            ),
            "reconstruction": lambda: reconstruction_loss(outputs["reconstruction"], images),
        }
        value = sum((w * terms[name]() for name, w in weights.items()), jnp.zeros((), logits.dtype))
        return value, (y, logits, dict(updates))

    return call


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _isolated(call: _Part, params: PyTree, rest: _Rest):
    return call(params, rest)


def _isolated_forward(call: _Part, params: PyTree, rest: _Rest):
    (value, out), gradient = jax.value_and_grad(call, has_aux=True)(params, rest)
    y, *others = out
    return (value, (_after(y, gradient), *others)), gradient


def _isolated_backward(call: _Part, gradient: PyTree, cotangents: Any):
    del call
    scale = cotangents[0]
    return jax.tree.map(lambda leaf: scale.astype(leaf.dtype) * leaf, gradient), None


def _after(x: jax.Array, gradient: PyTree) -> jax.Array:
    """`x`, but not before `gradient` is there.

    XLA is free to apply all parts first, and does; it also drops `optimization_barrier` before it
    decides on an order. So `x` passes through a choice that always falls on it (no count of bits
    is below 0), which XLA cannot know.
    """
    leaves = jax.tree.leaves(gradient)
    total = sum((jnp.sum(leaf, dtype=jnp.float32) for leaf in leaves), jnp.float32(0))
    bits = jax.lax.population_count(jax.lax.bitcast_convert_type(total, jnp.int32))
    return jnp.where(bits >= 0, x, jnp.zeros_like(x))


_isolated.defvjp(_isolated_forward, _isolated_backward)


def _arguments(chain, variables, part, x, labels, images, key) -> tuple[PyTree, _Rest]:
    if labels is None:
        raise ValueError("labels are missing: every part is trained by a loss that needs them")
    names = chain.variable_names(part)

    def own(collection: Mapping[str, PyTree]) -> dict[str, PyTree]:
        return {name: collection[name] for name in names if name in collection}

    state = {name: own(collection) for name, collection in _state(variables).items()}
    return own(variables["params"]), (state, x, labels, images, key)


def _state(variables: Variables) -> dict[str, PyTree]:
    return {name: part for name, part in variables.items() if name != "params"}


def _merge(updates: dict[str, dict[str, PyTree]], new: Mapping[str, Mapping[str, PyTree]]) -> None:
    for name, part in new.items():
        updates[name] |= part


def _similarity(x: jax.Array) -> jax.Array:
    x = x - x.mean(axis=1, keepdims=True)
    square = jnp.sum(jnp.square(x), axis=1, keepdims=True)
    constant = square == 0
    # Where a vector has no direction, 1 keeps NaN out of the gradient of the root.
    norm = jnp.where(constant, 1.0, jnp.sqrt(jnp.where(constant, 1.0, square)))
    x = x / norm
    return x @ x.T
