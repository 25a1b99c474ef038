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
    y = lax.dot_general(
        columns,
        kernel.reshape(-1, kernel.shape[-1]),
        (((columns.ndim - 1,), (0,)), ((), ())),
        precision=spec.precision,
        preferred_element_type=_accumulator(spec.dtype),
    )
    return y.astype(spec.dtype)


def _offsets(window: tuple[int, ...]) -> Iterator[tuple[int, ...]]:
    return itertools.product(*(range(size) for size in window))


def _accumulator(dtype: Any) -> Any:
    return dtype if jnp.finfo(dtype).bits >= 32 else jnp.dtype(jnp.float32)


def _kernel_gradient_dense(
    spec: Spec, x: jax.Array, window: tuple[int, ...], dy: jax.Array
) -> jax.Array:
    """Every axis of the window goes to one of three places.

    Beside the channels of `x` (the matmul sees `parts * d` columns), beside the channels of `dy`
    (shifted the other way; needs stride 1), or into a loop of matmuls. One axis on each side makes
    a matmul of `[parts * features, rows] x [rows, parts * d]`, none of whose entries is wasted, and
    writes 2 * parts copies instead of parts^2.
    """
    rank, d, features = len(window), x.shape[-1], dy.shape[-1]
    beside_x, beside_dy = _places(spec, window, d)
    looped = [axis for axis in range(rank) if axis not in beside_x + beside_dy]
    padded, out = _pad(spec, x), dy.shape[1:-1]
    sizes = [window[axis] if axis in beside_dy else 1 for axis in range(rank)]
    shifts = list(_offsets(tuple(sizes)))
    seen = list(out)
    for axis in beside_dy:
        seen[axis] = out[axis] + (window[axis] - 1) * spec.rhs_dilation[axis]
    if len(shifts) > 1:
        zero = jnp.zeros((), dy.dtype)
        parts = []
        for shift in shifts:
            room = [(0, 0, 0)]
            for axis in range(rank):
                low = shift[axis] * spec.rhs_dilation[axis]
                room.append((low, seen[axis] - out[axis] - low, 0))
            parts.append(lax.pad(dy, zero, [*room, (0, 0, 0)]))
        dy = _side_by_side(parts)
    rows = dy.shape[0] * math.prod(seen)
    dy = dy.reshape(rows, -1)
    products = []
    for place in _offsets(tuple(window[axis] for axis in looped)):
        parts = []
        for shift in _offsets(tuple(window[axis] for axis in beside_x)):
            offset = [0] * rank
            for axis, o in zip(looped + beside_x, place + shift, strict=True):
                offset[axis] = o
            parts.append(_tap(spec, padded, tuple(offset), tuple(seen)))
        products.append(
            lax.dot_general(
                dy,
                _side_by_side(parts).reshape(rows, -1),
                (((0,), (0,)), ((), ())),
                precision=spec.precision,
                preferred_element_type=_accumulator(spec.dtype),
            )
        )
    # [looped..., beside_dy (reversed order of shift)..., features, beside_x..., d]
    order = looped + beside_dy
    result = jnp.stack(products).reshape(
        *(window[axis] for axis in order), features, *(window[axis] for axis in beside_x), d
    )
    from_axis = {axis: place for place, axis in enumerate(order)}
    from_axis |= {axis: len(order) + 1 + place for place, axis in enumerate(beside_x)}
    result = jnp.transpose(
        result, [*(from_axis[axis] for axis in range(rank)), result.ndim - 1, len(order)]
    )
    return result.astype(spec.dtype)


def _places(spec: Spec, window: tuple[int, ...], d: int) -> tuple[list[int], list[int]]:
    wide = [axis for axis in range(len(window)) if window[axis] > 1]
    if math.prod(window) * d <= _GATHER_COLUMNS:
        return wide, []
    short = [axis for axis in wide if window[axis] <= _GATHER_PARTS]
    beside_x = short[-1:]
    beside_dy = [axis for axis in short[:-1] if spec.strides[axis] == 1][-1:]
    return beside_x, beside_dy


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

    # Zeros that vary over the devices of a shard_map as dy does.
    zeros = jnp.where(False, dy[0].astype(wide), jnp.zeros(dy.shape[1:], wide))
    start = [zeros for _ in _offsets(window)]
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
