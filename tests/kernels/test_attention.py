"""Attention in plain JAX: every form against loops over queries in NumPy, value and gradient."""

import functools

import jax
import jax.numpy as jnp
import jax.test_util
import numpy as np
import pytest

from trove_jax.kernels import attention, attention_plan, attention_tiles
from trove_jax.kernels.attention_pattern import (
    big_bird,
    causal,
    fixed_blocks,
    global_tokens,
    local_blocks,
    sliding_window,
)

LOCAL_AND_GLOBAL = sliding_window(9, 5) | global_tokens(3)


def distance(q_ids, kv_ids, head):
    """A bias of positions: each head prefers near keys by its own measure."""
    return -((head + 1) * abs(q_ids - kv_ids)).astype(np.float32) / 8


def drawn(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape)


def arrays(n, m, b=2, h=2, d=4, e=3):
    q, k, v = drawn(b, n, h, d), drawn(b, m, h, d, seed=1), drawn(b, m, h, e, seed=2)
    return q, k, v, drawn(b, n, h, e, seed=3), drawn(b, n, h, seed=4)


def one_by_one(q, k, v, d_output, d_lse, *, pattern=None, bias=None, ids=None, kv_mask=None):
    """Results and gradients, one query at a time."""
    (b, n, h, d), m = q.shape, k.shape[1]
    q_ids, kv_ids = (np.arange(n)[None], np.arange(m)[None]) if ids is None else ids
    output, lse = np.zeros(d_output.shape), np.full(d_lse.shape, -np.inf)
    dq, dk, dv, d_bias = np.zeros(q.shape), np.zeros(k.shape), np.zeros(v.shape), None
    if isinstance(bias, np.ndarray):
        d_bias = np.zeros((b, h, n, m))
    for x, head, i in np.ndindex(b, h, n):
        at, keys = q_ids[x % len(q_ids), i], kv_ids[x % len(kv_ids)]
        seen = np.ones(m, bool) if pattern is None else pattern.visible(at, keys, head)
        seen = np.broadcast_to(seen, m) & (True if kv_mask is None else kv_mask[x % len(kv_mask)])
        seen = np.flatnonzero(seen)
        if len(seen) == 0:
            continue
        scores = k[x, seen, head] @ q[x, i, head] / d**0.5
        if d_bias is not None:
            scores = scores + np.broadcast_to(bias, d_bias.shape)[x, head, i, seen]
        elif bias is not None:
            scores = scores + bias(at, keys[seen], head)
        peak = scores.max()
        weights = np.exp(scores - peak)
        lse[x, i, head] = peak + np.log(weights.sum())
        weights /= weights.sum()
        output[x, i, head] = weights @ v[x, seen, head]
        pulled = v[x, seen, head] @ d_output[x, i, head]
        d_scores = weights * pulled - weights * (weights @ pulled) + d_lse[x, i, head] * weights
        dq[x, i, head] += d_scores @ k[x, seen, head] / d**0.5
        dk[x, seen, head] += np.outer(d_scores, q[x, i, head]) / d**0.5
        dv[x, seen, head] += np.outer(weights, d_output[x, i, head])
        if d_bias is not None:
            d_bias[x, head, i, seen] += d_scores
    if d_bias is None:
        return output, lse, dq, dk, dv
    shape = (1,) * (4 - bias.ndim) + bias.shape
    axes = tuple(i for i in range(4) if shape[i] == 1)
    return output, lse, dq, dk, dv, d_bias.sum(axes, keepdims=True).reshape(bias.shape)


def pulled_back(implementation, q, k, v, d_output, d_lse, *, bias=None, ids=None, **options):
    """The same from the library, compiled."""
    if ids is not None:
        options |= {"q_ids": jnp.asarray(ids[0]), "kv_ids": jnp.asarray(ids[1])}
    if options.get("kv_mask") is not None:
        options["kv_mask"] = jnp.asarray(options["kv_mask"])
    own = () if bias is None or callable(bias) else (bias,)

    @jax.jit
    def run(inputs, cotangents):
        def call(q, k, v, *given):
            given = given[0] if given else bias
            return attention(q, k, v, bias=given, implementation=implementation, **options)

        found, pull = jax.vjp(call, *inputs)
        return *found, *pull(type(found)(*cotangents))

    inputs = tuple(jnp.asarray(x, q.dtype) for x in (q, k, v, *own))
    return run(inputs, (jnp.asarray(d_output, q.dtype), jnp.asarray(d_lse)))


def assert_near(found, wanted, tolerance):
    assert len(found) == len(wanted)
    for a, b in zip(found, wanted, strict=True):
        a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
        scale = np.abs(b[np.isfinite(b)]).max(initial=1.0)
        np.testing.assert_allclose(a, b, rtol=tolerance, atol=tolerance * scale)


# (queries, keys, options): each takes another way through the tiles.
CASES = {
    "dense": (7, 9, {}),
    "bias": (33, 40, {"bias": drawn(2, 33, 40)}),
    "masked": (35, 42, {"kv_mask": drawn(2, 42) > 0, "pattern": LOCAL_AND_GLOBAL}),
    "function": (140, 140, {"bias": distance, "pattern": causal()}),
    "bias in spans": (141, 141, {"bias": drawn(2, 1, 141, 141), "pattern": causal()}),
    "ids": (
        36,
        43,
        {
            "ids": (
                np.random.default_rng(0).integers(0, 43, (2, 36)).astype(np.int32),
                np.random.default_rng(1).permutation(43).astype(np.int32)[None],
            ),
            "pattern": causal() & fixed_blocks(8, 2),
            "bias": drawn(2, 1, 1, 43),
        },
    ),
    "folded": (45, 45, {"pattern": local_blocks(8) & causal(), "kv_mask": drawn(1, 45) > 0}),
    "random": (900, 900, {"pattern": big_bird(900, 64, random=1, heads=2)}),
}


@pytest.mark.parametrize("case", CASES)
def test_tiles_equal_a_loop(case, monkeypatch):
    """In float64, where only the order of summation differs; with room for 512 scores at a time."""
    n, m, options = CASES[case]
    monkeypatch.setattr(attention_plan, "_COPYING", 0)  # blocks at short sequences too
    if n < 200:
        monkeypatch.setattr(attention_tiles, "_STEP_SCORES", 512)
        monkeypatch.setattr(attention_tiles, "_SMALL_SCORES", 1024)
    with jax.enable_x64(True):
        given = arrays(n, m, b=1 if n > 200 else 2)
        found = pulled_back("xla", *given, **options)
        assert all(x.dtype == jnp.float64 for x in found)
    assert_near(found, one_by_one(*given, **options), 1e-11)


def test_reference_equals_a_loop():
    n, m, options = CASES["masked"]
    with jax.enable_x64(True):
        found = pulled_back("reference", *arrays(n, m), **options)
    assert_near(found, one_by_one(*arrays(n, m), **options), 1e-11)


def test_half_precision():
    """Half precision rounds inputs before and outputs after; lse stays in single."""
    given = [x.astype(np.float32) for x in arrays(37, 44)]
    half = [np.asarray(jnp.asarray(x, jnp.bfloat16)) for x in given[:4]] + [given[4]]
    found = pulled_back(None, *half)
    kinds = [x.dtype for x in found]
    assert kinds == [jnp.bfloat16, jnp.float32, *3 * [jnp.bfloat16]]
    rounded = [np.asarray(x, np.float64) for x in half]
    assert_near(found, one_by_one(*rounded), 2**-7)


def test_equals_jax():
    q, k, v, g, _ = (jnp.asarray(x, jnp.float32) for x in arrays(64, 64, d=4, e=4))
    bias = jnp.asarray(drawn(1, 2, 64, 64), jnp.float32)

    @jax.jit
    def both(q, k, v, bias, g):
        ours, pull = jax.vjp(
            lambda *a: attention(*a[:3], bias=a[3], pattern=causal())[0], *(q, k, v, bias)
        )
        theirs, pull_theirs = jax.vjp(
            lambda *a: jax.nn.dot_product_attention(*a, is_causal=True), *(q, k, v, bias)
        )
        return (ours, *pull(g)), (theirs, *pull_theirs(g))

    found, wanted = both(q, k, v, bias, g)
    assert_near(found, wanted, 2e-5)


def test_gradient_equals_finite_differences():
    with jax.enable_x64(True):
        q, k, v, *_ = map(jnp.asarray, arrays(5, 6, b=1, h=1))
        bias = jnp.asarray(drawn(5, 6))
        call = jax.jit(lambda q, k, v, bias: tuple(attention(q, k, v, bias=bias, scale=0.7)))
        jax.test_util.check_grads(call, (q, k, v, bias), order=1, modes=("rev",), rtol=1e-6)


@pytest.mark.parametrize("implementation", ["reference", "xla"])
def test_nothing_leaks(implementation):
    """NaN under the mask and in unseen biases; queries that see no key, with any cotangent."""
    q, k, v, g, d_lse = (x.astype(np.float32) for x in arrays(6, 8))
    mask = np.zeros((2, 8), bool)
    mask[0, 2:5] = True
    mask[1, 7] = True
    bias = np.asarray(drawn(2, 1, 6, 8), np.float32)
    bias[~np.broadcast_to(mask[:, None, None], bias.shape)] = np.nan
    bias[:, :, 3] = np.where(np.arange(8) > 3, np.nan, bias[:, :, 3])
    options = {"kv_mask": mask, "pattern": causal()}
    clean = one_by_one(
        *(x.astype(np.float64) for x in (q, k, v, g, d_lse)), bias=np.nan_to_num(bias), **options
    )
    k[~mask], v[~mask] = np.nan, np.inf
    d_lse = np.where(np.isneginf(clean[1]), np.float32(np.nan), d_lse)
    found = pulled_back(implementation, q, k, v, g, d_lse, bias=bias, **options)
    assert np.isneginf(found[1][1, :6]).all()  # the only key of the second example comes later
    assert not np.asarray(found[0][1, :6]).any()
    assert_near(found, clean, 2e-5)
    assert not np.asarray(found[3])[~mask].any()
    assert not np.asarray(found[4])[~mask].any()


def test_vmap_equals_a_loop():
    q, k, v, g, _ = (jnp.asarray(drawn(3, *x.shape), jnp.float32) for x in arrays(20, 20))
    run = jax.jit(
        lambda q, k, v, g: jax.vjp(lambda *a: attention(*a, pattern=LOCAL_AND_GLOBAL)[0], q, k, v)[
            1
        ](g)
    )
    looped = [jnp.stack(x) for x in zip(*map(run, q, k, v, g), strict=True)]
    assert_near(jax.vmap(run)(q, k, v, g), looped, 1e-5)


def test_memory_grows_linearly_with_a_window():
    """Twice the length takes twice the memory, forward and backward, and no N x N array."""

    def temporary(n):
        shape = jax.ShapeDtypeStruct((1, n, 2, 8), jnp.float32)
        window = sliding_window(64, 64) | global_tokens(1)

        def run(q, k, v, g):
            found, pull = jax.vjp(lambda *a: attention(*a, pattern=window)[0], q, k, v)
            return found, pull(g)

        compiled = jax.jit(run).trace(*[shape] * 4).lower().compile()
        return compiled.memory_analysis().temp_size_in_bytes

    small, large = temporary(4096), temporary(8192)
    assert large < 2.2 * small
    assert large < 8192**2


def test_empty_sizes():
    for n, m, b in ((0, 3, 2), (3, 0, 2), (3, 3, 0)):
        output, lse = attention(*(jnp.ones((b, size, 2, 4)) for size in (n, m, m)))
        assert output.shape == (b, n, 2, 4)
        assert not output.any() or m
        assert np.isneginf(lse).all() or m


def test_second_derivatives_are_refused():
    q = jnp.ones((1, 2, 1, 2))
    gradient = jax.grad(lambda q: attention(q, q, q).output.sum())
    with pytest.raises(NotImplementedError, match="has no gradient"):
        jax.grad(lambda q: gradient(q).sum())(q)


Q = jnp.ones((2, 3, 2, 4))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"q": Q[0]}, "q, k, v have shapes"),
        ({"k": Q[:, :, :1]}, "repeat keys and values that heads share"),
        ({"v": Q.astype(jnp.bfloat16)}, "one floating-point dtype"),
        ({"q_ids": jnp.arange(3)}, "q_ids has shape"),
        ({"kv_ids": jnp.zeros((1, 3))}, "kv_ids has shape .* dtype float32"),
        ({"kv_mask": jnp.ones((2, 4), bool)}, "kv_mask has shape"),
        ({"bias": jnp.ones((3, 3, 3))}, "bias has shape"),
        ({"bias": jnp.ones((3, 3), bool)}, "floating-point numbers"),
        ({"pattern": "causal"}, "is no pattern"),
        ({"implementation": "triton"}, "implementation='triton' is unknown"),
    ],
)
def test_bad_arguments_are_named(options, message):
    given = {"q": Q, "k": Q, "v": Q, **options}
    with pytest.raises(ValueError, match=message):
        attention(**given)


def test_traced_once_for_equal_patterns():
    calls = []

    class Counted(type(causal())):
        def visible(self, *a):
            calls.append(1)
            return super().visible(*a)

    call = functools.partial(attention, Q, Q, Q)
    first = call(pattern=Counted()).output
    seen = len(calls)
    assert seen
    np.testing.assert_array_equal(call(pattern=Counted()).output, first)
    assert len(calls) == seen
