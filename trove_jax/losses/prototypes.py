"""Labels corrected by prototypes: for each class, the typical nodes that are unlike each other.

Labels of unlabelled nodes are guesses. Nodes of a class that lie densely in the embedding and are
not near-copies of a denser one stand for the class, and others are relabelled by what they
resemble. Everything has static shapes, so that it runs at every step of a compiled loop.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

_BISECTIONS = 26


class Prototypes(NamedTuple):
    """The nodes that stand for each class.

    Attributes:
      nodes: indices, `[k, p]` int32; anything where `mask` is False.
      mask: which of them are there, `[k, p]` bool: a small class has fewer.
    """

    nodes: jax.Array
    mask: jax.Array


def find_prototypes(
    h: jax.Array,
    labels: jax.Array,
    key: jax.Array,
    *,
    classes: int,
    candidates: int = 320,
    prototypes: int = 8,
    quantile: float = 0.4,
    near: float = 0.95,
) -> Prototypes:
    """Chooses nodes that stand for their class.

    From up to `candidates` random nodes of a class, with cosines S between them and the quantile
    S_c of S:  rho_i = sum_j sign(S_ij - S_c),
    eta_i = max over j with rho_j > rho_i of S_ij, or min_j S_ij for the densest;
    rho_i becomes 0 where eta_i >= near; the prototypes are those of the largest rho.

    S_c is an order statistic, without interpolation: what equals it counts as below.

    Args:
      h: embedding, `[n, d]` floating-point; a row of zeros has cosine 0 to all. No gradient passes.
      labels: `[n]` integers from 0 to `classes` - 1, or -1 for nodes that stand for nothing.
      key: random key that draws the candidates.
      classes: number of classes, k.
      candidates: most nodes of a class that are compared (320 in the published code).
      prototypes: p, at most `candidates` (8 in the published code).
      quantile: of the cosines, in (0, 1).
      near: cosine to a denser node from which on a node is a copy.

    Returns:
      The prototypes; a class with fewer than p nodes has all of them.

    Raises:
      ValueError: shapes that do not belong together; counts out of range.

    Example:
      >>> h = jnp.array([[1.0, 0.0], [0.9, 0.1], [0.0, 1.0]])
      >>> found = find_prototypes(
      ...     h, jnp.array([0, 0, 1]), jax.random.key(0), classes=2, candidates=3, prototypes=2)
      >>> print(found.mask)
      [[ True  True]
       [ True False]]

    Reference: Jin et al., Self-supervised Learning on Graphs, 2020 (label correction); Han et al.,
    Deep Self-Learning From Noisy Labels, ICCV 2019.
    """
    n = _check(h, labels)
    if not 1 <= prototypes <= candidates:
        raise ValueError(f"prototypes={prototypes}, want 1 to candidates={candidates}")
    if classes < 1 or not 0.0 < quantile < 1.0:
        raise ValueError(f"classes={classes}, quantile={quantile}; want >= 1 and inside (0, 1)")
    h = _unit_rows(jax.lax.stop_gradient(h))
    # Labels first, then chance: the nodes of a class stand side by side in random order.
    chance = jax.random.permutation(key, n)
    order = chance[jnp.argsort(labels[chance], stable=True)]
    ends = jnp.searchsorted(labels[order], jnp.arange(classes + 1, dtype=labels.dtype))
    place = ends[:-1, None] + jnp.arange(candidates, dtype=ends.dtype)[None]
    mask = place < ends[1:, None]
    nodes = order[jnp.minimum(place, n - 1)].astype(jnp.int32)
    cosines = jnp.einsum("kid,kjd->kij", h[nodes], h[nodes])
    rho = jax.vmap(_density, in_axes=(0, 0, None, None))(cosines, mask, quantile, near)
    best, which = jax.lax.top_k(rho, prototypes)
    return Prototypes(jnp.take_along_axis(nodes, which, axis=1), best > -jnp.inf)


def corrected_labels(
    h: jax.Array, prototypes: Prototypes, labels: jax.Array, nodes: jax.Array
) -> jax.Array:
    """Gives nodes the class whose prototypes they resemble most.

    argmax over classes of the mean cosine to the class's prototypes

    Args:
      h: embedding, `[n, d]` floating-point.
      prototypes: of `find_prototypes`.
      labels: what the other nodes keep, `[n]` integers.
      nodes: nodes to correct, `[m]` integers.

    Returns:
      Labels, `[n]`, in the dtype of `labels`. A class without prototypes is given to no node.

    Raises:
      ValueError: shapes that do not belong together.

    Example:
      >>> h = jnp.array([[1.0, 0.0], [0.0, 1.0], [0.2, 0.9]])
      >>> found = Prototypes(jnp.array([[0], [1]]), jnp.array([[True], [True]]))
      >>> print(corrected_labels(h, found, jnp.array([0, 1, 0]), jnp.array([2])))
      [0 1 1]

    Reference: as for `find_prototypes`.
    """
    _check(h, labels)
    h = _unit_rows(jax.lax.stop_gradient(h))
    count = prototypes.mask.sum(axis=1)
    kept = jnp.where(prototypes.mask[..., None], h[prototypes.nodes], 0)
    # The mean cosine is the cosine, but for length, to the sum of unit rows.
    centre = kept.sum(axis=1) / jnp.maximum(count, 1).astype(h.dtype)[:, None]
    scores = jnp.where((count > 0)[None], h[nodes] @ centre.T, -jnp.inf)
    return labels.at[nodes].set(jnp.argmax(scores, axis=1).astype(labels.dtype))


def _check(h, labels) -> int:
    if h.ndim != 2 or labels.shape != h.shape[:1]:
        raise ValueError(f"h has shape {h.shape} and labels {labels.shape}; want [n, d] and [n]")
    return h.shape[0]


def _unit_rows(h):
    squared = jnp.sum(jnp.square(h), axis=1, keepdims=True)
    return h * jax.lax.rsqrt(jnp.where(squared > 0, squared, 1))


def _density(cosines, mask, quantile, near):
    """rho of a class's candidates, `[c]`: 0 for near-copies, -inf for those that are not there."""
    pairs = mask[:, None] & mask[None, :]
    present = jnp.where(pairs, cosines, 2.0)
    # Entries up to the order statistic, which bisection finds without sorting 100,000 numbers.
    below = jnp.floor(quantile * (pairs.sum() - 1).astype(jnp.float32)).astype(jnp.int32) + 1

    def halve(_, bounds):
        low, high = bounds
        middle = 0.5 * (low + high)
        enough = (present <= middle).sum() >= below
        return jnp.where(enough, low, middle), jnp.where(enough, middle, high)

    limits = (jnp.full((), -1.01, cosines.dtype), jnp.full((), 1.01, cosines.dtype))
    threshold = jax.lax.fori_loop(0, _BISECTIONS, halve, limits)[1]
    signs = jnp.where(cosines > threshold, 1.0, -1.0).astype(jnp.float32)
    rho = jnp.where(pairs, signs, 0.0).sum(axis=1)
    denser = pairs & (rho[None, :] > rho[:, None])
    largest = jnp.where(denser, cosines, -jnp.inf).max(axis=1)
    eta = jnp.where(denser.any(axis=1), largest, present.min(axis=1))
    rho = jnp.where(eta >= near, 0.0, rho)
    return jnp.where(mask, rho, -jnp.inf)
