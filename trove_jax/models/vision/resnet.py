"""Residual convolution networks: the small ones for CIFAR and ResNet-50."""

import functools
from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from trove_jax.layers import BatchNorm, Conv, max_pool
from trove_jax.models.inputs import as_logits, check_images, check_sizes, he_normal


class CifarResNet(nn.Module):
    """A residual network for small images: three stages of blocks of two 3x3 convolutions.

    x <- relu(S(x) + N(C' relu(N(C x)))) with N batch normalisation (momentum 0.9, epsilon 1e-5).
    The stages have `width`, 2 `width` and 4 `width` channels; the second and third halve height
    and width in their first convolution, where the shortcut S is a strided 1x1 convolution with
    batch normalisation (elsewhere the identity). At the end the mean over all pixels and a dense
    layer. He normal kernels; convolutions have no bias. The layers are called `stem`,
    `stage_0_block_0/conv_0`, `stage_1_block_0/shortcut`, ... and `output`.

    Attributes:
      blocks: blocks per stage; the network is 6 `blocks` + 2 layers deep.
      width: channels of the first stage.
      classes: outputs, k.
      scale_init: law of the batch-norm scales at the start.
      dtype: dtype of the computation; None: that of the parameters (float32).
      axis_name: name of a mapped axis over which the batch statistics are averaged.
    """

    blocks: int = 3
    width: int = 16
    classes: int = 10
    scale_init: nn.initializers.Initializer = nn.initializers.ones
    dtype: Any = None
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
        """
        check_images(x, smallest=4)
        conv = functools.partial(Conv, use_bias=False, kernel_init=he_normal, dtype=self.dtype)
        norm = functools.partial(
            BatchNorm,
            use_running_average=not train,
            momentum=0.9,
            epsilon=1e-5,
            scale_init=self.scale_init,
            dtype=self.dtype,
            axis_name=self.axis_name,
        )
        x = conv(self.width, (3, 3), padding=1, name="stem")(x)
        x = nn.relu(norm(name="stem_norm")(x))
        for stage in range(3):
            for block in range(self.blocks):
                x = _BasicBlock(
                    self.width * 2**stage,
                    stride=2 if stage and not block else 1,
                    conv=conv,
                    norm=norm,
                    name=f"stage_{stage}_block_{block}",
                )(x)
        return _classify(x, self.classes, self.dtype)


class _BasicBlock(nn.Module):
    features: int
    stride: int
    conv: Any
    norm: Any

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        y = self.conv(self.features, (3, 3), strides=self.stride, padding=1, name="conv_0")(x)
        y = nn.relu(self.norm(name="norm_0")(y))
        y = self.conv(self.features, (3, 3), padding=1, name="conv_1")(y)
        y = self.norm(name="norm_1")(y)
        return nn.relu(y + _shortcut(self, x, y))


class ResNet(nn.Module):
    """A residual network for large images, of bottleneck blocks.

    A 7x7 convolution of stride 2 and a 3x3 max pooling of stride 2, then four stages of blocks
    1x1 (c) - 3x3 (c) - 1x1 (4 c) with c = 64, 128, 256, 512, each convolution followed by batch
    normalisation (momentum 0.9, epsilon 1e-5). From the second stage on the first block halves
    height and width in its 3x3 convolution (not in its first 1x1, as in the paper: the variant
    called v1.5, which the published 76.1 % belong to). Shortcuts, head, initialisation and names
    as in `CifarResNet`.

    Attributes:
      stages: blocks per stage.
      width: c of the first stage.
      classes: outputs, k.
      scale_init: law of the batch-norm scales at the start.
      dtype: dtype of the computation; None: that of the parameters (float32).
      axis_name: name of a mapped axis over which the batch statistics are averaged.
    """

    stages: Sequence[int] = (3, 4, 6, 3)
    width: int = 64
    classes: int = 1000
    scale_init: nn.initializers.Initializer = nn.initializers.ones
    dtype: Any = None
    axis_name: str | None = None

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool = False) -> jax.Array:
        """Applies the network.

        Args:
          x: images, `[b, height, width, channels]`, floating-point, 32x32 pixels or more.
          train: normalise with the statistics of this batch (and update the running ones, if
            `batch_stats` is mutable), else with the running ones.

        Returns:
          Outputs, `[b, k]`, float32 or wider.
        """
        check_images(x, smallest=32)
        conv = functools.partial(Conv, use_bias=False, kernel_init=he_normal, dtype=self.dtype)
        norm = functools.partial(
            BatchNorm,
            use_running_average=not train,
            momentum=0.9,
            epsilon=1e-5,
            scale_init=self.scale_init,
            dtype=self.dtype,
            axis_name=self.axis_name,
        )
        x = conv(self.width, (7, 7), strides=2, padding=3, name="stem")(x)
        x = nn.relu(norm(name="stem_norm")(x))
        x = max_pool(x, (3, 3), strides=(2, 2), padding=((1, 1), (1, 1)))
        for stage, blocks in enumerate(self.stages):
            for block in range(blocks):
                x = _BottleneckBlock(
                    self.width * 2**stage,
                    stride=2 if stage and not block else 1,
                    conv=conv,
                    norm=norm,
                    name=f"stage_{stage}_block_{block}",
                )(x)
        return _classify(x, self.classes, self.dtype)


class _BottleneckBlock(nn.Module):
    features: int
    stride: int
    conv: Any
    norm: Any

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        y = self.conv(self.features, (1, 1), name="conv_0")(x)
        y = nn.relu(self.norm(name="norm_0")(y))
        y = self.conv(self.features, (3, 3), strides=self.stride, padding=1, name="conv_1")(y)
        y = nn.relu(self.norm(name="norm_1")(y))
        y = self.conv(4 * self.features, (1, 1), name="conv_2")(y)
        y = self.norm(name="norm_2")(y)
        return nn.relu(y + _shortcut(self, x, y))


def _shortcut(block: Any, x: jax.Array, y: jax.Array) -> jax.Array:
    if block.stride == 1 and x.shape == y.shape:
        return x
    x = block.conv(y.shape[-1], (1, 1), strides=block.stride, padding=0, name="shortcut")(x)
    return block.norm(name="shortcut_norm")(x)


def _classify(x: jax.Array, classes: int, dtype: Any) -> jax.Array:
    x = jnp.mean(x, axis=(1, 2))
    return as_logits(nn.Dense(classes, kernel_init=he_normal, dtype=dtype, name="output")(x))


def cifar_resnet(
    depth: int = 20, *, width: int = 16, classes: int = 10, dtype: Any = None
) -> CifarResNet:
    """Builds a ResNet for CIFAR; depth 20 is what the lottery-ticket papers call Resnet-18.

    With 3 input channels and 10 classes depth 20 has 272,474 parameters, the 270K of the original
    with parameter-free shortcuts and 2,752 in the 1x1 convolutions and norms of the shortcuts.

    Args:
      depth: layers with weights, 6 n + 2: 8, 14, 20, 32, 44, 56, 110.
      width: channels of the first stage.
      classes: outputs, k.
      dtype: dtype of the computation; None: float32.

    Returns:
      A module `[b, height, width, channels] -> [b, k]` with collections `params` and
      `batch_stats`.

    Raises:
      ValueError: a depth that is not 6 n + 2, a size that is not a positive integer.

    Example:
      >>> cifar_resnet(20).blocks
      3

    Reference: He et al., Deep Residual Learning for Image Recognition, CVPR 2016 (section 4.2,
    with shortcuts of option B).
    """
    check_sizes(depth=depth, width=width, classes=classes)
    if depth < 8 or depth % 6 != 2:
        near = max(6 * round((depth - 2) / 6) + 2, 8)
        raise ValueError(
            f"depth={depth} is not 6 n + 2 (three stages of n blocks of two convolutions, and two "
            f"layers more); the nearest is depth={near}"
        )
    return CifarResNet(blocks=(depth - 2) // 6, width=width, classes=classes, dtype=dtype)


def resnet50(*, classes: int = 1000, dtype: Any = None) -> ResNet:
    """Builds ResNet-50 (v1.5): 25,557,032 parameters with 3 input channels and 1000 classes.

    Args:
      classes: outputs, k.
      dtype: dtype of the computation; None: float32.

    Returns:
      A module `[b, height, width, channels] -> [b, k]` with collections `params` and
      `batch_stats`.

    Raises:
      ValueError: `classes` is not a positive integer.

    Example:
      >>> resnet50().stages
      (3, 4, 6, 3)

    Reference: He et al., Deep Residual Learning for Image Recognition, CVPR 2016 (table 1).
    """
    check_sizes(classes=classes)
    return ResNet(classes=classes, dtype=dtype)
