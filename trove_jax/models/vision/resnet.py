"""Residual convolution networks, for CIFAR and for ImageNet, and both without skip connections."""

from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax

from trove_jax.models.image_layers import check_stages, output_layer, residual_plan, stem_layers
from trove_jax.models.inputs import check_images, check_sizes, he_normal
from trove_jax.models.units import BottleneckUnit, ResidualUnit


class CifarResNet(nn.Module):
    """A residual network for small images: three stages of blocks of two 3x3 convolutions.

    x <- relu(S(x) + N(C' relu(N(C x)))) with N batch normalisation (momentum 0.9, epsilon 1e-5).
    The stages have `width`, 2 `width` and 4 `width` channels; the second and third halve height
    and width in their first convolution, where the shortcut S is a strided 1x1 convolution with
    batch normalisation (elsewhere the identity). At the end the mean over all pixels and a dense
    layer. Convolutions have no bias. The blocks are those of `ResidualUnit`; the layers are called
    `stem`, `stage_0_block_0/conv_0`, `stage_1_block_0/shortcut`, ... and `output`.

    Attributes:
      blocks: blocks per stage; the network is 6 `blocks` + 2 layers deep.
      width: channels of the first stage.
      classes: outputs, k.
      skip: without it S(x) is left out of every block, which makes a plain network.
      kernel_init: law of the kernels at the start.
      scale_init: law of the batch-norm scales at the start.
      dtype: dtype of the computation; None: that of the parameters (float32).
      axis_name: name of a mapped axis over which the batch statistics are averaged.
    """

    blocks: int = 3
    width: int = 16
    classes: int = 10
    skip: bool = True
    kernel_init: nn.initializers.Initializer = he_normal
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
        stages = (self.blocks,) * 3
        check_stages(stages)
        x = stem_layers(self, x, self.width, size=3, stride=1, pool=False, train=train)
        x = _stages(self, x, stages, block=ResidualUnit, train=train)
        return output_layer(x, self.classes, kernel_init=self.kernel_init, dtype=self.dtype)


class ResNet(nn.Module):
    """A residual network for large images, of bottleneck or of basic blocks.

    A 7x7 convolution of stride 2 and a 3x3 max pooling of stride 2, then stages of blocks
    1x1 (c) - 3x3 (c) - 1x1 (4 c), or 3x3 (c) - 3x3 (c), with c = 64, 128, 256, 512, each
    convolution followed by batch normalisation (momentum 0.9, epsilon 1e-5). From the second stage
    on the first block halves height and width, in a bottleneck in its 3x3 convolution (not in its
    first 1x1, as in the paper: the variant called v1.5, which the published 76.1 % belong to).
    Shortcuts, head, initialisation and names as in `CifarResNet`; the blocks are those of
    `BottleneckUnit` and `ResidualUnit`.

    Attributes:
      stages: blocks per stage.
      width: c of the first stage.
      classes: outputs, k.
      bottleneck: blocks of three convolutions, else of two.
      skip: without it no block has a shortcut, which makes a plain network.
      kernel_init: law of the kernels at the start.
      scale_init: law of the batch-norm scales at the start.
      dtype: dtype of the computation; None: that of the parameters (float32).
      axis_name: name of a mapped axis over which the batch statistics are averaged.
    """

    stages: Sequence[int] = (3, 4, 6, 3)
    width: int = 64
    classes: int = 1000
    bottleneck: bool = True
    skip: bool = True
    kernel_init: nn.initializers.Initializer = he_normal
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
        check_stages(self.stages)
        x = stem_layers(self, x, self.width, size=7, stride=2, pool=True, train=train)
        block = BottleneckUnit if self.bottleneck else ResidualUnit
        x = _stages(self, x, self.stages, block=block, train=train)
        return output_layer(x, self.classes, kernel_init=self.kernel_init, dtype=self.dtype)


def _stages(module: Any, x: jax.Array, stages: Sequence[int], *, block: Any, train: bool):
    for features, stride, name in residual_plan(stages, module.width):
        unit = block(
            features,
            stride=stride,
            skip=module.skip,
            kernel_init=module.kernel_init,
            scale_init=module.scale_init,
            dtype=module.dtype,
            axis_name=module.axis_name,
            name=name,
        )
        x = unit(x, train=train)
    return x


def cifar_resnet(
    depth: int = 20,
    *,
    width: int = 16,
    classes: int = 10,
    skip: bool = True,
    dtype: Any = None,
) -> CifarResNet:
    """Builds a ResNet for CIFAR; depth 20 is what the lottery-ticket papers call Resnet-18.

    With 3 input channels and 10 classes depth 20 has 272,474 parameters, the 270K of the original
    with parameter-free shortcuts and 2,752 in the 1x1 convolutions and norms of the shortcuts.

    Args:
      depth: layers with weights, 6 n + 2: 8, 14, 20, 32, 44, 56, 110.
      width: channels of the first stage.
      classes: outputs, k.
      skip: whether blocks have skip connections; without them it is a plain network of that depth.
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
    check_sizes(width=width, classes=classes)
    blocks = blocks_per_stage(depth, 3)
    return CifarResNet(blocks=blocks, width=width, classes=classes, skip=skip, dtype=dtype)


def blocks_per_stage(depth: int, stages: int) -> int:
    """Blocks of two convolutions in each stage of a network with a stem and a head.

    Args:
      depth: layers with weights, 2 n stages + 2.
      stages: how many stages there are.

    Returns:
      n, at least 1.

    Raises:
      ValueError: names the nearest depth that is one.

    Example:
      >>> blocks_per_stage(20, 3)
      3
    """
    check_sizes(depth=depth, stages=stages)
    layers = 2 * stages
    blocks, rest = divmod(depth - 2, layers)
    if rest or blocks < 1:
        nearest = layers * max(round((depth - 2) / layers), 1) + 2
        raise ValueError(
            f"depth={depth} is not {layers} n + 2 (n blocks of two convolutions in each of "
            f"{stages} stages, and two layers more); the nearest is depth={nearest}"
        )
    return blocks


def resnet18(*, classes: int = 1000, skip: bool = True, dtype: Any = None) -> ResNet:
    """Builds ResNet-18: 11,689,512 parameters with 3 input channels and 1000 classes.

    Args:
      classes: outputs, k.
      skip: whether blocks have skip connections; without them it is a plain network of that depth.
      dtype: dtype of the computation; None: float32.

    Returns:
      A module `[b, height, width, channels] -> [b, k]` with collections `params` and
      `batch_stats`.

    Raises:
      ValueError: `classes` is not a positive integer.

    Example:
      >>> resnet18().stages
      (2, 2, 2, 2)

    Reference: He et al., Deep Residual Learning for Image Recognition, CVPR 2016 (table 1).
    """
    check_sizes(classes=classes)
    return ResNet(stages=(2, 2, 2, 2), classes=classes, bottleneck=False, skip=skip, dtype=dtype)


def resnet34(*, classes: int = 1000, skip: bool = True, dtype: Any = None) -> ResNet:
    """Builds ResNet-34: 21,797,672 parameters with 3 input channels and 1000 classes.

    Args:
      classes: outputs, k.
      skip: whether blocks have skip connections; without them it is a plain network of that depth.
      dtype: dtype of the computation; None: float32.

    Returns:
      A module `[b, height, width, channels] -> [b, k]` with collections `params` and
      `batch_stats`.

    Raises:
      ValueError: `classes` is not a positive integer.

    Example:
      >>> resnet34().stages
      (3, 4, 6, 3)

    Reference: He et al., Deep Residual Learning for Image Recognition, CVPR 2016 (table 1).
    """
    check_sizes(classes=classes)
    return ResNet(stages=(3, 4, 6, 3), classes=classes, bottleneck=False, skip=skip, dtype=dtype)


def resnet50(*, classes: int = 1000, skip: bool = True, dtype: Any = None) -> ResNet:
    """Builds ResNet-50 (v1.5): 25,557,032 parameters with 3 input channels and 1000 classes.

    Args:
      classes: outputs, k.
      skip: whether blocks have skip connections; without them it is a plain network of that depth.
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
    return ResNet(stages=(3, 4, 6, 3), classes=classes, bottleneck=True, skip=skip, dtype=dtype)


def resnet101(*, classes: int = 1000, skip: bool = True, dtype: Any = None) -> ResNet:
    """Builds ResNet-101 (v1.5): 44,549,160 parameters with 3 input channels and 1000 classes.

    Args:
      classes: outputs, k.
      skip: whether blocks have skip connections; without them it is a plain network of that depth.
      dtype: dtype of the computation; None: float32.

    Returns:
      A module `[b, height, width, channels] -> [b, k]` with collections `params` and
      `batch_stats`.

    Raises:
      ValueError: `classes` is not a positive integer.

    Example:
      >>> resnet101().stages
      (3, 4, 23, 3)

    Reference: He et al., Deep Residual Learning for Image Recognition, CVPR 2016 (table 1).
    """
    check_sizes(classes=classes)
    return ResNet(stages=(3, 4, 23, 3), classes=classes, bottleneck=True, skip=skip, dtype=dtype)
