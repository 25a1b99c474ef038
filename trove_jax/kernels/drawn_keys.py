"""Which keys attention draws: locally biased permutations and unbiased subsets of positions.

All laws are exchangeable with their padding: a padded position sorts behind every valid one, so
that a batch of sequences of several lengths is drawn with one static shape.
"""

from collections.abc import Callable
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

Noise = Literal["normal", "uniform"] | Callable[[jax.Array, tuple[int, ...]], jax.Array]


def locally_biased_permutation(
    key: jax.Array,
    n: int,
    sigma: float | jax.Array,
    *,
    lengths: jax.Array | None = None,
    noise: Noise = "normal",
) -> jax.Array:
    """Draws an order of positions in which each stays near its place.

    perm = argsort_j(j + sigma eps_j), eps_j independent, of mean 0 and variance 1

    Cut into windows of w ranks, each window holds w positions and each position is in one window:
    `kernels.subsampled_attention` lets the queries of a window see the keys it holds. Without
    noise they are the keys of their own window; with a spread far above n they are any w.

    The sums are float32 and the sort is stable: positions beyond 2^24 are rounded, and tie.

    Args:
      key: a typed random key, scalar.
      n: number of positions, at least 1.
      sigma: spread in positions, at least 0; a half to one window is usual.
      lengths: how many positions are valid, integers `[]` or `[b]`; None for all. The others come
        behind the valid ones, in order. Example i of a batch draws from `fold_in(key, i)`, the
        same in a batch of any size.
      noise: `"normal"`, `"uniform"` on (-sqrt 3, sqrt 3), or a function of key and shape that
        returns float32. The authors' law is not published; a normal one is assumed.

    Returns:
      Positions by rank, int32 `[n]`, or `[b, n]` for `lengths` `[b]`.

    Raises:
      ValueError: `n` below 1; a negative `sigma`; a length outside 1..n or that is no integer; an
        unknown noise; noise of another shape. Values are checked where they are known before
        compilation.

    Example:
      >>> key = jax.random.key(0)
      >>> print(locally_biased_permutation(key, 6, 0.0))
      [0 1 2 3 4 5]
      >>> perm = locally_biased_permutation(key, 6, 2.0, lengths=jnp.array([6, 4]))
      >>> print(sorted(perm[0].tolist()), perm[1, 4:])
      [0, 1, 2, 3, 4, 5] [4 5]

    Reference: Hussain et al., The Information Pathways Hypothesis: Transformers are Dynamic
    Self-Ensembles, KDD 2023 (locally biased stochastically subsampled attention).
    """
    _check_count("n", n)
    _check_spread(sigma)
    if not callable(noise) and noise not in ("normal", "uniform"):
        raise ValueError(
            f'noise={noise!r} is unknown; use "normal", "uniform" or a function of key and shape'
        )
    places = jnp.arange(n, dtype=jnp.int32)
    spread = jnp.asarray(sigma, jnp.float32)

    def draw(key, length):
        drawn = places.astype(jnp.float32) + spread * _noise(key, n, noise)
        if length is not None:
            # Infinite noise ties with the padding, and the stable sort still puts it first.
            drawn = jnp.where(places < length, drawn, jnp.inf)
        return lax.sort((drawn, places), num_keys=1, is_stable=True)[1]

    return _by_length(draw, key, lengths, n)


def unbiased_subset(
    key: jax.Array, n: int, k: int, *, lengths: jax.Array | None = None
) -> jax.Array:
    """Draws k of n positions, every subset with the same probability.

    P(S) = 1 / C(n, k); P(j in S) = k / n; P(i, j in S) = k (k - 1) / (n (n - 1))

    Args:
      key: a typed random key, scalar.
      n: number of positions, at least 1.
      k: how many to draw, 1..n.
      lengths: how many positions are valid, integers `[]` or `[b]`; None for all. Of fewer than k,
        all are drawn, and then the first ones behind them, which attention has to mask. Example i
        of a batch draws from `fold_in(key, i)`, the same in a batch of any size.

    Returns:
      Ascending positions, int32 `[k]`, or `[b, k]` for `lengths` `[b]`.

    Raises:
      ValueError: `n` below 1; `k` outside 1..n; a length outside 1..n, checked where it is known
        before compilation, or that is no integer.

    Example:
      >>> print(unbiased_subset(jax.random.key(0), 5, 5))
      [0 1 2 3 4]
      >>> print(unbiased_subset(jax.random.key(0), 9, 3, lengths=jnp.array([2])))
      [[0 1 2]]

    Reference: Hussain et al., The Information Pathways Hypothesis: Transformers are Dynamic
    Self-Ensembles, KDD 2023 (unbiased stochastically subsampled attention).
    """
    _check_count("n", n)
    _check_count("k", k)
    if k > n:
        raise ValueError(f"k={k} keys cannot be drawn from n={n}; use k <= n")
    places = jnp.arange(n, dtype=jnp.int32)

    def draw(key, length):
        # All 32 bits decide: uniform floats have 23, and their ties would favour early positions.
        bits = jax.random.bits(key, (n,), jnp.uint32)
        if length is None:
            drawn = lax.sort((bits, places), num_keys=1, is_stable=True)[1]
        else:
            padded = (places >= length).astype(jnp.uint32)
            bits = jnp.where(places < length, bits, places.astype(jnp.uint32))
            drawn = lax.sort((padded, bits, places), num_keys=2, is_stable=True)[2]
        return jnp.sort(drawn[:k])

    return _by_length(draw, key, lengths, n)


def product_permutation_2d(
    key: jax.Array, grid: tuple[int, int], sigma: float | tuple[float, float]
) -> jax.Array:
    """Draws an order of the cells of a grid in which each stays near its place.

    perm(r, c) = (p(r), p'(c)), with one locally biased permutation for each axis

    A window of a by b places holds a b cells, all of which meet a rows and b columns. For
    `kernels.subsampled_attention`, bring the cells into the order of windows first:

        order = window_order(grid, window)
        drawn = jnp.argsort(order)[product_permutation_2d(key, grid, sigma)[order]]
        subsampled_attention(q[:, order], k[:, order], v[:, order], drawn[None], window=a * b)

    Args:
      key: a typed random key, scalar.
      grid: rows and columns, each at least 1.
      sigma: spread in cells along both axes, or along each.

    Returns:
      The cell at each place, both counted row by row, int32 `[rows * columns]`.

    Raises:
      ValueError: an axis of the grid below 1; a negative `sigma`.

    Example:
      >>> print(product_permutation_2d(jax.random.key(0), (2, 3), 0.0))
      [0 1 2 3 4 5]

    Reference: Hussain et al., The Information Pathways Hypothesis: Transformers are Dynamic
    Self-Ensembles, KDD 2023 (of which the form for images is not published; this one is ours).
    """
    rows, columns = grid
    sigmas = sigma if isinstance(sigma, tuple) else (sigma, sigma)
    down, across = (
        locally_biased_permutation(key, size, spread)
        for key, size, spread in zip(jax.random.split(key), (rows, columns), sigmas, strict=True)
    )
    return (down[:, None] * np.int32(columns) + across[None, :]).ravel()


def window_order(grid: tuple[int, int], window: tuple[int, int]) -> np.ndarray:
    """Lists the cells of a grid window by window, those of a window row by row.

    Args:
      grid: rows and columns.
      window: rows and columns of a window; they divide those of the grid.

    Returns:
      Cells, counted row by row, int32 `[rows * columns]`, a NumPy array. `np.argsort` of it leads
      back.

    Raises:
      ValueError: a window that does not divide the grid.

    Example:
      >>> print(window_order((2, 4), (2, 2)))
      [0 1 4 5 2 3 6 7]
    """
    for name, size, part in zip(("rows", "columns"), grid, window, strict=True):
        if size < 1 or part < 1 or size % part:
            raise ValueError(
                f"window={window} does not divide the {size} {name} of grid={grid}; use a divisor"
            )
    (rows, columns), (high, wide) = grid, window
    cells = np.arange(rows * columns, dtype=np.int32)
    cells = cells.reshape(rows // high, high, columns // wide, wide)
    return cells.transpose(0, 2, 1, 3).ravel()


def check_lengths(lengths: jax.Array, n: int, *, most_axes: int = 1) -> jax.Array:
    """Numbers of valid positions as int32, refused if they are known not to be within 1..n."""
    lengths = jnp.asarray(lengths)
    if lengths.ndim > most_axes or not jnp.issubdtype(lengths.dtype, jnp.integer):
        raise ValueError(
            f"lengths has shape {lengths.shape} and dtype {lengths.dtype}; integers [] or [b] "
            "are wanted"
        )
    known = known_values(lengths)
    if known is not None and known.size and not 1 <= known.min() <= known.max() <= n:
        raise ValueError(
            f"lengths go from {known.min()} to {known.max()}; 1..{n} is wanted: leave an empty "
            "sequence out of the batch"
        )
    return lengths.astype(jnp.int32)


def _by_length(draw, key, lengths, n):
    """Draws once, or once for each example of a batch."""
    if lengths is None:
        return draw(key, None)
    lengths = check_lengths(lengths, n)
    if not lengths.ndim:
        return draw(key, lengths)
    each = jnp.arange(lengths.shape[0], dtype=jnp.uint32)
    return jax.vmap(lambda i, length: draw(jax.random.fold_in(key, i), length))(each, lengths)


def _noise(key, n, noise):
    if noise == "normal":
        return jax.random.normal(key, (n,), jnp.float32)
    if noise == "uniform":
        return jax.random.uniform(key, (n,), jnp.float32, -(3.0**0.5), 3.0**0.5)
    drawn = noise(key, (n,))
    if drawn.shape != (n,):
        raise ValueError(f"noise returned shape {drawn.shape}; {(n,)} is wanted")
    return drawn.astype(jnp.float32)


def _check_count(name, count):
    if count < 1:
        raise ValueError(f"{name}={count} must be at least 1")


def _check_spread(sigma):
    known = known_values(sigma)
    if known is not None and not (known >= 0).all():
        raise ValueError(f"sigma={sigma} is no spread; use 0 (no noise) or more")


def known_values(x) -> np.ndarray | None:
    """The values of an array, None while a function is traced for any values."""
    try:
        return np.asarray(x)
    except jax.errors.TracerArrayConversionError:
        return None
