"""Messages along the edges of a graph: one operator under every graph network."""

import functools
from typing import Literal, get_args

import jax
import jax.numpy as jnp

from trove_jax.graphs.topology import Topology
from trove_jax.kernels import sparse_maximum, sparse_powers, sparse_product
from trove_jax.kernels.numbers import compute_dtype

Reduce = Literal["sum", "mean", "max", "softmax"]
Implementation = Literal["segment", "bcsr", "chunked"] | None
_REDUCES = get_args(Reduce)
_IMPLEMENTATIONS = (None, *get_args(get_args(Implementation)[0]))
_SEGMENT_REDUCES = ("sum", "mean", "max", "min")


def propagate(
    topology: Topology,
    x: jax.Array,
    edge_weight: jax.Array | None = None,
    *,
    reduce: Reduce = "sum",
    logits: jax.Array | None = None,
    implementation: Implementation = None,
) -> jax.Array:
    """Sends what nodes hold along the edges, and reduces what arrives.

    y_i = reduce over the edges e from j to i of w_e x_j

    `"mean"` divides the sum by the sum of the weights, `"softmax"` takes weights that
    `edge_softmax` makes of `logits`. A node that nothing arrives at gets 0, and so it does where
    the weights of a mean add up to 0. Edges that are masked do not count; they must start at nodes
    whose features are finite, as jraph's padding does for all but padding nodes.

    Args:
      topology: the edges.
      x: floating-point features `[n, f]`, `[s, n, f]` for seeds, or `[n, h, f]` for heads.
      edge_weight: `[e]`, `[s, e]` for weights per seed, or `[e, h]` with `x` `[n, h, f]`; in the
        stored order. None: `topology.weight` for a sum and a mean, 1 for a maximum. Not with
        `"softmax"`.
      reduce: how messages are joined. Ties of a maximum share its gradient equally.
      logits: for `"softmax"`, `[e]`, or `[e, h]` with `x` `[n, h, f]`.
      implementation: `"segment"` is the reference, with JAX's own gradient and an `[e, f]` array of
        messages; `"bcsr"` and `"chunked"` are those of `kernels.sparse_product` (a maximum has no
        `"bcsr"`); None takes what was measured fastest on a CPU, and segments elsewhere, where
        nothing was measured.

    Returns:
      The shape and dtype of `x`, reduced in float32 at least.

    Raises:
      ValueError: shapes that do not fit; an unknown option; logits without `"softmax"` or the other
        way round; weights with `"softmax"`; `"bcsr"` with `"max"`.

    Example:
      >>> from trove_jax.graphs import topology
      >>> path = topology.from_edges([[0, 1], [1, 2]], 3)
      >>> x = jnp.array([[1.0], [2.0], [5.0]])
      >>> for reduce in ("sum", "mean", "max"):
      ...     print(propagate(path, x, reduce=reduce).ravel())
      [2. 6. 2.]
      [2. 3. 2.]
      [2. 5. 2.]
      >>> print(propagate(path, x, reduce="softmax", logits=jnp.zeros(4)).ravel())
      [2. 3. 2.]

    Reference: Gilmer et al., Neural Message Passing for Quantum Chemistry, ICML 2017.
    """
    kernel = _kernel_of(implementation)
    _check_options(reduce, logits, edge_weight, implementation)
    x = jnp.asarray(x)
    if reduce == "max":
        return sparse_maximum(
            topology.pattern, edge_weight, x, mask=topology.edge_mask, implementation=kernel
        )
    if reduce == "softmax":
        edge_weight = edge_softmax(topology, jnp.asarray(logits))
    weight = jnp.asarray(topology.weight if edge_weight is None else edge_weight)
    if reduce == "mean":
        weight = _each_seed(topology, functools.partial(_shares, topology), weight)
    else:
        weight = _each_seed(topology, topology.masked, weight)
    return sparse_product(topology.pattern, weight, x, implementation=kernel)


def edge_softmax(topology: Topology, logits: jax.Array) -> jax.Array:
    """The softmax of logits over the edges that end at the same node.

    a_e = exp(l_e) / sum over the edges e' with the receiver of e of exp(l_e')

    Args:
      topology: the edges.
      logits: floating-point `[e]`, or `[e, h]` for heads, in the stored order.

    Returns:
      The shape and dtype of `logits`, computed in float32 at least; 0 where edges are masked,
      whatever their logits are.

    Raises:
      ValueError: logits that are not floating-point or not one per edge.

    Example:
      >>> from trove_jax.graphs import topology
      >>> star = topology.from_edges([[1, 0], [2, 0], [0, 3]], 4, undirected=False)
      >>> print(edge_softmax(star, jnp.log(jnp.array([1.0, 3.0, 5.0]))).round(2))
      [0.25 0.75 1.  ]

    Reference: Velickovic et al., Graph Attention Networks, ICLR 2018 (equation 3).
    """
    logits = _checked_edges(topology, "logits", logits)
    dtype = logits.dtype
    found = topology.masked(logits.astype(compute_dtype(logits)))
    bottom = jnp.full_like(found, -jnp.inf)
    top = _segments(jax.ops.segment_max, topology, _where_edge(topology, found, bottom))
    top = jax.lax.stop_gradient(jnp.where(jnp.isfinite(top), top, jnp.zeros_like(top)))
    raised = topology.masked(jnp.exp(found - top[jnp.asarray(topology.receivers)]))
    total = _segments(jax.ops.segment_sum, topology, raised)
    return _divided(raised, total, topology.receivers).astype(dtype)


def gather_senders(topology: Topology, x: jax.Array) -> jax.Array:
    """What the sender of each edge holds: `[n, ...]` to `[e, ...]`.

    Example:
      >>> from trove_jax.graphs import topology
      >>> path = topology.from_edges([[0, 1]], 2, undirected=False)
      >>> print(gather_senders(path, jnp.array([3.0, 4.0])))
      [3.]
    """
    return jnp.asarray(x)[jnp.asarray(topology.senders)]


def gather_receivers(topology: Topology, x: jax.Array) -> jax.Array:
    """What the receiver of each edge holds: `[n, ...]` to `[e, ...]`.

    Example:
      >>> from trove_jax.graphs import topology
      >>> path = topology.from_edges([[0, 1]], 2, undirected=False)
      >>> print(gather_receivers(path, jnp.array([3.0, 4.0])))
      [4.]
    """
    return jnp.asarray(x)[jnp.asarray(topology.receivers)]


def segment_reduce(
    topology: Topology,
    messages: jax.Array,
    *,
    reduce: Literal["sum", "mean", "max", "min"] = "sum",
) -> jax.Array:
    """Reduces messages that differ by edge at the nodes where they end.

    Args:
      topology: the edges.
      messages: floating-point `[e, ...]` in the stored order; those of masked edges may be NaN.
      reduce: `"sum"`, `"mean"` (over edges that are not masked), `"max"` or `"min"`.

    Returns:
      `[n, ...]` in the dtype of `messages`, reduced in float32 at least; 0 where nothing arrives.

    Raises:
      ValueError: messages that are not floating-point or not one per edge; an unknown `reduce`.

    Example:
      >>> from trove_jax.graphs import topology
      >>> star = topology.from_edges([[1, 0], [2, 0]], 3, undirected=False)
      >>> print(segment_reduce(star, jnp.array([4.0, 6.0]), reduce="mean"))
      [5. 0. 0.]
    """
    if reduce not in _SEGMENT_REDUCES:
        raise ValueError(f"reduce={reduce!r} is unknown; use one of {_SEGMENT_REDUCES}")
    messages = _checked_edges(topology, "messages", messages)
    dtype = messages.dtype
    found = topology.masked(messages.astype(compute_dtype(messages)))
    degree = topology.in_degree().reshape(-1, *[1] * (found.ndim - 1))
    if reduce in ("max", "min"):
        worst = -jnp.inf if reduce == "max" else jnp.inf
        function = jax.ops.segment_max if reduce == "max" else jax.ops.segment_min
        found = _where_edge(topology, found, jnp.full_like(found, worst))
        out = _segments(function, topology, found)
        return jnp.where(degree > 0, out, jnp.zeros_like(out)).astype(dtype)
    out = _segments(jax.ops.segment_sum, topology, found)
    if reduce == "mean":
        out = out / jnp.maximum(degree, 1).astype(out.dtype)
    return out.astype(dtype)


def hop_stack(
    topology: Topology,
    x: jax.Array,
    hops: int,
    edge_weight: jax.Array | None = None,
    *,
    implementation: Implementation = None,
) -> jax.Array:
    """Features after 0, 1, ... `hops` propagations.

    H_0 = x, H_l = A H_(l-1)

    Args:
      topology: the edges and their weights, the matrix A.
      x: floating-point `[n, f]`, or `[s, n, f]` for seeds.
      hops: number of propagations, at least 0.
      edge_weight: `[e]` or `[s, e]`, instead of `topology.weight`.
      implementation: as in `propagate`.

    Returns:
      `[hops + 1, n, f]` or `[hops + 1, s, n, f]` in the dtype of `x`.

    Raises:
      ValueError: `hops` is negative; as `propagate`.

    Example:
      >>> from trove_jax.graphs import topology
      >>> path = topology.from_edges([[0, 1], [1, 2]], 3)
      >>> print(hop_stack(path, jnp.array([[1.0], [0.0], [0.0]]), 2)[..., 0])
      [[1. 0. 0.]
       [0. 1. 0.]
       [1. 0. 1.]]

    Reference: Liu, Gao and Ji, Towards Deeper Graph Neural Networks, KDD 2020 (equation 8).
    """
    if hops < 0:
        raise ValueError(f"hops={hops} is negative; 0 or more are wanted")
    kernel = _kernel_of(implementation)
    weight = jnp.asarray(topology.weight if edge_weight is None else edge_weight)
    weight = _each_seed(topology, topology.masked, weight)
    return sparse_powers(topology.pattern, weight, x, hops, implementation=kernel)


def _check_options(reduce, logits, edge_weight, implementation) -> None:
    if reduce not in _REDUCES:
        raise ValueError(f"reduce={reduce!r} is unknown; use one of {_REDUCES}")
    if (logits is not None) != (reduce == "softmax"):
        given = "without logits" if logits is None else "with logits"
        raise ValueError(f"reduce={reduce!r} came {given}; logits belong to 'softmax' alone")
    if reduce == "softmax" and edge_weight is not None:
        raise ValueError("edge_weight came with reduce='softmax', whose weights are its own")
    if reduce == "max" and implementation == "bcsr":
        raise ValueError("implementation='bcsr' has no maximum; use 'chunked' or None")


def _kernel_of(implementation: Implementation) -> Literal["reference", "bcsr", "chunked"] | None:
    if implementation not in _IMPLEMENTATIONS:
        raise ValueError(
            f"implementation={implementation!r} is unknown; use one of {_IMPLEMENTATIONS}"
        )
    return "reference" if implementation == "segment" else implementation


def _each_seed(topology: Topology, function, weight: jax.Array) -> jax.Array:
    """Applies a function of `[e]` or `[e, h]` to weights that may be `[s, e]`."""
    if weight.ndim == 2 and weight.shape[0] != topology.n_edge:
        function = jax.vmap(function)
    return function(weight)


def _checked_edges(topology: Topology, name: str, values: jax.Array) -> jax.Array:
    values = jnp.asarray(values)
    if values.ndim == 0 or values.shape[0] != topology.n_edge:
        raise ValueError(f"{name} have shape {values.shape}; ({topology.n_edge}, ...) is wanted")
    if not jnp.issubdtype(values.dtype, jnp.floating):
        raise ValueError(f"{name} have dtype {values.dtype}; a floating-point dtype is wanted")
    return values


def _where_edge(topology: Topology, values: jax.Array, otherwise: jax.Array) -> jax.Array:
    if topology.edge_mask is None:
        return values
    mask = jnp.asarray(topology.edge_mask).reshape(-1, *[1] * (values.ndim - 1))
    return jnp.where(mask, values, otherwise)


def _segments(function, topology: Topology, values: jax.Array) -> jax.Array:
    return function(values, topology.receivers, topology.n_node, indices_are_sorted=True)


def _shares(topology: Topology, weight: jax.Array) -> jax.Array:
    """Weights divided by their sums at each receiver."""
    weight = topology.masked(weight)
    return _divided(weight, _segments(jax.ops.segment_sum, topology, weight), topology.receivers)


def _divided(values: jax.Array, totals: jax.Array, receivers: jax.Array) -> jax.Array:
    is_nothing = totals == 0
    inverse = jnp.where(is_nothing, jnp.zeros_like(totals), 1 / jnp.where(is_nothing, 1, totals))
    return values * inverse[jnp.asarray(receivers)]
