"""Embeddings of nodes without training: a random projection of powers of the transition matrix.

A power of a sparse matrix is dense, but its product with a thin matrix is one sparse product after
another. Columns are taken 64 at a time, as many as stay in the cache beside the edges.
"""

import functools
import warnings
from collections.abc import Sequence
from typing import Any, Literal, get_args

import jax
import jax.numpy as jnp
import numpy as np

from trove_jax.graphs.propagation import propagate
from trove_jax.graphs.random_projection import (
    Projection,
    SparseRows,
    check_kind,
    checked_density,
    random_projection,
    usual_density,
    very_sparse_projection,
)
from trove_jax.graphs.topology import Topology, normalise

Matrix = Literal["trans", "adj"]
Combine = Literal["sum", "concatenate"]
_COLUMNS_AT_ONCE = 64


def fastrp(
    topology: Topology,
    key: jax.Array,
    width: int = 128,
    *,
    weights: Sequence[float] | jax.Array = (0.0, 0.0, 1.0, 8.0),
    beta: float | jax.Array = -0.5,
    matrix: Matrix = "trans",
    projection: Projection = "sparse",
    density: float | None = None,
    normalise_rows: bool = False,
    standardise: bool = True,
    combine: Combine = "sum",
    init: jax.Array | None = None,
) -> jax.Array:
    """Embeds the nodes of a graph by a very sparse random projection.

    N_1 = S L R,   N_k = S N_(k-1),   N = sum over k of alpha_k N_k

    with S = D^-1 A, L = diag((d_j / 2m)^beta) and R random; d_j is the sum of the weights that come
    in at node j and 2m the sum of all d_j. In a directed graph a node so takes what its senders
    hold. Can be compiled, mapped over keys, and differentiated with respect to `weights` and
    `beta`. R belongs to the numbers of the nodes: with the same key, width and `density`, the
    embeddings of two graphs can be compared.

    Args:
      topology: edges with weights that are at least 0 and not normalised yet.
      key: a random key.
      width: d, at most n.
      weights: alpha_1, ..., alpha_q, the first for the first power, `[q]`. The default is the
        middle of what the paper searches: 0, 0, 1 and 1 to 64. Numbers that are 0 cost nothing.
      beta: power of the degrees; the paper searches from -1 to 0. Negative: hubs count less.
      matrix: `"trans"` for S as above, `"adj"` for S = A.
      projection: kind of R, see `random_projection`.
      density: of a sparse R; None: 1/sqrt(n).
      normalise_rows: whether each row of each N_k is divided by its length before the sum.
      standardise: whether each column gets mean 0 and standard deviation 1 in the end, over all
        nodes, padding included. A constant column becomes 0.
      combine: `"sum"`, or `"concatenate"` for the alpha_k N_k side by side, without those whose
        weight is the number 0.
      init: instead of R, floating `[n, width]`.

    Returns:
      `[n, width]`, or `[n, width * powers]`, in the dtype of R: float32, or that of `init`. A node
      that nothing comes in at has a row of 0 before columns are standardised; how many there are
      is warned of.

    Raises:
      ValueError: `width` below 1 or above n; no weights, all of them 0, or not a vector; a negative
        weight of an edge (outside compiled functions); an unknown option; an `init` of another
        shape.

    Example:
      >>> from trove_jax.graphs import topology
      >>> square = topology.from_edges([[0, 1], [1, 2], [2, 3], [3, 0]], 4)
      >>> x = fastrp(square, jax.random.key(0), 2, init=jnp.eye(4)[:, :2], weights=(0, 1),
      ...            standardise=False, beta=0.0)
      >>> print(x)
      [[0.5 0. ]
       [0.  0.5]
       [0.5 0. ]
       [0.  0.5]]

    Reference: Chen et al., Fast and Accurate Network Embeddings via Very Sparse Random Projection,
    CIKM 2019 (algorithm 1; standardised columns are those of its published program).
    """
    n = topology.n_node
    if not 1 <= width <= n:
        raise ValueError(f"width={width} must be from 1 to the number of nodes, {n}")
    if combine not in get_args(Combine):
        raise ValueError(f"combine={combine!r} is unknown; use one of {get_args(Combine)}")
    check_matrix(matrix)
    check_kind(projection)
    _check_edges(topology)
    base = None
    if init is not None:
        base = _checked_features(topology, "init", init)
        if base.shape[1] != width:
            raise ValueError(f"init has shape {base.shape}; ({n}, {width}) is wanted")
    elif projection == "sparse":
        density = checked_density(usual_density(n) if density is None else density)
    alphas, kept = checked_weights(weights)
    return _embed(
        topology, key, base, alphas, jnp.asarray(beta), kept=kept, width=width,
        projection=projection, density=density, matrix=matrix, normalise_rows=normalise_rows,
        standardise=standardise, combine=combine,
    )  # fmt: skip


def similarity_product(
    topology: Topology,
    x: jax.Array,
    *,
    weights: Sequence[float] | jax.Array = (0.0, 0.0, 1.0, 8.0),
    beta: float | jax.Array = -0.5,
    matrix: Matrix = "trans",
) -> jax.Array:
    """Multiplies the similarity of nodes that FastRP reduces by a matrix.

    M x = sum over k of alpha_k S^k L x

    It is linear in `x`: `jax.linear_transpose` or `jax.vjp` gives the product with the transpose.

    Args:
      topology: as in `fastrp`.
      x: floating-point `[n, f]`.
      weights: as in `fastrp`.
      beta: as in `fastrp`.
      matrix: as in `fastrp`.

    Returns:
      `[n, f]` in the dtype of `x`.

    Raises:
      ValueError: as `fastrp`.

    Example:
      >>> from trove_jax.graphs import topology
      >>> path = topology.from_edges([[0, 1], [1, 2]], 3)
      >>> print(similarity_product(path, jnp.eye(3), weights=(1.0,), beta=0.0))
      [[0.  1.  0. ]
       [0.5 0.  0.5]
       [0.  1.  0. ]]

    Reference: Chen et al., Fast and Accurate Network Embeddings via Very Sparse Random Projection,
    CIKM 2019 (section 3.2).
    """
    check_matrix(matrix)
    x = _checked_features(topology, "x", x)
    alphas, kept = checked_weights(weights)
    return _embed(
        topology, None, x, alphas, jnp.asarray(beta), kept=kept, width=x.shape[1],
        projection="sparse", density=None, matrix=matrix, normalise_rows=False, standardise=False,
        combine="sum",
    )  # fmt: skip


_STATIC = (
    *("kept", "width", "projection", "density", "matrix"),
    *("normalise_rows", "standardise", "combine"),
)


@functools.partial(jax.jit, static_argnames=_STATIC)
def _embed(
    topology, key, base, alphas, beta, *, kept, width, projection, density, matrix,
    normalise_rows, standardise, combine,
):  # fmt: skip
    """The embedding from `base`, or from a projection that is drawn here."""
    n = topology.n_node
    if base is None and projection == "sparse":
        base = very_sparse_projection(key, n, width, density=density)
    elif base is None:
        base = random_projection(key, n, width, kind=projection, density=density)
    dtype = base.values.dtype if isinstance(base, SparseRows) else base.dtype
    alphas, beta = alphas.astype(dtype), beta.astype(dtype)
    weight = topology.masked(jnp.asarray(topology.weight))
    scale = degree_scale(topology, weight, beta)
    if matrix == "trans":
        weight = normalise(topology, "rw")

    def powers(columns):
        """The parts alpha_k N_k of some columns of R."""
        x, parts = columns * scale[:, None], []
        for k in range(max(kept) + 1):
            x = propagate(topology, x, weight)
            if k in kept:
                parts.append(alphas[k] * (unit_rows(x) if normalise_rows else x))
        return parts

    def finished(start, size):
        if isinstance(base, SparseRows):
            columns = base.dense(size, start)
        else:
            columns = jax.lax.dynamic_slice_in_dim(base, start, size, axis=1)
        parts = powers(columns)
        parts = [sum(parts[1:], parts[0])] if combine == "sum" else parts
        return [_standardised(part) if standardise else part for part in parts]

    blocks = -(-width // _COLUMNS_AT_ONCE)
    if normalise_rows or blocks == 1:  # the length of a row is known when all its columns are
        return jnp.concatenate(finished(0, width), axis=1)

    def block(number, outs):
        # The last block overlaps the one before it and writes the same numbers again.
        start = jnp.minimum(number * _COLUMNS_AT_ONCE, width - _COLUMNS_AT_ONCE)
        return [
            jax.lax.dynamic_update_slice_in_dim(out, part, start, axis=1)
            for out, part in zip(outs, finished(start, _COLUMNS_AT_ONCE), strict=True)
        ]

    count = 1 if combine == "sum" else len(kept)
    outs = [jnp.zeros((n, width), dtype) for _ in range(count)]
    return jnp.concatenate(jax.lax.fori_loop(0, blocks, block, outs), axis=1)


def degree_scale(topology: Topology, weight: jax.Array, beta: jax.Array) -> jax.Array:
    """(d_j / 2m)^beta by logarithms, 0 where nothing comes in."""
    degree = jax.ops.segment_sum(
        weight, topology.receivers, topology.n_node, indices_are_sorted=True
    )
    has_edges = degree > 0
    safe = jnp.where(has_edges, degree, jnp.ones_like(degree))
    total = jnp.maximum(degree.sum(), jnp.finfo(degree.dtype).tiny)
    logs = (jnp.log(safe) - jnp.log(total)).astype(beta.dtype)
    return jnp.where(has_edges, jnp.exp(beta * logs), jnp.zeros_like(logs))


def unit_rows(x: jax.Array) -> jax.Array:
    """Rows of length 1; a row of 0 stays."""
    squares = jnp.sum(jnp.square(x), axis=1, keepdims=True)
    is_zero = squares == 0
    return x * jnp.where(is_zero, 0, jax.lax.rsqrt(jnp.where(is_zero, 1, squares))).astype(x.dtype)


def _standardised(x: jax.Array) -> jax.Array:
    """Columns of mean 0 and standard deviation 1; a constant column becomes 0.

    Rounding leaves a constant column a deviation of a few units of its mean.
    """
    mean = jnp.mean(x, axis=0, keepdims=True)
    centred = x - mean
    variance = jnp.mean(jnp.square(centred), axis=0, keepdims=True)
    least = jnp.square(8 * jnp.finfo(x.dtype).eps * mean)
    is_constant = variance <= least
    inverse = jax.lax.rsqrt(jnp.where(is_constant, 1, variance).astype(x.dtype))
    return centred * jnp.where(is_constant, jnp.zeros_like(inverse), inverse)


def checked_weights(weights: Sequence[float] | jax.Array) -> tuple[jax.Array, tuple[int, ...]]:
    """The weights as an array, and the powers that are needed: all of them for traced weights."""
    values = jnp.asarray(weights)
    if values.ndim != 1 or not values.size:
        raise ValueError(f"weights have shape {values.shape}; a vector with one a power is wanted")
    if not jnp.issubdtype(values.dtype, jnp.floating):
        values = values.astype(jnp.float32)
    found = _concrete(values)
    kept = range(values.size) if found is None else np.flatnonzero(found)
    if not len(kept):
        raise ValueError(f"weights are all 0: {weights}; at least one power must count")
    return values, tuple(int(k) for k in kept)


def check_edge_weights(topology: Topology) -> None:
    """Refuses negative weights of edges where it can look."""
    weight = _concrete(topology.weight)
    if weight is not None and weight.size and weight.min() < 0:
        raise ValueError(
            f"topology.weight has the negative weight {weight.min():.4g}; degrees need weights of "
            "at least 0"
        )


def _check_edges(topology: Topology) -> None:
    """Refuses negative weights, and warns of nodes that nothing comes in at, where it can look."""
    check_edge_weights(topology)
    starts = _concrete(topology.starts)
    if starts is None or _concrete(topology.weight) is None:
        return
    counts = np.diff(starts)
    if topology.edge_mask is not None:
        mask = np.asarray(topology.edge_mask)
        counts = np.bincount(np.asarray(topology.receivers)[mask], minlength=topology.n_node)
    isolated = int(np.sum(counts == 0))
    if isolated:
        warnings.warn(
            f"{isolated} of {topology.n_node} nodes have no edge that comes in: all of them get "
            "the same embedding",
            stacklevel=3,
        )


def _concrete(array: Any) -> np.ndarray | None:
    """The values of an array; None inside a compiled function."""
    try:
        return np.asarray(array)
    except jax.errors.TracerArrayConversionError:
        return None


def _checked_features(topology: Topology, name: str, x: jax.Array) -> jax.Array:
    x = jnp.asarray(x)
    if x.ndim != 2 or x.shape[0] != topology.n_node:
        raise ValueError(f"{name} has shape {x.shape}; ({topology.n_node}, f) is wanted")
    if not jnp.issubdtype(x.dtype, jnp.floating):
        raise ValueError(f"{name} has dtype {x.dtype}; a floating-point dtype is wanted")
    return x


def check_matrix(matrix: str) -> None:
    """Raises ValueError for an unknown matrix."""
    if matrix not in get_args(Matrix):
        raise ValueError(f"matrix={matrix!r} is unknown; use one of {get_args(Matrix)}")
