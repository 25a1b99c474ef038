"""The layers against Flax's own: same parameters, same outputs, same gradients."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from trove_jax import layers

CONV = {
    "1-D causal": ((2, 9, 3), {"features": 4, "kernel_size": 3, "padding": "CAUSAL"}),
    "2-D strided": ((2, 7, 8, 3), {"features": 4, "kernel_size": (3, 3), "strides": 2}),
    "circular": ((2, 6, 6, 3), {"features": 4, "kernel_size": (3, 3), "padding": "CIRCULAR"}),
    "reflect": ((2, 6, 6, 3), {"features": 4, "kernel_size": (3, 3), "padding": "REFLECT"}),
    "depthwise": ((2, 6, 6, 4), {"features": 4, "kernel_size": (3, 3), "feature_group_count": 4}),
    "atrous": ((2, 9, 9, 3), {"features": 4, "kernel_size": (3, 3), "kernel_dilation": 2}),
    "no batch axis": ((6, 6, 3), {"features": 4, "kernel_size": (3, 3), "use_bias": False}),
    "two batch axes": ((2, 3, 6, 6, 3), {"features": 4, "kernel_size": (3, 3)}),
    "3-D": ((2, 4, 5, 6, 2), {"features": 3, "kernel_size": (2, 3, 2), "padding": "VALID"}),
}
TRANSPOSE = {
    "1-D": ((2, 9, 3), {"features": 4, "kernel_size": 3, "strides": (2,)}),
    "2-D same": ((2, 5, 6, 3), {"features": 4, "kernel_size": (3, 3), "strides": (2, 2)}),
    "2-D valid": (
        (2, 5, 6, 3),
        {"features": 4, "kernel_size": (4, 3), "strides": (2, 3), "padding": "VALID"},
    ),
    "pairs": (
        (2, 5, 6, 3),
        {"features": 4, "kernel_size": (3, 3), "strides": (2, 2), "padding": ((1, 2), (0, 1))},
    ),
    "circular": (
        (2, 5, 6, 3),
        {"features": 4, "kernel_size": (6, 4), "strides": (2, 2), "padding": "CIRCULAR"},
    ),
    "circular, transposed kernel": (
        (2, 5, 6, 3),
        {
            "features": 4,
            "kernel_size": (6, 5),
            "strides": (2, 2),
            "padding": "CIRCULAR",
            "transpose_kernel": True,
        },
    ),
    "atrous": (
        (2, 5, 6, 3),
        {"features": 4, "kernel_size": (3, 2), "strides": (2, 1), "kernel_dilation": (2, 3)},
    ),
    "transposed kernel": (
        (2, 5, 6, 3),
        {"features": 4, "kernel_size": (3, 2), "strides": (1, 2), "transpose_kernel": True},
    ),
    "no batch axis": ((5, 6, 3), {"features": 4, "kernel_size": (3, 3), "use_bias": False}),
}


def draw(shape, seed):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.float32)


def compare(ours, theirs, shape):
    x = draw(shape, 0)
    shapes = jax.eval_shape(theirs.init, jax.random.key(1), x)
    assert shapes == jax.eval_shape(ours.init, jax.random.key(1), x)
    variables = jax.tree.map(lambda leaf: draw(leaf.shape, 1), shapes)

    def run(layer, variables, x):
        y, pull = jax.vjp(layer.apply, variables, x)
        return y, pull(jnp.cos(jnp.arange(y.size, dtype=y.dtype)).reshape(y.shape))

    got, want = jax.jit(lambda v, x: (run(ours, v, x), run(theirs, v, x)))(variables, x)
    # Sums of at most a few hundred products of order one, in another order: 1e-4 is ample for
    # float32 and far below what a wrong tap would change.
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-4), got, want)
    return True


@pytest.mark.parametrize("case", CONV)
def test_conv_equals_flax(case):
    shape, options = CONV[case]
    assert compare(layers.Conv(**options), nn.Conv(**options), shape)


@pytest.mark.parametrize("case", TRANSPOSE)
def test_conv_transpose_equals_flax(case):
    shape, options = TRANSPOSE[case]
    assert compare(layers.ConvTranspose(**options), nn.ConvTranspose(**options), shape)


def test_layers_compute_in_the_dtype_they_are_told():
    x = jnp.ones((1, 6, 6, 3))
    for layer in (
        layers.Conv(4, (3, 3), dtype=jnp.bfloat16),
        layers.ConvTranspose(4, (3, 3), strides=(2, 2), dtype=jnp.bfloat16),
    ):
        y, variables = layer.init_with_output(jax.random.key(0), x)
        assert y.dtype == jnp.bfloat16
        assert variables["params"]["kernel"].dtype == jnp.float32


def test_layers_are_named_as_in_flax():
    class Net(nn.Module):
        @nn.compact
        def __call__(self, x):
            return layers.ConvTranspose(2, (3, 3))(layers.Conv(2, (3, 3))(x))

    params = Net().init(jax.random.key(0), jnp.ones((1, 4, 4, 1)))["params"]
    assert set(params) == {"Conv_0", "ConvTranspose_0"}


def test_mask_zeroes_the_kernel_and_its_gradient():
    mask = jnp.zeros((3, 3, 2, 4)).at[1, 1].set(1.0)
    layer = layers.ConvTranspose(4, (3, 3), mask=mask)
    x = draw((1, 5, 5, 2), 0)
    variables = {"params": {"kernel": draw(mask.shape, 1), "bias": jnp.zeros(4)}}
    grads = jax.jit(jax.grad(lambda v: (layer.apply(v, x) ** 2).sum()))(variables)
    assert jnp.all(jnp.where(mask == 0, grads["params"]["kernel"], 0.0) == 0)
    assert jnp.any(grads["params"]["kernel"] != 0)


def test_mask_of_another_shape_is_refused():
    layer = layers.ConvTranspose(4, (3, 3), mask=jnp.ones((3, 3)))
    with pytest.raises(ValueError, match=r"mask has shape \(3, 3\)"):
        layer.init(jax.random.key(0), jnp.ones((1, 5, 5, 2)))
