"""A residual network on the Poincare ball, and its Euclidean twins with the same topology."""

import functools
from collections.abc import Callable, Sequence
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from trove_jax.layers import BatchNorm, Conv
from trove_jax.models.inputs import as_logits, check_images, check_sizes, he_normal
from trove_jax.models.vision.resnet import cifar_resnet

Initializer = nn.initializers.Initializer


class EuclideanTwin(nn.Module):
    """The Euclidean network that a `PoincareResNet` is held against.

    Topology and names of the layers are those of `PoincareResNet`, with the layers swapped: a
    convolution with bias, batch normalisation (momentum 0.9, epsilon 1e-5), ReLU; the shortcut of
    the second and third group is a strided 1x1 convolution with bias and without normalisation;
    then the mean over all pixels and a dense layer.

    Attributes:
      blocks: blocks per group, n; the network is 6 n + 2 layers deep.
      widths: channels of the three groups.
      classes: outputs, k.
      kernel_init: law of the kernels at the start; biases start at 0.
      axis_name: name of a mapped axis over which the batch statistics are averaged.
    """

    blocks: int = 3
    widths: Sequence[int] = (8, 16, 32)
    classes: int = 10
    kernel_init: Initializer = he_normal
    axis_name: str | None = None

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool = False) -> jax.Array:
        """Applies the network.

        Args:
          x: images, `[b, height, width, channels]`, floating-point, 4x4 pixels or more.
          train: normalise with the statistics of this batch (and update the running ones, if
            `batch_stats` is mutable), else with the running ones.

        Returns:
          Outputs, `[b, k]`, float32 or wider.

        Raises:
          ValueError: `x` is no such batch of images; a size is not a positive integer.
        """

        def conv(features: int, size: int, stride: int, name: str):
            return Conv(
                features,
                (size, size),
                strides=stride,
                padding=size // 2,
                kernel_init=self.kernel_init,
                name=name,
            )

        norm = functools.partial(
            BatchNorm,
            use_running_average=not train,
            momentum=0.9,
            epsilon=1e-5,
            axis_name=self.axis_name,
        )
        parts = _Parts(conv, lambda name: norm(name=name), nn.relu, jnp.add)
        x = _body(x, parts, self.blocks, self.widths)
        check_sizes(classes=self.classes)
        x = jnp.mean(x, axis=(1, 2))
        return as_logits(nn.Dense(self.classes, kernel_init=self.kernel_init, name="output")(x))


class _Parts(NamedTuple):
    """What the topology is filled with.

    `conv(features, size, stride, name)` and `norm(name)` make layers, `relu(x)` and `add(f, x)`
    are functions.
    """

    conv: Callable[[int, int, int, str], Callable[[jax.Array], jax.Array]]
    norm: Callable[[str], Callable[[jax.Array], jax.Array]]
    relu: Callable[[jax.Array], jax.Array]
    add: Callable[[jax.Array, jax.Array], jax.Array]


class _Block(nn.Module):
    """conv, norm, relu, conv, norm, residual, relu; the shortcut is a 1x1 conv without norm."""

    features: int
    stride: int

    @nn.compact
    def __call__(self, x: jax.Array, parts: _Parts) -> jax.Array:
        y = parts.conv(self.features, 3, self.stride, "conv_0")(x)
        y = parts.relu(parts.norm("norm_0")(y))
        y = parts.norm("norm_1")(parts.conv(self.features, 3, 1, "conv_1")(y))
        if self.stride > 1:
            x = parts.conv(self.features, 1, self.stride, "shortcut")(x)
        return parts.relu(parts.add(y, x))


def _body(x: jax.Array, parts: _Parts, blocks: int, widths: Sequence[int]) -> jax.Array:
    """All layers in front of the pooling, added to the module that is being applied."""
    check_images(x, smallest=4)
    check_sizes(blocks=blocks, **{f"widths[{i}]": width for i, width in enumerate(widths)})
    if len(widths) != 3:
        raise ValueError(f"widths={tuple(widths)}, want one for each group, such as (8, 16, 32)")
    x = parts.relu(parts.norm("stem_norm")(parts.conv(widths[0], 3, 1, "stem")(x)))
    for group, width in enumerate(widths):
        for block in range(blocks):
            stride = 2 if group and not block else 1
            x = _Block(width, stride, name=f"stage_{group}_block_{block}")(x, parts)
    return x


def euclidean_twin(
    depth: int = 20, *, widths: Sequence[int] = (8, 16, 32), classes: int = 10
) -> EuclideanTwin:
    """Builds the Euclidean twin of `poincare_resnet`.

    Args:
      depth: layers with weights, 6 n + 2: 8, 14, 20, 32, ...
      widths: channels of the three groups.
      classes: outputs, k.

    Returns:
      A module `[b, height, width, channels] -> [b, k]` with collections `params` and
      `batch_stats`.

    Raises:
      ValueError: a depth that is not 6 n + 2; when applied: a size that is not a positive integer.

    Example:
      >>> euclidean_twin(20).blocks
      3
    """
    return EuclideanTwin(blocks=_blocks(depth), widths=tuple(widths), classes=classes)


def _blocks(depth: int) -> int:
    """Blocks per group, with the refusals of the other residual networks."""
    return cifar_resnet(depth).blocks
