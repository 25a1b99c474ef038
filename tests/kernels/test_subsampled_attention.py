"""Attention to drawn keys: against loops over the sets of keys, and what it keeps and refuses."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from trove_jax.kernels import (
    attention,
    attention_pattern,
    locally_biased_permutation,
    subsampled_attention,
    unbiased_subset,
)

B, N, H, D, E = 2, 12, 2, 4, 3
KEY = jax.random.key(3)
LENGTHS = jnp.array([12, 7], jnp.int32)


def arrays(n=N, dtype=np.float32):
    rng = np.random.default_rng(n)
    shapes = [(B, n, H, D), (B, n, H, D), (B, n, H, E)]
    return tuple(jnp.asarray(rng.standard_normal(shape), dtype) for shape in shapes)


def permutation(lengths=None, n=N):
    if lengths is None:
        return locally_biased_permutation(KEY, n, 3.0)[None]
    return locally_biased_permutation(KEY, n, 3.0, lengths=lengths)


def subset(lengths=None):
    if lengths is None:
        return unbiased_subset(KEY, N, 5)[None]
    return unbiased_subset(KEY, N, 5, lengths=lengths)


def slope(q_ids, kv_ids, head):
    """A bias by distance, as a function."""
    return -(1 + head) * abs(q_ids - kv_ids)


def table(b, h):
    return jnp.asarray(np.random.default_rng(9).standard_normal((b, h, N, N)), jnp.float32)


def sources(drawn, i, *, window, causal, length, keep_self):
    """The set S(i) of the card: keys that query i sees, by their original positions."""
    own = drawn if window is None else drawn[i // window * window :][:window]
    seen = {int(j) for j in own if j < length and not (causal and j > i)}
    return sorted(seen | ({i} if keep_self and i < length else set()))


def visible_pairs(drawn, *, window=None, causal=False, lengths=None, keep_self=None):
    """Which query sees which key, `[B, N, N]`."""
    visible = np.zeros((B, N, N), bool)
    keep_self = causal if keep_self is None else keep_self
    rule = {"window": window, "causal": causal, "keep_self": keep_self}
    for x, i in np.ndindex(B, N):
        length = N if lengths is None else int(lengths[x])
        visible[x, i, sources(np.asarray(drawn)[x % len(drawn)], i, length=length, **rule)] = True
    return visible


def by_loops(q, k, v, drawn, *, window=None, causal=False, bias=None, lengths=None, keep_self=None):
    """Every query for itself, in float64."""
    q, k, v, drawn = np.float64(q), np.float64(k), np.float64(v), np.asarray(drawn)
    (b, n, h, d), e = q.shape, v.shape[-1]
    output, lse = np.zeros((b, n, h, e)), np.full((b, n, h), -np.inf)
    keep_self = causal if keep_self is None else keep_self
    rule = {"window": window, "causal": causal, "keep_self": keep_self}
    for x in range(b):
        length = n if lengths is None else lengths[x]
        row = drawn[x % len(drawn)]
        for i in range(n):
            seen = sources(row, i, length=length, **rule)
            for head in range(h):
                scores = np.array([q[x, i, head] @ k[x, j, head] / d**0.5 for j in seen])
                if callable(bias):
                    scores += [bias(i, j, head) for j in seen]
                elif bias is not None:
                    scores += np.asarray(bias)[x % len(bias), head % bias.shape[1], i, seen]
                if seen:
                    weights = np.exp(scores - scores.max())
                    lse[x, i, head] = scores.max() + np.log(weights.sum())
                    output[x, i, head] = weights @ v[x, seen, head] / weights.sum()
    return output, lse


@jax.jit
def by_mask(q, k, v, bias, visible):
    """Dense attention under a mask `[b, n, n]`: its gradient is that of plain JAX."""

    def attend(q, k, v, bias):
        scores = jnp.einsum("bnhd,bmhd->bhnm", q, k) / D**0.5 + bias
        scores = jnp.where(visible[:, None], scores, -1e30)
        weights = jnp.where(visible[:, None], jax.nn.softmax(scores, -1), 0.0)
        lse = jax.nn.logsumexp(scores, -1).swapaxes(1, 2)
        return jnp.einsum("bhnm,bmhe->bnhe", weights, v), lse

    return gradients_through_both(attend, q, k, v, bias)[0]


def gradients_through_both(attend, *arguments):
    """Gradients through output and lse to everything that is an array, and both of them."""
    rng = np.random.default_rng(1)
    weights = rng.standard_normal((B, N, H, E)), rng.standard_normal((B, N, H))
    for_output, for_lse = (jnp.asarray(w, jnp.float32) for w in weights)

    def objective(*arguments):
        output, lse = attend(*arguments)
        total = jnp.sum(output * for_output)
        return total + jnp.sum(jnp.where(lse > -1e29, lse, 0.0) * for_lse), (output, lse)

    return jax.grad(objective, tuple(range(len(arguments))), has_aux=True)(*arguments)


CASES = {
    "windows": {"window": 6, "drawn": permutation(), "bias": table(1, 2)},
    "causal windows": {"window": 4, "drawn": permutation(), "causal": True, "bias": slope},
    "all at once": {
        "window": 3,
        "drawn": permutation(LENGTHS),
        "causal": True,
        "lengths": LENGTHS,
        "bias": table(2, 1),
    },
    "windows and self": {
        "window": 1,
        "drawn": permutation(LENGTHS),
        "lengths": LENGTHS,
        "keep_self": True,
    },
    "queries before all keys": {
        "drawn": jnp.array([[2, 5, 6, 9, 11]]),
        "causal": True,
        "keep_self": False,
    },
    "causal subset": {"drawn": subset(), "causal": True, "bias": slope},
    "padded causal subset": {
        "drawn": subset(LENGTHS),
        "lengths": LENGTHS,
        "causal": True,
        "bias": table(2, 2),
    },
}


@pytest.mark.filterwarnings("ignore:causal with keep_self=False")
@pytest.mark.parametrize("case", CASES)
def test_sets_of_keys_against_loops(case):
    """Outputs against NumPy, gradients against plain JAX under the mask that the loop finds."""
    options = dict(CASES[case])
    drawn, bias = options.pop("drawn"), options.pop("bias", None)
    qkv = arrays()

    def attend(*arguments):
        given = arguments[3] if len(arguments) > 3 else bias
        return subsampled_attention(*arguments[:3], drawn, bias=given, **options)

    given = qkv if bias is None or callable(bias) else (*qkv, bias)
    gradients, (output, lse) = jax.jit(functools.partial(gradients_through_both, attend))(*given)
    wanted = by_loops(*qkv, drawn, bias=bias, **options)
    np.testing.assert_allclose(output, wanted[0], rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(lse, wanted[1], rtol=1e-5, atol=1e-6)
    if case == "queries before all keys":
        np.testing.assert_array_equal(lse[:, :2], -np.inf)
        np.testing.assert_array_equal(gradients[0][:, :2], 0.0)

    ids = np.arange(N)
    if callable(bias):
        whole = bias(ids[:, None], ids[None], np.arange(H)[:, None, None])
    else:
        whole = 0.0 if bias is None else np.asarray(bias)
    whole = np.broadcast_to(whole, (B, H, N, N)).astype(np.float32)
    *of_qkv, of_bias = by_mask(*qkv, whole, visible_pairs(drawn, **options))
    for found, want in zip(gradients, of_qkv, strict=False):
        np.testing.assert_allclose(found, want, rtol=2e-5, atol=2e-6)
    if len(gradients) == 4:
        shared = tuple(axis for axis in (0, 1) if bias.shape[axis] == 1)
        want = np.sum(of_bias, axis=shared, keepdims=True)
        np.testing.assert_allclose(gradients[3], want, rtol=2e-5, atol=2e-6)


def test_windows_without_noise_are_local_blocks():
    q, k, v = arrays()
    still = jnp.arange(N)[None]
    found = jax.jit(functools.partial(subsampled_attention, window=4))(q, k, v, still)
    wanted = attention(q, k, v, pattern=attention_pattern.local_blocks(4))
    np.testing.assert_allclose(found.output, wanted.output, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(found.lse, wanted.lse, rtol=1e-5, atol=1e-6)


def test_a_subset_may_be_of_other_keys():
    """Attention between two sequences: 12 queries, 8 keys of which 5 were drawn."""
    q, k, _ = arrays()
    drawn = jnp.array([[0, 2, 3, 6, 7]])
    found = jax.jit(subsampled_attention)(q, k[:, :8], k[:, :8], drawn)
    wanted = jax.nn.dot_product_attention(q, k[:, drawn[0]], k[:, drawn[0]])
    np.testing.assert_allclose(found.output, wanted, rtol=1e-5, atol=1e-6)


def test_rows_without_keys_are_announced():
    attend = functools.partial(subsampled_attention, window=4, causal=True, keep_self=False)
    with pytest.warns(UserWarning, match="causal with keep_self=False"):
        jax.eval_shape(attend, *arrays(), permutation())


@pytest.mark.parametrize("window", [4, None])
def test_padding_may_hold_anything(window):
    """Neither value nor gradient of valid positions sees NaN behind the end."""
    clean = arrays()
    valid = jnp.arange(N)[None] < LENGTHS[:, None]
    drawn = permutation(LENGTHS) if window else subset(LENGTHS)

    def objective(*qkv):
        attended = subsampled_attention(
            *qkv, drawn, window=window, causal=True, lengths=LENGTHS
        ).output
        return jnp.sum(jnp.where(valid[:, :, None, None], attended, 0.0)), attended

    evaluate = jax.jit(jax.grad(objective, (0, 1, 2), has_aux=True))
    q, *kv = clean
    poisoned = (q, *(jnp.where(valid[:, :, None, None], x, jnp.nan) for x in kv))
    found, wanted = evaluate(*poisoned), evaluate(*clean)
    for x, y in zip(jax.tree.leaves(found), jax.tree.leaves(wanted), strict=True):
        np.testing.assert_array_equal(x, y)
    for gradient in found[0][1:]:
        np.testing.assert_array_equal(jnp.where(valid[:, :, None, None], 0.0, gradient), 0.0)


def test_filling_up_changes_nothing():
    """Ten positions in windows of four, against the loop; a bias is filled up with them."""
    q, k, v = arrays(10)
    options = {"window": 4, "causal": True, "bias": table(1, 2)[:, :, :10, :10]}
    attend = jax.jit(functools.partial(subsampled_attention, pad=True, window=4, causal=True))
    for lengths in (jnp.array([10, 10]), jnp.array([10, 7])):
        drawn = permutation(lengths, 10)
        found = attend(q, k, v, drawn, bias=options["bias"], lengths=lengths)
        wanted = by_loops(q, k, v, drawn, lengths=lengths, **options)
        np.testing.assert_allclose(found.output, wanted[0], rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(found.lse, wanted[1], rtol=1e-5, atol=1e-6)


def test_gradient_of_moving_keys_is_a_gathering():
    q, k, v = arrays()

    def objective(q, k, v):
        return jnp.sum(subsampled_attention(q, k, v, permutation(), window=4).output ** 2)

    program = str(jax.make_jaxpr(jax.grad(objective, (0, 1, 2)))(q, k, v))
    assert "gather[" in program
    assert "scatter-add" not in program


def test_seeds_under_vmap():
    """As a layer is trained: every seed has its own draw and its own arrays."""
    other = locally_biased_permutation(jax.random.key(8), N, 2.0, lengths=LENGTHS)
    draws = [permutation(LENGTHS), other]
    q, k, v = (jnp.stack([x, 2 * x]) for x in arrays())

    def gradients(drawn, *qkv):
        attend = functools.partial(subsampled_attention, drawn=drawn, window=4, lengths=LENGTHS)
        return gradients_through_both(attend, *qkv)[0]

    together = jax.jit(jax.vmap(gradients))(jnp.stack(draws), q, k, v)
    for seed, drawn in enumerate(draws):
        visible = visible_pairs(drawn, window=4, lengths=LENGTHS)
        no_bias = np.zeros((B, H, N, N), np.float32)
        wanted = by_mask(q[seed], k[seed], v[seed], no_bias, visible)
        for x, y in zip(together, wanted[:3], strict=True):
            np.testing.assert_allclose(x[seed], y, rtol=2e-5, atol=2e-6)


@pytest.mark.parametrize("platform", ["tpu", "cuda"])
def test_kernels_lower_without_the_machine(platform):
    q, k, v = arrays()

    def objective(q, k, v, drawn):
        options = {"window": 4, "causal": True, "lengths": LENGTHS}
        return subsampled_attention(q, k, v, drawn, **options).output.sum()

    call = jax.jit(jax.grad(objective, (0, 1, 2)))
    traced = call.trace(q, k, v, permutation(LENGTHS))
    text = traced.lower(lowering_platforms=(platform,)).as_text()
    assert {"tpu": "tpu_custom_call", "cuda": "__gpu$xla.gpu.triton"}[platform] in text


def test_half_precision_is_computed_in_single():
    half = arrays(dtype=jnp.bfloat16)
    options = {"window": 4, "causal": True}
    found = jax.jit(functools.partial(subsampled_attention, **options))(*half, permutation())
    assert (found.output.dtype, found.lse.dtype) == (jnp.bfloat16, jnp.float32)
    output, lse = by_loops(*half, permutation(), **options)
    # Rounded before and after the query's own key is added: twice one part in 256.
    np.testing.assert_allclose(found.output.astype(jnp.float32), output, rtol=2**-7, atol=2**-7)
    np.testing.assert_allclose(found.lse, lse, rtol=1e-5, atol=1e-5)


def test_floating_point_operations_fall_by_the_share_of_keys():
    """Forward and back as the reference, since XLA counts the body of a loop once."""
    n, window = 1024, 128
    q, k, v, g = (jax.ShapeDtypeStruct((1, n, 2, 32), jnp.float32) for _ in range(4))
    drawn = jax.ShapeDtypeStruct((1, n), jnp.int32)

    def operations(attend):
        def forward_and_back(q, k, v, g, drawn):
            return jax.vjp(lambda *qkv: attend(*qkv, drawn).output, q, k, v)[1](g)

        return jax.jit(forward_and_back).lower(q, k, v, g, drawn).compile().cost_analysis()["flops"]

    dense = operations(lambda q, k, v, _: attention(q, k, v, implementation="reference"))
    sampled = operations(
        functools.partial(subsampled_attention, window=window, implementation="reference")
    )
    assert 0.97 <= dense / sampled / (n / window) <= 1.01


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"q": jnp.ones((N, H, D))}, r"q has shape \(12, 2, 4\)"),
        ({"k": jnp.ones((B, N, 1, D))}, "do not fit"),
        ({"drawn": jnp.ones((1, N))}, "drawn has shape .* dtype float32"),
        ({"drawn": jnp.arange(N)}, r"drawn has shape \(12,\)"),
        ({"drawn": jnp.zeros((3, N), int)}, r"2 or 1 rows of at most 12"),
        ({"drawn": jnp.zeros((1, N + 1), int)}, r"2 or 1 rows of at most 12"),
        ({"window": 5}, "window=5 does not divide n=12"),
        ({"window": 13}, "window=13 with 12 queries"),
        ({"drawn": jnp.zeros((1, 4), int)}, "12 keys and 4 drawn"),
        ({"bias": jnp.ones((1, 1, N, 4))}, r"bias has shape \(1, 1, 12, 4\)"),
        ({"lengths": jnp.array([12, 0])}, "lengths go from 0 to 12"),
        ({"lengths": jnp.array([12, 1, 1])}, "lengths has 3 entries for a batch of 2"),
        ({"k": jnp.ones((B, 5, H, D)), "v": jnp.ones((B, 5, H, E))}, "drawn has shape"),
        (
            {
                "k": jnp.ones((B, 5, H, D)),
                "v": jnp.ones((B, 5, H, E)),
                "drawn": jnp.zeros((1, 3), int),
                "window": None,
                "causal": True,
            },
            "12 queries and 5 keys with keep_self=True",
        ),
    ],
)
def test_bad_arguments_are_named(changes, message):
    q, k, v = arrays()
    options = {"q": q, "k": k, "v": v, "drawn": jnp.arange(N)[None], "window": 4, **changes}
    with pytest.raises(ValueError, match=message):
        subsampled_attention(**options)


def test_what_was_drawn_is_checked_where_that_is_asked_for():
    q, k, v = arrays()
    with jax.enable_checks(True):
        with pytest.raises(ValueError, match=r"drawn is no permutation of 0\.\.11"):
            subsampled_attention(q, k, v, jnp.zeros((1, N), int), window=4)
        with pytest.raises(ValueError, match=r"drawn is no ascending subset of 0\.\.11"):
            subsampled_attention(q, k, v, jnp.array([[3, 1]]))
        with pytest.raises(ValueError, match=r"drawn is no ascending subset of 0\.\.11"):
            subsampled_attention(q, k, v, jnp.array([[3, 12]]))
