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


@pytest.mark.parametrize("chunk", [1, 4, 11, 64])
def test_causal_against_pairs_and_recurrence(chunk):
    """Chunks of one position, that do not divide the length, as long as it and longer."""
    q, k, v = arrays()
    attend = jax.jit(functools.partial(linear_attention, causal=True, chunk=chunk, epsilon=0.1))
    found = attend(q, k, v)
    np.testing.assert_allclose(found, by_recurrence(q, k, v, 0.1), rtol=1e-5, atol=1e-6)
    wanted = over_pairs(q, k, v, causal=True, epsilon=0.1)
    np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-6)


def test_the_future_is_not_seen():
    q, k, v = map(jnp.asarray, arrays())
    attend = jax.jit(functools.partial(linear_attention, causal=True, chunk=4))
    changed = attend(q, k.at[:, 6:].mul(3.0), v.at[:, 6:].set(1e6))
    np.testing.assert_array_equal(changed[:, :6], attend(q, k, v)[:, :6])


@pytest.mark.parametrize("causal", [False, True])
def test_gradient_against_finite_differences(causal):
    attend = jax.jit(functools.partial(linear_attention, causal=causal, chunk=2, epsilon=0.1))
    with jax.enable_x64(True):
        arguments = [jnp.asarray(x, jnp.float64) for x in arrays(b=1, n=5, r=2, e=2)]
        # Central differences with a step of 1e-6 are good to about 1e-8.
        jax.test_util.check_grads(
            attend, arguments, order=1, modes=("rev",), atol=1e-6, rtol=1e-6, eps=1e-6
        )


@pytest.mark.parametrize("causal", [False, True])
def test_masked_positions_are_as_if_cut_off(causal):
    """Padding may hold NaN: it reaches neither output nor gradient."""
    q, k, v = arrays(b=1)
    mask = np.arange(11)[None] < 7
    poisoned = [jnp.where(mask[:, :, None, None], x, jnp.nan) for x in (q, k, v)]
    cut = [jnp.asarray(x[:, :7]) for x in (q, k, v)]

    @jax.jit
    def evaluate(mask, arguments):
        def total(*arguments):
            attended = linear_attention(
                *arguments, causal=causal, chunk=4, kv_mask=mask, q_mask=mask
            )
            return jnp.sum(jnp.sin(attended)), attended

        return jax.grad(total, argnums=(0, 1, 2), has_aux=True)(*arguments)

    gradients, attended = evaluate(jnp.asarray(mask), poisoned)
    wanted_gradients, wanted = evaluate(None, cut)
    for found, want in zip((attended, *gradients), (wanted, *wanted_gradients), strict=True):
        np.testing.assert_allclose(found[:, :7], want, rtol=1e-5, atol=1e-6)
        np.testing.assert_array_equal(found[:, 7:], 0.0)


@pytest.mark.parametrize("causal", [False, True])
def test_a_row_without_keys_is_zero(causal):
    """Causal: the first three. Else none, but for an example whose keys are all masked."""
    q, k, v = map(jnp.asarray, arrays())
    mask = jnp.arange(11)[None] >= jnp.array([[3], [11]])

    @jax.jit
    def attend(q):
        return linear_attention(q, k, v, causal=causal, chunk=4, kv_mask=mask)

    attended, pull = jax.vjp(attend, q)
    (gradient,) = pull(jnp.ones_like(attended))
    empty = np.arange(11)[None] < np.array([[3 if causal else 0], [11]])
    np.testing.assert_array_equal(attended[empty], 0.0)
    np.testing.assert_array_equal(gradient[empty], 0.0)
    assert bool(jnp.isfinite(gradient).all())
    wanted = over_pairs(q, k, v, causal=causal, kv_mask=np.asarray(mask))
    np.testing.assert_allclose(attended, wanted, rtol=1e-5, atol=1e-6)


def test_memory_of_forward_and_back_is_linear_in_the_length():
    """Four times the length takes four times the temporaries; all pairs would take 16 times."""

    def temporaries(n):
        q, k, v, g = (jax.ShapeDtypeStruct((1, n, 1, 8), jnp.float32) for _ in range(4))

        def forward_and_back(q, k, v, g):
            return jax.vjp(functools.partial(linear_attention, causal=True), q, k, v)[1](g)

        compiled = jax.jit(forward_and_back).lower(q, k, v, g).compile()
        return compiled.memory_analysis().temp_size_in_bytes

    small, large = temporaries(1024), temporaries(4096)
    assert large < 4.2 * small
    assert large < 4 * 4096**2 / 8  # an eighth of one array of all pairs


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
    with pytest.raises(ValueError, match="q_features has shape .* dtype int32"):
        linear_attention(q, k, v)
