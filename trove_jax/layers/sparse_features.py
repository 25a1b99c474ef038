"""Layers whose input may be a sparse feature matrix, such as a bag of words for every node.

Nine tenths and more of such a matrix are zeros. Kept sparse, dropout draws for the stored entries
alone, which is exact, since a dropped zero is a zero; and the first matrix is multiplied by them.
"""

from collections.abc import Callable
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from flax import struct

from trove_jax.kernels.dropout import dropout
from trove_jax.kernels.sparse_product import SparsePattern, sparse_pattern, sparse_product


class _Features(Protocol):
    """Rows of a sparse matrix on the host, as `data.SparseFeatures` stores them."""

    @property
    def starts(self) -> np.ndarray: ...
    @property
    def columns(self) -> np.ndarray: ...
    @property
    def values(self) -> np.ndarray: ...
    @property
    def shape(self) -> tuple[int, int]: ...


@struct.dataclass
class SparseInput:
    """A sparse matrix of features, as an argument of compiled programs.

    Attributes:
      pattern: the places of the `e` stored entries; rows are nodes, columns features.
      values: in the order of the pattern, `[e]` floating-point.
    """

    pattern: SparsePattern
    values: jax.Array

    @property
    def shape(self) -> tuple[int, int]:
        """`(n, d)` of the matrix."""
        return self.pattern.shape

    @property
    def dtype(self) -> Any:
        """Of the values."""
        return self.values.dtype

    def astype(self, dtype: Any) -> "SparseInput":
        """The same matrix with values of another dtype."""
        return SparseInput(self.pattern, self.values.astype(dtype))

    def dense(self) -> jax.Array:
        """The matrix with its zeros, `[n, d]`; entries in one place are added."""
        zeros = jnp.zeros(self.shape, self.dtype)
        return zeros.at[self.pattern.rows, self.pattern.columns].add(self.values)

    def __matmul__(self, matrix: jax.Array) -> jax.Array:
        """The product with a dense matrix, `[d, f]` to `[n, f]`."""
        return sparse_product(self.pattern, self.values, matrix)


def sparse_input(features: _Features) -> SparseInput:
    """Prepares a feature matrix for the device, once and on the host.

    Args:
      features: compressed rows: `starts` `[n + 1]`, `columns` `[e]`, `values` `[e]`, `shape`.

    Returns:
      The matrix as float32, or float64 if `values` are and JAX is in 64-bit mode.

    Raises:
      ValueError: a column out of range, `starts` that do not fit, or a value that is not finite.

    Example:
      >>> from types import SimpleNamespace
      >>> rows = SimpleNamespace(
      ...     starts=np.array([0, 1, 3]),
      ...     columns=np.array([2, 0, 1]),
      ...     values=np.array([5.0, 1.0, 2.0], np.float32),
      ...     shape=(2, 3),
      ... )
      >>> print(sparse_input(rows).dense())
      [[0. 0. 5.]
       [1. 2. 0.]]
    """
    starts, values = np.asarray(features.starts), np.asarray(features.values)
    n, d = (int(size) for size in features.shape)
    counts = np.diff(starts)
    if (
        starts.shape != (n + 1,)
        or starts[0] != 0
        or starts[-1] != values.size
        or (counts < 0).any()
    ):
        raise ValueError(
            f"starts of shape {starts.shape} do not divide {values.size} values into {n} rows; "
            f"{n + 1} ascending numbers from 0 to {values.size} are wanted"
        )
    if not np.isfinite(values).all():
        bad = int(np.flatnonzero(~np.isfinite(values))[0])
        raise ValueError(f"values[{bad}] is {values[bad]}; finite features are wanted")
    pattern, order = sparse_pattern(np.repeat(np.arange(n), counts), features.columns, (n, d))
    dtype = jax.dtypes.canonicalize_dtype(np.float64 if values.dtype == np.float64 else np.float32)
    pattern = jax.tree.map(jnp.asarray, pattern)
    return SparseInput(pattern, jnp.asarray(values[order].astype(dtype)))


class SparseDropout(nn.Module):
    """Dropout of a dense array, or of the stored entries of a `SparseInput`.

    Called as `flax.linen.Dropout`. Entries are dropped one by one (see `kernels.dropout`) with a
    key of the stream `dropout`, which is asked for only where something is drawn.

    Attributes:
      rate: probability to drop an entry, in [0, 1).

    Example:
      >>> layer = SparseDropout(0.5)
      >>> key = jax.random.key(0)
      >>> y = layer.apply({}, jnp.ones(100), deterministic=False, rngs={"dropout": key})
      >>> print(sorted(set(y.tolist())), layer.apply({}, jnp.ones(2)))
      [0.0, 2.0] [1. 1.]
    """

    rate: float

    @nn.compact
    def __call__(self, x: Any, *, deterministic: bool = True) -> Any:
        """Drops entries, or gives `x` back where `deterministic`.

        Args:
          x: floating-point array of any shape, or a `SparseInput`.
          deterministic: whether nothing is dropped.

        Returns:
          The same kind as `x`.

        Raises:
          ValueError: `rate` outside [0, 1).
        """
        if not 0.0 <= self.rate < 1.0:
            raise ValueError(f"rate={self.rate} is no probability to drop; use 0 <= rate < 1")
        if deterministic or self.rate == 0.0:
            return x
        key = self.make_rng("dropout")
        if isinstance(x, SparseInput):
            return SparseInput(x.pattern, dropout(key, x.values, self.rate))
        return dropout(key, x, self.rate)


class SparseDense(nn.Module):
    """`flax.linen.Dense` whose input may be a `SparseInput`; names and shapes of variables agree.

    x W + b

    Attributes:
      features: width of the output, f.
      use_bias: whether there is a b.
      kernel_init: law of W at the start, `[d, f]`.
      bias_init: law of b at the start, `[f]`.
      dtype: dtype of the computation; None: that of the parameters.
      param_dtype: dtype of the parameters at the start.

    Example:
      >>> y, variables = SparseDense(2).init_with_output(jax.random.key(0), jnp.ones((4, 3)))
      >>> print(y.shape, variables["params"]["kernel"].shape)
      (4, 2) (3, 2)
    """

    features: int
    use_bias: bool = True
    kernel_init: Callable[..., jax.Array] = nn.initializers.lecun_normal()
    bias_init: Callable[..., jax.Array] = nn.initializers.zeros_init()
    dtype: Any = None
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Any) -> jax.Array:
        """Applies the layer.

        Args:
          x: `[..., d]` floating-point, or a `SparseInput` of `[n, d]`.

        Returns:
          `[..., f]`, or `[n, f]`.
        """
        shape = (x.shape[-1], self.features)
        kernel = self.param("kernel", self.kernel_init, shape, self.param_dtype)
        dtype = kernel.dtype if self.dtype is None else self.dtype
        y = x.astype(dtype) @ kernel.astype(dtype)
        if self.use_bias:
            bias = self.param("bias", self.bias_init, shape[1:], self.param_dtype)
            y = y + jnp.expand_dims(bias.astype(dtype), range(y.ndim - 1))
        return y
