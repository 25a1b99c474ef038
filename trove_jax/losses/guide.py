"""The frozen network of `guided`, and the controls that tell what it teaches."""

from collections import OrderedDict
from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from trove_jax.core import Batch, Variables
from trove_jax.layers import capture, linear_like, post_activation
from trove_jax.layers.capture import Filter
from trove_jax.losses.similarity import widest

Inputs = tuple[Any, ...]


class Guide(NamedTuple):
    """A network that is looked at, never trained.

    Attributes:
      init: `key -> variables`.
      inputs: `(batch, key) -> arguments of the network`.
      activations: `(variables, arguments) -> OrderedDict` of arrays in execution order.
    """

    init: Callable[[jax.Array], Variables]
    inputs: Callable[[Batch, jax.Array], Inputs]
    activations: Callable[[Variables, Inputs], dict[str, jax.Array]]


def module_guide(
    module: nn.Module,
    *example: jax.ShapeDtypeStruct,
    read: Callable[[Batch], Any] | None = None,
    filter: Filter | str = linear_like,
    train: bool = False,
) -> Guide:
    """Makes a guide of a Flax module.

    Args:
      module: called as `module(*inputs, train=bool)`.
      *example: shape and dtype of each input, without the batch axis.
      read: batch -> input or tuple of inputs, such as prepared images; where guide and target
        want other sizes, this is the place to resize. Default: `batch.examples["image"]`.
      filter: which activations count, as `layers.capturing`. Of `linear_like` the last one (the
        logits) is left out, of `post_activation` the first (the inputs).
      train: whether batch normalisation uses the statistics of the batch. By default it uses the
        running ones, which in an untrained guide are 0 and 1 and normalise nothing, as in the
        image script of the published code (its notebook uses those of the batch).

    Returns:
      A guide. Drop-out in a guide that is applied with `train=True` has no key and is refused by
      Flax.

    Example:
      >>> class Net(nn.Module):
      ...     @nn.compact
      ...     def __call__(self, x, *, train):
      ...         x = nn.tanh(nn.Dense(3, name="hidden")(x))
      ...         return nn.Dense(2, name="output")(x)
      >>> guide = module_guide(Net(), jax.ShapeDtypeStruct((4,), jnp.float32))
      >>> variables, x = guide.init(jax.random.key(0)), jnp.ones((5, 4))
      >>> dict(jax.tree.map(jnp.shape, guide.activations(variables, (x,))))
      {'hidden': (5, 3)}
    """

    def init(key):
        zeros = (jnp.zeros((1, *x.shape), x.dtype) for x in example)
        return module.init(key, *zeros, train=False)

    def inputs(batch, key):
        del key
        found = batch.examples["image"] if read is None else read(batch)
        return found if isinstance(found, tuple) else (found,)

    def activations(variables, arguments):
        # With the statistics of the batch Flax insists on writing the running ones.
        mutable = [name for name in variables if name != "params"] if train else False
        _, found = capture(
            module, variables, *arguments, filter=filter, mutable=mutable, train=train
        )
        return without_ends(found, filter)

    return Guide(init, inputs, activations)


def tabulate(guide: Guide, variables: Variables, batch: Batch) -> Variables:
    """Computes what a frozen guide says about a fixed set of examples, once for all.

    B = R^T Q^T (QR of B^T): the rows of R^T have the inner products of the rows of B, and at most
    n entries. CKA, RSA and Procrustes see inner products only, so a lookup replaces the guide.

    Args:
      guide: whose activations depend on one example at a time (no batch statistics, no noise).
      variables: of the guide.
      batch: all examples as one batch.

    Returns:
      name -> table `[n, min(n, d)]`, float32 at least: the variables of `tabulated(guide, ...)`.

    Example:
      >>> guide = Guide(lambda key: {}, lambda batch, key: batch.examples, lambda v, x: {"a": x})
      >>> tabulate(guide, {}, Batch(jnp.ones((3, 20))))["a"].shape
      (3, 3)
    """
    found = guide.activations(variables, guide.inputs(batch, jax.random.key(0)))
    tables = OrderedDict()
    for name, x in found.items():
        x = x.reshape(x.shape[0], -1).astype(widest(x.dtype))
        tables[name] = x if x.shape[1] <= x.shape[0] else jnp.linalg.qr(x.T, mode="r").T
    return tables


def tabulated(guide: Guide, batch: Batch, *, index: str = "index") -> Guide:
    """A guide that looks up what another one says about a fixed set of examples.

    Args:
      guide: as `tabulate`.
      batch: all examples as one batch; small enough to be a constant of `init`.
      index: the key of `batch.examples` that numbers the examples of a step, integer `[b]`.

    Returns:
      A guide whose variables are the tables; the similarities are those of `guide` up to rounding.

    Raises:
      ValueError: when it is used: the examples of a step have no key `index`.

    Example:
      >>> plain = Guide(lambda key: {}, lambda b, key: b.examples["x"], lambda v, x: {"a": x})
      >>> guide = tabulated(plain, Batch({"x": jnp.ones((3, 2))}))
      >>> tables, rows = guide.init(jax.random.key(0)), (jnp.array([2, 0]),)
      >>> guide.activations(tables, rows)["a"].shape
      (2, 2)
    """

    def init(key):
        return tabulate(guide, guide.init(key), batch)

    def inputs(step, key):
        del key
        if index not in step.examples:
            raise ValueError(f"examples have no {index!r}, their number in the tabulated set")
        return (step.examples[index],)

    def activations(tables, arguments):
        (rows,) = arguments
        return OrderedDict((name, table[rows]) for name, table in tables.items())

    return Guide(init, inputs, activations)


def without_ends(activations: dict[str, Any], filter: Filter | str) -> dict[str, Any]:
    """Leaves out logits (the last of `linear_like`) and inputs (the first of `post_activation`).

    Args:
      activations: name -> array in execution order.
      filter: what they were chosen by; of any other filter all stay.

    Returns:
      The rest, ordered.

    Example:
      >>> list(without_ends({"hidden": 1, "output": 2}, linear_like))
      ['hidden']
    """
    names = list(activations)
    if filter is linear_like:
        names = names[:-1]
    elif filter is post_activation:
        names = names[1:]
    return OrderedDict((name, activations[name]) for name in names)


def shuffled(guide: Guide) -> Guide:
    """A control: the guide sees the examples of the batch in another order.

    What the guide computes, and how its activations are distributed, stays; which example it
    belongs to is lost. A gain that survives this is no transfer of how the guide represents these
    examples.

    Args:
      guide: from `module_guide`.

    Returns:
      A guide whose inputs are shifted along the batch by 1 to b - 1 places, drawn from the step's
      key: no example keeps its own.

    Example:
      >>> x = jnp.arange(3.0)
      >>> guide = shuffled(Guide(lambda key: {}, lambda batch, key: (x,), lambda v, x: {}))
      >>> bool((guide.inputs(None, jax.random.key(0))[0] == x).any())
      False
    """

    def inputs(batch, key):
        arguments = guide.inputs(batch, key)
        b = jax.tree.leaves(arguments)[0].shape[0]
        if b < 2:
            raise ValueError(f"a batch of {b} has no other order; use at least 2 examples")
        shift = jax.random.randint(jax.random.fold_in(key, 1), (), 1, b)
        return jax.tree.map(lambda leaf: jnp.roll(leaf, shift, axis=0), arguments)

    return guide._replace(inputs=inputs)


def noise_fed(guide: Guide, *, vocabulary: int | None = None) -> Guide:
    """A control: the guide sees noise in place of the examples.

    Images become clip(N(0, 1) + 0.1 N(0, 1), 0, 1), tokens uniform; masks stay.

    Args:
      guide: from `module_guide`.
      vocabulary: number of tokens, for inputs that are integers.

    Returns:
      A guide whose inputs are drawn from the step's key.

    Raises:
      ValueError: when it is used: integer inputs without `vocabulary`.

    Reference: Subramaniam et al., Training the Untrainable, NeurIPS 2025 (noise experiment).
    """

    def draw(key, leaf):
        if leaf.dtype == jnp.bool_:
            return leaf
        if jnp.issubdtype(leaf.dtype, jnp.integer):
            if vocabulary is None:
                raise ValueError("noise for integer inputs needs vocabulary, the number of tokens")
            return jax.random.randint(key, leaf.shape, 0, vocabulary, leaf.dtype)
        first, second = (
            jax.random.normal(k, leaf.shape, leaf.dtype) for k in jax.random.split(key)
        )
        return jnp.clip(first + 0.1 * second, 0.0, 1.0)

    def inputs(batch, key):
        leaves, structure = jax.tree.flatten(guide.inputs(batch, key))
        keys = jax.random.split(jax.random.fold_in(key, 2), len(leaves))
        return jax.tree.unflatten(
            structure, [draw(k, x) for k, x in zip(keys, leaves, strict=True)]
        )

    return guide._replace(inputs=inputs)
