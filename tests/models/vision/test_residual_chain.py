"""The chain of convolutions against a forward pass by hand, and its published second moment."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from trove_jax.models import ConvChain

GUIDE = ConvChain(features=(3, 3, 4), strides=(1, 1, 2), classes=5)


def convolve(x, kernel, bias, stride):
    _, height, width, _ = x.shape
    x = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    full = sum(
        x[:, i : i + height, j : j + width] @ kernel[i, j]
        for i, j in itertools.product(range(3), range(3))
    )
    return full[:, ::stride, ::stride] + bias


@pytest.mark.parametrize("skip", [True, False])
def test_forward_is_the_formula(skip):
    model = GUIDE.clone(skip=skip)
    x = jax.random.normal(jax.random.key(0), (2, 5, 4, 3))
    y, variables = model.init_with_output(jax.random.key(1), x)
    params = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), variables["params"])
    h = np.asarray(x, np.float64)
    for name, stride in (("conv_0", 1), ("conv_1", 1), ("conv_2", 2)):
        new = np.maximum(convolve(h, *(params[name][k] for k in ("kernel", "bias")), stride), 0)
        h = (h + new) / np.sqrt(2) if skip and new.shape == h.shape else new
    want = h.mean((1, 2)) @ params["output"]["kernel"] + params["output"]["bias"]
    np.testing.assert_allclose(y, want, rtol=1e-4, atol=1e-5)


def test_depth_neither_kills_nor_blows_up():
    """A guide that is not trained has to have something to say in its last layer."""
    deep = ConvChain(features=(16,) * 24, strides=(1,) * 24)
    x = jax.random.normal(jax.random.key(0), (16, 8, 8, 16))
    variables = deep.init(jax.random.key(1), x)
    _, state = deep.apply(variables, x, capture_intermediates=True)
    last = state["intermediates"]["conv_23"]["__call__"][0]
    # Skips correlate with what they are added to: a factor of 1 to 2 for each layer, 1.3 here.
    assert 1.0 < float(jnp.mean(last**2)) < 1.5**24


def test_bad_sizes_are_refused():
    x = jnp.ones((1, 4, 4, 1))
    for options, message in (
        ({"features": (3,), "strides": (1, 1)}, "features has 1 sizes and strides 2"),
        ({"features": (), "strides": ()}, "at least one"),
        ({"features": (0,), "strides": (1,)}, "features=0"),
        ({"features": (3, 3, 3), "strides": (2, 2, 2)}, "at least 8x8 pixels"),
    ):
        with pytest.raises(ValueError, match=message):
            ConvChain(**options).init(jax.random.key(0), x)
