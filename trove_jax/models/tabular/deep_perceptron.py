"""Perceptrons of many layers of one width, with normalisation and dropout where wanted."""

from collections.abc import Callable
from typing import Any, Literal

import flax.linen as nn
import jax

from trove_jax.models.inputs import as_logits, check_floating, check_sizes, he_normal
from trove_jax.models.tabular.perceptron import hidden_layers


class DeepMLP(nn.Module):
    """Dense layers of one width, as deep as wanted and without skip connections.

    x_{i+1} = D(f(N(W_i x_i + b_i))), i < depth; the last layer is linear. N (batch normalisation)
    and D (dropout) are there only where asked for; layers under N have no b_i, which N would take
    away. The layers are called `hidden_0`, `hidden_1`, ... and `output`, those of N `norm_0`, ...

    Attributes:
      depth: number of hidden layers.
      width: units of each of them.
      classes: outputs, k.
      activation: f.
      kernel_init: law of the kernels at the start; also of the output's.
      bias_init: law of the biases at the start; also of the output's.
      norm: `"batch"` (momentum 0.9, epsilon 1e-5) or None.
      dropout_rate: share of the hidden units that are set to 0 in training, in [0, 1); above 0,
        training needs a key in the stream `dropout`.
      dtype: dtype of the computation; None: that of the parameters (float32).
      axis_name: name of a mapped axis over which the batch statistics are averaged.

    Example:
      >>> model = DeepMLP(depth=20, width=50)
      >>> variables = model.init(jax.random.key(0), jax.numpy.zeros((1, 28, 28)))
      >>> sum(leaf.size for leaf in jax.tree.leaves(variables))
      88210

    Reference: Neelakantan et al., Adding Gradient Noise Improves Learning for Very Deep Networks,
    2015, section 4.1 (20 layers of 50 rectified units).
    """

    depth: int
    width: int
    classes: int = 10
    activation: Callable[[jax.Array], jax.Array] = nn.relu
    kernel_init: nn.initializers.Initializer = he_normal
    bias_init: nn.initializers.Initializer = nn.initializers.zeros
    norm: Literal["batch"] | None = None
    dropout_rate: float = 0.0
    dtype: Any = None
    axis_name: str | None = None

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool = False) -> jax.Array:
        """Applies the network.

        Args:
          x: inputs, `[b, ...]`, floating-point; the axes behind the first are flattened.
          train: draw the dropout, and normalise with the statistics of this batch (and update the
            running ones, if `batch_stats` is mutable); else with the running ones.

        Returns:
          Outputs, `[b, k]`, float32 or wider.

        Raises:
          ValueError: a size that is no positive integer, an unknown `norm`, a `dropout_rate`
            outside [0, 1), or inputs that are not floating-point.
        """
        check_sizes(depth=self.depth, width=self.width, classes=self.classes)
        if self.norm not in (None, "batch"):
            raise ValueError(f'norm={self.norm!r} is unknown; use "batch" or None')
        if not 0.0 <= self.dropout_rate < 1.0:
            raise ValueError(f"dropout_rate={self.dropout_rate} is outside [0, 1)")
        check_floating(x)
        x = hidden_layers(
            x.reshape(x.shape[0], -1),
            (self.width,) * self.depth,
            activation=self.activation,
            kernel_init=self.kernel_init,
            bias_init=self.bias_init,
            norm=self.norm,
            dropout_rate=self.dropout_rate,
            dtype=self.dtype,
            axis_name=self.axis_name,
            train=train,
        )
        x = nn.Dense(
            self.classes,
            kernel_init=self.kernel_init,
            bias_init=self.bias_init,
            dtype=self.dtype,
            name="output",
        )(x)
        return as_logits(x)
