"""Activations against Flax's own `capture_intermediates` and against a forward pass by hand."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from trove_jax import core, layers, losses
from trove_jax.layers import by_name, capture, capturing, hidden, linear_like, post_activation


class Net(nn.Module):
    """One of each kind of layer, some of them inside a block."""

    @nn.compact
    def __call__(self, x, *, train=False):
        x = nn.Conv(4, (3, 3), name="conv")(x)
        x = layers.BatchNorm(use_running_average=not train, name="norm")(x)
        x = nn.relu(x).reshape(x.shape[0], -1, 4)
        x = nn.LayerNorm(name="layer_norm")(x)
        x = nn.MultiHeadDotProductAttention(2, name="attention")(x, x)
        x = nn.RNN(nn.SimpleCell(5), return_carry=True, name="recurrent")(x)[1]
        x = nn.Dropout(0.5, deterministic=not train)(x.mean(axis=1))
        return Head(name="head")(x)


class Head(nn.Module):
    @nn.compact
    def __call__(self, x):
        x = nn.tanh(nn.Dense(6, name="zeta")(x))
        return nn.Dense(3, name="alpha")(x)


ORDER = ["conv", "layer_norm", "attention", "recurrent", "head/zeta", "head/alpha"]


@functools.cache
def problem():
    x = jax.random.normal(jax.random.key(0), (2, 4, 4, 1))
    return Net(), jax.jit(Net().init)(jax.random.key(1), x), x


def test_values_are_those_of_flax_and_come_in_execution_order():
    model, variables, x = problem()
    y, found = capture(model, variables, x)
    assert list(found) == ORDER
    want, state = model.apply(variables, x, capture_intermediates=True)
    np.testing.assert_array_equal(y, want)
    for name, value in found.items():
        node = state["intermediates"]
        for part in name.split("/"):
            node = node[part]
        (expected,) = node["__call__"]
        expected = expected[1] if name == "recurrent" else expected
        np.testing.assert_array_equal(value, expected)


def test_options_reach_apply_and_the_pass_is_one():
    model, variables, x = problem()
    options = {"train": True, "mutable": ["batch_stats"], "rngs": {"dropout": jax.random.key(3)}}
    (y, updates), found = capture(model, variables, x, **options)
    want, wanted_updates = model.apply(variables, x, **options)
    np.testing.assert_array_equal(y, want)
    jax.tree.map(np.testing.assert_array_equal, updates, wanted_updates)
    # Of the same dropout mask: the logits that were captured are the logits that came out.
    np.testing.assert_array_equal(found["head/alpha"], y)


def test_under_jit_vmap_and_grad():
    model, x = Head(), jax.random.normal(jax.random.key(0), (3, 2, 5))
    variables = model.init(jax.random.key(1), x[0])

    def read(variables, x):
        with capturing() as found:
            model.apply(variables, x)
        return found

    together = jax.jit(jax.vmap(read, in_axes=(None, 0)))(variables, x)
    assert list(together) == ["zeta", "alpha"]  # a plain dict would come out sorted
    for i, one in enumerate(x):
        for name, value in read(variables, one).items():
            np.testing.assert_allclose(together[name][i], value, rtol=1e-5, atol=1e-6)

    def energy(variables):
        return jnp.sum(read(variables, x[0])["zeta"] ** 2)

    got = jax.jit(jax.grad(energy))(variables)["params"]
    zeta = read(variables, x[0])["zeta"]
    np.testing.assert_allclose(got["zeta"]["kernel"], 2 * x[0].T @ zeta, rtol=1e-5)
    np.testing.assert_allclose(got["zeta"]["bias"], 2 * zeta.sum(axis=0), rtol=1e-5)
    assert not np.any(got["alpha"]["kernel"])


def test_around_the_loss_of_a_task():
    class Classifier(nn.Module):
        @nn.compact
        def __call__(self, x, *, train):
            return Head(name="head")(x)

    task = losses.classification(Classifier(), jax.ShapeDtypeStruct((5,), jnp.float32))
    rng = np.random.default_rng(0)
    x, labels = jnp.asarray(rng.normal(size=(7, 5)), jnp.float32), jnp.arange(7) % 3
    variables = task.init(jax.random.key(0))

    @jax.jit
    def run(variables):
        with capturing() as found:
            value, _ = task.loss(
                variables, core.Batch({"image": x, "label": labels}), jax.random.key(1), 0
            )
        return value, found

    value, found = run(variables)
    want = losses.cross_entropy(found["head/alpha"], labels)
    np.testing.assert_allclose(value, want, rtol=1e-6)


def test_post_activation_reads_what_reaches_the_layers():
    model, variables, x = problem()
    _, found = capture(model, variables, x, filter=post_activation)
    assert list(found) == ORDER
    np.testing.assert_array_equal(found["conv"], x)
    _, before = capture(model, variables, x)
    # Running mean 0 and variance 1: the norm only divides by sqrt(1 + 1e-5).
    rectified = nn.relu(before["conv"] / np.sqrt(1 + 1e-5)).reshape(2, 16, 4)
    np.testing.assert_allclose(found["layer_norm"], rectified, rtol=1e-5)
    np.testing.assert_allclose(found["head/alpha"], jnp.tanh(before["head/zeta"]), rtol=1e-6)


def test_expressions_and_functions_choose():
    model, variables, x = problem()
    assert list(capture(model, variables, x, filter=r"head/.*")[1]) == ["head/zeta", "head/alpha"]
    assert list(capture(model, variables, x, filter=by_name("norm"))[1]) == ["norm"]
    # The pair that an RNN with a carry returns is not two activations.
    assert capture(model, variables, x, filter="recurrent")[1]["recurrent"].shape == (2, 16, 5)
    halves = capture(
        model, variables, x, filter=lambda c: (c.output, -c.output) if c.name == "head" else None
    )[1]
    assert list(halves) == ["head/0", "head/1"]
    np.testing.assert_array_equal(halves["head/0"], -halves["head/1"])
    with pytest.raises(ValueError, match=r"'\(' is no regular expression"):
        by_name("(")


class Repeats(nn.Module):
    def setup(self):
        self.embed = nn.Embed(5, 3)
        self.dense = Doubled(3)

    def __call__(self, tokens):
        x = self.embed(tokens)
        return self.embed.attend(self.dense(self.dense(x)))


class Doubled(nn.Dense):
    def __call__(self, x):
        return 2.0 * super().__call__(x)


def test_repeated_calls_other_methods_and_overridden_calls_have_names():
    model, tokens = Repeats(), jnp.arange(4)
    variables = model.init(jax.random.key(0), tokens)
    y, found = capture(model, variables, tokens, filter=lambda layer: layer.name != "")
    assert list(found) == ["embed", "dense", "dense#1", "embed.attend"]
    np.testing.assert_array_equal(found["embed.attend"], y)
    params = variables["params"]["dense"]
    once = 2.0 * (found["embed"] @ params["kernel"] + params["bias"][None])
    np.testing.assert_allclose(found["dense"], once, rtol=1e-6)


def test_initialisation_is_not_captured():
    model = Head()
    with capturing() as found:
        variables = model.init(jax.random.key(0), jnp.ones((2, 5)))
        model.apply(variables, jnp.full((2, 5), 2.0))
    assert list(found) == ["zeta", "alpha"]
    np.testing.assert_allclose(
        found["zeta"],
        2.0 * variables["params"]["zeta"]["kernel"].sum(0)[None].repeat(2, 0),
        rtol=1e-5,
    )


def test_blocks_nest_and_hidden_calls_stay_out():
    model, x = Head(), jnp.ones((2, 5))
    variables = model.init(jax.random.key(0), x)
    with capturing() as outer:
        with capturing("zeta") as inner:
            model.apply(variables, x)
        _, own = capture(model, variables, 3.0 * x)
        with hidden():
            model.apply(variables, 5.0 * x)
    assert list(outer) == ["zeta", "alpha"]
    assert list(inner) == ["zeta"]
    assert list(own) == ["zeta", "alpha"]
    np.testing.assert_array_equal(outer["zeta"], inner["zeta"])
    assert np.any(own["zeta"] != outer["zeta"])


class Scanned(nn.Module):
    @nn.compact
    def __call__(self, x):
        x = nn.Dense(3, name="before")(x)
        return Stack(name="stack")(x)


class Stack(nn.Module):
    @nn.compact
    def __call__(self, x):
        scan = nn.scan(
            lambda cell, carry, _: (cell(carry), None),
            variable_axes={"params": 0},
            split_rngs={"params": True},
            length=4,
        )
        return scan(nn.Dense(3, name="layer"), x, None)[0]


def test_layers_in_a_scan_are_refused_by_name_and_the_module_around_is_read():
    model, x = Scanned(), jnp.ones((2, 5))
    variables = model.init(jax.random.key(0), x)
    with pytest.raises(ValueError, match=r"'stack/layer', called inside a transformation") as error:
        capture(model, variables, x)
    assert "'before', 'stack/layer'" in str(error.value)
    y, found = capture(model, variables, x, filter="before|stack")
    assert list(found) == ["before", "stack"]
    np.testing.assert_array_equal(found["stack"], y)


@pytest.mark.parametrize("transform", [jax.jit, jax.vmap, jax.checkpoint])
def test_values_that_cannot_leave_a_transformation_are_refused(transform):
    model, x = Head(), jnp.ones((2, 1, 5))
    variables = model.init(jax.random.key(0), x)
    with (
        pytest.raises(ValueError, match="'zeta', 'alpha', called inside a transformation"),
        capturing(),
    ):
        transform(lambda x: model.apply(variables, x))(x)


def test_nothing_chosen_lists_what_was_called():
    model, x = Head(), jnp.ones((2, 5))
    variables = model.init(jax.random.key(0), x)
    with pytest.raises(ValueError, match=r"filter chose nothing; names called: 'zeta', 'alpha'"):
        capture(model, variables, x, filter="beta")
    compiled = jax.jit(model.apply)
    compiled(variables, x)
    with pytest.raises(ValueError, match=r"names called: none.*compiled earlier"), capturing():
        compiled(variables, x)


def test_an_error_in_the_block_is_the_one_that_arrives():
    with pytest.raises(ZeroDivisionError), capturing():
        _ = 1 / 0
    model, variables, x = problem()
    assert list(capture(model, variables, x, filter=linear_like)[1]) == ORDER
