"""Linear attention: against all pairs in NumPy, against its recurrence, and what it keeps."""

import functools

import jax
import jax.numpy as jnp
import jax.test_util
import numpy as np
import pytest

from tests.contracts import ArrayContract, cases, holds
from trove_jax.kernels import linear_attention

SHAPES = [(2, 3, 2, 4), (2, 5, 2, 4), (2, 5, 2, 3)]  # queries, keys, values: n = 3, m = 5


def arrays(b=2, n=11, m=None, h=2, r=4, e=3, seed=0):
    rng = np.random.default_rng(seed)
    m = n if m is None else m
    q, k = rng.random((b, n, h, r)), rng.random((b, m, h, r))
    return tuple(x.astype(np.float32) for x in (q, k, rng.standard_normal((b, m, h, e))))


def over_pairs(q, k, v, *, causal=False, kv_mask=None, epsilon=0.0):
    """The definition: all weights, in float64."""
    q, k, v = (np.asarray(x, np.float64) for x in (q, k, v))
    weights = np.einsum("bnhr,bmhr->bhnm", q, k)
    if causal:
        weights = np.tril(weights)
    if kv_mask is not None:
        weights = np.where(kv_mask[:, None, None], weights, 0.0)
        v = np.where(kv_mask[:, :, None, None], v, 0.0)
    divisor = weights.sum(-1, keepdims=True) + epsilon
    shares = np.where(divisor == 0, 0.0, weights / np.where(divisor == 0, 1.0, divisor))
    return np.einsum("bhnm,bmhe->bnhe", shares, v)


def by_recurrence(q, k, v, epsilon=0.0):
    """The causal form as a recurrent network, one position at a time, in float64."""
    (b, n, h, r), e = q.shape, v.shape[-1]
    outputs = np.zeros((b, n, h, e))
    for example in range(b):
        for head in range(h):
            state, weight = np.zeros((r, e)), np.zeros(r)
            for i in range(n):
                state += np.outer(k[example, i, head], v[example, i, head])
                weight += k[example, i, head]
                divisor = q[example, i, head] @ weight + epsilon
                outputs[example, i, head] = q[example, i, head] @ state / divisor
    return outputs


@pytest.mark.parametrize("epsilon", [0.0, 0.5])
def test_all_keys_against_pairs(epsilon):
    q, k, v = arrays(n=4, m=7)
    found = jax.jit(functools.partial(linear_attention, epsilon=epsilon))(q, k, v)
    np.testing.assert_allclose(found, over_pairs(q, k, v, epsilon=epsilon), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("chunk", [1, 4, 64])
def test_causal_against_pairs_and_recurrence(chunk):
    """Chunks of one position, that do not divide the length, and longer than it."""
    q, k, v = arrays()
    attend = jax.jit(functools.partial(linear_attention, causal=True, chunk=chunk, epsilon=0.1))
    found = attend(q, k, v)
    np.testing.assert_allclose(found, by_recurrence(q, k, v, 0.1), rtol=1e-5, atol=1e-6)
    wanted = over_pairs(q, k, v, causal=True, epsilon=0.1)
    np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-6)


def test_gradient_of_chunks_against_finite_differences():
    attend = jax.jit(functools.partial(linear_attention, causal=True, chunk=2, epsilon=0.1))
    with jax.enable_x64(True):
        arguments = [jnp.asarray(x, jnp.float64) for x in arrays(b=1, n=5, r=2, e=2)]
        # Central differences with a step of 1e-6 are good to about 1e-8.
        jax.test_util.check_grads(
            attend, arguments, order=1, modes=("rev",), atol=1e-6, rtol=1e-6, eps=1e-6
        )


@pytest.mark.parametrize("causal", [False, True])
def test_masked_positions_may_hold_anything(causal):
    """Padding at the end, at the start, and nothing but padding; rows without keys are 0."""
    q, k, v = arrays(b=3)
    places = np.arange(11)[None]
    mask = np.concatenate([places < 7, places >= 3, places < 0])
    poisoned = [np.where(mask[:, :, None, None], x, np.float32(np.nan)) for x in (k, v)]

    @jax.jit
    def evaluate(q, k, v, q_mask):
        def total(*qkv):
            masks = {"kv_mask": jnp.asarray(mask), "q_mask": q_mask}
            attended = linear_attention(*qkv, causal=causal, chunk=4, **masks)
            return jnp.sum(jnp.sin(attended)), attended

        return jax.grad(total, argnums=(0, 1, 2), has_aux=True)(q, k, v)

    everywhere = np.ones_like(mask)
    clean = evaluate(q, k, v, everywhere)
    wanted = over_pairs(q, k, v, causal=causal, kv_mask=mask)
    np.testing.assert_allclose(clean[1], wanted, rtol=1e-5, atol=1e-6)
    without = ~(np.cumsum(mask, 1) > 0 if causal else mask.any(1, keepdims=True) & everywhere)
    assert without.sum() == (14 if causal else 11)
    np.testing.assert_array_equal(clean[1][without], 0.0)
    np.testing.assert_array_equal(clean[0][0][without], 0.0)
    for found, want in zip(
        jax.tree.leaves(evaluate(q, *poisoned, everywhere)), jax.tree.leaves(clean), strict=True
    ):
        np.testing.assert_array_equal(found, want)

    # Queries that are masked too may hold NaN as well.
    missing = np.where(mask[:, :, None, None], q, np.float32(np.nan))
    for found in jax.tree.leaves(evaluate(missing, *poisoned, mask)):
        assert np.isfinite(found).all()
        np.testing.assert_array_equal(np.asarray(found)[~mask], 0.0)


def test_forward_and_back_keep_far_less_than_all_pairs():
    n = 4096
    shape = jax.ShapeDtypeStruct((1, n, 1, 8), jnp.float32)

    def forward_and_back(q, k, v, g):
        return jax.vjp(functools.partial(linear_attention, causal=True), q, k, v)[1](g)

    compiled = jax.jit(forward_and_back).lower(shape, shape, shape, shape).compile()
    # One array of all pairs takes 64 MiB; input, output and their gradients take 0.9 MiB.
    assert compiled.memory_analysis().temp_size_in_bytes < 4 * n**2 / 16


@jax.jit
def one_head(q, k, v, mask):
    """One example and one head, with the length in front as a contract wants it."""
    q, k, v = (x[None, :, None] for x in (q, k, v))
    return linear_attention(q, k, v, kv_mask=mask[None])[0]


def draw(rng, n):
    q, k, v = rng.random((n, 4)), rng.random((n, 4)), rng.standard_normal((n, 3))
    mask = np.arange(n) % 3 != 1
    return *(x.astype(np.float32) for x in (q, k, v)), mask


CONTRACTS = {
    "linear_attention": ArrayContract(
        one_head,
        draw,
        properties=(
            "jit",
            "vmap",
            "float64",
            "bfloat16",
            "empty",
            "single",
            "permutation",
            "mask_is_slice",
        ),
        masked_by={1: 3, 2: 3},
        equivariant=True,
    )
}


@pytest.mark.parametrize(("name", "check"), cases(CONTRACTS))
def test_contract(name, check):
    assert holds(CONTRACTS[name], check)


@pytest.mark.parametrize(
    ("changes", "options", "message"),
    [
        ({"q": (3, 4)}, {}, r"q_features has shape \(3, 4\)"),
        ({"k": (2, 5, 2, 3)}, {}, "do not fit"),
        ({"v": (2, 4, 2, 3)}, {}, "do not fit"),
        ({}, {"causal": True}, "causal with 3 queries and 5 keys"),
        ({}, {"kv_mask": jnp.ones((2, 3), bool)}, r"kv_mask has shape \(2, 3\)"),
        ({}, {"q_mask": jnp.ones((2, 3))}, "q_mask has shape .* dtype float32"),
        ({}, {"chunk": 0}, "chunk=0 must be at least 1"),
        ({}, {"epsilon": -1.0}, "epsilon=-1.0 must be at least 0"),
    ],
)
def test_bad_arguments_are_named(changes, options, message):
    shapes = {**dict(zip("qkv", SHAPES, strict=True)), **changes}
    with pytest.raises(ValueError, match=message):
        linear_attention(*(jnp.ones(shape) for shape in shapes.values()), **options)


def test_integers_are_refused():
    q, k, v = (jnp.ones(shape, jnp.int32) for shape in SHAPES)
    with pytest.raises(ValueError, match=r"q_features has shape .* dtype int32"):
        linear_attention(q, k, v)
