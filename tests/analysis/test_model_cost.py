"""Parameters and kept activations, against counts by hand."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import pytest

from trove_jax import analysis


def test_parameters_are_those_that_are_trained():
    module = nn.Sequential([nn.Dense(7), nn.BatchNorm(use_running_average=True), nn.Dense(2)])
    shapes = jax.eval_shape(lambda: module.init(jax.random.key(0), jnp.zeros((1, 5))))
    # Five inputs, seven hidden units, two outputs; scale and bias of the norm, not its statistics.
    assert analysis.parameter_count(shapes) == 5 * 7 + 7 + 2 * 7 + 7 * 2 + 2
    assert analysis.parameter_count({}) == 0


def test_an_encoder_counts_as_a_plain_stack_of_its_parts():
    class Block(nn.Module):
        @nn.compact
        def __call__(self, x):
            y = nn.LayerNorm()(x)
            read = [nn.Dense(3 * 5, use_bias=False)(y) for _ in range(3)]
            x = x + nn.Dense(8, use_bias=False)(read[2])
            return x + nn.Dense(8)(nn.Dense(11)(nn.LayerNorm()(x)))

    shapes = jax.eval_shape(
        lambda: nn.Sequential([Block(), Block()]).init(jax.random.key(0), jnp.zeros((1, 8)))
    )
    count = analysis.encoder_parameter_count(2, 3, head_dim=5, width=8, feed_forward=11)
    assert count == analysis.parameter_count(shapes)
    with pytest.raises(ValueError, match="heads=0"):
        analysis.encoder_parameter_count(2, 0, head_dim=5, width=8, feed_forward=11)


def test_kept_activations_are_counted_once_and_arguments_not_at_all():
    x = jax.ShapeDtypeStruct((64,), jnp.float32)
    w = jax.ShapeDtypeStruct((64, 64), jnp.float32)
    # sin(sin x) keeps the two cosines; w x keeps w and x, which were given.
    assert analysis.activation_bytes(lambda x: jnp.sin(jnp.sin(x)), x) == 2 * 64 * 4
    assert analysis.activation_bytes(lambda w, x: w @ x, w, x) == 0
    # exp keeps its result; half precision keeps half the bytes.
    half = jax.ShapeDtypeStruct((64,), jnp.bfloat16)
    assert analysis.activation_bytes(jnp.exp, half) == 128
    # A network keeps what it hands from layer to layer: twice the batch, twice the bytes.
    net = nn.Sequential([nn.Dense(16), nn.tanh, nn.Dense(16), nn.tanh, nn.Dense(1)])
    params = jax.eval_shape(lambda: net.init(jax.random.key(0), jnp.zeros((1, 4))))
    kept = [
        analysis.activation_bytes(
            lambda v, x: net.apply(v, x).sum(), params, jax.ShapeDtypeStruct((b, 4), jnp.float32)
        )
        for b in (8, 16)
    ]
    assert kept[1] == pytest.approx(2 * kept[0], rel=0.01)
    assert 2 * 8 * 16 * 4 <= kept[0] <= 6 * 8 * 16 * 4


def test_recomputation_keeps_less():
    def deep(x):
        for _ in range(4):
            x = jnp.sin(jnp.exp(x))
        return x

    x = jax.ShapeDtypeStruct((1000,), jnp.float32)
    assert analysis.activation_bytes(jax.checkpoint(deep), x) < analysis.activation_bytes(deep, x)
