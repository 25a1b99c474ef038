"""The VGG networks for CIFAR."""

from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax

from trove_jax.layers import max_pool
from trove_jax.models.image_layers import conv_layers, output_layer
from trove_jax.models.inputs import check_images, check_sizes, he_normal

_STAGES = {
    11: ((64,), (128,), (256,) * 2, (512,) * 2, (512,) * 2),
    13: ((64,) * 2, (128,) * 2, (256,) * 2, (512,) * 2, (512,) * 2),
    16: ((64,) * 2, (128,) * 2, (256,) * 3, (512,) * 3, (512,) * 3),
    19: ((64,) * 2, (128,) * 2, (256,) * 4, (512,) * 4, (512,) * 4),
}


class CifarVGG(nn.Module):
    """Stages of 3x3 convolutions with 2x2 max pooling between them.

    x <- relu(N(C x + c)) with N batch normalisation (momentum 0.9, epsilon 1e-5). After the last
    stage (2x2 pixels of a 32x32 image) the mean over all pixels and one dense layer, in place of
    the three of the ImageNet network. The layers are called `stage_0_conv_0`, `stage_0_norm_0`,
    ... and `output`.

    Attributes:
      stages: channels of every convolution, by stage.
      classes: outputs, k.
      kernel_init: law of the kernels at the start.
      scale_init: law of the batch-norm scales at the start.
      dtype: dtype of the computation; None: that of the parameters (float32).
      axis_name: name of a mapped axis over which the batch statistics are averaged.
    """

    stages: Sequence[Sequence[int]] = _STAGES[19]
    classes: int = 10
    kernel_init: nn.initializers.Initializer = he_normal
    scale_init: nn.initializers.Initializer = nn.initializers.ones
    dtype: Any = None
    axis_name: str | None = None

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool = False) -> jax.Array:
        """Applies the network.

        Args:
          x: images, `[b, height, width, channels]`, floating-point, 16x16 pixels or more.
          train: normalise with the statistics of this batch (and update the running ones, if
            `batch_stats` is mutable), else with the running ones.

        Returns:
          Outputs, `[b, k]`, float32 or wider.
        """
        check_images(x, smallest=2 ** (len(self.stages) - 1))
        for stage, widths in enumerate(self.stages):
            if stage:
                x = max_pool(x, (2, 2), strides=(2, 2))
            for layer, width in enumerate(widths):
                names = f"stage_{stage}_conv_{layer}", f"stage_{stage}_norm_{layer}"
                x = conv_layers(self, x, width, names=names, train=train)
        return output_layer(x, self.classes, kernel_init=self.kernel_init, dtype=self.dtype)


def cifar_vgg(depth: int = 19, *, classes: int = 10, dtype: Any = None) -> CifarVGG:
    """Builds a VGG network for CIFAR; depth 19 has 20.0M parameters.

    Args:
      depth: 11, 13, 16 or 19: the name of the ImageNet network whose convolutions it has.
      classes: outputs, k.
      dtype: dtype of the computation; None: float32.

    Returns:
      A module `[b, height, width, channels] -> [b, k]` with collections `params` and
      `batch_stats`.

    Raises:
      ValueError: another depth; `classes` is not a positive integer.

    Example:
      >>> sum(len(stage) for stage in cifar_vgg(19).stages)
      16

    Reference: Simonyan & Zisserman, Very Deep Convolutional Networks, ICLR 2015 (table 1), in the
    CIFAR form of Frankle & Carbin, The Lottery Ticket Hypothesis, ICLR 2019 (figure 2).
    """
    if depth not in _STAGES:
        raise ValueError(f"depth={depth!r} is unknown; choose one of {sorted(_STAGES)}")
    check_sizes(classes=classes)
    return CifarVGG(stages=_STAGES[depth], classes=classes, dtype=dtype)
