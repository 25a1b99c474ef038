"""Convolution with a gradient rule that is fast inside compiled loops on a CPU."""

import functools
import math
import operator
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

IMPLEMENTATIONS = (None, "reference", "taps")


class _Spec(NamedTuple):
    """A convolution of `[b, *space, d]` with `[*window, d / groups, features]`, all static."""

    strides: tuple[int, ...]
    padding: tuple[tuple[int, int], ...]
    lhs_dilation: tuple[int, ...]
    rhs_dilation: tuple[int, ...]
    groups: int
    precision: Any
    preferred: Any


def conv_general_dilated(
    lhs: jax.Array,
    rhs: jax.Array,
    window_strides: Sequence[int],
    padding: str | Sequence[tuple[int, int]],
    lhs_dilation: Sequence[int] | None = None,
    rhs_dilation: Sequence[int] | None = None,
    dimension_numbers: Any = None,
    feature_group_count: int = 1,
    batch_group_count: int = 1,
    precision: Any = None,
    preferred_element_type: Any = None,
    *,
    implementation: str | None = None,
) -> jax.Array:
    """Convolves as `jax.lax.conv_general_dilated` does, with its own gradient rule on a CPU."""
    if implementation not in IMPLEMENTATIONS:
        raise ValueError(
            f"implementation={implementation!r} is unknown; choose one of {IMPLEMENTATIONS}"
        )
    native = functools.partial(
        lax.conv_general_dilated,
        window_strides=window_strides,
        padding=padding,
        lhs_dilation=lhs_dilation,
        rhs_dilation=rhs_dilation,
        dimension_numbers=dimension_numbers,
        feature_group_count=feature_group_count,
        batch_group_count=batch_group_count,
        precision=precision,
        preferred_element_type=preferred_element_type,
    )
    if implementation == "reference" or batch_group_count != 1:
        return native(lhs, rhs)
    out = jax.eval_shape(native, lhs, rhs)
    rank = lhs.ndim - 2
    numbers = lax.conv_dimension_numbers(lhs.shape, rhs.shape, dimension_numbers)
    lhs_order = (numbers.lhs_spec[0], *numbers.lhs_spec[2:], numbers.lhs_spec[1])
    rhs_order = (*numbers.rhs_spec[2:], numbers.rhs_spec[1], numbers.rhs_spec[0])
    out_order = (numbers.out_spec[0], *numbers.out_spec[2:], numbers.out_spec[1])
    x, kernel = jnp.transpose(lhs, lhs_order), jnp.transpose(rhs, rhs_order)
    strides = tuple(operator.index(s) for s in window_strides)
    lhs_dilation = (1,) * rank if lhs_dilation is None else tuple(lhs_dilation)
    rhs_dilation = (1,) * rank if rhs_dilation is None else tuple(rhs_dilation)
    if isinstance(padding, str):
        window = [(k - 1) * d + 1 for k, d in zip(kernel.shape, rhs_dilation, strict=False)]
        padding = lax.padtype_to_pads(x.shape[1:-1], window, strides, padding)
    spec = _Spec(
        strides=strides,
        padding=tuple((operator.index(low), operator.index(high)) for low, high in padding),
        lhs_dilation=lhs_dilation,
        rhs_dilation=rhs_dilation,
        groups=feature_group_count,
        precision=precision,
        preferred=out.dtype,
    )
    y = _conv(spec, implementation, x, kernel)
    inverse = sorted(range(len(out_order)), key=out_order.__getitem__)
    return jnp.transpose(y, inverse)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _conv(spec: _Spec, implementation: str | None, x: jax.Array, kernel: jax.Array) -> jax.Array:
    return _native(spec, x, kernel)


def _conv_fwd(spec, implementation, x, kernel):
    return _conv(spec, implementation, x, kernel), (x, kernel)


def _conv_bwd(spec, implementation, residuals, dy):
    ours = functools.partial(_gradients, spec)
    if implementation == "taps":
        return ours(*residuals, dy)

    def native(x, kernel, dy):
        return jax.vjp(functools.partial(_native, spec), x, kernel)[1](dy)

    return lax.platform_dependent(*residuals, dy, cpu=ours, default=native)


_conv.defvjp(_conv_fwd, _conv_bwd)


def _numbers(rank: int) -> lax.ConvDimensionNumbers:
    space = tuple(range(1, rank + 1))
    return lax.ConvDimensionNumbers(
        (0, rank + 1, *space),
        (rank + 1, rank, *range(rank)),
        (0, rank + 1, *space),
    )


def _native(spec: _Spec, x: jax.Array, kernel: jax.Array) -> jax.Array:
    return lax.conv_general_dilated(
        x,
        kernel,
        spec.strides,
        spec.padding,
        lhs_dilation=spec.lhs_dilation,
        rhs_dilation=spec.rhs_dilation,
        dimension_numbers=_numbers(x.ndim - 2),
        feature_group_count=spec.groups,
        precision=spec.precision,
        preferred_element_type=spec.preferred,
    )


def _gradients(spec, x, kernel, dy):
    dy = dy.astype(x.dtype)
    return _input_gradient(spec, x, kernel, dy), _kernel_gradient(spec, x, kernel, dy)


def _input_gradient(spec, x, kernel, dy):
    rank = x.ndim - 2
    d_group, features = kernel.shape[-2:]
    flipped = lax.rev(kernel, tuple(range(rank)))
    flipped = flipped.reshape(*kernel.shape[:rank], d_group, spec.groups, features // spec.groups)
    flipped = jnp.swapaxes(flipped, -3, -1).reshape(
        *kernel.shape[:rank], features // spec.groups, spec.groups * d_group
    )
    padding = []
    for axis in range(rank):
        low, _ = spec.padding[axis]
        reach = (kernel.shape[axis] - 1) * spec.rhs_dilation[axis]
        size = (x.shape[axis + 1] - 1) * spec.lhs_dilation[axis] + 1
        dilated = (dy.shape[axis + 1] - 1) * spec.strides[axis] + 1
        padding.append((reach - low, size + low - dilated))
    back = spec._replace(
        strides=spec.lhs_dilation,
        lhs_dilation=spec.strides,
        padding=tuple(padding),
        preferred=x.dtype,
    )
    return _native(back, dy, flipped)


def _kernel_gradient(spec, x, kernel, dy):
    rank = x.ndim - 2
    window = kernel.shape[:rank]
    config = [(0, 0, 0)]
    for (low, high), dilation in zip(spec.padding, spec.lhs_dilation, strict=True):
        config.append((low, high, dilation - 1))
    padded = lax.pad(x, jnp.zeros((), x.dtype), [*config, (0, 0, 0)])
    out_space = dy.shape[1:-1]
    rows = dy.shape[0] * math.prod(out_space)
    groups = spec.groups
    taps = []
    for index in range(math.prod(window)):
        offsets, rest = [], index
        for size in reversed(window):
            offsets.append(rest % size)
            rest //= size
        offsets.reverse()
        start = [o * d for o, d in zip(offsets, spec.rhs_dilation, strict=True)]
        limit = [
            a + (n - 1) * s + 1 for a, n, s in zip(start, out_space, spec.strides, strict=True)
        ]
        part = lax.slice(
            padded, (0, *start, 0), (x.shape[0], *limit, x.shape[-1]), (1, *spec.strides, 1)
        )
        if groups == 1:
            tap = lax.dot_general(
                part.reshape(rows, -1),
                dy.reshape(rows, -1),
                (((0,), (0,)), ((), ())),
                precision=spec.precision,
                preferred_element_type=spec.preferred,
            )
        else:
            tap = lax.dot_general(
                part.reshape(rows, groups, -1),
                dy.reshape(rows, groups, -1),
                (((0,), (0,)), ((1,), (1,))),
                precision=spec.precision,
                preferred_element_type=spec.preferred,
            )
            tap = jnp.swapaxes(tap, 0, 1).reshape(kernel.shape[-2], -1)
        taps.append(tap)
    return jnp.stack(taps).reshape(kernel.shape).astype(kernel.dtype)
