"""Sequential networks as units and a head: what can be cut between any two of its blocks.

A network is `head(units[-1](... units[0](x)))`, each called as `unit(x, train=...)`.
"""

from collections.abc import Callable, Sequence
from typing import Any, Literal

import flax.linen as nn
import jax

from trove_jax.models.image_layers import check_stages, residual_plan
from trove_jax.models.inputs import check_dense, check_sizes, he_normal
from trove_jax.models.units import (
    BottleneckUnit,
    ConvUnit,
    DenseUnit,
    PoolHead,
    ResidualUnit,
    StemUnit,
)

Units = tuple[nn.Module, ...]
Initializer = nn.initializers.Initializer


def resnet_units(
    stages: Sequence[int] = (3, 3, 3),
    *,
    width: int = 16,
    classes: int = 10,
    bottleneck: bool = False,
    large: bool = False,
    skip: bool = True,
    kernel_init: Initializer = he_normal,
    scale_init: Initializer = nn.initializers.ones,
    dtype: Any = None,
    axis_name: str | None = None,
) -> tuple[Units, PoolHead]:
    """Cuts a residual network into its stem, its blocks and its head.

    `resnet_units((n, n, n))` is `cifar_resnet(6 n + 2)`: 3 n + 1 units. With `large=True`,
    `width=64` and `classes=1000`, (2, 2, 2, 2) is `resnet18`, (3, 4, 6, 3) `resnet34`, and with
    `bottleneck=True` (3, 4, 6, 3) is `resnet50`, (3, 4, 23, 3) `resnet101`.

    Args:
      stages: blocks per stage; from the second on, a stage doubles the channels and its first
        block halves height and width.
      width: channels of the stem and of the first stage.
      classes: outputs, k.
      bottleneck: blocks of three convolutions, 4 times wider outside, in place of two.
      large: a 7x7 stem of stride 2 with max pooling, for images of 224x224 pixels.
      skip: whether blocks have skip connections.
      kernel_init: law of the kernels at the start.
      scale_init: law of the batch-norm scales at the start.
      dtype: dtype of the computation; None: float32.
      axis_name: name of a mapped axis over which the batch statistics are averaged.

    Returns:
      The units, sum(`stages`) + 1 of them, and the head.

    Raises:
      ValueError: a size that is not a positive integer; no stage.

    Example:
      >>> units, head = resnet_units((5, 5, 5))
      >>> len(units), [unit.width for unit in units[::5]]
      (16, [16, 16, 32, 64])

    Reference: He et al., Deep Residual Learning for Image Recognition, CVPR 2016.
    """
    check_stages(stages)
    check_sizes(width=width, classes=classes)
    settings: dict[str, Any] = {
        "kernel_init": kernel_init,
        "scale_init": scale_init,
        "dtype": dtype,
        "axis_name": axis_name,
    }
    size, stride = (7, 2) if large else (3, 1)
    units: list[nn.Module] = [StemUnit(width, size=size, stride=stride, pool=large, **settings)]
    block = BottleneckUnit if bottleneck else ResidualUnit
    for channels, stride, _ in residual_plan(stages, width):
        units.append(block(channels, stride=stride, skip=skip, **settings))
    return tuple(units), PoolHead(classes, kernel_init=kernel_init, dtype=dtype)


def vgg_units(
    stages: Sequence[Sequence[int]],
    *,
    classes: int = 10,
    kernel_init: Initializer = he_normal,
    scale_init: Initializer = nn.initializers.ones,
    dtype: Any = None,
    axis_name: str | None = None,
) -> tuple[Units, PoolHead]:
    """Cuts a VGG network into its convolutions and its head.

    `vgg_units(cifar_vgg(13).stages)` is `cifar_vgg(13)`: 10 units.

    Args:
      stages: channels of every convolution, by stage; a 2x2 max pooling lies between stages.
      classes: outputs, k.
      kernel_init: law of the kernels at the start.
      scale_init: law of the batch-norm scales at the start.
      dtype: dtype of the computation; None: float32.
      axis_name: name of a mapped axis over which the batch statistics are averaged.

    Returns:
      The units, one for each convolution, and the head.

    Raises:
      ValueError: a size that is not a positive integer; no stage, or an empty one.

    Example:
      >>> units, head = vgg_units(((8, 8), (16,)))
      >>> [(unit.features, unit.stride) for unit in units]
      [(8, 1), (8, 1), (16, 2)]

    Reference: Simonyan & Zisserman, Very Deep Convolutional Networks, ICLR 2015 (table 1).
    """
    check_sizes(classes=classes)
    if not stages or not all(stages):
        raise ValueError(f"stages={stages!r} has nothing in it; use such as ((64,), (128,))")
    units = []
    for stage, widths in enumerate(stages):
        for layer, features in enumerate(widths):
            check_sizes(**{f"stages[{stage}][{layer}]": features})
            unit = ConvUnit(
                features,
                stride=2 if stage and not layer else 1,
                kernel_init=kernel_init,
                scale_init=scale_init,
                dtype=dtype,
                axis_name=axis_name,
            )
            units.append(unit)
    return tuple(units), PoolHead(classes, kernel_init=kernel_init, dtype=dtype)


def mlp_units(
    widths: Sequence[int],
    *,
    classes: int = 10,
    activation: Callable[[jax.Array], jax.Array] = nn.relu,
    kernel_init: Initializer = he_normal,
    bias_init: Initializer = nn.initializers.zeros,
    norm: Literal["batch"] | None = None,
    dropout_rate: float = 0.0,
    dtype: Any = None,
    axis_name: str | None = None,
) -> tuple[Units, PoolHead]:
    """Cuts a perceptron into its hidden layers and its head.

    `mlp_units((w,) * depth)` is `DeepMLP(depth, w)`.

    Args:
      widths: widths of the hidden layers.
      classes: outputs, k.
      activation: nonlinearity of the hidden layers.
      kernel_init: law of the kernels at the start.
      bias_init: law of the hidden layers' biases at the start.
      norm: `"batch"` for batch normalisation before the nonlinearity, or None.
      dropout_rate: share of the hidden units that are set to 0 in training, in [0, 1).
      dtype: dtype of the computation; None: float32.
      axis_name: name of a mapped axis over which the batch statistics are averaged.

    Returns:
      The units, one for each hidden layer, and the head.

    Raises:
      ValueError: a size that is not a positive integer; no width; `norm` is unknown or
        `dropout_rate` outside [0, 1).

    Example:
      >>> units, head = mlp_units((300, 100))
      >>> [unit.features for unit in units]
      [300, 100]
    """
    check_sizes(classes=classes, **{f"widths[{i}]": width for i, width in enumerate(widths)})
    check_dense(norm=norm, dropout_rate=dropout_rate)
    if not widths:
        raise ValueError("widths is empty; use such as (128, 128)")
    units = tuple(
        DenseUnit(
            width,
            activation=activation,
            kernel_init=kernel_init,
            bias_init=bias_init,
            norm=norm,
            dropout_rate=dropout_rate,
            dtype=dtype,
            axis_name=axis_name,
        )
        for width in widths
    )
    return units, PoolHead(classes, kernel_init=kernel_init, dtype=dtype)
