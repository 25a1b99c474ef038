"""Kernel alignment of every layer of one network with every layer of another.

On one batch, or summed over many: the U-statistics of small batches are unbiased, so their sums
tend to the value of the whole data where a mean of ratios would not.
"""

import functools
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp

from trove_jax.losses.similarity import centred_norm, check_examples, gram, hsic, widest

Layers = Mapping[str, jax.Array] | Sequence[jax.Array]


class CKASums(NamedTuple):
    """Sums of statistics over batches, each layer in units of its first batch's scale.

    Attributes:
      cross: of each pair of layers, `[n, m]`.
      own: of each layer of the first network with itself, `[n]`.
      other: of each layer of the second network with itself, `[m]`.
      own_scale: norms of the layers of the first network on the first batch, `[n]`.
      other_scale: norms of the layers of the second network on the first batch, `[m]`.
    """

    cross: jax.Array
    own: jax.Array
    other: jax.Array
    own_scale: jax.Array
    other_scale: jax.Array


def cka_matrix(
    a: Layers, b: Layers, *, debiased: bool = False, axis_name: str | None = None
) -> jax.Array:
    """Linear CKA of all pairs of layers on one batch.

    Args:
      a: activations of one network, n arrays `[b, ...]`, as `layers.capture` returns them.
      b: activations of another one on the same examples, m arrays `[b, ...]`.
      debiased: as `linear_cka`.
      axis_name: as `linear_cka`.

    Returns:
      `[n, m]`, at least float32, in the order of the layers; 0 where a layer is the same for all
      examples.

    Raises:
      ValueError: no layers, or layers with different batches (both are named), or too few
        examples.

    Example:
      >>> x = jnp.array([[1.0, 0.0], [0.0, 1.0], [2.0, 2.0]])
      >>> print(cka_matrix({"first": x, "second": x[:, :1]}, [2.0 * x]).round(1))
      [[1. ]
       [0.8]]

    Reference: Kornblith et al., Similarity of Neural Network Representations Revisited, ICML 2019
    (figure 2).
    """
    (k, _), (l, _) = _grams(a, b, debiased, axis_name)  # noqa: E741
    own = jax.vmap(functools.partial(hsic, debiased=debiased))
    return _ratio(_products(k, l, debiased), own(k, k), own(l, l))


def cka_init(n: int, m: int) -> CKASums:
    """The sums before the first batch.

    Args:
      n: layers of the first network.
      m: layers of the second one.

    Returns:
      Zeros, float32.

    Example:
      >>> cka_init(2, 3).cross.shape
      (2, 3)
    """
    return CKASums(jnp.zeros((n, m)), *(jnp.zeros(size) for size in (n, m, n, m)))


def cka_update(sums: CKASums, a: Layers, b: Layers, *, axis_name: str | None = None) -> CKASums:
    """Adds a batch; all batches must have the same size.

    Args:
      sums: from `cka_init` or the batch before.
      a: activations of one network, n arrays `[b, ...]`, b >= 4.
      b: activations of another one on the same examples, m arrays `[b, ...]`.
      axis_name: mapped axis over which the batch is sharded.

    Returns:
      The sums with this batch.

    Raises:
      ValueError: as `cka_matrix`, or another number of layers than in `sums`.

    Reference: Nguyen et al., Do Wide and Deep Networks Learn the Same Things?, ICLR 2021
    (equation 3).
    """
    if sums.cross.shape != (len(a), len(b)):
        raise ValueError(
            f"sums are of {sums.cross.shape} layers, but a has {len(a)} and b has {len(b)}"
        )
    (k, norms), (l, other_norms) = _grams(a, b, True, axis_name)  # noqa: E741
    own_scale = jnp.where(sums.own_scale == 0, norms, sums.own_scale)
    other_scale = jnp.where(sums.other_scale == 0, other_norms, sums.other_scale)
    u = _weight(norms, own_scale)
    v = _weight(other_norms, other_scale)
    own = jax.vmap(functools.partial(hsic, debiased=True))
    return CKASums(
        sums.cross + u[:, None] * v[None, :] * _products(k, l, True),
        sums.own + u * u * own(k, k),
        sums.other + v * v * own(l, l),
        own_scale,
        other_scale,
    )


def cka_result(sums: CKASums) -> jax.Array:
    """Alignment from the sums.

    Args:
      sums: from `cka_update`.

    Returns:
      `[n, m]`; 0 where a layer's own sum is not positive.

    Example:
      >>> x = jnp.array([[1.0, 0.0], [0.0, 1.0], [2.0, 2.0], [0.0, 3.0]])
      >>> print(cka_result(cka_update(cka_init(1, 1), [x], [-x])).round(4))
      [[1.]]
    """
    return _ratio(sums.cross, sums.own, sums.other)


def _ratio(cross, own, other):
    dead = (own <= 0)[:, None] | (other <= 0)[None, :]
    own, other = (jnp.sqrt(jnp.where(x <= 0, 1.0, x)) for x in (own, other))
    return jnp.where(dead, 0.0, cross / (own[:, None] * other[None, :]))


def _weight(norms, scale):
    """What undoes that `gram` scales each batch for itself."""
    return jnp.square(norms / jnp.where(scale == 0, 1.0, scale))


def _grams(a: Layers, b: Layers, debiased: bool, axis_name: str | None):
    """Centred Gram matrices `[n, b, b]` with the norms `[n]` behind them, of both networks."""
    a, b = _named("a", a), _named("b", b)
    (first, x), *_ = a.items()
    for name, leaf in [*a.items(), *b.items()]:
        if leaf.shape[:1] != x.shape[:1]:
            raise ValueError(
                f"layer {name} has shape {leaf.shape}, layer {first} {x.shape}; the first axis is "
                "the batch and must be the same"
            )
    check_examples(x.shape[0], debiased=debiased, axis_name=axis_name)
    leaves = [*a.values(), *b.values()]
    dtype = widest(*(leaf.dtype for leaf in leaves))
    for layers in (a, b):
        wide = [leaf.astype(dtype) for leaf in layers.values()]
        yield tuple(
            jnp.stack([read(leaf, axis_name=axis_name) for leaf in wide])
            for read in (gram, centred_norm)
        )


def _products(k: jax.Array, l: jax.Array, debiased: bool) -> jax.Array:  # noqa: E741
    """The statistic of all pairs of centred matrices, `[n, b, b]` and `[m, b, b]`."""
    pair = functools.partial(hsic, debiased=debiased)
    return jax.vmap(lambda one: jax.vmap(lambda other: pair(one, other))(l))(k)


def _named(argument: str, layers: Layers) -> dict[str, jax.Array]:
    if not len(layers):
        raise ValueError(f"{argument} has no layers; give at least one array [b, ...]")
    if isinstance(layers, Mapping):
        return {f"{argument}[{name!r}]": leaf for name, leaf in layers.items()}
    return {f"{argument}[{i}]": leaf for i, leaf in enumerate(layers)}
