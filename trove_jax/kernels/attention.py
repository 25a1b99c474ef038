"""Softmax attention with patterns, biases and positions, which never stores an N x N array.

One operation carries dense, causal, windowed, block-sparse and sampled attention: which pairs are
visible is a pattern of positions, and positions are arguments, so that keys may come in any order.
Its gradient keeps the inputs, the output and one number per query.
"""

import functools
import math
from collections.abc import Callable
from typing import Any, Literal, NamedTuple, get_args

import jax
import jax.numpy as jnp
from jax import lax

from trove_jax.kernels.attention_folded import folded, folded_gradient
from trove_jax.kernels.attention_forms import (
    Inputs,
    Rule,
    reference,
    reference_gradient,
)
from trove_jax.kernels.attention_gpu import gpu, gpu_gradient
from trove_jax.kernels.attention_pattern import Pattern
from trove_jax.kernels.attention_tpu import tpu, tpu_gradient
from trove_jax.kernels.on_mesh import on_own_rows

Implementation = Literal["reference", "xla", "pallas", "interpret_tpu", "interpret_gpu"] | None
_IMPLEMENTATIONS = (None, *get_args(get_args(Implementation)[0]))

__all__ = ["Attended", "Implementation", "attention"]


class Attended(NamedTuple):
    """What an attention returns.

    Attributes:
      output: `[b, n, h, e]`, in the dtype of the queries.
      lse: logarithm of the sum of exponentiated scores, `[b, n, h]`, float32 (float64 for float64
        inputs); -inf for a query that sees no key.
    """

    output: jax.Array
    lse: jax.Array


def attention(
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    *,
    pattern: Pattern | None = None,
    bias: jax.Array | Callable[[Any, Any, Any], Any] | None = None,
    q_ids: jax.Array | None = None,
    kv_ids: jax.Array | None = None,
    kv_mask: jax.Array | None = None,
    scale: float | None = None,
    implementation: Implementation = None,
) -> Attended:
    """Averages values by the softmax of scaled products of queries and keys.

    o_i = sum_j softmax_j(scale q_i . k_j + bias_ij) v_j over the keys j that query i sees

    A query that sees no key gets output 0, lse -inf and no gradient. Keys and values under a false
    `kv_mask` may hold anything, NaN too, and so may a bias where nothing is seen. Scores and sums
    are computed in float32 at least. The gradient is of first order and in reverse mode only; it
    runs through both results.

    Args:
      q: queries, `[b, n, h, d]`.
      k: keys, `[b, m, h, d]`.
      v: values, `[b, m, h, e]`.
      pattern: which keys a query sees, of `kernels.attention_pattern`; None for all.
      bias: added to scores: an array that broadcasts to `[b, h, n, m]`, which gets a gradient, or
        a function `(q_ids, kv_ids, head) -> numbers` of integer arrays that broadcast, which is
        evaluated tile by tile. Give the same function object in every call: it is a static
        argument.
      q_ids: positions of queries that pattern and bias go by, int32 `[b, n]` or `[1, n]`, >= 0;
        None for 0, 1, 2, ... Only with None does a pattern save work.
      kv_ids: positions of keys, int32 `[b, m]` or `[1, m]`, >= 0; None for 0, 1, 2, ...
      kv_mask: which keys exist, bool `[b, m]` or `[1, m]`; None for all.
      scale: factor of products; None for 1 / sqrt(d).
      implementation: None (kernels on TPU and GPU, tiles in plain JAX elsewhere), `"reference"`
        (all scores at once), `"xla"` (tiles in plain JAX), `"pallas"` (fails on a CPU) or, to test
        the kernels without their machines, `"interpret_tpu"` and `"interpret_gpu"`.

    Returns:
      Output and normaliser.

    Raises:
      ValueError: shapes that do not fit; dtypes that differ or are not floating-point; ids that are
        not int32; a mask that is not bool; an unknown implementation.

    Example:
      >>> q = jnp.ones((1, 3, 1, 4))
      >>> v = jnp.arange(3.0).reshape(1, 3, 1, 1)
      >>> from trove_jax.kernels import attention_pattern
      >>> print(attention(q, q, v, pattern=attention_pattern.causal()).output.ravel())
      [0.  0.5 1. ]

    Reference: Vaswani et al., Attention Is All You Need, NeurIPS 2017, section 3.2; Dao et al.,
      FlashAttention, NeurIPS 2022, for the gradient from the normaliser.
    """
    q, k, v = jnp.asarray(q), jnp.asarray(k), jnp.asarray(v)
    bias_array = None if bias is None or callable(bias) else jnp.asarray(bias)
    inputs = Inputs(q, k, v, bias_array, q_ids, kv_ids, kv_mask)
    _check(inputs, pattern, implementation)
    rule = Rule(
        pattern,
        bias if callable(bias) else None,
        1 / math.sqrt(max(q.shape[-1], 1)) if scale is None else float(scale),
    )
    if bias_array is not None:
        lead = (1,) * (4 - bias_array.ndim)
        inputs = inputs._replace(bias=bias_array.reshape(lead + bias_array.shape))
    if kv_mask is not None:
        # Zeros first: what a missing key holds then meets neither a value nor a gradient.
        exists = kv_mask[..., None, None]
        inputs = inputs._replace(
            k=jnp.where(exists, k, jnp.zeros((), k.dtype)),
            v=jnp.where(exists, v, jnp.zeros((), v.dtype)),
        )
    found: Any = _attend(rule, implementation, inputs)
    return Attended(*found)


def _check(inputs, pattern, implementation):
    q, k, v, bias, q_ids, kv_ids, kv_mask = inputs
    if implementation not in _IMPLEMENTATIONS:
        raise ValueError(
            f"implementation={implementation!r} is unknown; use one of {_IMPLEMENTATIONS}"
        )
    if pattern is not None and not isinstance(pattern, Pattern):
        raise ValueError(
            f"pattern={pattern!r} is no pattern; use one of kernels.attention_pattern, or pass "
            "an array of booleans as a bias of 0 and -inf"
        )
    if q.ndim != 4 or k.ndim != 4 or v.ndim != 4:
        raise ValueError(
            f"q, k, v have shapes {q.shape}, {k.shape}, {v.shape}; [b, n, h, d], [b, m, h, d] and "
            "[b, m, h, e] are wanted"
        )
    (b, n, h, d), m = q.shape, k.shape[1]
    if k.shape != (b, m, h, d) or v.shape[:3] != (b, m, h):
        raise ValueError(
            f"k and v have shapes {k.shape} and {v.shape}; with q of shape {q.shape}, "
            f"{(b, m, h, d)} and {(b, m, h, 'e')} are wanted; repeat keys and values that heads "
            "share"
        )
    if not q.dtype == k.dtype == v.dtype or not jnp.issubdtype(q.dtype, jnp.floating):
        raise ValueError(
            f"q, k, v have dtypes {q.dtype}, {k.dtype}, {v.dtype}; one floating-point dtype is "
            "wanted for all three"
        )
    for name, ids, length in (("q_ids", q_ids, n), ("kv_ids", kv_ids, m)):
        if ids is not None and (
            ids.dtype != jnp.int32 or ids.shape not in ((b, length), (1, length))
        ):
            raise ValueError(
                f"{name} has shape {ids.shape} and dtype {ids.dtype}; int32 of shape {(b, length)} "
                f"or {(1, length)} is wanted"
            )
    if kv_mask is not None and (
        kv_mask.dtype != jnp.bool_ or kv_mask.shape not in ((b, m), (1, m))
    ):
        raise ValueError(
            f"kv_mask has shape {kv_mask.shape} and dtype {kv_mask.dtype}; bool of shape {(b, m)} "
            f"or {(1, m)} is wanted"
        )
    if bias is not None:
        full = (b, h, n, m)
        fits = bias.ndim <= 4 and all(
            size in (1, whole) for size, whole in zip(bias.shape[::-1], full[::-1], strict=False)
        )
        if not fits or not jnp.issubdtype(bias.dtype, jnp.floating):
            raise ValueError(
                f"bias has shape {bias.shape} and dtype {bias.dtype}; floating-point numbers that "
                f"broadcast to [b, h, n, m] = {full} are wanted"
            )


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _attend(rule, implementation, inputs):
    return _run(rule, implementation, inputs)


def _attend_fwd(rule, implementation, inputs):
    found: Any = _attend(rule, implementation, inputs)
    return found, (inputs, *found)


def _attend_bwd(rule, implementation, saved, cotangents):
    inputs, output, lse = saved
    found: Any = _gradient(rule, implementation, inputs, output, lse, *cotangents)
    return (Inputs._make((*found, None, None, None)),)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _gradient(rule, implementation, *arrays):
    return _run_gradient(rule, implementation, *arrays)


def _gradient_fwd(rule, implementation, *arrays):
    raise NotImplementedError(
        "the gradient of attention has no gradient; for second derivatives write the softmax "
        "out in plain JAX, or use jax.nn.dot_product_attention"
    )


def _gradient_bwd(rule, implementation, saved, cotangents):
    raise AssertionError("its forward pass raises first")


_attend.defvjp(_attend_fwd, _attend_bwd)
_gradient.defvjp(_gradient_fwd, _gradient_bwd)


@functools.partial(jax.jit, static_argnums=(0, 1))
def _run(rule, implementation, inputs):
    return _dispatch(_FORWARD, rule, implementation, inputs)


@functools.partial(jax.jit, static_argnums=(0, 1))
def _run_gradient(rule, implementation, *arrays):
    return _dispatch(_BACKWARD, rule, implementation, *arrays)


def _dispatch(ways, rule, implementation, inputs, *results):
    """Calls one form, or whichever suits the platform that runs it."""
    run = {name: functools.partial(way, rule) for name, way in ways.items()}
    arrays = (inputs, *results)
    # What examples share has a first axis of 1; an array of biases that they share gets a sum.
    has_examples = jax.tree.map(lambda x: x.shape[0] == inputs.q.shape[0], arrays)
    gives = (True, True, True, has_examples[0].bias) if results else (True, True)
    run |= {name: on_own_rows(run[name], has_examples, gives) for name in _KERNELS}
    if 0 in inputs.q.shape or 0 in inputs.v.shape:
        return run["reference"](*arrays)
    if implementation in run:
        return run[implementation](*arrays)
    kernels = {"tpu": run["tpu"], "cuda": run["gpu"], "rocm": run["gpu"]}
    if inputs.q.dtype == jnp.float64:  # which no kernel computes in
        kernels = {}
    if implementation == "pallas":
        return lax.platform_dependent(*arrays, **kernels)
    return lax.platform_dependent(*arrays, default=run["reference"], cpu=run["xla"], **kernels)


_KERNELS = ("tpu", "gpu", "interpret_tpu", "interpret_gpu")
_FORWARD = {
    "reference": reference,
    "xla": folded,
    "tpu": tpu,
    "gpu": gpu,
    "interpret_tpu": functools.partial(tpu, interpret=True),
    "interpret_gpu": functools.partial(gpu, interpret=True),
}
_BACKWARD = {
    "reference": reference_gradient,
    "xla": folded_gradient,
    "tpu": tpu_gradient,
    "gpu": gpu_gradient,
    "interpret_tpu": functools.partial(tpu_gradient, interpret=True),
    "interpret_gpu": functools.partial(gpu_gradient, interpret=True),
}
