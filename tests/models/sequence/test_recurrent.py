"""Recurrent networks against NumPy, one step after the other, and the parity of short strings."""

import jax
import jax.numpy as jnp
import jax.test_util
import numpy as np
import optax
import pytest

from tests.models.variables import count, random_variables
from trove_jax import layers, models

TOKENS = np.array([[0, 1, 1, 0, 1], [1, 0, 2, 2, 2], [2, 1, 0, 1, 2]], np.int32)
MASK = np.array([[1, 1, 1, 1, 1], [1, 1, 0, 0, 0], [1, 1, 1, 1, 0]], bool)


class Tokens:
    """`random_variables` for a network of tokens: its inputs are integers."""

    def __init__(self, model):
        self.model = model

    def init(self, key, x):
        return self.model.init(key, x.astype(jnp.int32))


def draw(model, t=5, seed=0):
    return random_variables(Tokens(model), (2, t), seed)


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def simple_layer(x, p):
    h, states = np.zeros((len(x), p["h"]["kernel"].shape[0])), []
    for t in range(x.shape[1]):
        h = np.tanh(x[:, t] @ p["i"]["kernel"] + p["i"]["bias"] + h @ p["h"]["kernel"])
        states.append(h)
    return np.stack(states, 1)


def lstm_layer(x, p):
    h = np.zeros((len(x), p["hi"]["kernel"].shape[0]))
    c, states = h, []
    for t in range(x.shape[1]):
        gate = {
            name: x[:, t] @ p[f"i{name}"]["kernel"]
            + h @ p[f"h{name}"]["kernel"]
            + p[f"h{name}"]["bias"]
            for name in "ifgo"
        }
        c = sigmoid(gate["f"]) * c + sigmoid(gate["i"]) * np.tanh(gate["g"])
        h = sigmoid(gate["o"]) * np.tanh(c)
        states.append(h)
    return np.stack(states, 1)


def reference(p, tokens, layer):
    x = p["embedding"]["embedding"][tokens]
    for i in range(2):
        x = layer(x, p[f"layer_{i}"]["cell"])
    return x


@pytest.mark.parametrize(("cell", "layer"), [("simple", simple_layer), ("lstm", lstm_layer)])
def test_equals_numpy(cell, layer):
    settings = {"embedding": 4, "width": 6, "depth": 2, "cell": cell}
    model = models.SimpleRNN(3, 5, **settings)
    variables = draw(model)
    p = jax.tree.map(np.asarray, variables["params"])
    states = reference(p, TOKENS, layer)
    want = states @ p["output"]["kernel"] + p["output"]["bias"]
    got = jax.jit(model.apply)(variables, TOKENS)
    # Float32 against float64 sums of up to 6 terms, 10 steps deep.
    np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-5)
    lengths = MASK.sum(1)
    if cell == "lstm":
        return
    last, mean = (
        jax.jit(models.SimpleRNN(3, 5, **settings, readout=readout).apply)(variables, TOKENS, MASK)
        for readout in ("last", "mean")
    )
    np.testing.assert_allclose(last, want[np.arange(3), lengths - 1], rtol=1e-4, atol=1e-5)
    for row, length in enumerate(lengths):
        np.testing.assert_allclose(mean[row], want[row, :length].mean(0), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("cell", "factor"), [("simple", 1), ("lstm", 4)])
def test_parameters_are_counted_in_closed_form(cell, factor):
    v, e, w, depth, k = 13, 256, 512, 4, 13
    shapes = jax.eval_shape(
        models.SimpleRNN(v, k, cell=cell).init, jax.random.key(0), jnp.zeros((1, 4), jnp.int32)
    )
    recurrent = e * w + w * w + w + (depth - 1) * (2 * w * w + w)
    assert count(shapes) == v * e + factor * recurrent + (w + 1) * k
    if cell == "simple":
        assert count(shapes) == 1_978_125


def test_padding_of_any_value_reaches_neither_outputs_nor_gradients():
    model = models.SimpleRNN(3, 2, embedding=4, width=6, depth=2, readout="mean")
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
    # As long as the longest needs, and alone.
    alone = jax.jit(model.apply)(variables, TOKENS[1:2, :2])
    np.testing.assert_allclose(want[0][1][1:2], alone, rtol=1e-5, atol=1e-6)


def test_a_sequence_without_tokens_is_read_as_zero():
    model = models.SimpleRNN(3, 2, embedding=4, width=6, depth=1, readout="last")
    variables = draw(model)
    y = model.apply(variables, TOKENS, jnp.zeros_like(MASK))
    bias = variables["params"]["output"]["bias"]
    np.testing.assert_allclose(y, np.broadcast_to(bias, y.shape))


def test_an_unknown_token_makes_only_what_comes_after_it_nan():
    model = models.SimpleRNN(3, 2, embedding=4, width=6, depth=2)
    y = jax.jit(model.apply)(draw(model), jnp.array([[0, 1, 3, 0, 1]]))
    assert np.isnan(y).all(axis=2).tolist() == [[False, False, True, True, True]]


def test_gradient_is_that_of_finite_differences():
    model = models.SimpleRNN(3, 2, embedding=3, width=4, depth=2, readout="last")
    params = draw(model)["params"]

    def loss(params):
        y = model.apply({"params": params}, jnp.asarray(TOKENS), jnp.asarray(MASK))
        return jnp.sum(jnp.sin(y))

    jax.test_util.check_grads(jax.jit(loss), (params,), order=1, modes=["rev"], rtol=2e-2)


def test_seeds_under_vmap_equal_the_loop():
    model = models.SimpleRNN(3, 2, embedding=4, width=6, depth=2, readout="last")
    seeds = [draw(model, seed=seed) for seed in range(3)]
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *seeds)
    apply = jax.jit(lambda variables: model.apply(variables, TOKENS, jnp.asarray(MASK)))
    together = jax.jit(jax.vmap(apply))(stacked)
    for variables, got in zip(seeds, together, strict=True):
        np.testing.assert_allclose(got, apply(variables), rtol=1e-5, atol=1e-6)


def test_the_states_of_each_layer_can_be_captured():
    model = models.SimpleRNN(3, 2, embedding=4, width=6, depth=2, readout="last")
    variables = draw(model)
    _, found = jax.jit(lambda v: layers.capture(model, v, TOKENS, jnp.asarray(MASK)))(variables)
    assert {name: x.shape for name, x in found.items()} == {
        "layer_0": (3, 5, 6),
        "layer_1": (3, 5, 6),
        "output": (3, 2),
    }
    p = jax.tree.map(np.asarray, variables["params"])
    tokens = np.where(MASK, TOKENS, 0)
    np.testing.assert_allclose(found["layer_1"], reference(p, tokens, simple_layer), atol=1e-5)


# Flax mixes float32 parameters with half-precision states.
@jax.numpy_dtype_promotion("standard")
@pytest.mark.parametrize("cell", ["simple", "lstm"])
def test_half_precision_answers_in_float32(cell):
    settings = {"embedding": 4, "width": 6, "depth": 2, "cell": cell}
    half = models.SimpleRNN(3, 2, **settings, dtype=jnp.bfloat16)
    variables = draw(half)
    got = jax.jit(half.apply)(variables, TOKENS)
    want = jax.jit(models.SimpleRNN(3, 2, **settings).apply)(variables, TOKENS)
    assert got.dtype == jnp.float32
    assert not np.array_equal(got, want)
    # bfloat16 rounds by 2^-9 per operation; ten steps deep.
    np.testing.assert_allclose(got, want, atol=0.05 * float(jnp.abs(want).max()))


def learn_parity(model, t, steps):
    """Losses of Adam on all strings of t bits."""
    tokens = jnp.asarray((np.arange(2**t)[:, None] >> np.arange(t)) & 1, jnp.int32)
    labels = tokens.sum(1) % 2
    tx = optax.adam(1e-2)

    def loss(params):
        y = model.apply({"params": params}, tokens, train=True)
        return optax.softmax_cross_entropy_with_integer_labels(y, labels).mean()

    @jax.jit
    def run(key):
        params = model.init(key, tokens)["params"]

        def step(carry, _):
            params, state = carry
            value, gradient = jax.value_and_grad(loss)(params)
            with jax.numpy_dtype_promotion("standard"):
                update, state = tx.update(gradient, state, params)
            return (optax.apply_updates(params, update), state), value

        return jax.lax.scan(step, (params, tx.init(params)), length=steps)[1]

    return run(jax.random.key(0))


def test_it_learns_the_parity_of_short_strings():
    model = models.SimpleRNN(2, 2, embedding=4, width=16, depth=1, readout="last")
    values = learn_parity(model, 4, 300)
    # Whoever knows nothing of the last bit pays log 2 = 0.69.
    assert values[0] > 0.6
    assert values[-1] < 0.1


@pytest.mark.parametrize(
    ("settings", "tokens", "mask", "message"),
    [
        ({"width": 0}, TOKENS, None, "width=0, want a positive integer"),
        ({"cell": "gru"}, TOKENS, None, "cell='gru' is unknown"),
        ({"readout": "first"}, TOKENS, None, "readout='first' is unknown"),
        ({"dropout_rate": 1.0}, TOKENS, None, "dropout_rate=1.0"),
        ({}, TOKENS[0], None, r"want \[b, t\]"),
        ({}, TOKENS[:, :0], None, "t of 1 or more"),
        ({}, TOKENS.astype(np.float32), None, "dtype float32, want integer"),
        ({}, TOKENS, MASK[:2], r"mask is bool \(2, 5\), want bool \(3, 5\)"),
        ({}, TOKENS, MASK.astype(np.float32), "mask is float32"),
    ],
)
def test_bad_input_is_refused(settings, tokens, mask, message):
    model = models.SimpleRNN(3, 2, **{"embedding": 4, "width": 6, "depth": 1, **settings})
    with pytest.raises(ValueError, match=message):
        model.init({}, tokens, mask)
