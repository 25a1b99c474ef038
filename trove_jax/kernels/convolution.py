"""Convolution with a gradient rule that is as fast inside a compiled loop as outside.

XLA rewrites the gradient of a convolution into a form that its CPU backend has fast code for, but
does so only at the top level of a program: inside `lax.scan`, `lax.map` or `lax.while_loop` the
gradient to the kernel takes a naive path, 40 to 60 times slower. The rule here writes the fast
form itself.
"""

import functools
import operator
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental.xla_metadata import set_xla_metadata

from trove_jax.kernels import convolution_forms as forms
from trove_jax.kernels.convolution_forms import Spec

_IMPLEMENTATIONS = (None, "reference", "taps")


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
    """Convolves as `jax.lax.conv_general_dilated`, whose signature and results it shares.

    y[b, o, f] = sum over taps t and channels c of x[b, stride o + dilation t - low, c] k[t, c, f]

    Both gradients equal the native ones to rounding. On a CPU they, and some forward passes, take
    other forms (see `convolution_forms`): pointwise and few-channel convolutions are one matmul,
    those of 24 to 96 channels one matmul and a sum of shifts, depthwise ones shifted multiply-adds,
    dilated inputs are split into phases, groups are merged into dense blocks, the gradient to the
    kernel is a few matmuls. Other platforms keep XLA's.
    The gradient to the kernel copies the input window-size times, a chunk of the batch at a time.

    `jax.vmap` over kernels gives grouped convolutions, which XLA runs slowly on a CPU: put many
    models into one program with `jax.lax.map` instead. Forward-mode differentiation (`jax.jvp`) of
    the function itself is refused, as of every `jax.custom_vjp`; of its gradient it works, so that
    Hessian-vector products do. Integer and complex arrays, empty arrays and
    `batch_group_count > 1` go to the native operation, gradient included.

    Args:
      lhs: the input, rank `n + 2`; `[b, d, *space]` unless `dimension_numbers` says otherwise.
      rhs: the kernel, rank `n + 2`, `[features, d / groups, *window]` likewise, dtype of `lhs`.
      window_strides: `n` integers.
      padding: `"SAME"`, `"SAME_LOWER"`, `"VALID"` or `n` pairs, which may be negative.
      lhs_dilation: `n` integers; larger than 1 is a transposed convolution.
      rhs_dilation: `n` integers; larger than 1 is an atrous convolution.
      dimension_numbers: as for `jax.lax.conv_general_dilated`.
      feature_group_count: groups of channels; all of them, for a depthwise convolution.
      batch_group_count: as for `jax.lax.conv_general_dilated`.
      precision: as for `jax.lax.conv_general_dilated`.
      preferred_element_type: dtype of the result; default the dtype of `lhs`.
      implementation: `None` (best for the platform), `"reference"` (XLA's operation and gradient)
        or `"taps"` (the forms for a CPU, anywhere).

    Returns:
      The convolution, rank `n + 2`, `[b, features, *out]` unless told otherwise.

    Raises:
      ValueError: an unknown implementation, or arguments that do not fit together.

    Example:
      >>> x = jnp.arange(6.0).reshape(1, 6, 1)
      >>> kernel = jnp.array([1.0, 0.0, -1.0]).reshape(3, 1, 1)
      >>> numbers = ("NWC", "WIO", "NWC")
      >>> y = conv_general_dilated(x, kernel, (1,), "VALID", dimension_numbers=numbers)
      >>> print(y.ravel())
      [-2. -2. -2. -2.]

    Reference: Dumoulin and Visin, A guide to convolution arithmetic for deep learning, 2016.
    """
    if implementation not in _IMPLEMENTATIONS:
        raise ValueError(
            f"implementation={implementation!r} is unknown; choose one of {_IMPLEMENTATIONS}"
        )
    _check(lhs, rhs, window_strides, padding, lhs_dilation, rhs_dilation, feature_group_count)
    reference = functools.partial(
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
    try:
        result = jax.eval_shape(reference, lhs, rhs)
    except TypeError as error:
        raise ValueError(f"the arguments of the convolution do not fit: {error}") from error
    if (
        implementation == "reference"
        or batch_group_count != 1
        or not jnp.issubdtype(lhs.dtype, jnp.floating)
        or lhs.ndim == 2
        or 0 in (lhs.size, rhs.size, result.size)
    ):
        return reference(lhs, rhs)

    numbers = lax.conv_dimension_numbers(lhs.shape, rhs.shape, dimension_numbers)
    x = jnp.transpose(lhs, (numbers.lhs_spec[0], *numbers.lhs_spec[2:], numbers.lhs_spec[1]))
    kernel = jnp.transpose(rhs, (*numbers.rhs_spec[2:], numbers.rhs_spec[1], numbers.rhs_spec[0]))
    ones = (1,) * (lhs.ndim - 2)
    strides = tuple(operator.index(s) for s in window_strides)
    rhs_dilation = ones if rhs_dilation is None else tuple(map(operator.index, rhs_dilation))
    if isinstance(padding, str):
        window = [(k - 1) * d + 1 for k, d in zip(kernel.shape[:-2], rhs_dilation, strict=True)]
        padding = lax.padtype_to_pads(x.shape[1:-1], window, strides, padding)
    spec = Spec(
        strides=strides,
        padding=tuple((operator.index(low), operator.index(high)) for low, high in padding),
        lhs_dilation=ones if lhs_dilation is None else tuple(map(operator.index, lhs_dilation)),
        rhs_dilation=rhs_dilation,
        groups=feature_group_count,
        precision=precision,
        dtype=result.dtype,
    )
    y: Any = _convolve(spec, implementation, *_vary_alike(x, kernel))
    order = (numbers.out_spec[0], *numbers.out_spec[2:], numbers.out_spec[1])
    return jnp.transpose(y, sorted(range(len(order)), key=order.__getitem__))


def conv_transpose(
    lhs: jax.Array,
    rhs: jax.Array,
    strides: Sequence[int],
    padding: str | Sequence[tuple[int, int]],
    rhs_dilation: Sequence[int] | None = None,
    dimension_numbers: Any = None,
    transpose_kernel: bool = False,
    precision: Any = None,
    preferred_element_type: Any = None,
    *,
    implementation: str | None = None,
) -> jax.Array:
    """Convolves with a fractional stride, as `jax.lax.conv_transpose` does.

    A convolution whose input has `stride - 1` zeros put between its entries; see
    `conv_general_dilated`, which computes it, for gradients and platforms.

    Args:
      lhs: the input, `[b, *space, d]` unless `dimension_numbers` says otherwise.
      rhs: the kernel, `[*window, d, features]`; with `transpose_kernel` `[*window, features, d]`.
      strides: how many outputs one step of the input makes, on each axis of space.
      padding: `"SAME"` (stride times the input's size), `"VALID"` (all outputs that see any input)
        or one pair for each axis, put around the dilated input.
      rhs_dilation: steps between the entries of the window.
      dimension_numbers: as for `jax.lax.conv_transpose`; default channels last.
      transpose_kernel: flip the window and swap its channels, as the gradient of a convolution.
      precision: as for `jax.lax.conv_transpose`.
      preferred_element_type: dtype of the result; default the dtype of `lhs`.
      implementation: as for `conv_general_dilated`.

    Returns:
      `[b, *out, features]`.

    Raises:
      ValueError: as `conv_general_dilated`.

    Example:
      >>> x, kernel = jnp.array([1.0, 2.0]).reshape(1, 2, 1), jnp.ones((2, 1, 1))
      >>> print(conv_transpose(x, kernel, (2,), "VALID").ravel())
      [1. 1. 2. 2.]

    Reference: Dumoulin and Visin, A guide to convolution arithmetic for deep learning, 2016,
    chapter 4.
    """
    rank = lhs.ndim - 2
    if dimension_numbers is None:
        space = "HWDEFGJKLM"[:rank]
        dimension_numbers = (f"N{space}C", f"{space}IO", f"N{space}C")
    if lhs.ndim != rhs.ndim:
        raise ValueError(
            f"lhs has shape {lhs.shape} and rhs {rhs.shape}; both need rank n + 2 for n axes of "
            "space: reshape the one that lacks an axis"
        )
    numbers = lax.conv_dimension_numbers(lhs.shape, rhs.shape, dimension_numbers)
    if isinstance(padding, str):
        if padding not in ("SAME", "VALID"):
            raise ValueError(f"padding={padding!r} is unknown; choose SAME, VALID or give pairs")
        dilation = (1,) * rank if rhs_dilation is None else rhs_dilation
        reaches = [
            (rhs.shape[a] - 1) * d for a, d in zip(numbers.rhs_spec[2:], dilation, strict=True)
        ]
        pairs = []
        for reach, stride in zip(reaches, strides, strict=True):
            if padding == "SAME":
                low = reach if stride > reach else -(-(reach + stride - 1) // 2)
                pairs.append((low, reach + stride - 1 - low))
            else:
                pairs.append((reach, max(reach, stride - 1)))
        padding = pairs
    if transpose_kernel:
        rhs = jnp.swapaxes(lax.rev(rhs, numbers.rhs_spec[2:]), *numbers.rhs_spec[:2])
    return conv_general_dilated(
        lhs,
        rhs,
        (1,) * rank,
        padding,
        lhs_dilation=strides,
        rhs_dilation=rhs_dilation,
        dimension_numbers=numbers,
        precision=precision,
        preferred_element_type=preferred_element_type,
        implementation=implementation,
    )


def _check(lhs, rhs, window_strides, padding, lhs_dilation, rhs_dilation, groups) -> None:
    if lhs.ndim != rhs.ndim or lhs.ndim < 2:
        raise ValueError(
            f"lhs has shape {lhs.shape} and rhs {rhs.shape}; both need rank n + 2 for n axes of "
            "space: reshape the one that lacks an axis"
        )
    if lhs.dtype != rhs.dtype:
        raise ValueError(
            f"lhs is {lhs.dtype} and rhs {rhs.dtype}; cast one of them, dtypes are not promoted"
        )
    rank = lhs.ndim - 2
    given = {
        "window_strides": window_strides,
        "lhs_dilation": lhs_dilation,
        "rhs_dilation": rhs_dilation,
    }
    for name, value in given.items():
        if value is not None and (len(value) != rank or any(v < 1 for v in value)):
            raise ValueError(f"{name}={value} must be {rank} integers, all at least 1")
    if isinstance(padding, str):
        if padding.upper() not in ("SAME", "SAME_LOWER", "VALID"):
            raise ValueError(
                f"padding={padding!r} is unknown; choose SAME, SAME_LOWER, VALID or give "
                f"{rank} pairs (low, high)"
            )
    elif len(padding) != rank:
        raise ValueError(f"padding={padding} must hold {rank} pairs (low, high)")
    if groups < 1:
        raise ValueError(f"feature_group_count={groups} must be at least 1")


def _vary_alike(*arrays: jax.Array) -> list[jax.Array]:
    """Inside shard_map: marks all as varying over the same axes of the mesh.

    The mark's own gradient sums over the devices, which a custom rule would have to do itself.
    """
    marks = []
    for array in arrays:
        # Called `vma` in some versions of JAX, `mat.varying` in others.
        kind = jax.typeof(array)
        mark = getattr(getattr(kind, "mat", None), "varying", frozenset())
        marks.append(getattr(kind, "vma", mark))
    union = frozenset().union(*marks)
    return [
        lax.pcast(array, tuple(union - mark), to="varying") if union - mark else array
        for array, mark in zip(arrays, marks, strict=True)
    ]


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _convolve(spec: Spec, implementation: str | None, x: jax.Array, kernel: jax.Array) -> jax.Array:
    return _forward(spec, implementation, x, kernel)


def _rule_forward(spec, implementation, x, kernel):
    return _forward(spec, implementation, x, kernel), (x, kernel)


def _rule_backward(spec, implementation, residuals, dy):
    return _backward(spec, implementation, *residuals, dy)


_convolve.defvjp(_rule_forward, _rule_backward)


# Compiled as a unit, so that a call outside of jit does not run form by form.
@functools.partial(jax.jit, static_argnums=(0, 1))
def _forward(spec, implementation, x, kernel):
    ours = functools.partial(forms.convolve, spec)
    if implementation == "taps":
        return ours(x, kernel)
    return lax.platform_dependent(
        x, kernel, cpu=ours, default=functools.partial(forms.native, spec)
    )


@functools.partial(jax.jit, static_argnums=(0, 1))
def _backward(spec, implementation, x, kernel, dy):
    def ours(apart, x, kernel, dy):
        # A wider result (preferred_element_type) has a wider gradient; narrow it at the end only.
        wide = spec._replace(dtype=dy.dtype)
        x_wide, kernel_wide = x.astype(dy.dtype), kernel.astype(dy.dtype)
        dx = forms.input_gradient(wide, x, kernel_wide, dy)
        dkernel = apart(functools.partial(forms.kernel_gradient, wide))(x_wide, kernel, dy)
        return dx.astype(x.dtype), dkernel.astype(kernel.dtype)

    def native(x, kernel, dy):
        return jax.vjp(functools.partial(forms.native, spec), x, kernel)[1](dy)

    default = functools.partial(ours, jax.jit) if implementation == "taps" else native
    return lax.platform_dependent(
        x, kernel, dy, cpu=functools.partial(ours, _apart), default=default
    )


def _apart(function):
    """Compiles a function as a computation of its own, whose arguments are arrays in memory.

    XLA would fuse what computes the arguments (the gradient of a normalisation, say) into every one
    of the copies that the gradient to the kernel makes, and compute it for each anew: three times
    the time of the copies. `lax.optimization_barrier` is gone before fusion on a CPU.
    """

    def call(*args):
        with set_xla_metadata(inlineable="false"):
            return jax.jit(function)(*args)

    return call
