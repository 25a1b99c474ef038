"""A chain of convolutions without normalisation, with skip connections or without."""

import math
from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from trove_jax.layers import Conv
from trove_jax.models.inputs import as_logits, check_images, check_sizes, he_normal


class ConvChain(nn.Module):
    """3x3 convolutions in a row, a mean over pixels and a dense layer; no normalisation.

    h = relu(C x + b); x <- (x + h) / sqrt 2 where the shapes agree and `skip` is set, else x <- h.
    The division bounds the growth of the second moment, which would at least double with every
    skip, by a factor of 2 for each layer (about 1.3 in a network that is not trained). He normal
    kernels, biases 0. The layers are called `conv_0`, `conv_1`, ... and
    `output`.

    Attributes:
      features: channels of each convolution.
      strides: 1 or 2 for each of them.
      classes: outputs, k.
      skip: whether there are skip connections.
      dtype: dtype of the computation; None: that of the parameters (float32).

    Example:
      >>> model = ConvChain(features=(16, 16, 32, 32, 64, 64), strides=(1, 1, 2, 1, 2, 1))
      >>> variables = model.init(jax.random.key(0), jnp.zeros((1, 8, 8, 1)))
      >>> sum(leaf.size for leaf in jax.tree.leaves(variables))
      72442

    Reference: Subramaniam et al., Training the Untrainable, NeurIPS 2025 (the roles of residual
    guide and plain target), at a size for small images.
    """

    features: Sequence[int]
    strides: Sequence[int]
    classes: int = 10
    skip: bool = True
    dtype: Any = None

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool = False) -> jax.Array:
        """Applies the network.

        Args:
          x: images, `[b, height, width, channels]`, floating-point.
          train: not used; there so that all classifiers are called alike.

        Returns:
          Outputs, `[b, k]`, float32 or wider.

        Raises:
          ValueError: a size or stride that is no positive integer, not one stride for each
            convolution, or images smaller than the product of the strides.
        """
        del train
        check_sizes(classes=self.classes)
        if len(self.features) != len(self.strides) or not len(self.features):
            raise ValueError(
                f"features has {len(self.features)} sizes and strides {len(self.strides)}; give "
                "one of each for every convolution, at least one"
            )
        for width, stride in zip(self.features, self.strides, strict=True):
            check_sizes(features=width, strides=stride)
        check_images(x, smallest=math.prod(self.strides))
        conv = {"kernel_init": he_normal, "padding": 1, "dtype": self.dtype}
        for i, (width, stride) in enumerate(zip(self.features, self.strides, strict=True)):
            h = nn.relu(Conv(width, (3, 3), strides=stride, name=f"conv_{i}", **conv)(x))
            x = (x + h) / math.sqrt(2.0) if self.skip and x.shape == h.shape else h
        x = jnp.mean(x, axis=(1, 2))
        x = nn.Dense(self.classes, kernel_init=he_normal, dtype=self.dtype, name="output")(x)
        return as_logits(x)
