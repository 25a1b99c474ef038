"""How alike the nodes of a graph have become: the mean distance between normalised rows."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from trove_jax.kernels.numbers import compute_dtype

_BLOCK_NUMBERS = 1 << 20


class Smoothness(NamedTuple):
    """Smoothness metric values, in [0, 1]: 0 where all rows point the same way.

    Attributes:
      node: of each node, `[n]`.
      graph: mean over the nodes, scalar.
    """

    node: jax.Array
    graph: jax.Array


def smoothness(
    x: jax.Array, *, sample: int | None = None, key: jax.Array | None = None
) -> Smoothness:
    """Mean distance of each row to the others, after each is divided by its length.

    D(x, y) = |x/|x| - y/|y|| / 2,   SMV_i = mean over j != i of D(x_i, x_j),   SMV = mean_i SMV_i

    A row of zeros stays at 0 (0/0 = 0), at distance 1/2 from every other. All n^2 pairs are taken,
    in blocks that stay in the cache. Rows are centred before their products, so that the distances
    of rows that are nearly alike do not cancel.

    Args:
      x: floating-point rows, `[n, d]`.
      sample: compare with that many rows, drawn without replacement, instead of all: the same in
        expectation, in time n * sample.
      key: what to draw them with; only with `sample`.

    Returns:
      `Smoothness`; zeros where there is no other row.

    Raises:
      ValueError: `x` is no matrix; `sample` outside 1 to n; `sample` without `key` or the other way
        round.

    Example:
      >>> same = jnp.array([[1.0, 0.0], [2.0, 0.0], [-3.0, 0.0]])
      >>> print(smoothness(same).node)
      [0.5 0.5 1. ]

    Reference: Liu et al., Towards Deeper Graph Neural Networks, KDD 2020 (equations 2 to 4).
    """
    x = jnp.asarray(x)
    if x.ndim != 2 or not jnp.issubdtype(x.dtype, jnp.floating):
        raise ValueError(f"x has shape {x.shape}, dtype {x.dtype}; floating-point [n, d] is wanted")
    if (sample is None) != (key is None):
        raise ValueError("sample and key belong together: key says which rows are drawn")
    n = x.shape[0]
    if sample is not None and not 1 <= sample <= n:
        raise ValueError(f"sample={sample} of {n} rows; 1 to {n} is wanted")
    if n == 0:
        return Smoothness(jnp.zeros(0, x.dtype), jnp.zeros((), x.dtype))
    x = x.astype(compute_dtype(x))
    largest = jnp.max(jnp.abs(x), axis=1, keepdims=True)
    scaled = x / jnp.where(largest > 0, largest, 1.0)
    length = jnp.linalg.norm(scaled, axis=1, keepdims=True)
    unit = scaled / jnp.where(length > 0, length, 1.0)
    unit = unit - unit.mean(axis=0, keepdims=True)
    if sample is None:
        others = jnp.arange(n)
    else:
        assert key is not None
        others = jax.random.choice(key, n, (sample,), replace=False)
    node = _mean_distance(unit, unit[others], others)
    return Smoothness(node, node.mean())


def _mean_distance(rows, others, index):
    square = jnp.sum(others**2, axis=1)

    def one(row_and_number):
        row, number = row_and_number
        gap = jnp.sum(row**2) + square - 2.0 * (others @ row)
        distance = 0.5 * jnp.sqrt(jnp.maximum(gap, 0.0))
        is_other = index != number
        total = jnp.sum(jnp.where(is_other, distance, 0.0))
        return total / jnp.maximum(1, is_other.sum()).astype(total.dtype)

    block = max(1, _BLOCK_NUMBERS // max(1, others.shape[0]))
    numbers = jnp.arange(rows.shape[0])
    return lax.map(one, (rows, numbers), batch_size=min(block, rows.shape[0]))
