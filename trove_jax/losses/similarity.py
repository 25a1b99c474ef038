"""How alike two representations of the same examples are (public in `trove_jax.analysis`).

All measures are 1 for representations that differ by a rotation and a scale, and need no pairing
of features: the two may have any widths. Only the pairing of the examples counts.
"""

from typing import Any, Literal

import jax
import jax.numpy as jnp

Form = Literal["auto", "gram", "feature"]

_EXACT = jax.lax.Precision.HIGHEST
# Centred values up to this many roundings of the values themselves are no variation.
_ROUNDINGS = 8


def linear_cka(
    x: jax.Array,
    y: jax.Array,
    *,
    debiased: bool = False,
    form: Form = "auto",
    axis_name: str | None = None,
) -> jax.Array:
    """Centred kernel alignment with linear kernels.

    HSIC(K, L) / sqrt(HSIC(K, K) HSIC(L, L)) with K = X X^T, L = Y Y^T and
    HSIC(K, L) = sum (H K H) * (H L H), H = I - 11^T / b. Debiased, with the diagonals of K and L
    set to 0: [tr KL + (1'K1)(1'L1) / ((b-1)(b-2)) - 2/(b-2) 1'KL1] / (b(b-3)).

    The biased value tends to 1 for independent features that are many more than the examples;
    the debiased one tends to 0.

    Args:
      x: one representation, `[b, ...]`, floating; the axes behind the first are flattened.
      y: another one of the same examples, `[b, ...]`.
      debiased: which of the two estimates; the debiased one may be negative.
      form: through `b x b` matrices (`"gram"`), through `d x d` ones (`"feature"`), or what is
        cheaper (`"auto"`). The value is the same.
      axis_name: mapped axis over which the batch is sharded; the value is that of the whole batch
        (`gram` gathers features, `feature` adds `d x d` matrices).

    Returns:
      Scalar, at least float32: in [0, 1] if biased. 0, with gradient 0, where a representation
      is the same for all examples (`is_degenerate`), or the debiased self-similarity vanishes.

    Raises:
      ValueError: the batches differ, hold one example (debiased: fewer than four), are not
        floating, or `form` is unknown.

    Example:
      >>> x = jnp.array([[1.0, 0.0], [0.0, 1.0], [2.0, 2.0]])
      >>> print(linear_cka(x, -3.0 * x[:, ::-1]).round(4))
      1.0

    Reference: Kornblith et al., Similarity of Neural Network Representations Revisited, ICML 2019
    (equation 4); Song et al., Feature Selection via Dependence Maximization, JMLR 2012 (the
    U-statistic).
    """
    if form not in ("auto", "gram", "feature"):
        raise ValueError(f'form={form!r} is unknown; use "auto", "gram" or "feature"')
    x, y = _pair(x, y)
    b = check_examples(x.shape[0], debiased=debiased, axis_name=axis_name)
    if form == "auto":
        (_, d), (_, e) = x.shape, y.shape
        form = "gram" if b * (d + e) <= d * d + e * e + d * e else "feature"
    if form == "gram":
        grams = [gram(leaf, axis_name=axis_name) for leaf in (x, y)]
        return alignment(*grams, debiased=debiased)
    x, y = (_normalised(leaf, axis_name) for leaf in (x, y))

    def product(a, c):
        cross = jnp.matmul(a.T, c, precision=_EXACT)
        k, l = jnp.sum(a * a, axis=1), jnp.sum(c * c, axis=1)  # noqa: E741
        sums = jnp.sum(k * l), jnp.sum(k), jnp.sum(l)
        if axis_name is not None:
            cross, sums = jax.lax.psum((cross, sums), axis_name)
        both, k, l = sums  # noqa: E741
        return _hsic(jnp.sum(cross * cross), both, k, l, b, debiased)

    return _ratio(product(x, y), product(x, x), product(y, y))


def rbf_cka(
    x: jax.Array,
    y: jax.Array,
    *,
    bandwidth: float = 1.0,
    debiased: bool = False,
    axis_name: str | None = None,
) -> jax.Array:
    """Centred kernel alignment with Gaussian kernels.

    As `linear_cka` with K_ij = exp(-|x_i - x_j|^2 / (2 s^2)), s^2 = bandwidth^2 times the median
    squared distance of two different examples.

    Args:
      x: one representation, `[b, ...]`, floating.
      y: another one of the same examples, `[b, ...]`.
      bandwidth: above 0; small: only near neighbours count, large: as with linear kernels.
      debiased: as `linear_cka`.
      axis_name: as `linear_cka`.

    Returns:
      Scalar, at least float32; 0 where the median distance of a representation is 0.

    Raises:
      ValueError: as `linear_cka`, or `bandwidth` is not positive.

    Example:
      >>> x = jnp.array([[1.0, 0.0], [0.0, 1.0], [2.0, 2.0]])
      >>> print(rbf_cka(x, 1.0 - x).round(4))
      1.0

    Reference: Kornblith et al., ICML 2019 (section 3).
    """
    if not bandwidth > 0:
        raise ValueError(f"bandwidth={bandwidth} must be above 0, such as 0.5")
    x, y = _pair(x, y)
    check_examples(x.shape[0], debiased=debiased, axis_name=axis_name)
    grams = []
    for leaf in (x, y):
        inner = gram(leaf, axis_name=axis_name)
        b = inner.shape[0]
        squares = jnp.diagonal(inner)
        distances = jnp.maximum(squares[:, None] + squares[None, :] - 2.0 * inner, 0.0)
        median = jnp.median(distances[jnp.triu_indices(b, 1)])
        dead = median <= _ROUNDINGS * jnp.finfo(inner.dtype).eps * jnp.max(squares)
        spread = jnp.where(dead, 1.0, 2.0 * bandwidth**2 * median)
        kernel = jnp.where(dead, 0.0, jnp.exp(-distances / spread))
        rows = kernel - kernel.mean(axis=0, keepdims=True)
        grams.append(rows - rows.mean(axis=1, keepdims=True))
    return alignment(*grams, debiased=debiased)


def rsa(x: jax.Array, y: jax.Array, *, axis_name: str | None = None) -> jax.Array:
    """Representational similarity: the correlation of two matrices of cosines.

    Pearson(vec S_X, vec S_Y), S_ij the cosine of x_i and x_j, over all b^2 entries.

    Args:
      x: one representation, `[b, ...]`, floating.
      y: another one of the same examples, `[b, ...]`.
      axis_name: mapped axis over which the batch is sharded.

    Returns:
      Scalar in [-1, 1], at least float32; 0 where all cosines of a representation are equal. An
      example of norm 0 has the cosine 0 with all.

    Raises:
      ValueError: the batches differ, hold one example, or are not floating.

    Example:
      >>> x = jnp.array([[1.0, 0.0], [0.0, 1.0], [2.0, 2.0]])
      >>> print(rsa(x, 5.0 * x).round(4))
      1.0

    Reference: Subramaniam et al., Training the Untrainable, NeurIPS 2025 (`rep_sim`, with the
    diagonal as there); Kriegeskorte et al., Representational similarity analysis, 2008.
    """
    x, y = _pair(x, y)
    check_examples(x.shape[0], axis_name=axis_name)
    parts = []
    for leaf in (x, y):
        leaf = _gather(leaf, axis_name)
        largest = jax.lax.stop_gradient(jnp.max(jnp.abs(leaf), axis=1, keepdims=True))
        leaf = leaf / jnp.where(largest == 0, 1.0, largest)
        squares = jnp.sum(leaf * leaf, axis=1, keepdims=True)
        empty = squares == 0
        leaf = jnp.where(empty, 0.0, leaf / jnp.sqrt(jnp.where(empty, 1.0, squares)))
        cosines = jnp.matmul(leaf, leaf.T, precision=_EXACT).reshape(-1, 1)
        parts.append(_normalised(cosines, None))
    return jnp.sum(parts[0] * parts[1])


def procrustes(x: jax.Array, y: jax.Array, *, axis_name: str | None = None) -> jax.Array:
    """Orthogonal Procrustes similarity: how well a rotation carries one onto the other.

    |X^T Y|_* (the nuclear norm), with centred columns and Frobenius norms of 1. The squared
    distance after the best rotation is 2 - 2 of it; `scipy.spatial.procrustes` gives 1 minus its
    square.

    Args:
      x: one representation, `[b, ...]`, floating.
      y: another one of the same examples, `[b, ...]`.
      axis_name: mapped axis over which the batch is sharded.

    Returns:
      Scalar in [0, 1], at least float32; 0 where a representation is the same for all examples.
      Where the cross-covariance is rank-deficient the gradient is the smallest subgradient.

    Raises:
      ValueError: the batches differ, hold one example, or are not floating.

    Example:
      >>> x = jnp.array([[1.0, 0.0], [0.0, 1.0], [2.0, 2.0]])
      >>> print(procrustes(x, 1.0 - x[:, ::-1]).round(4))
      1.0

    Reference: Ding et al., Grounding Representation Similarity with Statistical Testing, NeurIPS
    2021 (section 2).
    """
    x, y = _pair(x, y)
    check_examples(x.shape[0], axis_name=axis_name)
    return _nuclear(*(_normalised(_gather(leaf, axis_name), None) for leaf in (x, y)))


def is_degenerate(x: jax.Array, *, axis_name: str | None = None) -> jax.Array:
    """Whether a representation is the same for all examples, up to rounding.

    Args:
      x: `[b, ...]`, floating.
      axis_name: mapped axis over which the batch is sharded.

    Returns:
      Boolean scalar; False where `x` holds NaN.

    Example:
      >>> bool(is_degenerate(jnp.full((3, 2), 0.1))), bool(is_degenerate(1e-20 * jnp.eye(3)))
      (True, False)
    """
    return jnp.trace(gram(x, axis_name=axis_name)) == 0


def gram(x: jax.Array, *, axis_name: str | None = None) -> jax.Array:
    """Centred Gram matrix of a batch, scaled to trace 1.

    Args:
      x: `[b, ...]`, floating.
      axis_name: mapped axis over which the batch is sharded; the result is the whole matrix.

    Returns:
      (HX)(HX)^T / |HX|^2, `[b, b]`, at least float32; 0 where `x` is degenerate.

    Raises:
      ValueError: `x` has no axis but the first, or is not floating.

    Example:
      >>> print(gram(jnp.array([[1.0], [3.0]])).round(3))
      [[ 0.5 -0.5]
       [-0.5  0.5]]
    """
    x, _, of_mean = _centred(_gather(_rows("x", x), axis_name), None)
    inner = jnp.matmul(x, x.T, precision=_EXACT)
    return _unit(inner, jnp.trace(inner), of_mean)


def centred_norm(x: jax.Array, *, axis_name: str | None = None) -> jax.Array:
    """Frobenius norm of a batch with centred columns, the root of what `gram` divides by.

    Args:
      x: `[b, ...]`, floating.
      axis_name: mapped axis over which the batch is sharded.

    Returns:
      |HX|, at least float32; 0 where `x` is degenerate.

    Example:
      >>> print(centred_norm(jnp.array([[1.0], [3.0]])).round(4))
      1.4142
    """
    x, scale, of_mean = _centred(_gather(_rows("x", x), axis_name), None)
    square = jnp.sum(x * x)
    return scale * jnp.sqrt(square) * _unit(square, square, of_mean)


def alignment(k: jax.Array, l: jax.Array, *, debiased: bool = False) -> jax.Array:  # noqa: E741
    """Centred kernel alignment of two centred kernel matrices.

    Args:
      k: with rows and columns that sum to 0, `[b, b]`.
      l: the same of another representation.
      debiased: as `linear_cka`.

    Returns:
      Scalar; 0 where a self-similarity vanishes.

    Example:
      >>> k = gram(jnp.array([[1.0], [3.0]]))
      >>> print(alignment(k, k).round(4))
      1.0
    """
    return _ratio(*(hsic(a, c, debiased=debiased) for a, c in ((k, l), (k, k), (l, l))))


def hsic(k: jax.Array, l: jax.Array, *, debiased: bool = False) -> jax.Array:  # noqa: E741
    """Hilbert-Schmidt independence criterion of two centred kernel matrices, times b^2.

    Debiased: the U-statistic, times b(b-3). It does not change when kernels are centred first;
    with rows that sum to 0 only the diagonals are left to correct.

    Args:
      k: `[b, b]`.
      l: `[b, b]`.
      debiased: whether to take the U-statistic.

    Returns:
      Scalar.

    Example:
      >>> k = gram(jnp.array([[1.0], [3.0]]))
      >>> print(hsic(k, k).round(3))
      1.0
    """
    a, c = jnp.diagonal(k), jnp.diagonal(l)
    return _hsic(jnp.sum(k * l), jnp.sum(a * c), a.sum(), c.sum(), k.shape[0], debiased)


def check_examples(b: int, *, debiased: bool = False, axis_name: str | None = None) -> int:
    """Refuses batches that are too small, and counts the examples of all shards.

    Args:
      b: examples on this shard.
      debiased: whether a U-statistic is wanted.
      axis_name: mapped axis over which the batch is sharded.

    Returns:
      Examples of the whole batch.

    Raises:
      ValueError: one example, or fewer than four if `debiased`.

    Example:
      >>> check_examples(2)
      2
    """
    total = b if axis_name is None else b * jax.lax.axis_size(axis_name)
    least = 4 if debiased else 2
    if total < least:
        raise ValueError(
            f"x has {total} examples; {'debiased ' if debiased else ''}similarity needs at least "
            f"{least}"
        )
    return total


def widest(*dtypes: Any) -> Any:
    """The widest of floating dtypes, float32 at least.

    Args:
      *dtypes: floating.

    Returns:
      A dtype.

    Example:
      >>> widest(jnp.bfloat16, jnp.float16).__name__
      'float32'
    """
    return max((jnp.float32, *dtypes), key=lambda dtype: jnp.dtype(dtype).itemsize)


def _rows(name: str, x: jax.Array) -> jax.Array:
    if x.ndim < 2 or not jnp.issubdtype(x.dtype, jnp.floating):
        raise ValueError(f"{name} is {x.dtype} {list(x.shape)}; floating-point [b, ...] is wanted")
    return x.reshape(x.shape[0], -1).astype(widest(x.dtype))


def _pair(x: jax.Array, y: jax.Array) -> tuple[jax.Array, jax.Array]:
    x, y = _rows("x", x), _rows("y", y)
    if x.shape[0] != y.shape[0]:
        raise ValueError(
            f"x has {x.shape[0]} examples and y {y.shape[0]}; give two representations of one batch"
        )
    dtype = widest(x.dtype, y.dtype)
    return x.astype(dtype), y.astype(dtype)


def _gather(x: jax.Array, axis_name: str | None) -> jax.Array:
    return x if axis_name is None else jax.lax.all_gather(x, axis_name, tiled=True)


def _centred(x: jax.Array, axis_name: str | None) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Subtracts the mean example and divides by a scale.

    Returns the result, the scale, and the square norm that the mean adds in units of the scale.
    """
    mean = x.mean(axis=0, keepdims=True)
    mean = mean if axis_name is None else jax.lax.pmean(mean, axis_name)
    x = x - mean
    # The scale drops out of every measure, so it needs no gradient; the squares of small or large
    # activations would leave the range of float32. A mean is enough, and a maximum takes longer.
    scale = jnp.mean(jnp.abs(jax.lax.stop_gradient(x)))
    scale = scale if axis_name is None else jax.lax.pmean(scale, axis_name)
    scale = jnp.where(scale == 0, 1.0, scale)
    b = x.shape[0] if axis_name is None else x.shape[0] * jax.lax.axis_size(axis_name)
    return x / scale, scale, b * jnp.sum(jnp.square(jax.lax.stop_gradient(mean) / scale))


def _unit(x: jax.Array, square: jax.Array, of_mean: jax.Array, *, root: bool = False) -> jax.Array:
    """Divides by a square norm, or its root; 0 where the square is rounding of what is centred."""
    dead = square <= (_ROUNDINGS * jnp.finfo(square.dtype).eps) ** 2 * (square + of_mean)
    square = jnp.where(dead, 1.0, square)
    return jnp.where(dead, 0.0, x / (jnp.sqrt(square) if root else square))


def _normalised(x: jax.Array, axis_name: str | None) -> jax.Array:
    """Centres the columns and scales the matrix to Frobenius norm 1."""
    x, _, of_mean = _centred(x, axis_name)
    square = jnp.sum(x * x)
    square = square if axis_name is None else jax.lax.psum(square, axis_name)
    return _unit(x, square, of_mean, root=True)


def _hsic(inner, diagonals, a, c, b: int, debiased: bool):
    if not debiased:
        return inner
    # tr KL = inner - diagonals, 1'K1 = -a, 1'L1 = -c, 1'KL1 = diagonals: rows sum to 0.
    value = inner - diagonals + a * c / ((b - 1) * (b - 2)) - 2.0 / (b - 2) * diagonals
    # What is left of a difference that cancels is rounding.
    return jnp.where(jnp.abs(value) <= _ROUNDINGS * jnp.finfo(value.dtype).eps * inner, 0.0, value)


def _ratio(xy, xx, yy):
    dead = (xx <= 0) | (yy <= 0)
    return jnp.where(dead, 0.0, xy / jnp.sqrt(jnp.where(dead, 1.0, xx * yy)))


@jax.custom_jvp
def _nuclear(x: jax.Array, y: jax.Array) -> jax.Array:
    """Nuclear norm of X^T Y."""
    return _nuclear_and_slopes(x, y)[0]


def _nuclear_and_slopes(x, y):
    # X^T = Q R turns the d x d matrix into R_x R_y^T, at most b x b.
    (qx, rx), (qy, ry) = jnp.linalg.qr(x.T), jnp.linalg.qr(y.T)
    u, values, vt = jnp.linalg.svd(jnp.matmul(rx, ry.T, precision=_EXACT), full_matrices=False)
    tiny = max(x.shape) * jnp.finfo(x.dtype).eps * values.max(initial=0.0)
    polar = jnp.matmul(u * (values > tiny).astype(u.dtype)[None, :], vt, precision=_EXACT)
    slope_x = jnp.linalg.multi_dot([ry.T, polar.T, qx.T], precision=_EXACT)
    slope_y = jnp.linalg.multi_dot([rx.T, polar, qy.T], precision=_EXACT)
    return values.sum(), slope_x, slope_y


@_nuclear.defjvp
def _nuclear_jvp(primals, tangents):
    value, slope_x, slope_y = _nuclear_and_slopes(*primals)
    dx, dy = tangents
    return value, jnp.sum(slope_x * dx) + jnp.sum(slope_y * dy)
