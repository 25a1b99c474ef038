"""Random matrices for dimension reduction, whose rows belong to nodes and to nothing else.

Row i follows from the key and from i alone: a graph that grows keeps the rows of its old nodes, and
two graphs that name nodes alike get coordinates that can be compared.
"""

import math
from typing import Literal, NamedTuple, get_args

import jax
import jax.numpy as jnp

Projection = Literal["sparse", "gaussian", "rademacher"]

# A row has room for so many entries that more of them come less often than this.
_OVERFLOW = 1e-12
_BITS_OF_UNIFORM = 24


class SparseRows(NamedTuple):
    """The entries of a matrix that are not zero, row by row, in as many places for every row.

    Attributes:
      columns: ascending within a row, `[n, m]` int32; a place without an entry holds the width.
      values: `[n, m]` float32; 0 in a place without an entry.
    """

    columns: jax.Array
    values: jax.Array

    def dense(self, width: int, start: int | jax.Array = 0) -> jax.Array:
        """Columns `start` to `start + width` of the matrix with its zeros, `[n, width]`."""
        n, m = self.columns.shape
        rows = jnp.broadcast_to(jnp.arange(n)[:, None], (n, m))
        columns = self.columns - jnp.asarray(start, jnp.int32)
        columns = jnp.where(columns < 0, width, columns)  # a negative index would count from behind
        return (
            jnp.zeros((n, width), self.values.dtype)
            .at[rows, columns]
            .set(self.values, mode="drop", indices_are_sorted=False, unique_indices=False)
        )


def very_sparse_projection(
    key: jax.Array,
    nodes: int | jax.Array,
    width: int,
    *,
    density: float,
) -> SparseRows:
    """Draws rows whose entries are nearly all zero.

    r_ij = +-density^(-1/2) with probability density / 2 each, else 0

    so that entries have mean 0 and variance 1. Entries of a row are found by the gaps between them,
    which are geometric: the cost is that of the entries, not that of the matrix. A row that would
    have more entries than there is room for, less often than 1e-12, loses the last ones.

    Args:
      key: a random key.
      nodes: number of rows n for nodes 0 to n - 1, or their numbers, `[n]` integers.
      width: number of columns d.
      density: in (0, 1]; Li et al. propose 1/sqrt(n). Rows of two draws agree only if it does.

    Returns:
      The rows; `.dense(width)` is `[n, width]`.

    Raises:
      ValueError: `width` below 1, or a density out of range.

    Example:
      >>> rows = very_sparse_projection(jax.random.key(0), 3, 8, density=0.25)
      >>> print(rows.dense(8).shape, sorted(set(abs(rows.dense(8)).ravel().tolist())))
      (3, 8) [0.0, 2.0]

    Reference: Li, Hastie and Church, Very Sparse Random Projections, KDD 2006 (equation 2, with
    s = 1/density).
    """
    _check_width(width)
    density = checked_density(density)
    places = _places(width, density)
    bits = _each_row(key, nodes, lambda row: jax.random.bits(row, (places,), jnp.uint32))
    uniform = ((bits >> jnp.uint32(32 - _BITS_OF_UNIFORM)) + jnp.uint32(1)).astype(jnp.float32)
    uniform = uniform * jnp.float32(2.0**-_BITS_OF_UNIFORM)  # in (0, 1]
    skipped = jnp.zeros_like(bits, jnp.int32)
    if density < 1.0:
        gaps = jnp.floor(jnp.log(uniform) / jnp.float32(math.log1p(-density)))
        skipped = jnp.minimum(gaps, jnp.float32(width)).astype(jnp.int32)
    columns = jnp.cumsum(skipped + 1, axis=1) - 1
    is_entry = columns < width
    is_positive = (bits & jnp.uint32(1)).astype(jnp.bool_)
    size = jnp.float32(density**-0.5)
    values = jnp.where(is_positive, size, -size)
    return SparseRows(
        jnp.where(is_entry, columns, width).astype(jnp.int32),
        jnp.where(is_entry, values, jnp.zeros_like(values)),
    )


def random_projection(
    key: jax.Array,
    nodes: int | jax.Array,
    width: int,
    *,
    kind: Projection = "sparse",
    density: float | None = None,
) -> jax.Array:
    """Draws a matrix with independent entries of mean 0 and variance 1, row by row.

    Args:
      key: a random key.
      nodes: number of rows n for nodes 0 to n - 1, or their numbers, `[n]` integers.
      width: number of columns d.
      kind: `"sparse"` as `very_sparse_projection`, `"gaussian"`, or `"rademacher"` (+1 and -1).
      density: of a sparse one; None: 1/sqrt(n). Give it to a graph that will grow.

    Returns:
      `[n, width]` float32.

    Raises:
      ValueError: `width` below 1; an unknown kind; a density out of range, or for another kind.

    Example:
      >>> key = jax.random.key(0)
      >>> print(random_projection(key, 2, 4, kind="rademacher"))
      [[-1.  1.  1.  1.]
       [ 1.  1. -1.  1.]]
      >>> print(random_projection(key, jnp.array([1]), 4, kind="rademacher"))
      [[ 1.  1. -1.  1.]]

    Reference: Achlioptas, Database-friendly Random Projections, JCSS 2003; Li, Hastie and Church,
    Very Sparse Random Projections, KDD 2006.
    """
    check_kind(kind)
    _check_width(width)
    if kind == "sparse":
        density = usual_density(nodes) if density is None else density
        return very_sparse_projection(key, nodes, width, density=density).dense(width)
    if density is not None:
        raise ValueError(f"density={density} came with kind={kind!r}, which has no zeros")
    draw = jax.random.normal if kind == "gaussian" else jax.random.rademacher
    return _each_row(key, nodes, lambda row: draw(row, (width,), jnp.float32))


def check_kind(kind: str) -> None:
    """Raises ValueError for an unknown kind of projection."""
    if kind not in get_args(Projection):
        raise ValueError(f"kind={kind!r} is unknown; use one of {get_args(Projection)}")


def checked_density(density: float) -> float:
    """A density in (0, 1]; raises ValueError for another one."""
    density = float(density)
    if not 0.0 < density <= 1.0:
        raise ValueError(f"density={density} is not in (0, 1]; 1/sqrt(n) is usual")
    return density


def usual_density(nodes: int | jax.Array) -> float:
    """1/sqrt(n)."""
    n = nodes if isinstance(nodes, int) else nodes.shape[0]
    return max(n, 1) ** -0.5


def _each_row(key, nodes, draw):
    numbers = jnp.arange(nodes) if isinstance(nodes, int) else jnp.asarray(nodes)
    return jax.vmap(lambda node: draw(jax.random.fold_in(key, node)))(numbers)


def _check_width(width: int) -> None:
    if width < 1:
        raise ValueError(f"width={width} must be at least 1")


def _places(width: int, density: float) -> int:
    """The least m with P(Binomial(width, density) > m) below `_OVERFLOW`."""
    if density >= 1.0:
        return width
    odds = math.log(density) - math.log1p(-density)
    log_p = width * math.log1p(-density)
    terms = [math.exp(log_p)]
    for k in range(width):
        log_p += math.log(width - k) - math.log(k + 1) + odds
        terms.append(math.exp(log_p))
    tail = 0.0
    for m in range(width, 0, -1):
        tail += terms[m]
        if tail >= _OVERFLOW:
            return m
    return 1
