"""Pooling whose gradient is quick on a CPU.

XLA's gradient of a window maximum takes 30 times as long as its forward pass on a CPU. Where
windows do not overlap, the maximum over a handful of strided views does the same.
"""

import functools
import itertools
import math
from collections.abc import Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp

_MAX_VIEWS = 64


def max_pool(
    x: jax.Array,
    window_shape: Sequence[int],
    strides: Sequence[int] | None = None,
    padding: str | Sequence[tuple[int, int]] = "VALID",
) -> jax.Array:
    """Takes the maximum over windows, as `flax.linen.max_pool` does.

    Windows that lie side by side (strides equal to the window, no padding) take the quick way;
    all others go to Flax. The results agree, NaNs included. So do the gradients: where several
    entries of a window share the maximum, the first of them, in row-major order, gets all.

    Args:
      x: `[..., *space, d]`, floating.
      window_shape: the window, one size for each axis of space.
      strides: steps between windows; default 1 each, as in Flax.
      padding: `"VALID"`, `"SAME"` or one pair `(low, high)` for each axis of space.

    Returns:
      `[..., *out, d]` in the dtype of `x`.

    Raises:
      ValueError: the window has more axes than `x`, or another number than the strides.

    Example:
      >>> x = jnp.array([[1.0, 5.0, 2.0, 3.0]]).reshape(1, 4, 1)
      >>> print(max_pool(x, (2,), strides=(2,)).ravel())
      [5. 3.]
    """
    window = _window(x, window_shape, strides)
    if not _side_by_side(x, window, strides, padding):
        strides = None if strides is None else tuple(strides)
        return nn.pool(x, -jnp.inf, jax.lax.max, window, strides, padding)
    return _max(_split(x, window), len(window))


def avg_pool(
    x: jax.Array,
    window_shape: Sequence[int],
    strides: Sequence[int] | None = None,
    padding: str | Sequence[tuple[int, int]] = "VALID",
    *,
    count_include_pad: bool = True,
) -> jax.Array:
    """Takes the mean over windows, as `flax.linen.avg_pool` does (to rounding).

    Args:
      x: `[..., *space, d]`, floating.
      window_shape: the window, one size for each axis of space.
      strides: steps between windows; default 1 each, as in Flax.
      padding: `"VALID"`, `"SAME"` or one pair `(low, high)` for each axis of space.
      count_include_pad: whether padding counts as zeros (else it does not count).

    Returns:
      `[..., *out, d]` in the dtype of `x`.

    Raises:
      ValueError: the window has more axes than `x`, or another number than the strides.

    Example:
      >>> x = jnp.array([[1.0, 5.0, 2.0, 4.0]]).reshape(1, 4, 1)
      >>> print(avg_pool(x, (2,), strides=(2,)).ravel())
      [3. 3.]
    """
    window = _window(x, window_shape, strides)
    if not _side_by_side(x, window, strides, padding):
        strides = None if strides is None else tuple(strides)
        total = nn.pool(x, 0.0, jax.lax.add, window, strides, padding)
        if count_include_pad:
            return total / math.prod(window)
        return total / nn.pool(jnp.ones_like(x), 0.0, jax.lax.add, window, strides, padding)
    views = _views(_split(x, window), len(window))
    return sum(views[1:], views[0]) / math.prod(window)


def _window(x, window_shape, strides) -> tuple[int, ...]:
    window = tuple(window_shape)
    if x.ndim < len(window) + 1:
        raise ValueError(
            f"window_shape={window} needs an x of rank {len(window) + 1} or more "
            f"([..., *space, d]), not {x.ndim}"
        )
    if strides is not None and len(strides) != len(window):
        raise ValueError(
            f"strides={tuple(strides)} and window_shape={window} must have the same length"
        )
    return window


def _side_by_side(x, window, strides, padding) -> bool:
    if strides is None or tuple(strides) != window or math.prod(window) > _MAX_VIEWS:
        return False
    if not jnp.issubdtype(x.dtype, jnp.floating) or x.size == 0:
        return False
    space = x.shape[-1 - len(window) : -1]
    if any(n < w for n, w in zip(space, window, strict=True)):
        return False
    if isinstance(padding, str):
        even = all(n % w == 0 for n, w in zip(space, window, strict=True))
        return padding == "VALID" or (padding == "SAME" and even)
    return all(tuple(pair) == (0, 0) for pair in padding)


def _split(x: jax.Array, window: tuple[int, ...]) -> jax.Array:
    """`[..., n, d]` to `[..., n // w, w, d]` for each axis of space; what is left over is cut."""
    lead = x.ndim - 1 - len(window)
    space = x.shape[lead:-1]
    x = x[(..., *(slice(n // w * w) for n, w in zip(space, window, strict=True)), slice(None))]
    pairs = [size for n, w in zip(space, window, strict=True) for size in (n // w, w)]
    return x.reshape(*x.shape[:lead], *pairs, x.shape[-1])


def _views(x: jax.Array, rank: int) -> list[jax.Array]:
    """The entries of all windows, one view for each place in the window, row-major."""
    window = [x.shape[axis] for axis in range(x.ndim - 2 * rank, x.ndim, 2)]
    places = itertools.product(*(range(w) for w in window))
    return [
        x[(..., *(part for p in place for part in (slice(None), p)), slice(None))]
        for place in places
    ]


def _first_maximum(x: jax.Array, rank: int) -> tuple[jax.Array, jax.Array]:
    views = _views(x, rank)
    best, place = views[0], jnp.zeros(views[0].shape, jnp.int8)
    for index, view in enumerate(views[1:], 1):
        better = (view > best) | (jnp.isnan(view) & ~jnp.isnan(best))
        best = jnp.where(better, view, best)
        place = jnp.where(better, jnp.int8(index), place)
    return best, place


@functools.partial(jax.custom_jvp, nondiff_argnums=(1,))
def _max(x: jax.Array, rank: int) -> jax.Array:
    return _first_maximum(x, rank)[0]


@_max.defjvp
def _max_jvp(rank, primals, tangents):
    (x,), (dx,) = primals, tangents
    best, place = _first_maximum(x, rank)
    axes = tuple(range(x.ndim - 2 * rank, x.ndim, 2))
    window = tuple(x.shape[axis] for axis in axes)
    index = jnp.arange(math.prod(window), dtype=jnp.int8)
    shape = [x.shape[axis] if axis in axes else 1 for axis in range(x.ndim)]
    chosen = jnp.expand_dims(place, axes) == index.reshape(shape)
    return best, jnp.where(chosen, dx, jnp.zeros((), dx.dtype)).sum(axes)
