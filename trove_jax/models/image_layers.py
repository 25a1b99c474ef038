"""Layers that networks of images share, added to the module that is being applied."""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from trove_jax.layers import BatchNorm, Conv, max_pool
from trove_jax.models.inputs import as_logits, check_sizes

Layer = Callable[..., Any]


def conv_and_norm(module: Any, *, train: bool) -> tuple[Layer, Layer]:
    """The convolution (without bias) and the batch normalisation that a module's attributes name.

    Args:
      module: has `kernel_init`, `scale_init`, `dtype` and `axis_name`.
      train: normalise with the statistics of the batch, else with the running ones.

    Returns:
      Two functions that make layers: a `Conv` and a `BatchNorm` with these settings.
    """
    conv = functools.partial(
        Conv, use_bias=False, kernel_init=module.kernel_init, dtype=module.dtype
    )
    norm = functools.partial(
        BatchNorm,
        use_running_average=not train,
        momentum=0.9,
        epsilon=1e-5,
        scale_init=module.scale_init,
        dtype=module.dtype,
        axis_name=module.axis_name,
    )
    return conv, norm


def stem_layers(
    module: Any, x: jax.Array, features: int, *, size: int, stride: int, pool: bool, train: bool
) -> jax.Array:
    """Adds relu(N(C x)) with the layers `stem` and `stem_norm`, and a 3x3 max pooling of stride 2.

    Args:
      module: as for `conv_and_norm`.
      x: `[b, height, width, channels]`.
      features: channels that come out.
      size: height and width of the convolution's window.
      stride: of the convolution.
      pool: whether the pooling follows.
      train: as for `conv_and_norm`.

    Returns:
      `[b, height / s, width / s, features]`, rounded up, s = `stride`, or twice that with `pool`.
    """
    conv, norm = conv_and_norm(module, train=train)
    x = conv(features, (size, size), strides=stride, padding=size // 2, name="stem")(x)
    x = nn.relu(norm(name="stem_norm")(x))
    return max_pool(x, (3, 3), strides=(2, 2), padding=((1, 1), (1, 1))) if pool else x


def conv_layers(
    module: Any, x: jax.Array, features: int, *, names: tuple[str, str], train: bool
) -> jax.Array:
    """Adds relu(N(C x + c)): a 3x3 convolution with bias, and its normalisation.

    Args:
      module: as for `conv_and_norm`.
      x: `[b, height, width, channels]`.
      features: channels that come out.
      names: of the convolution and of the normalisation.
      train: as for `conv_and_norm`.

    Returns:
      `[b, height, width, features]`.
    """
    conv, norm = conv_and_norm(module, train=train)
    x = conv(features, (3, 3), padding=1, use_bias=True, name=names[0])(x)
    return nn.relu(norm(name=names[1])(x))


def shortcut(x: jax.Array, y: jax.Array, *, stride: int, conv: Layer, norm: Layer) -> jax.Array:
    """What a block adds to its last normalisation: `x`, made to fit where it does not.

    Args:
      x: what went into the block, `[b, height, width, channels]`.
      y: what comes out of its last normalisation, `[b, height / stride, width / stride, d]`.
      stride: of the block.
      conv: makes the strided 1x1 convolution `shortcut`, where one is needed.
      norm: makes its normalisation `shortcut_norm`.

    Returns:
      An array like `y`.
    """
    if stride == 1 and x.shape == y.shape:
        return x
    x = conv(y.shape[-1], (1, 1), strides=stride, padding=0, name="shortcut")(x)
    return norm(name="shortcut_norm")(x)


def output_layer(
    x: jax.Array, classes: int, *, kernel_init: nn.initializers.Initializer, dtype: Any
) -> jax.Array:
    """Adds the mean over all pixels and the dense layer `output`.

    Args:
      x: `[b, height, width, channels]`, or `[b, d]`, which has no pixels.
      classes: outputs, k.
      kernel_init: law of the kernel at the start.
      dtype: dtype of the computation; None: that of the parameters.

    Returns:
      `[b, k]`, float32 or wider.
    """
    x = jnp.mean(x, axis=tuple(range(1, x.ndim - 1)))
    output = nn.Dense(classes, kernel_init=kernel_init, dtype=dtype, name="output")
    return as_logits(output(x))


def residual_plan(stages: Sequence[int], width: int) -> list[tuple[int, int, str]]:
    """Lists features, stride and name of every block of a residual network.

    Args:
      stages: blocks per stage.
      width: features of the first stage; each of the others doubles them and halves the image.

    Returns:
      One tuple for each block.

    Example:
      >>> residual_plan((1, 2), 16)
      [(16, 1, 'stage_0_block_0'), (32, 2, 'stage_1_block_0'), (32, 1, 'stage_1_block_1')]
    """
    return [
        (width * 2**stage, 2 if stage and not block else 1, f"stage_{stage}_block_{block}")
        for stage, blocks in enumerate(stages)
        for block in range(blocks)
    ]


def check_stages(stages: Sequence[int]) -> None:
    """Refuses numbers of blocks that make no network.

    Args:
      stages: blocks per stage.

    Raises:
      ValueError: there is no stage, or a number is not a positive integer.
    """
    if not stages:
        raise ValueError("stages is empty; use such as (3, 3, 3)")
    check_sizes(**{f"stages[{i}]": blocks for i, blocks in enumerate(stages)})
