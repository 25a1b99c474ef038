"""Blocks that networks are stacked from: Flax modules called as `unit(x, *, train)`.

`CifarResNet`, `ResNet` and `CifarVGG` are made of the same layers by the same names, so that the
variables of one fit the other.
"""

from collections.abc import Callable
from typing import Any, Literal

import flax.linen as nn
import jax

from trove_jax.layers import max_pool
from trove_jax.models.image_layers import (
    conv_and_norm,
    conv_layers,
    output_layer,
    shortcut,
    stem_layers,
)
from trove_jax.models.inputs import (
    check_dense,
    check_floating,
    check_images,
    check_sizes,
    he_normal,
)
from trove_jax.models.tabular.perceptron import hidden_layers

Initializer = nn.initializers.Initializer


class StemUnit(nn.Module):
    """The first unit of a residual network: relu(N(C x)), and a max pooling for large images.

    N is batch normalisation (momentum 0.9, epsilon 1e-5), C a convolution without bias. The
    layers are called `stem` and `stem_norm`.

    Attributes:
      features: channels that come out.
      size: height and width of the convolution's window, odd.
      stride: of the convolution.
      pool: whether a 3x3 max pooling of stride 2 follows.
      kernel_init: law of the kernel at the start.
      scale_init: law of the batch-norm scales at the start.
      dtype: dtype of the computation; None: that of the parameters (float32).
      axis_name: name of a mapped axis over which the batch statistics are averaged.

    Example:
      >>> unit = StemUnit(features=4)
      >>> y, variables = unit.init_with_output(jax.random.key(0), jax.numpy.ones((1, 8, 8, 3)))
      >>> y.shape, sorted(variables["params"])
      ((1, 8, 8, 4), ['stem', 'stem_norm'])
    """

    features: int
    size: int = 3
    stride: int = 1
    pool: bool = False
    kernel_init: Initializer = he_normal
    scale_init: Initializer = nn.initializers.ones
    dtype: Any = None
    axis_name: str | None = None

    @property
    def width(self) -> int:
        """Channels that come out."""
        return self.features

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool = False) -> jax.Array:
        """Applies the unit.

        Args:
          x: images, `[b, height, width, channels]`, floating-point.
          train: normalise with the statistics of this batch, else with the running ones.

        Returns:
          `[b, height / s, width / s, features]` with s = `stride`, or 2 `stride` with `pool`,
          rounded up.

        Raises:
          ValueError: `x` is not a batch of images of at least s pixels; a size is not positive.
        """
        check_sizes(features=self.features, size=self.size, stride=self.stride)
        if self.size % 2 == 0:
            raise ValueError(f"size={self.size} has no middle; use {self.size + 1}")
        check_images(x, smallest=self.stride * (2 if self.pool else 1))
        return stem_layers(
            self,
            x,
            self.features,
            size=self.size,
            stride=self.stride,
            pool=self.pool,
            train=train,
        )


class ResidualUnit(nn.Module):
    """A block of two 3x3 convolutions with a skip connection.

    relu(S(x) + N(C' relu(N(C x)))): the first convolution has the stride; the shortcut S is the
    identity where shapes allow, else a strided 1x1 convolution with batch normalisation (momentum
    0.9, epsilon 1e-5). The layers are called `conv_0`, `norm_0`, `conv_1`, `norm_1`, `shortcut`
    and `shortcut_norm`.

    Attributes:
      features: channels that come out.
      stride: 2 halves height and width.
      skip: without it the sum has no S(x): a plain network's block.
      kernel_init: law of the kernels at the start.
      scale_init: law of the batch-norm scales at the start.
      dtype: dtype of the computation; None: that of the parameters (float32).
      axis_name: name of a mapped axis over which the batch statistics are averaged.

    Example:
      >>> unit = ResidualUnit(features=4, stride=2)
      >>> y, variables = unit.init_with_output(jax.random.key(0), jax.numpy.ones((1, 8, 8, 3)))
      >>> y.shape
      (1, 4, 4, 4)

    Reference: He et al., Deep Residual Learning for Image Recognition, CVPR 2016 (figure 5, left).
    """

    features: int
    stride: int = 1
    skip: bool = True
    kernel_init: Initializer = he_normal
    scale_init: Initializer = nn.initializers.ones
    dtype: Any = None
    axis_name: str | None = None

    @property
    def width(self) -> int:
        """Channels that come out."""
        return self.features

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool = False) -> jax.Array:
        """Applies the unit.

        Args:
          x: `[b, height, width, channels]`, floating-point.
          train: normalise with the statistics of this batch, else with the running ones.

        Returns:
          `[b, height / stride, width / stride, features]`, rounded up.

        Raises:
          ValueError: `x` is not a batch of images of at least `stride` pixels; a size is not
            positive.
        """
        check_sizes(features=self.features, stride=self.stride)
        check_images(x, smallest=self.stride)
        conv, norm = conv_and_norm(self, train=train)
        y = conv(self.features, (3, 3), strides=self.stride, padding=1, name="conv_0")(x)
        y = nn.relu(norm(name="norm_0")(y))
        y = conv(self.features, (3, 3), padding=1, name="conv_1")(y)
        y = norm(name="norm_1")(y)
        if self.skip:
            y = y + shortcut(x, y, stride=self.stride, conv=conv, norm=norm)
        return nn.relu(y)


class BottleneckUnit(nn.Module):
    """A block of a 1x1, a 3x3 and a widening 1x1 convolution with a skip connection.

    The 3x3 convolution has the stride, not the first 1x1 as in the paper: the variant called
    v1.5. All else is as in `ResidualUnit`.

    Attributes:
      features: channels c of the first two convolutions; 4 c come out.
      stride: 2 halves height and width.
      skip: without it the sum has no S(x): a plain network's block.
      kernel_init: law of the kernels at the start.
      scale_init: law of the batch-norm scales at the start.
      dtype: dtype of the computation; None: that of the parameters (float32).
      axis_name: name of a mapped axis over which the batch statistics are averaged.

    Example:
      >>> unit = BottleneckUnit(features=4)
      >>> y, variables = unit.init_with_output(jax.random.key(0), jax.numpy.ones((1, 8, 8, 3)))
      >>> y.shape, unit.width
      ((1, 8, 8, 16), 16)

    Reference: He et al., Deep Residual Learning for Image Recognition, CVPR 2016 (figure 5, right).
    """

    features: int
    stride: int = 1
    skip: bool = True
    kernel_init: Initializer = he_normal
    scale_init: Initializer = nn.initializers.ones
    dtype: Any = None
    axis_name: str | None = None

    @property
    def width(self) -> int:
        """Channels that come out."""
        return 4 * self.features

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool = False) -> jax.Array:
        """Applies the unit.

        Args:
          x: `[b, height, width, channels]`, floating-point.
          train: normalise with the statistics of this batch, else with the running ones.

        Returns:
          `[b, height / stride, width / stride, 4 features]`, rounded up.

        Raises:
          ValueError: `x` is not a batch of images of at least `stride` pixels; a size is not
            positive.
        """
        check_sizes(features=self.features, stride=self.stride)
        check_images(x, smallest=self.stride)
        conv, norm = conv_and_norm(self, train=train)
        y = conv(self.features, (1, 1), name="conv_0")(x)
        y = nn.relu(norm(name="norm_0")(y))
        y = conv(self.features, (3, 3), strides=self.stride, padding=1, name="conv_1")(y)
        y = nn.relu(norm(name="norm_1")(y))
        y = conv(4 * self.features, (1, 1), name="conv_2")(y)
        y = norm(name="norm_2")(y)
        if self.skip:
            y = y + shortcut(x, y, stride=self.stride, conv=conv, norm=norm)
        return nn.relu(y)


class ConvUnit(nn.Module):
    """A 3x3 convolution with batch normalisation, relu(N(C x + c)), behind an optional pooling.

    The layers are called `conv` and `norm` (momentum 0.9, epsilon 1e-5).

    Attributes:
      features: channels that come out.
      stride: of a max pooling with as large a window before the convolution; 1: none.
      kernel_init: law of the kernel at the start.
      scale_init: law of the batch-norm scales at the start.
      dtype: dtype of the computation; None: that of the parameters (float32).
      axis_name: name of a mapped axis over which the batch statistics are averaged.

    Example:
      >>> unit = ConvUnit(features=4, stride=2)
      >>> y, variables = unit.init_with_output(jax.random.key(0), jax.numpy.ones((1, 8, 8, 3)))
      >>> y.shape
      (1, 4, 4, 4)
    """

    features: int
    stride: int = 1
    kernel_init: Initializer = he_normal
    scale_init: Initializer = nn.initializers.ones
    dtype: Any = None
    axis_name: str | None = None

    @property
    def width(self) -> int:
        """Channels that come out."""
        return self.features

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool = False) -> jax.Array:
        """Applies the unit.

        Args:
          x: `[b, height, width, channels]`, floating-point.
          train: normalise with the statistics of this batch, else with the running ones.

        Returns:
          `[b, height / stride, width / stride, features]`, rounded down.

        Raises:
          ValueError: `x` is not a batch of images of at least `stride` pixels; a size is not
            positive.
        """
        check_sizes(features=self.features, stride=self.stride)
        check_images(x, smallest=self.stride)
        if self.stride > 1:
            x = max_pool(x, (self.stride,) * 2, strides=(self.stride,) * 2)
        return conv_layers(self, x, self.features, train=train, names=("conv", "norm"))


class DenseUnit(nn.Module):
    """One hidden layer of a perceptron: D(f(N(W x + b))), as in `DeepMLP`.

    N (batch normalisation) and D (dropout) are there only where asked for; under N there is no b.
    The layers are called `hidden_0`, `norm_0` and `dropout_0`.

    Attributes:
      features: width.
      activation: f.
      kernel_init: law of the kernel at the start.
      bias_init: law of the bias at the start.
      norm: `"batch"` (momentum 0.9, epsilon 1e-5) or None.
      dropout_rate: share of the outputs that are set to 0 in training, in [0, 1); above 0,
        training needs a key in the stream `dropout`.
      dtype: dtype of the computation; None: that of the parameters (float32).
      axis_name: name of a mapped axis over which the batch statistics are averaged.

    Example:
      >>> unit = DenseUnit(features=4)
      >>> y, variables = unit.init_with_output(jax.random.key(0), jax.numpy.ones((1, 2, 3)))
      >>> y.shape, variables["params"]["hidden_0"]["kernel"].shape
      ((1, 4), (6, 4))
    """

    features: int
    activation: Callable[[jax.Array], jax.Array] = nn.relu
    kernel_init: Initializer = he_normal
    bias_init: Initializer = nn.initializers.zeros
    norm: Literal["batch"] | None = None
    dropout_rate: float = 0.0
    dtype: Any = None
    axis_name: str | None = None

    @property
    def width(self) -> int:
        """Size of the vectors that come out."""
        return self.features

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool = False) -> jax.Array:
        """Applies the unit.

        Args:
          x: `[b, ...]`, floating-point; the axes behind the first are flattened.
          train: drop outputs, and normalise with the statistics of this batch, else with the
            running ones.

        Returns:
          `[b, features]`.

        Raises:
          ValueError: `x` is not floating-point; `features` is not positive, `norm` unknown or
            `dropout_rate` outside [0, 1).
        """
        check_sizes(features=self.features)
        check_dense(norm=self.norm, dropout_rate=self.dropout_rate)
        check_floating(x)
        return hidden_layers(
            x.reshape(x.shape[0], -1),
            (self.features,),
            activation=self.activation,
            kernel_init=self.kernel_init,
            bias_init=self.bias_init,
            norm=self.norm,
            dropout_rate=self.dropout_rate,
            dtype=self.dtype,
            axis_name=self.axis_name,
            train=train,
        )


class PoolHead(nn.Module):
    """The last part of a classifier: the mean over all pixels, and a dense layer called `output`.

    Attributes:
      classes: outputs, k.
      kernel_init: law of the kernel at the start; biases start at 0.
      dtype: dtype of the computation; None: that of the parameters (float32).

    Example:
      >>> head = PoolHead(classes=10)
      >>> y, variables = head.init_with_output(jax.random.key(0), jax.numpy.ones((1, 8, 8, 3)))
      >>> y.shape, variables["params"]["output"]["kernel"].shape
      ((1, 10), (3, 10))
    """

    classes: int = 10
    kernel_init: Initializer = he_normal
    dtype: Any = None

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool = False) -> jax.Array:
        """Applies the head.

        Args:
          x: `[b, height, width, channels]` or vectors `[b, d]`, which have no pixels to average.
          train: not used; there so that heads are called as units are.

        Returns:
          Outputs, `[b, k]`, float32 or wider.

        Raises:
          ValueError: `x` is not floating-point or has no axis to read; `classes` is not positive.
        """
        del train
        check_sizes(classes=self.classes)
        check_floating(x)
        if x.ndim < 2:
            raise ValueError(f"x has shape {x.shape}, want [b, d] or [b, height, width, channels]")
        return output_layer(x, self.classes, kernel_init=self.kernel_init, dtype=self.dtype)
