"""Encoders of any aspect against NumPy, their sizes, and what masks and order hide."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.models.variables import count
from trove_jax import layers, models
from trove_jax.models.sequence.transformer import sinusoidal_positions

TOKENS = np.random.default_rng(0).integers(1, 7, (3, 6)).astype(np.int32)
MASK = np.arange(6)[None] < np.array([[6], [4], [1]])
SMALL = {"aspect": (2, 3), "head_dim": 2, "width": 5, "feed_forward": 7, "context": 8}


def draw(model, *inputs, seed=0):
    """NumPy draws, away from the zeros and ones that parameters begin with."""
    inputs = inputs or (jnp.asarray(TOKENS), jnp.asarray(MASK))
    shapes = jax.eval_shape(model.init, jax.random.key(0), *inputs)
    rng = np.random.default_rng(seed)

    def leaf(leaf):
        scale = 1 / np.sqrt(max(1, math.prod(leaf.shape[:-1])))
        return jnp.asarray(rng.normal(size=leaf.shape) * scale + 0.05, jnp.float32)

    return jax.tree.map(leaf, shapes)


def norm(x, p):
    spread = np.sqrt(x.var(-1, keepdims=True) + 1e-6)
    return (x - x.mean(-1, keepdims=True)) / spread * p["scale"] + p["bias"]


def dense(x, p):
    return x @ p["kernel"] + p["bias"]


def gelu(x):
    return 0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))


def encode(p, x, keys):
    """Blocks and the last normalisation; `keys[b]` are the positions that hold a token."""
    for name in sorted(name for name in p if name.startswith("block")):
        q = p[name]
        h, read = norm(x, q["attention_norm"]), np.zeros_like(x)
        projected = q["attention"]
        for head in range(projected["query"]["kernel"].shape[1]):
            for b in range(len(x)):
                there = keys[b]
                score = h[b] @ projected["query"]["kernel"][:, head]
                score = score @ (h[b][there] @ projected["key"]["kernel"][:, head]).T
                weight = np.exp(score / np.sqrt(projected["query"]["kernel"].shape[-1]))
                weight /= weight.sum(-1, keepdims=True)
                value = h[b][there] @ projected["value"]["kernel"][:, head]
                read[b] += weight @ value @ projected["out"]["kernel"][head]
        x = x + read
        x = x + dense(gelu(dense(norm(x, q["feed_norm"]), q["feed_0"])), q["feed_1"])
    return norm(x, p["final_norm"])


def classify(variables, tokens, mask, pool, positions):
    p = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), variables["params"])
    x = p["embedding"]["embedding"][tokens]
    if pool == "cls":
        x = np.concatenate([np.broadcast_to(p["cls"], (len(x), 1, 5)), x], axis=1)
        mask = np.concatenate([np.ones((len(x), 1), bool), mask], axis=1)
    table = p["positions"]["embedding"] if positions == "learned" else sinusoidal_positions(9, 5)
    x = encode(p["encoder"], x + np.asarray(table)[: x.shape[1]], [np.flatnonzero(m) for m in mask])
    pooled = [one[0] if pool == "cls" else one[m].mean(0) for one, m in zip(x, mask, strict=True)]
    return dense(np.maximum(dense(np.stack(pooled), p["head"]), 0), p["output"])


@pytest.mark.parametrize(("pool", "positions"), [("mean", "sinusoidal"), ("cls", "learned")])
def test_a_classifier_equals_numpy_and_padding_reaches_nothing(pool, positions):
    model = models.Classifier(7, 4, **SMALL, pool=pool, positions=positions)
    variables = draw(model)

    @jax.jit
    def run(variables, tokens, mask):
        def loss(variables):
            y = model.apply(variables, tokens, mask)
            return (y**2).sum(), y

        return jax.value_and_grad(loss, has_aux=True)(variables)

    want = run(variables, jnp.asarray(TOKENS), MASK)
    (_, y), _ = want
    # Float32 against float64, about twenty operations deep.
    np.testing.assert_allclose(
        y, classify(variables, TOKENS, MASK, pool, positions), rtol=1e-4, atol=1e-4
    )
    alone = classify(variables, TOKENS[1:2, :4], MASK[1:2, :4], pool, positions)
    np.testing.assert_allclose(y[1:2], alone, rtol=1e-4, atol=1e-4)
    got = run(variables, jnp.asarray(np.where(MASK, TOKENS, 99)), MASK)
    jax.tree.map(np.testing.assert_array_equal, got, want)
    _, gradient = run(variables, jnp.asarray(TOKENS), np.zeros_like(MASK))
    assert all(bool(jnp.isfinite(leaf).all()) for leaf in jax.tree.leaves(gradient))


@pytest.mark.parametrize(
    ("d", "m", "d_h", "total", "depth"), [(256, 1024, 64, 16, 4), (6, 8, 2, 48, 6)]
)
def test_the_number_of_parameters_is_that_of_the_formula(d, m, d_h, total, depth):
    found = {}
    for layers_, heads in models.aspect_family(total, layers=(depth, 1)):
        encoder = models.Encoder((layers_, heads), d_h, d, m)
        x = jax.ShapeDtypeStruct((1, 3, d), jnp.float32)
        params = jax.eval_shape(encoder.init, jax.random.key(0), x)["params"]
        assert count(params.pop("final_norm")) == 2 * d
        assert count(params) == layers_ * (4 * d * heads * d_h + 2 * d * m + m + d + 4 * d)
        found[layers_] = count(params)
    # With 257 tokens and 1000 learned positions, 3.48 and 1.90 million: half the size.
    if d == 256:
        ratio = (found[1] + 1257 * d) / (found[depth] + 1257 * d)
        assert ratio == pytest.approx(0.55, abs=0.005)


def test_a_classifier_has_the_parameters_of_its_parts_and_of_its_kind():
    def size(model, *inputs):
        shape = jax.eval_shape(model.init, jax.random.key(0), *(inputs or (TOKENS,)))
        return count(shape["params"])

    blocks = 2 * (4 * 5 * 6 + 2 * 5 * 7 + 7 + 5 + 4 * 5) + 2 * 5
    rest = 7 * 5 + 5 * 7 + 7 + 7 * 4 + 4
    assert size(models.Classifier(7, 4, **SMALL)) == blocks + rest
    assert size(models.Classifier(7, 4, **SMALL, positions="learned")) == blocks + rest + 8 * 5
    cls = models.Classifier(7, 4, **SMALL, pool="cls", attention="linformer")
    assert size(cls) == blocks + rest + 5 + 2 * 9 * 16  # One row of E for the token in front.
    assert size(models.Matcher(7, 4, **SMALL), TOKENS, TOKENS) == blocks + rest + 3 * 5 * 7
    assert size(models.Decoder(7, **SMALL)) == blocks + 7 * 5 + 5 * 7 + 7


@pytest.mark.parametrize("attention", ["vanilla", layers.LocalSubsampledAttention(window=3)])
def test_a_decoder_does_not_see_the_future(attention):
    model = models.Decoder(7, **SMALL, attention=attention)
    variables = draw(model)

    @jax.jit
    def run(tokens):
        return model.apply(variables, tokens, sample=True, rngs={"ssa": jax.random.key(1)})

    later = TOKENS.copy()
    later[:, 4:] = later[:, 4:] % 6 + 1
    y, z = run(jnp.asarray(TOKENS)), run(jnp.asarray(later))
    assert y.shape == (3, 6, 7)
    np.testing.assert_allclose(y[:, :4], z[:, :4], rtol=1e-4, atol=1e-5)
    assert np.asarray(y != z)[:, 4:].any(axis=2).all()


def test_a_matcher_reads_both_with_the_same_parameters():
    model = models.Matcher(7, 4, **SMALL)
    one, two = jnp.asarray(TOKENS), jnp.asarray(TOKENS[::-1, :4])
    masks = jnp.asarray(MASK), jnp.asarray(MASK[:, :4])
    variables = draw(model, one, two)
    classifier = models.Classifier(7, 4, **SMALL)
    # The head of a classifier, made to show the pooled vector through two identities.
    shown = draw(classifier)
    shown["params"] |= {name: variables["params"][name] for name in ("embedding", "encoder")}
    shown["params"]["head"] = {"kernel": jnp.eye(5, 7), "bias": jnp.full(7, 50.0)}
    shown["params"]["output"] = {"kernel": jnp.eye(7, 4), "bias": jnp.full(4, -50.0)}
    u, v = (
        np.asarray(jax.jit(classifier.apply)(shown, tokens, mask))
        for tokens, mask in zip((one, two), masks, strict=True)
    )
    p = jax.tree.map(np.asarray, variables["params"])
    # Of the five entries of a vector the classifier shows four: the head must not read the last.
    kernel = p["head"]["kernel"].copy()
    kernel[4::5] = 0
    variables["params"]["head"]["kernel"] = jnp.asarray(kernel)
    y = jax.jit(model.apply)(variables, one, two, *masks)
    parts = [np.pad(a, ((0, 0), (0, 1))) for a in (u, v, u * v, u - v)]
    h = np.maximum(np.concatenate(parts, -1) @ kernel + p["head"]["bias"], 0)
    np.testing.assert_allclose(y, dense(h, p["output"]), rtol=1e-3, atol=1e-3)
    concat = models.Matcher(7, 4, **SMALL, interaction="concat")
    shape = jax.eval_shape(concat.init, jax.random.key(0), one, two)
    assert shape["params"]["head"]["kernel"].shape == (10, 7)


def test_draws_of_layers_differ_and_follow_their_key():
    attention = layers.UnbiasedSubsampledAttention(keys=2)
    model = models.Classifier(7, 4, **SMALL, attention=attention, dropout_rate=0.3)
    variables = draw(model)

    @jax.jit
    def run(ssa, dropout):
        rngs = {"ssa": jax.random.key(ssa), "dropout": jax.random.key(dropout)}
        return model.apply(variables, TOKENS, train=True, rngs=rngs)

    a, b, c, d = run(0, 0), run(0, 0), run(1, 0), run(0, 1)
    np.testing.assert_array_equal(a, b)
    assert np.asarray(a != c).any(axis=1).all()
    assert np.asarray(a != d).any(axis=1).all()
    dense_model = models.Classifier(7, 4, **SMALL)
    apply = jax.jit(lambda m, v: m.apply(v, TOKENS), static_argnums=0)
    np.testing.assert_array_equal(apply(model, variables), apply(dense_model, variables))


def test_queries_and_keys_of_every_layer_can_be_captured():
    model = models.Classifier(7, 4, **SMALL)
    found = {}

    def read(variables):
        chosen = layers.by_name(r".*/(query|key)")
        found.update(layers.capture(model, variables, TOKENS, filter=chosen)[1])

    jax.eval_shape(read, draw(model))
    assert {name: x.shape for name, x in found.items()} == {
        f"encoder/block_{i}/attention/{name}": (3, 6, 3, 2)
        for i in range(2)
        for name in ("query", "key")
    }


# Flax mixes float32 parameters with half-precision states.
@jax.numpy_dtype_promotion("standard")
def test_half_precision_answers_in_float32():
    settings = {**SMALL, "attention": layers.LocalAttention(block=3)}
    half = models.Classifier(7, 4, **settings, dtype=jnp.bfloat16)
    variables = draw(half)
    got = jax.jit(half.apply)(variables, TOKENS, MASK)
    want = jax.jit(models.Classifier(7, 4, **settings).apply)(variables, TOKENS, MASK)
    assert got.dtype == jnp.float32
    # bfloat16 rounds by 2^-9 per operation; about thirty deep.
    np.testing.assert_allclose(got, want, atol=0.1 * float(jnp.abs(want).max()))


def test_aspects_share_out_the_heads():
    assert models.aspect_family(16, layers=(4, 2, 1)) == [(4, 4), (2, 8), (1, 16)]
    assert all(depth * heads == 12 for depth, heads in models.aspect_family(12))
    assert len(models.aspect_family(12)) == 6
    with pytest.raises(ValueError, match="layers=5 does not divide total_heads=16; try 4"):
        models.aspect_family(16, layers=(5,))
    with pytest.raises(ValueError, match="total_heads=0"):
        models.aspect_family(0)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"aspect": (2,)}, r"aspect=\(2,\), want \(layers, heads of each\)"),
        ({"aspect": (0, 2)}, r"aspect\[0\]=0, want a positive integer"),
        ({"width": -1}, "width=-1"),
        ({"context": 4}, "length 6, but the network has positions for 4"),
        ({"pool": "max"}, "pool='max' is unknown"),
        ({"positions": "rotary"}, "positions='rotary' is unknown"),
        ({"dropout_rate": 1.0}, "dropout_rate=1.0"),
        ({"attention": "vanila"}, "did you mean 'vanilla'"),
        (
            {"pool": "cls", "attention": layers.SparseAttention(lra_causal=True)},
            "sees no other under lra_causal=True",
        ),
    ],
)
def test_settings_that_do_not_fit_are_refused(settings, message):
    model = models.Classifier(7, 4, **{**SMALL, **settings})
    with pytest.raises(ValueError, match=message):
        jax.eval_shape(model.init, jax.random.key(0), TOKENS)


def test_inputs_that_do_not_fit_are_refused():
    with pytest.raises(TypeError, match="head_dim"):
        models.Encoder((1, 2), width=5, feed_forward=7)  # pyright: ignore[reportCallIssue]
    encoder = models.Encoder((1, 2), 3, 5, 7)
    with pytest.raises(ValueError, match=r"want floating-point \[b, n, 5\]"):
        encoder.init({}, jnp.ones((1, 4, 6)))
    with pytest.raises(ValueError, match=r"want bool \(1, 4\)"):
        encoder.init({}, jnp.ones((1, 4, 5)), jnp.ones((1, 3), bool))
    matcher = models.Matcher(7, 4, **SMALL)
    with pytest.raises(ValueError, match="first has 3 sequences and second 2"):
        matcher.init({}, TOKENS, TOKENS[:2])
    with pytest.raises(ValueError, match="interaction='sum' is unknown"):
        models.Matcher(7, 4, **SMALL, interaction="sum").init({}, TOKENS, TOKENS)
    decoder = models.Decoder(7, **SMALL, attention="linformer")
    with pytest.raises(ValueError, match="cannot hide later keys"):
        jax.eval_shape(decoder.init, jax.random.key(0), TOKENS)
