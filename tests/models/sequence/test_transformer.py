"""Transformers against NumPy, and what masks hide."""

import jax
import jax.numpy as jnp
import jax.test_util
import numpy as np
import pytest

from tests.models.sequence.test_recurrent import MASK, TOKENS, draw, learn_parity
from tests.models.variables import count, random_variables
from trove_jax import layers, models
from trove_jax.models.sequence.transformer import sinusoidal_positions

SMALL = {"width": 8, "heads": 2, "depth": 1, "feed_forward": 12, "context": 6}


def dense(x, p):
    return x @ p["kernel"] + p["bias"]


def norm(x, p):
    spread = np.sqrt(x.var(-1, keepdims=True) + 1e-5)
    return (x - x.mean(-1, keepdims=True)) / spread * p["scale"] + p["bias"]


def attend(x, p, seen):
    """One query after the other; `seen` is bool [b, t, t]."""
    b, t, _ = x.shape
    out = np.zeros_like(x)
    for head in range(p["query"]["kernel"].shape[1]):
        q, k, v = (
            x @ p[name]["kernel"][:, head] + p[name]["bias"][head]
            for name in ("query", "key", "value")
        )
        for row in range(b):
            for i in range(t):
                keys = np.flatnonzero(seen[row, i])
                score = k[row, keys] @ q[row, i] / np.sqrt(q.shape[-1])
                weight = np.exp(score - score.max())
                mixed = weight @ v[row, keys] / weight.sum()
                out[row, i] += mixed @ p["out"]["kernel"][head]
    return out + p["out"]["bias"]


def block(x, p, seen, *, norm_first):
    def feed(x):
        return dense(np.maximum(dense(x, p["feed_0"]), 0), p["feed_1"])

    if norm_first:
        x = x + attend(norm(x, p["attention_norm"]), p["attention"], seen)
        return x + feed(norm(x, p["feed_norm"]))
    x = norm(x + attend(x, p["attention"], seen), p["attention_norm"])
    return norm(x + feed(x), p["feed_norm"])


def reference(variables, tokens, mask, *, causal, norm_first, learned):
    p = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), variables["params"])
    t, d = tokens.shape[1], 8
    x = p["embedding"]["embedding"][tokens]
    if learned:
        x = x + p["positions"]["embedding"][:t]
    else:
        for i in range(t):
            for j in range(0, d, 2):
                x[:, i, j] += np.sin(i / 10000 ** (j / d))
                x[:, i, j + 1] += np.cos(i / 10000 ** (j / d))
    seen = np.broadcast_to(mask[:, None, :], (len(x), t, t))
    if causal:
        seen = seen & np.tril(np.ones((t, t), bool))
    for i in range(2):
        x = block(x, p[f"block_{i}"], seen, norm_first=norm_first)
    x = norm(x, p["final_norm"]) if norm_first else x
    return dense(x, p["output"])


@pytest.mark.parametrize(
    ("causal", "norm_first", "positions"),
    [
        (False, False, "sinusoidal"),
        (True, False, "learned"),
        (True, True, "sinusoidal"),
    ],
)
def test_equals_numpy(causal, norm_first, positions):
    settings = {
        **SMALL,
        "depth": 2,
        "causal": causal,
        "norm_first": norm_first,
        "positions": positions,
    }
    model = models.Transformer(3, 5, **settings)
    variables = draw(model)
    learned = positions == "learned"
    want = reference(variables, TOKENS, MASK, causal=causal, norm_first=norm_first, learned=learned)
    got = jax.jit(model.apply)(variables, TOKENS, MASK)
    # Float32 against float64, about ten operations deep.
    np.testing.assert_allclose(got[MASK], want[MASK], rtol=1e-4, atol=1e-4)
    if causal:
        return
    whole = np.ones_like(MASK)
    want = reference(
        variables, TOKENS, whole, causal=causal, norm_first=norm_first, learned=learned
    )
    np.testing.assert_allclose(jax.jit(model.apply)(variables, TOKENS), want, rtol=1e-4, atol=1e-4)
    mean = models.Transformer(3, 5, **settings, readout="mean")
    got = jax.jit(mean.apply)(variables, TOKENS)
    np.testing.assert_allclose(got, want.mean(1), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("learned", [False, True])
def test_parameters_are_counted_in_closed_form(learned):
    v, d, f, k, n, depth = 13, 512, 2048, 13, 256, 4
    model = models.Transformer(
        v, k, positions="learned" if learned else "sinusoidal", norm_first=learned
    )
    shapes = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 4), jnp.int32))
    # PyTorch's encoder layer of this size has 3,152,384 parameters.
    layer = 4 * d * d + 8 * d + 2 * d * f + f + d
    assert layer == 3_152_384
    size = v * d + depth * layer + (d + 1) * k
    assert count(shapes) == size + (n * d + 2 * d if learned else 0)
    if not learned:
        assert size == 12_622_861


def test_a_causal_network_does_not_see_the_future():
    model = models.Transformer(3, 2, **SMALL, causal=True)
    variables = draw(model)
    later = TOKENS.copy()
    later[:, 3:] = (later[:, 3:] + 1) % 3
    apply = jax.jit(model.apply)
    y, z = (apply(variables, tokens) for tokens in (TOKENS, later))
    np.testing.assert_array_equal(y[:, :3], z[:, :3])
    assert (y[:, 3:] != z[:, 3:]).any(axis=2).all()
    full = models.Transformer(3, 2, **SMALL)
    apply = jax.jit(full.apply)
    y, z = (apply(variables, tokens) for tokens in (TOKENS, later))
    assert (y != z).any(axis=2).all()


def test_padding_of_any_value_reaches_neither_outputs_nor_gradients():
    model = models.Transformer(3, 2, **SMALL, readout="mean")
    variables = draw(model)

    @jax.jit
    def loss(variables, tokens):
        y = model.apply(variables, tokens, jnp.asarray(MASK))
        return (y**2).sum(), y

    grad = jax.value_and_grad(loss, has_aux=True)
    want = grad(variables, jnp.asarray(TOKENS))
    for padding in (0, -1, 99):
        got = grad(variables, jnp.asarray(np.where(MASK, TOKENS, padding)))
        jax.tree.map(np.testing.assert_array_equal, got, want)
    alone = jax.jit(model.apply)(variables, TOKENS[1:2, :2])
    np.testing.assert_allclose(want[0][1][1:2], alone, rtol=1e-5, atol=1e-6)


def test_a_sequence_without_tokens_is_finite():
    model = models.Transformer(3, 2, **SMALL, readout="mean")
    variables = draw(model)

    def loss(variables):
        return model.apply(variables, TOKENS, jnp.zeros_like(MASK)).sum()

    value, gradient = jax.jit(jax.value_and_grad(loss))(variables)
    assert float(value) == pytest.approx(3 * float(variables["params"]["output"]["bias"].sum()))
    assert all(bool(jnp.isfinite(leaf).all()) for leaf in jax.tree.leaves(gradient))


def test_without_positions_the_order_would_not_matter():
    block = models.TransformerBlock(heads=2, feed_forward=12)
    x = jax.random.normal(jax.random.key(0), (2, 5, 8))
    variables = random_variables(block, x.shape)
    order = jnp.array([3, 1, 4, 0, 2])
    apply = jax.jit(block.apply)
    np.testing.assert_allclose(
        apply(variables, x[:, order]), apply(variables, x)[:, order], atol=1e-5
    )
    model = models.Transformer(3, 2, **SMALL, readout="mean")
    variables = draw(model)
    apply = jax.jit(model.apply)
    y, z = (apply(variables, tokens) for tokens in (TOKENS, TOKENS[:, order]))
    assert (y != z).any()


def test_sinusoids_of_an_odd_width_and_their_distances():
    p = np.asarray(sinusoidal_positions(7, 5))
    assert p.shape == (7, 5)
    # <p_i, p_j> depends on i - j only, where sines and cosines come in pairs.
    gram = p[:, :4] @ p[:, :4].T
    for offset in range(7):
        np.testing.assert_allclose(np.diagonal(gram, offset), gram[0, offset], atol=1e-5)


def test_gradient_is_that_of_finite_differences():
    model = models.Transformer(3, 2, **SMALL, readout="mean")
    params = draw(model)["params"]

    def loss(params):
        y = model.apply({"params": params}, jnp.asarray(TOKENS), jnp.asarray(MASK))
        return jnp.sum(jnp.sin(y))

    jax.test_util.check_grads(jax.jit(loss), (params,), order=1, modes=["rev"], rtol=3e-2)


def test_seeds_under_vmap_equal_the_loop():
    model = models.Transformer(3, 2, **SMALL, readout="mean")
    seeds = [draw(model, seed=seed) for seed in range(3)]
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *seeds)
    apply = jax.jit(lambda variables: model.apply(variables, TOKENS, jnp.asarray(MASK)))
    together = jax.jit(jax.vmap(apply))(stacked)
    for variables, got in zip(seeds, together, strict=True):
        np.testing.assert_allclose(got, apply(variables), rtol=1e-4, atol=1e-5)


def test_dropout_draws_from_its_key():
    model = models.Transformer(3, 2, **SMALL, dropout_rate=0.3)
    variables = draw(model)
    apply = jax.jit(lambda v, key: model.apply(v, TOKENS, train=True, rngs={"dropout": key}))
    a, b, c = (apply(variables, jax.random.key(i)) for i in (0, 0, 1))
    np.testing.assert_array_equal(a, b)
    assert (a != c).any()


def test_attention_norms_and_dense_layers_can_be_captured_in_order():
    model = models.Transformer(3, 2, **SMALL, readout="mean")
    found = {}

    def read(variables):
        found.update(layers.capture(model, variables, TOKENS)[1])

    jax.eval_shape(read, draw(model))
    assert [(name, x.shape) for name, x in found.items()] == [
        ("block_0/attention", (3, 5, 8)),
        ("block_0/attention_norm", (3, 5, 8)),
        ("block_0/feed_0", (3, 5, 12)),
        ("block_0/feed_1", (3, 5, 8)),
        ("block_0/feed_norm", (3, 5, 8)),
        ("output", (3, 2)),
    ]


def test_it_learns_the_parity_of_short_strings():
    settings = {**SMALL, "width": 16, "feed_forward": 32, "dropout_rate": 0.0}
    values = learn_parity(models.Transformer(2, 2, **settings, readout="mean"), 3, 200)
    # Whoever knows nothing of the last bit pays log 2 = 0.69.
    assert values[0] > 0.6
    assert values[-1] < 0.1


# Flax mixes float32 parameters with half-precision states.
@jax.numpy_dtype_promotion("standard")
def test_half_precision_answers_in_float32():
    half = models.Transformer(3, 2, **SMALL, dtype=jnp.bfloat16)
    variables = draw(half)
    got = jax.jit(half.apply)(variables, TOKENS, MASK)
    want = jax.jit(models.Transformer(3, 2, **SMALL).apply)(variables, TOKENS, MASK)
    assert got.dtype == jnp.float32
    assert not np.array_equal(got, want)
    # bfloat16 rounds by 2^-9 per operation; about twenty deep.
    np.testing.assert_allclose(got[MASK], want[MASK], atol=0.1 * float(jnp.abs(want).max()))


@pytest.mark.parametrize(
    ("settings", "tokens", "mask", "message"),
    [
        ({"depth": 0}, TOKENS, None, "depth=0, want a positive integer"),
        ({"heads": 3}, TOKENS, None, "heads=3 does not divide width=8; try 2"),
        ({"positions": "rotary"}, TOKENS, None, "positions='rotary' is unknown"),
        ({"readout": "first"}, TOKENS, None, "readout='first' is unknown"),
        ({"dropout_rate": -0.5}, TOKENS, None, "dropout_rate=-0.5"),
        ({"context": 4}, TOKENS, None, "length 5, but the network has positions for 4"),
        ({}, TOKENS[0], None, r"want \[b, t\]"),
        ({}, TOKENS.astype(np.float32), None, "dtype float32, want integer"),
        ({}, TOKENS, MASK[:, :4], r"want bool \(3, 5\)"),
    ],
)
def test_bad_input_is_refused(settings, tokens, mask, message):
    model = models.Transformer(3, 2, **{**SMALL, **settings})
    with pytest.raises(ValueError, match=message):
        model.init({}, tokens, mask)


def test_a_block_refuses_what_is_no_sequence_of_vectors():
    block = models.TransformerBlock(heads=2, feed_forward=12)
    for x in (jnp.zeros((5, 8)), jnp.zeros((2, 5, 8), jnp.int32)):
        with pytest.raises(ValueError, match=r"want floating-point \[b, t, d\]"):
            block.init({}, x)
