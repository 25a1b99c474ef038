"""The forms a convolution and its kernel gradient take on a CPU: matmuls, shifts, phases.

XLA on a CPU runs one form of convolution well, anywhere: batch first, channels last, one group,
no dilated input. Everything here is written as that, as a matmul, or as shifted multiply-adds.
Arrays are `[b, *space, d]`, kernels `[*window, d / groups, features]`.
"""

import itertools
import math
from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

# A matmul over gathered windows beats XLA's convolution up to this many columns (measured: RGB
# input 2.6 ms against 10.9; from 48 columns on, writing the windows costs more than it saves).
_GATHER_COLUMNS = 32
# Windows are gathered by a sum of padded parts, which costs (parts)^2; longer axes are looped.
_GATHER_PARTS = 5
# The gradient to a kernel works through a batch in chunks whose copies take this much of a CPU's
# cache (measured for 16 to 64 channels: 1 to 4 MB are alike, 25 MB take 1.4 to 1.8 times as long).
_CHUNK_BYTES = 4 << 20
# A matmul by rows of the window beats XLA's convolution, by 1.2 to 1.5 times, between these numbers
# of channels and while its copies are no larger than this.
_ROWS_CHANNELS = (24, 96)
_ROWS_BYTES = 32 << 20
# Groups are merged into dense blocks of at least this many channels.
_BLOCK_CHANNELS = 16


class Spec(NamedTuple):
    """The static side of a convolution; one entry an axis of space where it is a tuple."""

    strides: tuple[int, ...]
    padding: tuple[tuple[int, int], ...]
    lhs_dilation: tuple[int, ...]
    rhs_dilation: tuple[int, ...]
    groups: int
    precision: Any
    dtype: Any


def native(spec: Spec, x: jax.Array, kernel: jax.Array) -> jax.Array:
    """XLA's own convolution, channels last."""
    rank = x.ndim - 2
    space = tuple(range(1, rank + 1))
    return lax.conv_general_dilated(
        x,
        kernel,
        spec.strides,
        spec.padding,
        lhs_dilation=spec.lhs_dilation,
        rhs_dilation=spec.rhs_dilation,
        dimension_numbers=lax.ConvDimensionNumbers(
            (0, rank + 1, *space), (rank + 1, rank, *range(rank)), (0, rank + 1, *space)
        ),
        feature_group_count=spec.groups,
        precision=spec.precision,
        preferred_element_type=spec.dtype,
    )


def output_space(spec: Spec, space: tuple[int, ...], window: tuple[int, ...]) -> tuple[int, ...]:
    """Sizes of the axes of space of the output."""
    sizes = []
    for axis, (low, high) in enumerate(spec.padding):
        size = low + high + (space[axis] - 1) * spec.lhs_dilation[axis] + 1
        reach = (window[axis] - 1) * spec.rhs_dilation[axis] + 1
        sizes.append(max(0, (size - reach) // spec.strides[axis] + 1))
    return tuple(sizes)


def convolve(spec: Spec, x: jax.Array, kernel: jax.Array) -> jax.Array:
    """The convolution, in the form that was measured fastest for its kind.

    Args:
      spec: strides, padding, dilations, groups.
      x: `[b, *space, d]`.
      kernel: `[*window, d / groups, features]`.

    Returns:
      `[b, *out, features]` in `spec.dtype`.
    """
    window = kernel.shape[:-2]
    if max(spec.lhs_dilation) > 1:
        return _convolve_phases(spec, x, kernel)
    spec, x = _crop(spec, x)
    if spec.groups > 1:
        if kernel.shape[-2] == 1:
            return _convolve_depthwise(spec, x, kernel)
        return _convolve_blocks(spec, x, kernel)
    taps = math.prod(window)
    if taps == 1 or taps * x.shape[-1] <= _GATHER_COLUMNS:
        return _convolve_gathered(spec, x, kernel)
    if _suits_rows(spec, x, kernel):
        return _convolve_rows(spec, x, kernel)
    return native(spec, x, kernel)


def input_gradient(spec: Spec, x: jax.Array, kernel: jax.Array, dy: jax.Array) -> jax.Array:
    """Gradient to the input: a forward convolution of `dy` with the flipped kernel."""
    window = kernel.shape[:-2]
    group, features = kernel.shape[-2:]
    flipped = lax.rev(kernel, tuple(range(len(window))))
    flipped = flipped.reshape(*window, group, spec.groups, features // spec.groups)
    flipped = jnp.swapaxes(flipped, -3, -1).reshape(
        *window, features // spec.groups, spec.groups * group
    )
    padding = []
    for axis, (low, _) in enumerate(spec.padding):
        reach = (window[axis] - 1) * spec.rhs_dilation[axis]
        size = (x.shape[axis + 1] - 1) * spec.lhs_dilation[axis] + 1
        dilated = (dy.shape[axis + 1] - 1) * spec.strides[axis] + 1
        padding.append((reach - low, size + low - dilated))
    back = spec._replace(
        strides=spec.lhs_dilation, lhs_dilation=spec.strides, padding=tuple(padding)
    )
    return convolve(back, dy, flipped)


def kernel_gradient(spec: Spec, x: jax.Array, kernel: jax.Array, dy: jax.Array) -> jax.Array:
    """Gradient to the kernel: matmuls that contract batch and space.

    Args:
      spec: the convolution's.
      x: its input, `[b, *space, d]`.
      kernel: its kernel; only the shape is read.
      dy: gradient to its output, `[b, *out, features]`.

    Returns:
      `[*window, d / groups, features]` in `spec.dtype`.
    """
    if max(spec.lhs_dilation) > 1:
        return _kernel_gradient_phases(spec, x, kernel, dy)
    spec, x = _crop(spec, x)
    if spec.groups > 1:
        if kernel.shape[-2] == 1:
            return _kernel_gradient_depthwise(spec, x, kernel, dy)
        return _kernel_gradient_blocks(spec, x, kernel, dy)
    return _kernel_gradient_dense(spec, x, kernel.shape[:-2], dy)


# One group, input not dilated.


def _crop(spec: Spec, x: jax.Array) -> tuple[Spec, jax.Array]:
    """Turns negative padding into a slice of the input."""
    if min(min(pair) for pair in spec.padding) >= 0:
        return spec, x
    cut = tuple((min(0, low), min(0, high)) for low, high in spec.padding)
    if any(n + low + high < 1 for n, (low, high) in zip(x.shape[1:-1], cut, strict=True)):
        return spec._replace(padding=((0, 0),) * len(cut)), _pad(spec, x)
    rest = tuple((max(0, low), max(0, high)) for low, high in spec.padding)
    return spec._replace(padding=rest), _pad(spec._replace(padding=cut), x)


def _pad(spec: Spec, x: jax.Array) -> jax.Array:
    return lax.pad(
        x, jnp.zeros((), x.dtype), [(0, 0, 0), *((a, b, 0) for a, b in spec.padding), (0, 0, 0)]
    )


def _tap(spec: Spec, padded: jax.Array, offset: tuple[int, ...], out: tuple[int, ...]) -> jax.Array:
    """The input that one entry of the window sees, `[b, *out, d]`."""
    start = [o * d for o, d in zip(offset, spec.rhs_dilation, strict=True)]
    limit = [a + (n - 1) * s + 1 for a, n, s in zip(start, out, spec.strides, strict=True)]
    return lax.slice(
        padded, (0, *start, 0), (padded.shape[0], *limit, padded.shape[-1]), (1, *spec.strides, 1)
    )


def _side_by_side(parts: list[jax.Array]) -> jax.Array:
    """Concatenates along channels.

    A sum of padded parts, because XLA's fused concatenation is 3 times slower on a CPU.
    """
    width, lead = parts[0].shape[-1], [(0, 0, 0)] * (parts[0].ndim - 1)
    zero = jnp.zeros((), parts[0].dtype)
    total = None
    for index, part in enumerate(parts):
        room = (index * width, (len(parts) - 1 - index) * width, 0)
        part = lax.pad(part, zero, [*lead, room])
        total = part if total is None else total + part
    assert total is not None
    return total


def _convolve_gathered(spec: Spec, x: jax.Array, kernel: jax.Array) -> jax.Array:
    window = kernel.shape[:-2]
    out = output_space(spec, x.shape[1:-1], window)
    padded = _pad(spec, x)
    columns = _side_by_side([_tap(spec, padded, o, out) for o in _offsets(window)])
    weights = kernel.reshape(-1, kernel.shape[-1])
    return _dot(spec, columns, weights, contract=(columns.ndim - 1, 0)).astype(spec.dtype)


def _suits_rows(spec: Spec, x: jax.Array, kernel: jax.Array) -> bool:
    window, (least, most) = kernel.shape[:-2], _ROWS_CHANNELS
    return (
        len(window) == 2
        and all(1 < size <= _GATHER_PARTS for size in window)
        and spec.strides == (1, 1)
        and all(least <= channels <= most for channels in kernel.shape[-2:])
        and 4 * x[..., 0].size * (window[1] * x.shape[-1] + window[0] * kernel.shape[-1])
        <= _ROWS_BYTES
    )


def _convolve_rows(spec: Spec, x: jax.Array, kernel: jax.Array) -> jax.Array:
    """One matmul, of each pixel's neighbours along a row with all rows of the kernel at once.

    What the rows of the kernel give is then shifted and added.
    """
    rows, columns, d, features = kernel.shape
    height, width = output_space(spec, x.shape[1:-1], (rows, columns))
    padded = _pad(spec, x)
    seen = padded.shape[1], width
    neighbours = _side_by_side([_tap(spec, padded, (0, j), seen) for j in range(columns)])
    weights = jnp.transpose(kernel, (1, 2, 0, 3)).reshape(columns * d, rows * features)
    products = _dot(spec, neighbours, weights, contract=(3, 0))
    total = None
    for i in range(rows):
        low = i * spec.rhs_dilation[0]
        part = products[:, low : low + height, :, i * features : (i + 1) * features]
        total = part if total is None else total + part
    assert total is not None
    return total.astype(spec.dtype)


def _dot(spec: Spec, a: jax.Array, b: jax.Array, *, contract: tuple[int, int]) -> jax.Array:
    return lax.dot_general(
        a,
        b,
        (((contract[0],), (contract[1],)), ((), ())),
        precision=spec.precision,
        preferred_element_type=_accumulator(spec.dtype),
    )


def _offsets(window: tuple[int, ...]) -> Iterator[tuple[int, ...]]:
    return itertools.product(*(range(size) for size in window))


def _accumulator(dtype: Any) -> Any:
    return dtype if jnp.finfo(dtype).bits >= 32 else jnp.dtype(jnp.float32)


def _kernel_gradient_dense(
    spec: Spec, x: jax.Array, window: tuple[int, ...], dy: jax.Array
) -> jax.Array:
    """A sum over chunks of the batch, whose copies of the input fit a CPU's cache.

    Axes of the window go to one of two places: beside the channels of `x` (the matmul sees
    `parts * d` columns, which are copies), or into a loop of matmuls.
    """
    beside_x = _beside_x(window, x.shape[-1])
    columns = x.shape[-1] * math.prod(window[axis] for axis in beside_x)
    chunk = _chunk(x.shape[0], 4 * columns * math.prod(dy.shape[1:-1]))
    if chunk == x.shape[0]:
        total = _kernel_gradient_chunk(spec, x, window, beside_x, dy)
    else:
        # Chunks are the second axis, so that the first can stay on the devices of a mesh.
        x, dy = (part.reshape(chunk, -1, *part.shape[1:]) for part in (x, dy))

        def add(i, total):
            x_i, dy_i = (lax.dynamic_index_in_dim(a, i, 1, keepdims=False) for a in (x, dy))
            return total + _kernel_gradient_chunk(spec, x_i, window, beside_x, dy_i)

        shape = (*window, x.shape[-1], dy.shape[-1])
        start = _zeros_like(dy, shape, _accumulator(spec.dtype))
        total = lax.fori_loop(0, x.shape[1], add, start)
    return total.astype(spec.dtype)


def _chunk(images: int, bytes_each: int) -> int:
    """How many images to work on at a time, a divisor of `images`."""
    most = max(1, _CHUNK_BYTES // bytes_each)
    best = max(n for n in range(1, images + 1) if images % n == 0 and n <= most)
    # All at once where no divisor is near, as for a prime number of images.
    return best if 2 * best >= min(most, images) else images


def _beside_x(window: tuple[int, ...], d: int) -> list[int]:
    wide = [axis for axis in range(len(window)) if window[axis] > 1]
    if math.prod(window) * d <= _GATHER_COLUMNS:
        return wide
    return [axis for axis in wide if window[axis] <= _GATHER_PARTS][-1:]


def _zeros_like(array: jax.Array, shape: tuple[int, ...], dtype: Any) -> jax.Array:
    """Zeros that vary over the devices of a shard_map as `array` does."""
    varying = array[(0,) * array.ndim].astype(dtype)
    return jnp.where(False, varying, jnp.zeros(shape, dtype))


def _kernel_gradient_chunk(
    spec: Spec, x: jax.Array, window: tuple[int, ...], beside_x: list[int], dy: jax.Array
) -> jax.Array:
    rank, d, features = len(window), x.shape[-1], dy.shape[-1]
    looped = [axis for axis in range(rank) if axis not in beside_x]
    padded, out = _pad(spec, x), dy.shape[1:-1]
    rows = dy.reshape(-1, features)
    products = []
    for place in _offsets(tuple(window[axis] for axis in looped)):
        parts = []
        for shift in _offsets(tuple(window[axis] for axis in beside_x)):
            offset = dict(zip(looped + beside_x, place + shift, strict=True))
            parts.append(_tap(spec, padded, tuple(offset[axis] for axis in range(rank)), out))
        columns = _side_by_side(parts).reshape(rows.shape[0], -1)
        products.append(_dot(spec, rows, columns, contract=(0, 0)))
    # [*looped, features, *beside_x, d]
    result = jnp.stack(products).reshape(
        *(window[axis] for axis in looped), features, *(window[axis] for axis in beside_x), d
    )
    place = {axis: i for i, axis in enumerate(looped)}
    place |= {axis: len(looped) + 1 + i for i, axis in enumerate(beside_x)}
    order = [*(place[axis] for axis in range(rank)), result.ndim - 1, len(looped)]
    return jnp.transpose(result, order)


# Groups.


def _convolve_depthwise(spec: Spec, x: jax.Array, kernel: jax.Array) -> jax.Array:
    """Shifted multiply-adds (XLA's own takes 35 times as long on a CPU)."""
    window = kernel.shape[:-2]
    x = _repeat(x, kernel.shape[-1])
    out, padded, total = output_space(spec, x.shape[1:-1], window), _pad(spec, x), None
    wide = _accumulator(spec.dtype)
    for offset in _offsets(window):
        weight = kernel[offset].reshape((1,) * (x.ndim - 1) + (-1,)).astype(wide)
        part = _tap(spec, padded, offset, out).astype(wide) * weight
        total = part if total is None else total + part
    assert total is not None
    return total.astype(spec.dtype)


def _repeat(x: jax.Array, features: int) -> jax.Array:
    times = features // x.shape[-1]
    return x if times == 1 else jnp.repeat(x, times, axis=-1)


def _kernel_gradient_depthwise(
    spec: Spec, x: jax.Array, kernel: jax.Array, dy: jax.Array
) -> jax.Array:
    """Sums over the batch elementwise, image by image, and over space at the end.

    The loop is there because XLA's fused multiply-reduce over slices runs 5 times slower.
    """
    window, out, wide = kernel.shape[:-2], dy.shape[1:-1], _accumulator(spec.dtype)
    padded = _pad(spec, _repeat(x, kernel.shape[-1]))

    def add(sums, pair):
        image, error = pair
        parts = [
            _tap(spec, image[None], offset, out)[0].astype(wide) * error.astype(wide)
            for offset in _offsets(window)
        ]
        return [a + b for a, b in zip(sums, parts, strict=True)], None

    start = [_zeros_like(dy, dy.shape[1:], wide) for _ in _offsets(window)]
    sums, _ = lax.scan(add, start, (padded, dy))
    result = jnp.stack([total.sum(tuple(range(len(out)))) for total in sums])
    return result.reshape(kernel.shape).astype(spec.dtype)


def _blocks(spec: Spec, kernel: jax.Array) -> tuple[int, int, int, int]:
    """Groups to a block, blocks, and channels in and out of one group."""
    group, features = kernel.shape[-2], kernel.shape[-1] // spec.groups
    merged = next(
        m
        for m in range(1, spec.groups + 1)
        if spec.groups % m == 0
        and (m * min(group, features) >= _BLOCK_CHANNELS or m == spec.groups)
    )
    return merged, spec.groups // merged, group, features


def _convolve_blocks(spec: Spec, x: jax.Array, kernel: jax.Array) -> jax.Array:
    """Neighbouring groups become one dense convolution with a block-diagonal kernel."""
    merged, count, group, features = _blocks(spec, kernel)
    window, dense = kernel.shape[:-2], spec._replace(groups=1)
    kernel = kernel.reshape(*window, 1, group, count, merged, features)
    diagonal = jnp.eye(merged, dtype=bool).reshape(merged, 1, 1, merged, 1)
    kernel = jnp.where(diagonal, kernel, jnp.zeros((), kernel.dtype))
    kernel = kernel.reshape(*window, merged * group, count, merged * features)
    parts = [
        convolve(dense, x[..., i * merged * group : (i + 1) * merged * group], kernel[..., i, :])
        for i in range(count)
    ]
    return jnp.concatenate(parts, axis=-1)


def _kernel_gradient_blocks(
    spec: Spec, x: jax.Array, kernel: jax.Array, dy: jax.Array
) -> jax.Array:
    merged, count, group, features = _blocks(spec, kernel)
    window, dense = kernel.shape[:-2], spec._replace(groups=1)
    parts = []
    for i in range(count):
        part = _kernel_gradient_dense(
            dense,
            x[..., i * merged * group : (i + 1) * merged * group],
            window,
            dy[..., i * merged * features : (i + 1) * merged * features],
        ).reshape(*window, merged, group, merged, features)
        part = jnp.diagonal(part, axis1=-4, axis2=-2)
        parts.append(jnp.moveaxis(part, -1, -2).reshape(*window, group, merged * features))
    return jnp.concatenate(parts, axis=-1)


# Dilated input (a transposed convolution, or the input gradient of a strided one).


class _Phase(NamedTuple):
    """Outputs `start::period` of one axis, as a convolution whose input is not dilated."""

    start: int
    period: int
    count: int
    first_tap: int
    tap_step: int
    taps: int
    stride: int
    rhs_dilation: int
    padding: tuple[int, int]


def _phases(spec: Spec, axis: int, size: int, window: int, out: int) -> list[_Phase]:
    stride, low = spec.strides[axis], spec.padding[axis][0]
    dilation, rhs_dilation = spec.lhs_dilation[axis], spec.rhs_dilation[axis]
    period = dilation // math.gcd(dilation, stride)
    tap_step = dilation // math.gcd(dilation, rhs_dilation)
    phases = []
    for start in range(min(period, out)):
        for first in range(min(tap_step, window)):
            position = start * stride + first * rhs_dilation - low
            if position % dilation:
                continue
            count, taps = -(-(out - start) // period), -(-(window - first) // tap_step)
            inner_stride, inner = period * stride // dilation, tap_step * rhs_dilation // dilation
            left = -(position // dilation)
            right = (count - 1) * inner_stride + (taps - 1) * inner + 1 - left - size
            phases.append(
                _Phase(
                    start, period, count, first, tap_step, taps, inner_stride, inner, (left, right)
                )
            )
    return phases


def _each_phase(
    spec: Spec, x: jax.Array, kernel: jax.Array
) -> Iterator[tuple[Spec, tuple[_Phase, ...]]]:
    window, space = kernel.shape[:-2], x.shape[1:-1]
    out = output_space(spec, space, window)
    axes = [_phases(spec, a, space[a], window[a], out[a]) for a in range(len(window))]
    for phases in itertools.product(*axes):
        inner = spec._replace(
            strides=tuple(p.stride for p in phases),
            padding=tuple(p.padding for p in phases),
            lhs_dilation=(1,) * len(window),
            rhs_dilation=tuple(p.rhs_dilation for p in phases),
        )
        if all(_overlaps(n, p) for n, p in zip(space, phases, strict=True)):
            yield inner, phases


def _overlaps(size: int, phase: _Phase) -> bool:
    return -phase.padding[0] < size and -phase.padding[1] < size


def _convolve_phases(spec: Spec, x: jax.Array, kernel: jax.Array) -> jax.Array:
    window = kernel.shape[:-2]
    out = output_space(spec, x.shape[1:-1], window)
    shape = (x.shape[0], *out, kernel.shape[-1])
    total, zero = None, jnp.zeros((), spec.dtype)
    for inner, phases in _each_phase(spec, x, kernel):
        part = kernel[tuple(slice(p.first_tap, None, p.tap_step) for p in phases)]
        y = convolve(inner, x, part)
        room = [
            (p.start, n - p.start - (p.count - 1) * p.period - 1, p.period - 1)
            for p, n in zip(phases, out, strict=True)
        ]
        y = lax.pad(y, zero, [(0, 0, 0), *room, (0, 0, 0)])
        total = y if total is None else total + y
    return jnp.zeros(shape, spec.dtype) if total is None else total


def _kernel_gradient_phases(
    spec: Spec, x: jax.Array, kernel: jax.Array, dy: jax.Array
) -> jax.Array:
    window = kernel.shape[:-2]
    total, zero = None, jnp.zeros((), spec.dtype)
    for inner, phases in _each_phase(spec, x, kernel):
        part = kernel[tuple(slice(p.first_tap, None, p.tap_step) for p in phases)]
        error = dy[(slice(None), *(slice(p.start, None, p.period) for p in phases))]
        gradient = kernel_gradient(inner, x, part, error)
        room = [
            (p.first_tap, n - p.first_tap - (p.taps - 1) * p.tap_step - 1, p.tap_step - 1)
            for p, n in zip(phases, window, strict=True)
        ]
        gradient = lax.pad(gradient, zero, [*room, (0, 0, 0), (0, 0, 0)])
        total = gradient if total is None else total + gradient
    return jnp.zeros(kernel.shape, spec.dtype) if total is None else total
