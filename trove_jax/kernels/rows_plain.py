"""Row programs as plain JAX: on whole arrays, and on a CPU in blocks that fit its cache."""

import functools
import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from trove_jax.kernels.numbers import compute_dtype, unknown_ones

# Numbers of one array in a block of the CPU's loop: 256 KiB in float32, so that the few arrays of
# a block stay in the second-level cache (16 blocks of 4096 rows of 16 channels were fastest).
_CPU_BLOCK = 2**16


class Axis(NamedTuple):
    """Sums over the channel axis, wherever a block has it; the axis stays, with length 1."""

    position: int
    by_matmul: bool = False

    def __call__(self, a: jax.Array, b: jax.Array) -> jax.Array:
        """The dot product <a, b> of each row."""
        if self.by_matmul:
            return _dot(a, b)
        return jnp.sum(a * b, axis=self.position, keepdims=True)

    def combine(self, coefficients: Sequence[jax.Array], vectors: Sequence[jax.Array]) -> jax.Array:
        """sum_i coefficients_i vectors_i, one coefficient per row or one for all."""
        if self.by_matmul:
            return _combine(tuple(coefficients), tuple(vectors))
        return _sum_of_products(coefficients, vectors)


def _sum_of_products(coefficients, vectors):
    return functools.reduce(jnp.add, (c * v for c, v in zip(coefficients, vectors, strict=True)))


# On a CPU, XLA joins a sum over few channels, or over rows, with what makes its terms, in loops
# that it does not vectorise. As matrix products they stay apart, gradients included.


@jax.custom_vjp
def _dot(a, b):
    if a.shape[0] == 1:
        a, b = b, a
    if b.shape[0] == 1:
        return _matmul(a, b.T)
    return _matmul(a * b, unknown_ones(a[:1]).T)


def _dot_fwd(a, b):
    return _dot(a, b), (a, b)


def _dot_bwd(saved, u):
    a, b = saved
    return _weigh(u, b, a.shape), _weigh(u, a, b.shape)


_dot.defvjp(_dot_fwd, _dot_bwd)


def _weigh(u, vectors, shape):
    """The gradient u v of a vector, summed over rows where all share it."""
    if shape[0] != 1 or u.shape[0] == 1:
        return u * vectors
    return _matmul(u.T, jnp.broadcast_to(vectors, (u.shape[0], vectors.shape[1])))


@jax.custom_vjp
def _combine(coefficients, vectors):
    return _sum_of_products(coefficients, vectors)


def _combine_fwd(coefficients, vectors):
    return _combine(coefficients, vectors), (coefficients, vectors)


def _combine_bwd(saved, u):
    def to_coefficient(c, v):
        du = _dot(u, v)
        return du if c.shape == du.shape else jnp.sum(du, axis=0, keepdims=True)

    def to_vector(c, v):
        c = jnp.broadcast_to(c, (u.shape[0], 1))
        return _matmul(c.T, u) if v.shape[0] == 1 < u.shape[0] else c * u

    pairs = list(zip(*saved, strict=True))
    return tuple(to_coefficient(*p) for p in pairs), tuple(to_vector(*p) for p in pairs)


_combine.defvjp(_combine_fwd, _combine_bwd)


@functools.partial(jax.custom_vjp, nondiff_argnums=(1,))
def _repeat(scalars, count):
    """Numbers `[1, 1]`, one for all rows, as one per row, `[count, 1]`."""
    return tuple(jnp.broadcast_to(a, (count, 1)) for a in scalars)


def _repeat_fwd(scalars, count):
    return _repeat(scalars, count), None


def _repeat_bwd(count, saved, cotangents):
    # One sum for all, and for all uses of each: a sum over rows for every use costs more than
    # everything else in a program.
    del saved
    u = jnp.concatenate(cotangents, axis=1)
    sums = _matmul(unknown_ones(u[:, :1]).T, u)
    return (tuple(jnp.split(sums, len(cotangents), axis=1)),)


_repeat.defvjp(_repeat_fwd, _repeat_bwd)


def _matmul(a, b):
    return jnp.matmul(a, b, precision="highest")


Program = Callable[
    [Axis, tuple[jax.Array, ...], tuple[jax.Array, ...]],
    tuple[tuple[jax.Array, ...], tuple[jax.Array, ...]],
]


def plain(program, rows, shared, *, by_matmul=False):
    """The program on whole arrays: `(outs, sums)` of `fused_rows`."""
    lead = rows[0].ndim - 1
    dtype = compute_dtype(*rows)
    spread = [a.astype(dtype).reshape((1,) * lead + (-1,)) for a in shared]
    if by_matmul and any(a.size == 1 for a in spread):
        repeated = iter(_repeat(tuple(a for a in spread if a.size == 1), rows[0].shape[0]))
        spread = [next(repeated) if a.size == 1 else a for a in spread]
    outs, addends = program(
        Axis(-1, by_matmul), tuple(x.astype(dtype) for x in rows), tuple(spread)
    )
    axes = tuple(range(lead))
    sums = tuple(jnp.sum(a, axis=axes) for a in addends)
    return tuple(y.astype(rows[0].dtype) for y in outs), sums


def plain_gradient(program, rows, shared, d_outs, d_sums):
    """The gradients to `rows` and `shared`, computed anew from them."""
    _, pull = jax.vjp(functools.partial(plain, program), rows, shared)
    return pull((d_outs, d_sums))


def blocks(program, rows, shared):
    """`plain`, a block of rows at a time."""
    return _in_blocks(functools.partial(plain, program, by_matmul=True), rows, shared)


def blocks_gradient(program, rows, shared, d_outs, d_sums):
    """`plain_gradient`, a block of rows at a time."""

    def block(blocks, shared):
        rows, d_outs = blocks
        forward = functools.partial(plain, program, by_matmul=True)
        return jax.vjp(forward, rows, shared)[1]((d_outs, d_sums))

    return _in_blocks(block, (rows, d_outs), shared)


def _in_blocks(function, rows, shared):
    """Applies `function` to blocks of rows in turn; joins its row results and sums the others.

    The loop is also what keeps the compiler from finding the backward pass's recomputation in the
    forward pass and storing it.
    """
    leaves = jax.tree.leaves(rows)
    lead = leaves[0].shape[:-1]
    count = math.prod(lead)
    number = _block_count(count, max(x.shape[-1] for x in leaves))
    split = jax.tree.map(lambda x: x.reshape(number, count // number, x.shape[-1]), rows)
    if number == 1:
        outs, sums = jax.tree.map(
            lambda y: y[None], function(jax.tree.map(lambda x: x[0], split), shared)
        )
    else:
        outs, sums = lax.map(lambda blocks: function(blocks, shared), split)
    outs = jax.tree.map(lambda y: y.reshape(*lead, y.shape[-1]), outs)
    return outs, jax.tree.map(lambda a: jnp.sum(a, axis=0), sums)


def _block_count(count: int, width: int) -> int:
    """How many equal blocks: of `_CPU_BLOCK` numbers, up to four times that; else one."""
    fewest = -(-count * width // (4 * _CPU_BLOCK))
    most = count * width // _CPU_BLOCK
    return next((n for n in range(most, max(fewest, 2) - 1, -1) if count % n == 0), 1)
