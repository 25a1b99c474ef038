"""A residual network on the Poincare ball, and its Euclidean twins with the same topology."""

import functools
from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from trove_jax.kernels import poincare as rows
from trove_jax.kernels.rows import Implementation
from trove_jax.layers import (
    BatchNorm,
    Conv,
    LearnedCurvature,
    PoincareBatchNorm,
    PoincareConv,
    PoincareDense,
    PoincareMLR,
    half_identity,
    poincare_pool,
)
from trove_jax.models.inputs import as_logits, check_images, check_sizes, he_normal
from trove_jax.models.vision.resnet import blocks_per_stage

Initializer = nn.initializers.Initializer
_Names = tuple[str, str]


class PoincareResNet(nn.Module):
    """A residual network whose every layer lives on the Poincare ball, from pixels to class scores.

    Between layers a pixel is the tangent vector log_0(x) of its point x on the ball, channels last;
    the pixels of the images are taken as such vectors. A convolution, batch normalisation, ReLU;
    groups of n blocks of convolution, normalisation, ReLU, convolution, normalisation,
    residual f(x) (+) x, ReLU, where every group but the first halves height and width and has a
    strided 1x1 convolution with bias, and no normalisation, on the shortcut; then the mean over all
    pixels and the classifier. The layers are called `stem`, `stem_norm`,
    `stage_0_block_0/conv_0`, `stage_1_block_0/shortcut`, ... and `output`, as in `EuclideanTwin`.
    In front of a normalisation a convolution also gives the sums for it: `layers.capture` finds its
    vectors as `stem/0`, `stage_0_block_0/conv_0/0`, ...

    Attributes:
      blocks: blocks per group, n; with three groups the network is 6 n + 2 layers deep.
      widths: channels of each group.
      classes: outputs, k.
      curvature: c > 0 of the one ball that all layers share (its sectional curvature is -c).
      learn_curvature: whether c is a parameter, called `curvature`, that begins at `curvature`.
      mean: of the batch normalisations: the closed-form `"midpoint"` or the iterated `"frechet"`.
      pool: the mean over pixels: the `"midpoint"` on the ball, or the `"tangent"` one at 0, as the
        published code has it.
      order: `"fr"` adds f(x) (+) x, `"rf"` x (+) f(x); Moebius addition does not commute.
      head: `"mlr"`, logits are signed distances to hyperplanes, or `"fc"`, log_0 of a fully
        connected layer, as the published code has it.
      kernel_init: law of the kernels at the start; a classifier of `"mlr"` has its own.
      axis_name: name of a mapped axis over which the batch statistics are averaged.
      implementation: of the kernels; see `kernels.fused_rows`.

    Reference: van Spengler, Berkhout and Mettes, Poincare ResNet, ICCV 2023, section 3; the
    classifier of `"mlr"` is that of Shimizu et al., Hyperbolic Neural Networks++, ICLR 2021.
    """

    blocks: int = 3
    widths: Sequence[int] = (8, 16, 32)
    classes: int = 10
    curvature: Any = 0.1
    learn_curvature: bool = False
    mean: Literal["midpoint", "frechet"] = "midpoint"
    pool: Literal["midpoint", "tangent"] = "midpoint"
    order: Literal["fr", "rf"] = "fr"
    head: Literal["mlr", "fc"] = "mlr"
    kernel_init: Initializer = half_identity()
    axis_name: str | None = None
    implementation: Implementation = None

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool = False) -> jax.Array:
        """Applies the network.

        Args:
          x: images, `[b, height, width, channels]`, floating-point, 4x4 pixels or more; the paper
            scales pixels to [-1, 1]. NaN in a pixel makes that image's outputs NaN (in training
            those of the whole batch, through its statistics).
          train: normalise with the statistics of this batch (and update the running ones, if
            `batch_stats` is mutable), else with the running ones.

        Returns:
          Outputs, `[b, k]`, float32 or wider.

        Raises:
          ValueError: `x` is no such batch of images; a size is not a positive integer; an option is
            unknown or `curvature` not positive.
        """
        _check_options(self)
        c = self.curvature
        if self.learn_curvature:
            c = LearnedCurvature(self.curvature, name="curvature")()

        def conv(features: int, size: int, stride: int, name: str):
            return PoincareConv(
                features,
                (size, size),
                strides=stride,
                padding=size // 2,
                curvature=c,
                kernel_init=self.kernel_init,
                implementation=self.implementation,
                name=name,
            )

        def layer(x: jax.Array, features: int, stride: int, names: _Names, skip: Any) -> jax.Array:
            norm = PoincareBatchNorm(
                mean=self.mean,
                curvature=c,
                axis_name=self.axis_name,
                implementation=self.implementation,
                name=names[1],
            )
            y, sums = conv(features, 3, stride, names[0])(x, with_sums=True)
            y = norm(y, train=train, sums=sums, relu=skip is None)
            if skip is None:
                return y
            pair = (y, skip) if self.order == "fr" else (skip, y)
            return rows.residual(*pair, curvature=c, relu=True, implementation=self.implementation)

        def shortcut(x: jax.Array, features: int, stride: int) -> jax.Array:
            return conv(features, 1, stride, "shortcut")(x)

        x = _body(x, _Parts(layer, shortcut), self.blocks, self.widths)
        x = poincare_pool(x, curvature=c, pool=self.pool)
        if self.head == "mlr":
            output = PoincareMLR(
                self.classes, curvature=c, implementation=self.implementation, name="output"
            )
        else:
            output = PoincareDense(
                self.classes,
                curvature=c,
                kernel_init=self.kernel_init,
                implementation=self.implementation,
                name="output",
            )
        return as_logits(output(x))


class EuclideanTwin(nn.Module):
    """The Euclidean network that a `PoincareResNet` is held against.

    Topology and names of the layers are those of `PoincareResNet`, with the layers swapped: a
    convolution with bias, batch normalisation (momentum 0.9, epsilon 1e-5), ReLU; the shortcut of
    the second and third group is a strided 1x1 convolution with bias and without normalisation;
    then the mean over all pixels and a dense layer.

    With `hyperbolic_head` it is the network with Euclidean features and a classifier on the ball:
    the mean over pixels, shortened to a norm of `feature_radius` / sqrt(c) where it is longer, is
    the tangent vector at 0 of the point that a `PoincareMLR` classifies.

    Attributes:
      blocks: blocks per group, n; with three groups the network is 6 n + 2 layers deep.
      widths: channels of each group.
      classes: outputs, k.
      hyperbolic_head: whether the classifier is on the ball.
      curvature: c > 0 of that ball.
      feature_radius: largest norm of its features, in units of 1 / sqrt(c).
      kernel_init: law of the kernels at the start, but for the classifier on the ball, whose law is
        its own; biases start at 0.
      axis_name: name of a mapped axis over which the batch statistics are averaged.

    Reference: the hyperbolic head with clipped features is that of Guo et al., Clipped Hyperbolic
    Classifiers Are Super-Hyperbolic Classifiers, CVPR 2022 (feature clipping with radius 1).
    """

    blocks: int = 3
    widths: Sequence[int] = (8, 16, 32)
    classes: int = 10
    hyperbolic_head: bool = False
    curvature: Any = 0.1
    feature_radius: float = 1.0
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

        def layer(x: jax.Array, features: int, stride: int, names: _Names, skip: Any) -> jax.Array:
            y = norm(name=names[1])(conv(features, 3, stride, names[0])(x))
            return nn.relu(y if skip is None else y + skip)

        def shortcut(x: jax.Array, features: int, stride: int) -> jax.Array:
            return conv(features, 1, stride, "shortcut")(x)

        x = _body(x, _Parts(layer, shortcut), self.blocks, self.widths)
        check_sizes(classes=self.classes)
        x = jnp.mean(x, axis=(1, 2))
        if not self.hyperbolic_head:
            return as_logits(nn.Dense(self.classes, kernel_init=self.kernel_init, name="output")(x))
        if not self.feature_radius > 0:
            raise ValueError(f"feature_radius={self.feature_radius}, want a positive number")
        x = _shorten(x, self.feature_radius / self.curvature**0.5)
        return as_logits(PoincareMLR(self.classes, curvature=self.curvature, name="output")(x))


class _Parts(NamedTuple):
    """What the topology is filled with.

    `layer(x, features, stride, names, skip)` adds a 3x3 convolution C and a normalisation N called
    `names`: relu(N(C x)), or relu(N(C x) + skip). `shortcut(x, features, stride)` adds a strided
    1x1 convolution.
    """

    layer: Callable[[jax.Array, int, int, _Names, Any], jax.Array]
    shortcut: Callable[[jax.Array, int, int], jax.Array]


class _Block(nn.Module):
    """conv, norm, relu, conv, norm, residual, relu; the shortcut is a 1x1 conv without norm."""

    features: int
    stride: int

    @nn.compact
    def __call__(self, x: jax.Array, parts: _Parts) -> jax.Array:
        y = parts.layer(x, self.features, self.stride, ("conv_0", "norm_0"), None)
        skip = parts.shortcut(x, self.features, self.stride) if self.stride > 1 else x
        return parts.layer(y, self.features, 1, ("conv_1", "norm_1"), skip)


def _body(x: jax.Array, parts: _Parts, blocks: int, widths: Sequence[int]) -> jax.Array:
    """All layers in front of the pooling, added to the module that is being applied."""
    check_images(x, smallest=4)
    check_sizes(blocks=blocks)
    _check_widths(widths)
    x = parts.layer(x, widths[0], 1, ("stem", "stem_norm"), None)
    for group, width in enumerate(widths):
        for block in range(blocks):
            stride = 2 if group and not block else 1
            x = _Block(width, stride, name=f"stage_{group}_block_{block}")(x, parts)
    return x


def _shorten(x: jax.Array, longest: float) -> jax.Array:
    """Scales vectors that are longer than `longest` down to it; the others stay, zeros included."""
    square = jnp.sum(x * x, axis=-1, keepdims=True)
    long = square > longest**2
    return x * jnp.where(long, longest * jax.lax.rsqrt(jnp.where(long, square, 1.0)), 1.0)


_OPTIONS = {
    "mean": ("midpoint", "frechet"),
    "pool": ("midpoint", "tangent"),
    "order": ("fr", "rf"),
    "head": ("mlr", "fc"),
}


def _check_options(module: PoincareResNet) -> None:
    check_sizes(classes=module.classes)
    for name, known in _OPTIONS.items():
        value = getattr(module, name)
        if value not in known:
            raise ValueError(f"{name}={value!r} is unknown; use one of {', '.join(known)}")


def poincare_resnet(
    depth: int = 20,
    *,
    widths: Sequence[int] = (8, 16, 32),
    classes: int = 10,
    curvature: float = 0.1,
    learn_curvature: bool = False,
    mean: Literal["midpoint", "frechet"] = "midpoint",
    pool: Literal["midpoint", "tangent"] = "midpoint",
    order: Literal["fr", "rf"] = "fr",
    head: Literal["mlr", "fc"] = "mlr",
    kernel_init: Initializer | None = None,
    axis_name: str | None = None,
    implementation: Implementation = None,
) -> PoincareResNet:
    """Builds a Poincare ResNet; the defaults are those of the paper for CIFAR.

    Args:
      depth: layers with weights, with three groups 6 n + 2: 8, 14, 20, 32, ...
      widths: channels of each group; the paper has three.
      classes: outputs, k.
      curvature: c > 0; the sectional curvature is -c.
      learn_curvature: whether c is learned from there on.
      mean: of the batch normalisations: `"midpoint"` or `"frechet"`.
      pool: the mean over pixels: `"midpoint"`, or `"tangent"`, as published.
      order: of the residual: `"fr"` for f(x) (+) x, `"rf"` for x (+) f(x).
      head: `"mlr"`, or `"fc"`, as published.
      kernel_init: law of the kernels at the start; None: half of the identity, as published.
      axis_name: name of a mapped axis over which the batch statistics are averaged.
      implementation: of the kernels; see `kernels.fused_rows`.

    Returns:
      A module `[b, height, width, channels] -> [b, k]` with collections `params` and
      `batch_stats`.

    Raises:
      ValueError: a depth of no whole number of blocks, no widths, a width that is not positive;
        when applied: another size that is not, an unknown option, a curvature that is not positive.

    Example:
      >>> poincare_resnet(32).blocks
      5

    Reference: van Spengler, Berkhout and Mettes, Poincare ResNet, ICCV 2023.
    """
    return PoincareResNet(
        blocks=_blocks(depth, widths),
        widths=tuple(widths),
        classes=classes,
        curvature=curvature,
        learn_curvature=learn_curvature,
        mean=mean,
        pool=pool,
        order=order,
        head=head,
        kernel_init=half_identity() if kernel_init is None else kernel_init,
        axis_name=axis_name,
        implementation=implementation,
    )


def euclidean_twin(
    depth: int = 20,
    *,
    widths: Sequence[int] = (8, 16, 32),
    classes: int = 10,
    hyperbolic_head: bool = False,
    curvature: float = 0.1,
    feature_radius: float = 1.0,
) -> EuclideanTwin:
    """Builds the Euclidean twin of `poincare_resnet`.

    Args:
      depth: layers with weights, with three groups 6 n + 2: 8, 14, 20, 32, ...
      widths: channels of each group; the paper has three.
      classes: outputs, k.
      hyperbolic_head: whether the classifier is a `PoincareMLR` on clipped features.
      curvature: c > 0 of its ball.
      feature_radius: largest norm of its features, in units of 1 / sqrt(c).

    Returns:
      A module `[b, height, width, channels] -> [b, k]` with collections `params` and
      `batch_stats`.

    Raises:
      ValueError: a depth of no whole number of blocks, no widths, a width that is not positive;
        when applied: another size that is not.

    Example:
      >>> euclidean_twin(20).blocks
      3
    """
    return EuclideanTwin(
        blocks=_blocks(depth, widths),
        widths=tuple(widths),
        classes=classes,
        hyperbolic_head=hyperbolic_head,
        curvature=curvature,
        feature_radius=feature_radius,
    )


def _blocks(depth: int, widths: Sequence[int]) -> int:
    _check_widths(widths)
    return blocks_per_stage(depth, len(widths))


def _check_widths(widths: Sequence[int]) -> None:
    if not widths:
        raise ValueError("widths=(), want one for each group, such as (8, 16, 32)")
    check_sizes(**{f"widths[{i}]": width for i, width in enumerate(widths)})
