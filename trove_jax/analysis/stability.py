"""How far the end of training moves under noise: pruning, another data order, interpolation."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

PyTree = Any
TrainFn = Callable[[PyTree, PyTree, jax.Array], PyTree]


class Stability(NamedTuple):
    """How far pairs of trained networks are apart, on the weights that survive.

    Attributes:
      distance: `masked_distance` of each pair, `[s, pairs]`.
      angle: `masked_angle` of each pair in degrees, `[s, pairs]`.
    """

    distance: jax.Array
    angle: jax.Array


class LinearBarrier(NamedTuple):
    """The error along the straight line between two networks.

    Attributes:
      alphas: positions, 0 is the first network and 1 the second, `[n]`.
      errors: error there, `[n]`.
      barrier: the largest error over the mean of the two ends, scalar.
    """

    alphas: jax.Array
    errors: jax.Array
    barrier: jax.Array


def masked_distance(a: PyTree, b: PyTree, mask: PyTree) -> jax.Array:
    """Measures how far two networks are apart on the surviving weights.

    |m * A - m * B|_2 over all prunable leaves together.

    What the mask leaves out may hold anything, NaN too. An empty mask gives 0. The gradient at
    A = B is taken as 0.

    Args:
      a: parameters, a pytree.
      b: parameters like `a`.
      mask: mask tree (`transforms.ones_mask`): boolean leaves of the parameters' shapes; leaves
        that are `None` (not prunable) are left out.

    Returns:
      Scalar, float32 or wider.

    Raises:
      ValueError: the trees or shapes differ, or the mask has no array.

    Example:
      >>> mask = {"kernel": jnp.array([True, True, False])}
      >>> ones = {"kernel": jnp.ones(3)}
      >>> print(masked_distance({"kernel": jnp.array([4.0, 5.0, 9.0])}, ones, mask))
      5.0

    Reference: Frankle et al., Stabilizing the Lottery Ticket Hypothesis, 2019 (section 4).
    """
    return _norm([x - y for x, y in zip(*_survivors(a, b, mask), strict=True)])


def masked_angle(a: PyTree, b: PyTree, mask: PyTree) -> jax.Array:
    """Measures the angle between two networks on the surviving weights.

    2 atan2(|u - v|, |u + v|) with u, v the normalised m * A and m * B: equal to
    arccos(<m * A, m * B> / (|m * A| |m * B|)), which cannot tell angles below 0.02 degrees from 0
    in float32 and gives NaN where rounding lifts the cosine above 1. This form resolves 1e-5
    degrees.

    Scale-free, unlike the distance: report it where batch normalisation or rectified units make
    the scale of weights arbitrary.

    Args:
      a: parameters, a pytree.
      b: parameters like `a`.
      mask: mask tree, as for `masked_distance`.

    Returns:
      Degrees in [0, 180], scalar, float32 or wider. NaN if either network is zero on the
      surviving weights (or none survive): a zero vector has no direction.

    Raises:
      ValueError: the trees or shapes differ, or the mask has no array.

    Example:
      >>> mask = {"kernel": jnp.array([True, True, False])}
      >>> a, b = {"kernel": jnp.array([1.0, 0.0, 5.0])}, {"kernel": jnp.array([3.0, 3.0, -5.0])}
      >>> print(round(float(masked_angle(a, b, mask)), 3))
      45.0

    Reference: Frankle et al., Stabilizing the Lottery Ticket Hypothesis, 2019 (section 4); Kahan,
    How Futile are Mindless Assessments of Roundoff, 2006 (section 12, the formula).
    """
    x, y = _survivors(a, b, mask)
    size_x, size_y = _norm(x), _norm(y)
    defined = (size_x > 0) & (size_y > 0)
    # Where it is undefined, 1 keeps NaN out of the gradients of the other branch.
    scale_x, scale_y = jnp.where(defined, size_x, 1.0), jnp.where(defined, size_y, 1.0)
    u, v = [leaf / scale_x for leaf in x], [leaf / scale_y for leaf in y]
    apart = _norm([p - q for p, q in zip(u, v, strict=True)])
    along = _norm([p + q for p, q in zip(u, v, strict=True)])
    along = jnp.where(defined, along, 1.0)
    return jnp.where(defined, jnp.rad2deg(2.0 * jnp.arctan2(apart, along)), jnp.nan)


def stability_to_pruning(
    train_fn: TrainFn, start: PyTree, mask: PyTree, orders: jax.Array
) -> Stability:
    """Measures how far pruning moves the end of training, with the same data order.

    D(A(W_k, 1, u), A(m * W_k, m, u)): dense and masked training from the same weights see the same
    batches and augmentations; the surviving weights are compared.

    Args:
      train_fn: `(start, mask, keys [s]) -> params`, trains one network per seed to the end under
        the mask, the keys deciding the data order u. It prunes `start` itself
        (`transforms.apply_mask`) and returns the parameters with a leading seed axis.
      start: what `train_fn` starts from, with a leading seed axis `[s, ...]`.
      mask: mask tree with a leading seed axis, `[s, ...]`.
      orders: random keys, `[s, pairs]`: one pair of runs for every key.

    Returns:
      Distances and angles, `[s, pairs]`.

    Raises:
      ValueError: `orders` is not `[s, pairs]` with at least one pair.

    Reference: Frankle et al., Stabilizing the Lottery Ticket Hypothesis, 2019 (section 4,
    stability to pruning).
    """
    _check_orders(orders, 2, "[s, pairs]")
    dense = jax.tree.map(jnp.ones_like, mask)
    pairs = []
    for pair in range(orders.shape[1]):
        keys = orders[:, pair]
        whole, sparse = train_fn(start, dense, keys), train_fn(start, mask, keys)
        pairs.append(_compare(whole, sparse, mask))
    return _stack(pairs)


def stability_to_order(
    train_fn: TrainFn, start: PyTree, mask: PyTree, orders: jax.Array
) -> Stability:
    """Measures how far another data order moves the end of training of a subnetwork.

    D(A(m * W_k, m, u), A(m * W_k, m, u')): initialisation and W_k are shared, only the order of
    the data and its augmentation differ.

    Args:
      train_fn: as for `stability_to_pruning`.
      start: what `train_fn` starts from, with a leading seed axis `[s, ...]`.
      mask: mask tree with a leading seed axis, `[s, ...]`.
      orders: random keys, `[s, pairs, 2]`: u and u' of every pair; they should differ.

    Returns:
      Distances and angles, `[s, pairs]`.

    Raises:
      ValueError: `orders` is not `[s, pairs, 2]` with at least one pair.

    Reference: Frankle et al., Stabilizing the Lottery Ticket Hypothesis, 2019 (section 4,
    stability to data order).
    """
    _check_orders(orders, 3, "[s, pairs, 2]")
    if orders.shape[2] != 2:
        raise ValueError(f"orders has shape {orders.shape}, want [s, pairs, 2]: two runs a pair")
    pairs = []
    for pair in range(orders.shape[1]):
        first = train_fn(start, mask, orders[:, pair, 0])
        second = train_fn(start, mask, orders[:, pair, 1])
        pairs.append(_compare(first, second, mask))
    return _stack(pairs)


def linear_barrier(
    eval_fn: Callable[[PyTree], jax.Array], a: PyTree, b: PyTree, *, n: int = 30
) -> LinearBarrier:
    """Measures the error barrier on the straight line between two networks.

    E(alpha) = error((1 - alpha) A + alpha B);  barrier = max_alpha E(alpha) - (E(0) + E(1)) / 2

    Whole variables are interpolated: with the weights also the running statistics of batch
    normalisation (recompute them inside `eval_fn` if that is wanted). Leaves that are not
    floating-point are taken from the first network. The published work calls a subnetwork stable
    when its barrier is below 2 % test error.

    Args:
      eval_fn: `variables -> error`, a scalar. It is evaluated at one position after the other, so
        convolutions stay fast; vmap the whole function over seeds.
      a: variables of the first network, a pytree.
      b: variables of the second, like `a`.
      n: number of positions, both ends included; 30 in the reference.

    Returns:
      Positions `[n]`, errors `[n]` and the barrier.

    Raises:
      ValueError: `n` below 2; trees or shapes differ.

    Example:
      >>> bump = lambda v: 1.0 - (v["w"] - 1.0) ** 2
      >>> line = linear_barrier(bump, {"w": jnp.array(0.0)}, {"w": jnp.array(2.0)}, n=3)
      >>> print(line.errors, line.barrier)
      [0. 1. 0.] 1.0

    Reference: Frankle et al., Linear Mode Connectivity and the Lottery Ticket Hypothesis, ICML
    2020 (section 2, 30 evenly spaced positions).
    """
    if n < 2:
        raise ValueError(f"n={n} positions cannot hold both ends; want n >= 2, such as n=30")
    _check_same(a, b)
    alphas = jnp.linspace(0.0, 1.0, n)

    def between(alpha: jax.Array) -> jax.Array:
        def mix(x: jax.Array, y: jax.Array) -> jax.Array:
            if not jnp.issubdtype(x.dtype, jnp.inexact):
                return x
            share = alpha.astype(x.dtype)
            return (1 - share) * x + share * y

        return eval_fn(jax.tree.map(mix, a, b))

    errors = jax.lax.map(between, alphas)
    return LinearBarrier(alphas, errors, jnp.max(errors) - (errors[0] + errors[-1]) / 2)


def _survivors(a: PyTree, b: PyTree, mask: PyTree) -> tuple[list[jax.Array], list[jax.Array]]:
    """The surviving weights of both networks, zero elsewhere, in float32 or wider."""
    masks, structure = jax.tree.flatten(mask, is_leaf=lambda leaf: leaf is None)
    try:
        pairs = [structure.flatten_up_to(a), structure.flatten_up_to(b)]
    except (TypeError, ValueError, KeyError) as error:
        raise ValueError(
            f"mask has another tree than the parameters ({error}); make it with "
            "transforms.ones_mask(params)"
        ) from error
    kept = []
    for alive, *leaves in zip(masks, *pairs, strict=True):
        if alive is None:
            continue
        for leaf in leaves:
            if leaf.shape != alive.shape:
                raise ValueError(
                    f"a leaf of shape {leaf.shape} has a mask of shape {alive.shape}; want the "
                    "same shape: make the mask with transforms.ones_mask(params), and vmap over "
                    "seeds"
                )
        wide = [
            leaf if jnp.finfo(leaf.dtype).bits > 32 else leaf.astype(jnp.float32) for leaf in leaves
        ]
        kept.append([jnp.where(alive, leaf, jnp.zeros((), leaf.dtype)) for leaf in wide])
    if not kept:
        raise ValueError("mask has no array, so nothing can be compared; use transforms.ones_mask")
    first, second = zip(*kept, strict=True)
    return list(first), list(second)


def _norm(leaves: list[jax.Array]) -> jax.Array:
    square = sum((jnp.sum(jnp.square(leaf)) for leaf in leaves[1:]), jnp.sum(leaves[0] ** 2))
    positive = square > 0
    return jnp.where(positive, jnp.sqrt(jnp.where(positive, square, 1.0)), 0.0)


@jax.jit
def _compare(a: PyTree, b: PyTree, mask: PyTree) -> tuple[jax.Array, jax.Array]:
    return jax.vmap(lambda a, b, m: (masked_distance(a, b, m), masked_angle(a, b, m)))(a, b, mask)


def _stack(pairs: list[tuple[jax.Array, jax.Array]]) -> Stability:
    distances, angles = zip(*pairs, strict=True)
    return Stability(jnp.stack(distances, 1), jnp.stack(angles, 1))


def _check_orders(orders: jax.Array, ndim: int, wanted: str) -> None:
    if not jnp.issubdtype(orders.dtype, jax.dtypes.prng_key):
        raise ValueError(
            f"orders has dtype {orders.dtype}, want random keys {wanted}: jax.random.split("
            "jax.random.key(0), shape)"
        )
    if orders.ndim != ndim or orders.shape[1] == 0:
        raise ValueError(
            f"orders has shape {orders.shape}, want {wanted} with at least one pair: "
            "jax.random.split(key, shape)"
        )


def _check_same(a: PyTree, b: PyTree) -> None:
    if jax.tree.structure(a) != jax.tree.structure(b):
        raise ValueError(
            f"b has another tree than a: {jax.tree.structure(b)} instead of "
            f"{jax.tree.structure(a)}; give the variables of two copies of one network"
        )
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        if x.shape != y.shape or x.dtype != y.dtype:
            raise ValueError(
                f"b has a leaf {y.dtype}{list(y.shape)} where a has {x.dtype}{list(x.shape)}; give "
                "the variables of two copies of one network"
            )
