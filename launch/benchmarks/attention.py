"""Attention of every kind: operations, temporaries and time, against dense attention of `jax.nn`.

Locally biased sampling (SSA-LB) with windows of w out of N keys promises N / w times fewer
operations and, where scores are stored, N / w times less memory. Both are counted by XLA from
programs without loops, of which it would count a body once: attention as its reference, which
stores all scores. Times are those of what runs by default, which never stores them, and include the
draw of the keys. The gradient is taken in all of q, k and v, of a random cotangent: in less, or of
a plain sum, XLA leaves parts of the backward pass out.
"""

import functools

import jax
import numpy as np

from launch.benchmarks.timing import Row, Timings, time_in_turn
from trove_jax import kernels
from trove_jax.kernels import attention_pattern

_MIB = 2**20
_KEY = 7


def measure(quick: bool = False) -> list[Row]:
    """Compares sampled with dense attention, and ours with that of `jax.nn`."""
    n, window, heads, width = (256, 32, 2, 16) if quick else (4096, 512, 4, 64)
    repeats = 2 if quick else 7
    arrays = _arrays(1, n, heads, width)
    size = f"N {n}, w {window}, {heads} heads of {width}"
    shapes = [(1, 64, 2, 16)] if quick else [(1, 1024, 4, 64), (32, 40, 8, 16)]
    return [
        *_counts(arrays, window, size),
        *_times(arrays, window, size, repeats),
        *(row for shape in shapes for row in _dense(shape, 3 if quick else 30)),
        *_patterns(arrays, window, size, repeats),
    ]


class Program:
    """A program that is compiled for its arguments, and run on them at each call.

    Args:
      function: what to compile.
      *arguments: pytrees of arrays.
    """

    def __init__(self, function, *arguments):
        self._arguments = jax.device_put(arguments)
        self._program = jax.jit(function).lower(*self._arguments).compile()
        self.temporaries = self._program.memory_analysis().temp_size_in_bytes
        self.operations = self._program.cost_analysis()["flops"]

    def __call__(self) -> None:
        jax.block_until_ready(self._program(*self._arguments))


def _arrays(b, n, heads, width):
    """Queries, keys, values and a cotangent."""
    rng = np.random.default_rng(0)
    shape = (4, b, n, heads, width)
    return tuple(rng.standard_normal(shape).astype(np.float32))


def _theirs(q, k, v):
    return jax.nn.dot_product_attention(q, k, v)


def _ours(q, k, v, **options):
    return kernels.attention(q, k, v, **options).output


def _windows(q, k, v, key, *, window, implementation=None):
    """Locally biased sampling with a spread of half a window, drawn anew."""
    drawn = kernels.locally_biased_permutation(key, q.shape[1], window / 2)[None]
    options = {"window": window, "implementation": implementation}
    return kernels.subsampled_attention(q, k, v, drawn, **options).output


def _subset(q, k, v, key, *, size):
    drawn = kernels.unbiased_subset(key, q.shape[1], size)[None]
    return kernels.subsampled_attention(q, k, v, drawn).output


def _with_gradient(attend):
    def forward_and_back(q, k, v, cotangent, *rest):
        y, pull = jax.vjp(lambda *qkv: attend(*qkv, *rest), q, k, v)
        return y, *pull(cotangent)

    return forward_and_back


def _counts(arrays, window, size) -> list[Row]:
    """What XLA counts, of the forms that store all scores."""
    key, keys = jax.random.key(_KEY), arrays[0].shape[1] / window
    dense = functools.partial(_ours, implementation="reference")
    sampled = functools.partial(_windows, window=window, implementation="reference")
    ways = {
        "forward": (
            Program(dense, *arrays[:3]),
            Program(sampled, *arrays[:3], key),
        ),
        "forward and back": (
            Program(_with_gradient(dense), *arrays),
            Program(_with_gradient(sampled), *arrays, key),
        ),
    }
    rows = []
    for name, (all_keys, some_keys) in ways.items():
        rows += [
            Row(
                f"operations, all keys / SSA-LB, over N/w, {name}",
                all_keys.operations / some_keys.operations / keys,
                0.97,
                "higher",
                f"{size}: {all_keys.operations / 1e9:.2f} and {some_keys.operations / 1e9:.3f} G",
            ),
            Row(
                f"temporaries, all keys / SSA-LB, over N/w, {name}",
                all_keys.temporaries / some_keys.temporaries / keys,
                0.9,
                "higher",
                f"{size}: {all_keys.temporaries / _MIB:.1f} and "
                f"{some_keys.temporaries / _MIB:.1f} MiB",
            ),
        ]
    return rows


def _times(arrays, window, size, repeats) -> list[Row]:
    """Forward and back, with the draw, as everything runs by default."""
    n, key = arrays[0].shape[1], jax.random.key(_KEY)
    programs = {
        "jax.nn": Program(_with_gradient(_theirs), *arrays),
        "ours": Program(_with_gradient(_ours), *arrays),
        "SSA-LB": Program(_with_gradient(functools.partial(_windows, window=window)), *arrays, key),
        "SSA-U": Program(_with_gradient(functools.partial(_subset, size=window)), *arrays, key),
    }
    found = time_in_turn(programs, repeats=repeats, warm_up=1)
    # On its own: it is too short to be seen between the others.
    draw = functools.partial(kernels.locally_biased_permutation, n=n, sigma=window / 2)
    drawing = time_in_turn({"draw": Program(draw, key)}, repeats=10 * repeats, warm_up=2)
    memory = ", ".join(f"{name} {each.temporaries / _MIB:.1f}" for name, each in programs.items())
    return [
        Row(
            "time, dense jax.nn / SSA-LB, forward and back",
            found.ratio("jax.nn", to="SSA-LB"),
            5.0,
            "higher",
            f"{size}, ms: {_milliseconds(found)}",
        ),
        Row(
            "time, dense jax.nn / SSA-U, forward and back",
            found.ratio("jax.nn", to="SSA-U"),
            better="higher",
            detail=f"k {window}; temporaries, MiB: {memory}",
        ),
        Row(
            "time, our dense / SSA-LB, forward and back, over N/w",
            found.ratio("ours", to="SSA-LB") / (n / window),
            better="higher",
        ),
        Row(
            "time, draw of the permutation / SSA-LB, forward and back",
            drawing.median("draw") / found.median("SSA-LB"),
            0.05,
            detail=f"ms: {_milliseconds(drawing)}",
        ),
    ]


def _dense(shape, repeats) -> list[Row]:
    """All keys, ours against `jax.nn`."""
    arrays = _arrays(*shape)
    rows = []
    for name, form, given in (
        ("forward", lambda attend: attend, arrays[:3]),
        ("forward and back", _with_gradient, arrays),
    ):
        candidates = {
            "ours": Program(form(_ours), *given),
            "jax.nn": Program(form(_theirs), *given),
        }
        found = time_in_turn(candidates, repeats=repeats, warm_up=2)
        rows.append(
            Row(
                f"time, our dense / jax.nn, {name}, {shape}",
                found.ratio("ours", to="jax.nn"),
                1.0,
                detail=f"ms: {_milliseconds(found)}",
            )
        )
    return rows


def _patterns(arrays, window, size, repeats) -> list[Row]:
    """Patterns and linear attention against our dense attention, forward and back."""
    n, heads = arrays[0].shape[1:3]
    sliding = attention_pattern.sliding_window(window // 2, window // 2)
    block = window // 8
    patterns = {
        "causal": attention_pattern.causal(),
        f"blocks of {window}": attention_pattern.local_blocks(window),
        "window and a global token": sliding | attention_pattern.global_tokens(1),
        "sparse fixed": attention_pattern.fixed_blocks(2 * block, block // 2),
        "BigBird": attention_pattern.big_bird(n, block, heads=heads),
    }
    forms = {
        "dense": _ours,
        **{name: functools.partial(_ours, pattern=each) for name, each in patterns.items()},
        "linear": _linear,
        "causal linear": functools.partial(_linear, causal=True),
    }
    programs = {name: Program(_with_gradient(form), *arrays) for name, form in forms.items()}
    found = time_in_turn(programs, repeats=repeats, warm_up=1)
    return [
        Row(
            f"time, {name} / our dense, forward and back",
            found.ratio(name, to="dense"),
            detail=f"{size}, ms: {1e3 * found.median(name):.2f} and "
            f"{1e3 * found.median('dense'):.2f}; temporaries {program.temporaries / _MIB:.1f} MiB",
        )
        for name, program in programs.items()
        if name != "dense"
    ]


def _linear(q, k, v, *, causal=False):
    """Linear attention with the features of the linear Transformer."""
    q, k = (jax.nn.elu(x) + 1.0 for x in (q, k))
    return kernels.linear_attention(q, k, v, causal=causal, epsilon=1e-6)


def _milliseconds(found: Timings) -> str:
    return ", ".join(f"{name} {1e3 * found.median(name):.2f}" for name in found.seconds)
