"""Auxiliary networks of supervised local learning: what judges the output of a hidden part.

Each is a Flax module called as `aux(x, *, train)` on the output of a part. It returns a mapping of
what losses are taken of: `logits`, `similarity` (vectors to match the similarity of labels) or
`reconstruction` (logits of the input images); `weights` says how much each counts.
"""

import math
from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from trove_jax.layers.convolution import Conv
from trove_jax.layers.normalization import BatchNorm

Weights = tuple[tuple[str, float], ...]
_LOGITS: Weights = (("logits", 1.0),)
_he_normal = nn.initializers.variance_scaling(2.0, "fan_in", "normal")


class AuxNet(nn.Module):
    """Units, and a linear head on the mean over pixels.

    Attributes:
      units: Flax modules called as `unit(x, *, train)`; none: a linear classifier.
      classes: outputs, k.
      norm: whether batch normalisation stands between the mean and the dense layer.
      weights: of the losses.
      dtype: dtype of the computation; None: that of the parameters (float32).
      axis_name: name of a mapped axis over which the batch statistics are averaged.

    Example:
      >>> aux = AuxNet(units=(), classes=10)
      >>> y, variables = aux.init_with_output(jax.random.key(0), jnp.ones((2, 8, 8, 3)))
      >>> y["logits"].shape, variables["params"]["output"]["kernel"].shape
      ((2, 10), (3, 10))

    Reference: Ma et al., Scaling Supervised Local Learning with Augmented Auxiliary Networks,
    ICLR 2024.
    """

    units: Sequence[nn.Module]
    classes: int
    norm: bool = False
    weights: Weights = _LOGITS
    dtype: Any = None
    axis_name: str | None = None

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool = False) -> dict[str, jax.Array]:
        """Applies the network.

        Args:
          x: output of a part, `[b, height, width, d]` or `[b, d]`, floating.
          train: normalise with the statistics of this batch, else with the running ones.

        Returns:
          `logits`, `[b, k]`, float32 or wider.

        Raises:
          ValueError: an image that is too small for the strides of the units.
        """
        _check_strides(self.units, x)
        for unit in self.units:
            x = unit(x, train=train)
        x = _mean(x)
        if self.norm:
            x = _norm(self, "norm", train=train)(x)
        return {"logits": _wide(_dense(self, self.classes, "output", bias=True)(x))}


class DglAux(nn.Module):
    """Three pointwise convolutions at a quarter of the resolution, and a perceptron.

    The image is averaged to ceil(n / 4) pixels a side, passes three 1x1 convolutions, is averaged
    to 2x2 (or 1x1) pixels and passes two hidden layers of the width of that; batch normalisation
    and rectification after each of the five. On vectors the convolutions are dense layers and
    nothing is averaged.

    Attributes:
      classes: outputs, k.
      weights: of the losses.
      dtype: dtype of the computation; None: that of the parameters (float32).
      axis_name: name of a mapped axis over which the batch statistics are averaged.

    Reference: Belilovsky et al., Decoupled Greedy Learning of CNNs, ICML 2020 (MLP-SR-aux).
    """

    classes: int
    weights: Weights = _LOGITS
    dtype: Any = None
    axis_name: str | None = None

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool = False) -> dict[str, jax.Array]:
        """Applies the network; arguments and result as `AuxNet`."""
        image = x.ndim == 4
        small = tuple(math.ceil(n / 4) for n in x.shape[1:3])
        x = _average_to(x, small) if image else x
        for i in range(3):
            x = _dense(self, x.shape[-1], f"point_{i}")(x)
            x = nn.relu(_norm(self, f"point_norm_{i}", train=train)(x))
        if image:
            x = _average_to(x, tuple(min(n, 2) for n in small))
        x = x.reshape(x.shape[0], -1)
        for i in range(2):
            x = _dense(self, x.shape[-1], f"hidden_{i}")(x)
            x = nn.relu(_norm(self, f"hidden_norm_{i}", train=train)(x))
        return {"logits": _wide(_dense(self, self.classes, "output", bias=True)(x))}


class PredSimAux(nn.Module):
    """A linear classifier, and a linear map whose output is to match the similarity of labels.

    The map is a 3x3 convolution, followed by the standard deviation over pixels of each channel;
    on vectors a dense layer. The classifier sees the image averaged to at most 1024 numbers.

    Attributes:
      classes: outputs, k.
      weights: of the losses.
      dtype: dtype of the computation; None: that of the parameters (float32).
      axis_name: not used; there so that all auxiliary networks are made alike.

    Reference: Nokland & Eidnes, Training Neural Networks with Local Error Signals, ICML 2019.
    """

    classes: int
    weights: Weights = (("similarity", 0.99), ("logits", 0.01))
    dtype: Any = None
    axis_name: str | None = None

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool = False) -> dict[str, jax.Array]:
        """Applies the network; `similarity` is `[b, d]`, else as `AuxNet`."""
        del train
        if x.ndim == 4:
            mapped = _conv(self, x.shape[-1], "similarity")(x)
            # Of a constant channel the square root has no gradient.
            variance = _wide(mapped).var(axis=(1, 2), ddof=1 if math.prod(x.shape[1:3]) > 1 else 0)
            mapped = jnp.sqrt(variance + 1e-12)
            side = max(math.isqrt(1024 // x.shape[-1]), 1)
            x = _average_to(x, tuple(min(n, side) for n in x.shape[1:3]))
        else:
            mapped = _wide(_dense(self, x.shape[-1], "similarity")(x))
        x = x.reshape(x.shape[0], -1)
        logits = _wide(_dense(self, self.classes, "output", bias=True)(x))
        return {"logits": logits, "similarity": mapped}


class InfoProAux(nn.Module):
    """A decoder to the input images, and a classifier of one convolution and one hidden layer.

    Decoder: bilinear resizing to the images' size (corners on corners), a 3x3 convolution to 12
    channels with batch normalisation and rectification, a 3x3 convolution. Classifier: a 3x3
    convolution to twice the channels with stride 2 (to `widest` with stride 1 where there are that
    many already), batch normalisation, rectification, the mean over pixels, a hidden layer of 128.

    Attributes:
      classes: outputs, k.
      size: height and width of the images.
      channels: of the images.
      widest: channels of the network's last unit.
      weights: of the losses.
      dtype: dtype of the computation; None: that of the parameters (float32).
      axis_name: name of a mapped axis over which the batch statistics are averaged.

    Reference: Wang et al., Revisiting Locally Supervised Learning: an Alternative to End-to-end
    Training, ICLR 2021 (widths as Ma et al. 2024 set them for CIFAR).
    """

    classes: int
    size: int
    channels: int
    widest: int
    weights: Weights = (("reconstruction", 1.0), ("logits", 1.0))
    dtype: Any = None
    axis_name: str | None = None

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool = False) -> dict[str, jax.Array]:
        """Applies the network; `reconstruction` is `[b, size, size, channels]`, else as `AuxNet`.

        Raises:
          ValueError: `x` is no batch of images.
        """
        if x.ndim != 4:
            raise ValueError(
                f"x has shape {x.shape}; images are reconstructed from [b, height, width, d] only"
            )
        weights = tuple(_interpolation(n, self.size) for n in x.shape[1:3])
        decoded = _conv(self, 12, "decoder_0", bias=True)(_resample(x, *weights))
        decoded = nn.relu(_norm(self, "decoder_norm", train=train)(decoded))
        decoded = _wide(_conv(self, self.channels, "decoder_1", bias=True)(decoded))
        grows = x.shape[-1] < self.widest
        features = min(2 * x.shape[-1], self.widest) if grows else x.shape[-1]
        x = _conv(self, features, "conv", stride=2 if grows else 1)(x)
        x = _mean(nn.relu(_norm(self, "norm", train=train)(x)))
        x = nn.relu(_dense(self, 128, "hidden", bias=True)(x))
        logits = _wide(_dense(self, self.classes, "output", bias=True)(x))
        return {"logits": logits, "reconstruction": decoded}


def _conv(module: Any, features: int, name: str, *, stride: int = 1, bias: bool = False) -> Conv:
    return Conv(
        features,
        (3, 3),
        strides=stride,
        padding=1,
        use_bias=bias,
        kernel_init=_he_normal,
        dtype=module.dtype,
        name=name,
    )


def _dense(module: Any, features: int, name: str, *, bias: bool = False) -> nn.Dense:
    return nn.Dense(features, use_bias=bias, kernel_init=_he_normal, dtype=module.dtype, name=name)


def _norm(module: Any, name: str, *, train: bool) -> BatchNorm:
    return BatchNorm(
        use_running_average=not train,
        momentum=0.9,
        epsilon=1e-5,
        dtype=module.dtype,
        axis_name=module.axis_name,
        name=name,
    )


def _mean(x: jax.Array) -> jax.Array:
    return x.mean(axis=tuple(range(1, x.ndim - 1)))


def _wide(x: jax.Array) -> jax.Array:
    return x.astype(jnp.float32) if jnp.finfo(x.dtype).bits < 32 else x


def _check_strides(units: Sequence[Any], x: jax.Array) -> None:
    smallest = math.prod(getattr(unit, "stride", 1) for unit in units)
    if x.ndim == 4 and min(x.shape[1:3]) < smallest:
        raise ValueError(
            f"x has shape {x.shape}: {x.shape[1]}x{x.shape[2]} pixels, but the strides of the "
            f"{len(units)} units behind need {smallest}x{smallest} or more"
        )


def _resample(x: jax.Array, rows: np.ndarray, columns: np.ndarray) -> jax.Array:
    """Applies a matrix to each axis of space, `[b, h, w, d]` to `[b, rows, columns, d]`."""
    x = jnp.einsum("ph,bhwd->bpwd", jnp.asarray(rows, x.dtype), x)
    return jnp.einsum("qw,bpwd->bpqd", jnp.asarray(columns, x.dtype), x)


def _average_to(x: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    """Averages an image to fewer pixels; windows overlap where sizes do not divide."""
    if x.shape[1:3] == shape:
        return x
    return _resample(x, *(_averaging(n, m) for n, m in zip(x.shape[1:3], shape, strict=True)))


def _averaging(size: int, out: int) -> np.ndarray:
    """The mean over the window from floor(i n / m) to ceil((i + 1) n / m), `[m, n]`."""
    weights = np.zeros((out, size), np.float32)
    for i in range(out):
        low, high = i * size // out, -(-(i + 1) * size // out)
        weights[i, low:high] = 1 / (high - low)
    return weights


def _interpolation(size: int, out: int) -> np.ndarray:
    """Linear interpolation that keeps the ends, `[m, n]`."""
    places = np.linspace(0, size - 1, out)
    return np.maximum(0, 1 - np.abs(places[:, None] - np.arange(size))).astype(np.float32)
