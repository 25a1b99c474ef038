"""Hop weights without parameters: keep hops that are like the node itself and not yet smoothed.

The stack of all hops of a wide feature matrix is large (Cora, 20 hops: 325 MB). `mix_hops` holds
four matrices at a time instead: one pass over the hops for the scores, one for the weighted sum.
"""

from typing import Literal, get_args

import jax
import jax.numpy as jnp

from trove_jax.graphs.propagation import propagate
from trove_jax.graphs.topology import Topology

Weighting = Literal["smoothing", "uniform"]

# The published programs add it to lengths, so that an empty row is unlike everything.
_LEAST_LENGTH = 1e-10


def node_smoothing_level(hop: jax.Array, x: jax.Array, x_inf: jax.Array) -> jax.Array:
    """How much of a node is left after some hops, and how far it is from the stationary state.

    NSL_i = cos(h_i, x_i) (1 - cos(h_i, xinf_i))

    with cos(a, b) = a.b / ((|a| + 1e-10) (|b| + 1e-10)): an empty row has level 0.

    Args:
      hop: features after some hops, `[n, d]`, or of all hops, `[k + 1, n, d]`.
      x: features before the first, `[n, d]`.
      x_inf: features after infinitely many, `[n, d]`: `graphs.stationary_features`.

    Returns:
      `[n]` or `[k + 1, n]`.

    Raises:
      ValueError: shapes that do not belong together.

    Example:
      >>> x = jnp.array([[1.0, 0.0], [0.0, 0.0]])
      >>> print(node_smoothing_level(x, x, jnp.array([[0.0, 1.0], [0.0, 1.0]])))
      [1. 0.]

    Reference: Zhang et al., Evaluating Deep Graph Neural Networks, arXiv 2108.00955, 2021
    (definition 3.1).
    """
    if hop.shape[-2:] != x.shape or x.shape != x_inf.shape or hop.ndim not in (2, 3):
        raise ValueError(
            f"hop {hop.shape}, x {x.shape} and x_inf {x_inf.shape} do not belong together; "
            "[n, d] or [k + 1, n, d], [n, d] and [n, d] are wanted"
        )
    if hop.ndim == 3:
        return jax.vmap(node_smoothing_level, in_axes=(0, None, None))(hop, x, x_inf)
    return _cosine(hop, x) * (1.0 - _cosine(hop, x_inf))


def hop_scores(topology: Topology, x: jax.Array, hops: int, x_inf: jax.Array) -> jax.Array:
    """`node_smoothing_level` after 0, ..., `hops` hops, one hop at a time.

    Args:
      topology: the edges and their weights, the matrix A.
      x: floating-point features, `[n, d]`.
      hops: K, at least 0.
      x_inf: `graphs.stationary_features(topology, x)`.

    Returns:
      `[hops + 1, n]` in the dtype of `x`.

    Raises:
      ValueError: `hops` is negative; shapes that do not belong together.
    """
    _check_hops(hops)

    def step(held, _):
        held = propagate(topology, held)
        return held, node_smoothing_level(held, x, x_inf)

    _, scores = jax.lax.scan(step, x, length=hops)
    return jnp.concatenate([node_smoothing_level(x, x, x_inf)[None], scores])


def mix_hops(
    topology: Topology,
    x: jax.Array,
    hops: int,
    *,
    x_inf: jax.Array | None = None,
    weighting: Weighting = "smoothing",
) -> jax.Array:
    """Mixes what each node holds after 0, ..., K hops, with weights of its own.

    w_i^k = softmax over k of NSL_i(k),   m_i = sum_k w_i^k x_i^(k)

    Args:
      topology: the edges and their weights, the matrix A.
      x: floating-point features, `[n, d]`.
      hops: K, at least 0.
      x_inf: `graphs.stationary_features(topology, x)`; not needed for `"uniform"`.
      weighting: `"smoothing"` as above, or `"uniform"` for the mean of the hops.

    Returns:
      `[n, d]` in the dtype of `x`.

    Raises:
      ValueError: `hops` is negative; an unknown `weighting`; no `x_inf` for `"smoothing"`.

    Example:
      >>> from trove_jax import graphs
      >>> path = graphs.topology.from_edges([[0, 1]], 3, self_loops="add_remaining", norm="sym")
      >>> x = jnp.array([[2.0], [0.0], [3.0]])
      >>> print(mix_hops(path, x, 1, weighting="uniform").ravel())
      [1.5 0.5 3. ]

    Reference: Zhang et al., Evaluating Deep Graph Neural Networks, arXiv 2108.00955, 2021
    (equations 9 and 10).
    """
    _check_hops(hops)
    if weighting not in get_args(Weighting):
        raise ValueError(
            f"weighting={weighting!r} is unknown; use one of {', '.join(get_args(Weighting))}"
        )
    x = jnp.asarray(x)
    if weighting == "uniform":
        weights = jnp.full((hops + 1, x.shape[0]), 1.0 / (hops + 1), x.dtype)
    elif x_inf is None:
        raise ValueError('x_inf is wanted for "smoothing": graphs.stationary_features(topology, x)')
    else:
        weights = jax.nn.softmax(hop_scores(topology, x, hops, x_inf), axis=0)

    def step(carry, weight):
        held, total = carry
        held = propagate(topology, held)
        return (held, total + weight[:, None] * held), None

    (_, total), _ = jax.lax.scan(step, (x, weights[0][:, None] * x), weights[1:])
    return total


def _cosine(a: jax.Array, b: jax.Array) -> jax.Array:
    least = jnp.asarray(_LEAST_LENGTH, a.dtype)
    lengths = (jnp.linalg.norm(a, axis=-1) + least) * (jnp.linalg.norm(b, axis=-1) + least)
    return jnp.sum(a * b, axis=-1) / lengths


def _check_hops(hops: int) -> None:
    if hops < 0:
        raise ValueError(f"hops={hops} is negative; 0 or more are wanted")
