"""Walks along the edges of a graph, drawn inside compiled functions."""

import jax
import jax.numpy as jnp

from trove_jax.graphs.edge_lookup import has_edges
from trove_jax.graphs.rejection import draw_until_taken
from trove_jax.graphs.topology import Topology


def random_walks(topology: Topology, key: jax.Array, starts: jax.Array, length: int) -> jax.Array:
    """Draws walks that take each edge out of a node with the same probability.

    Args:
      topology: walks go from sender to receiver. Weights do not count; an edge that is stored
        twice is twice as likely.
      key: a random key.
      starts: where the walks begin, `[w]` integers.
      length: number of nodes of a walk, the first one included.

    Returns:
      Nodes `[w, length]` int32. A walk stays at a node that no edge leaves.

    Raises:
      ValueError: `length` below 1; `starts` is no vector of integers; a topology with masked edges,
        from which they should be left out instead.

    Example:
      >>> from trove_jax.graphs import topology
      >>> path = topology.from_edges([[0, 1], [1, 2]], 4, undirected=False)
      >>> print(random_walks(path, jax.random.key(0), jnp.array([0, 3]), 4))
      [[0 1 2 2]
       [3 3 3 3]]

    Reference: Perozzi et al., DeepWalk: Online Learning of Social Representations, KDD 2014
    (section 4.2.1).
    """
    starts = _checked(topology, starts, length)
    if not topology.n_edge:
        return jnp.repeat(starts[:, None], length, axis=1)

    def step(node, uniform):
        following = _following(topology, node, uniform)
        return following, following

    uniforms = jax.random.uniform(key, (length - 1, starts.shape[0]))
    _, rest = jax.lax.scan(step, starts, uniforms)
    return jnp.concatenate([starts[None], rest]).T


def node2vec_walks(
    topology: Topology,
    key: jax.Array,
    starts: jax.Array,
    length: int,
    *,
    p: float = 1.0,
    q: float = 1.0,
) -> jax.Array:
    """Draws walks that turn back, stay near or go far as p and q say.

    After a step from t to v, an edge from v to x is taken with a probability proportional to
      1 / p  where x is t,
      1      where else an edge leads from t to x,
      1 / q  elsewhere.
    The first step takes each edge with the same probability. Edges are drawn evenly and refused in
    proportion until every walk has one: nothing is stored for pairs of edges.

    Args:
      topology: as in `random_walks`.
      key: a random key.
      starts: where the walks begin, `[w]` integers.
      length: number of nodes of a walk, the first one included.
      p: return parameter, positive; the larger, the fewer turn back.
      q: in-out parameter, positive; the smaller, the farther walks go. The expected number of
        draws of a step is at most the largest of 1/p, 1, 1/q over the smallest.

    Returns:
      Nodes `[w, length]` int32. A walk stays at a node that no edge leaves.

    Raises:
      ValueError: as `random_walks`; `p` or `q` that is not positive and finite.

    Example:
      >>> from trove_jax.graphs import topology
      >>> ring = topology.from_edges([[i, (i + 1) % 5] for i in range(5)], 5)
      >>> walk = node2vec_walks(ring, jax.random.key(0), jnp.array([0]), 11, p=1e4)[0]
      >>> print(jnp.abs(walk[10] - walk[0]))
      0

    Reference: Grover and Leskovec, node2vec: Scalable Feature Learning for Networks, KDD 2016
    (section 3.2.2); drawn by rejection as in Yang et al., KnightKing, SOSP 2019.
    """
    starts = _checked(topology, starts, length)
    for name, value in (("p", p), ("q", q)):
        if not 0 < value < float("inf"):
            raise ValueError(f"{name}={value} is wanted positive and finite")
    if not topology.n_edge:
        return jnp.repeat(starts[:, None], length, axis=1)
    shares = (1 / p, 1.0, 1 / q)
    back, near, far = (share / max(shares) for share in shares)
    out_degree = jnp.diff(jnp.asarray(topology.pattern.column_starts))

    def step(state, number):
        before, node = state
        step_key = jax.random.fold_in(key, number)
        # At the first step nothing is behind, and a dead end has one way to stay.
        is_free = (number == 0) | (out_degree[node] == 0)

        def draw(tries, places):
            which, accept = jax.random.uniform(
                jax.random.fold_in(step_key, tries), (2, *places.shape)
            )
            drawn, last = _following(topology, node[places], which), before[places]
            share = jnp.where(has_edges(topology, last, drawn), near, far)
            share = jnp.where(drawn == last, back, share)
            return drawn, is_free[places] | (accept < share)

        following = draw_until_taken(draw, starts.shape[0])
        return (node, following), following

    numbers = jnp.arange(length - 1, dtype=jnp.int32)
    _, rest = jax.lax.scan(step, (starts, starts), numbers)
    return jnp.concatenate([starts[None], rest]).T


def _following(topology: Topology, node: jax.Array, uniform: jax.Array) -> jax.Array:
    """The end of the edge out of each node that a number in [0, 1) picks; the node without any."""
    first = jnp.asarray(topology.pattern.column_starts)
    ends = jnp.asarray(topology.pattern.transposed_rows)
    degree = first[node + 1] - first[node]
    # Rounding may lift the product to the degree itself.
    chosen = (uniform * degree.astype(uniform.dtype)).astype(jnp.int32)
    edge = first[node] + jnp.minimum(chosen, degree - 1)
    return jnp.where(degree > 0, ends[jnp.clip(edge, 0, topology.n_edge - 1)], node)


def _checked(topology: Topology, starts: jax.Array, length: int) -> jax.Array:
    if length < 1:
        raise ValueError(f"length={length} must be at least 1")
    starts = jnp.asarray(starts)
    if starts.ndim != 1 or not jnp.issubdtype(starts.dtype, jnp.integer):
        raise ValueError(
            f"starts have shape {starts.shape} and dtype {starts.dtype}; a vector of integers is "
            "wanted"
        )
    if topology.edge_mask is not None:
        raise ValueError("topology has masked edges; build it without them to walk on it")
    return starts.astype(jnp.int32)
