"""Multi-layer perceptrons, plain and residual; images are flattened to vectors."""

from collections.abc import Callable, Sequence
from typing import Any, Literal

import flax.linen as nn
import jax

from trove_jax.layers import BatchNorm
from trove_jax.models.inputs import as_logits, check_floating, check_sizes, he_normal


def hidden_layers(
    x: jax.Array,
    widths: Sequence[int],
    *,
    activation: Callable[[jax.Array], jax.Array],
    kernel_init: nn.initializers.Initializer,
    bias_init: nn.initializers.Initializer = nn.initializers.zeros,
    norm: Literal["batch"] | None = None,
    dropout_rate: float = 0.0,
    dtype: Any = None,
    axis_name: str | None = None,
    train: bool = False,
) -> jax.Array:
    """Adds the hidden layers of a perceptron to the module that is being applied.

    x_{i+1} = D(f(N(W_i x_i + b_i))), with N and D only where they are asked for; under N there is
    no b_i, which N would take away. The layers are called `hidden_i`, those of N `norm_i`.

    Args:
      x: inputs, `[b, d]`, floating-point.
      widths: units of each layer.
      activation: f.
      kernel_init: law of the kernels at the start.
      bias_init: law of the biases at the start.
      norm: `"batch"`: N is batch normalisation (momentum 0.9, epsilon 1e-5).
      dropout_rate: share of the units that D sets to 0 in training.
      dtype: dtype of the computation; None: that of the parameters.
      axis_name: name of a mapped axis over which the batch statistics are averaged.
      train: whether N takes the statistics of this batch, and D draws.

    Returns:
      `[b, widths[-1]]`; `x` itself without widths.
    """
    for i, width in enumerate(widths):
        x = nn.Dense(
            width,
            use_bias=norm is None,
            kernel_init=kernel_init,
            bias_init=bias_init,
            dtype=dtype,
            name=f"hidden_{i}",
        )(x)
        if norm == "batch":
            x = BatchNorm(
                use_running_average=not train,
                momentum=0.9,
                dtype=dtype,
                axis_name=axis_name,
                name=f"norm_{i}",
            )(x)
        x = activation(x)
        if dropout_rate:
            x = nn.Dropout(dropout_rate, deterministic=not train, name=f"dropout_{i}")(x)
    return x


class MLP(nn.Module):
    """Dense layers with a nonlinearity between them.

    x_{i+1} = f(W_i x_i + b_i); the last layer is linear. Biases start at 0. The layers are called
    `hidden_0`, `hidden_1`, ... and `output`.

    Attributes:
      features: widths of the hidden layers and, last, of the output.
      activation: f.
      kernel_init: law of the kernels at the start.
      dtype: dtype of the computation; None: that of the parameters (float32).

    Example:
      >>> model = MLP((16, 3))
      >>> variables = model.init(jax.random.key(0), jax.numpy.zeros((1, 4)))
      >>> model.apply(variables, jax.numpy.ones((5, 2, 2))).shape
      (5, 3)
    """

    features: Sequence[int]
    activation: Callable[[jax.Array], jax.Array] = nn.relu
    kernel_init: nn.initializers.Initializer = nn.initializers.glorot_normal()
    dtype: Any = None

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool = False) -> jax.Array:
        """Applies the network.

        Args:
          x: inputs, `[b, ...]`, floating-point; the axes behind the first are flattened.
          train: not used; there so that all classifiers are called alike.

        Returns:
          Outputs, `[b, k]`, float32 or wider.
        """
        del train
        check_floating(x)
        *hidden, outputs = self.features
        x = hidden_layers(
            x.reshape(x.shape[0], -1),
            hidden,
            activation=self.activation,
            kernel_init=self.kernel_init,
            dtype=self.dtype,
        )
        x = nn.Dense(outputs, kernel_init=self.kernel_init, dtype=self.dtype, name="output")(x)
        return as_logits(x)


def lenet_300_100(*, classes: int = 10, dtype: Any = None) -> MLP:
    """Builds the fully connected LeNet: hidden layers of 300 and 100 rectified units.

    Glorot normal kernels, biases 0. On 28x28 images it has 266,610 parameters, 266,200 of them in
    kernels.

    Args:
      classes: outputs, k.
      dtype: dtype of the computation; None: float32.

    Returns:
      A module `[b, ...] -> [b, k]`.

    Example:
      >>> lenet_300_100().features
      (300, 100, 10)

    Reference: LeCun et al., Gradient-based learning applied to document recognition, 1998;
    Frankle & Carbin, The Lottery Ticket Hypothesis, ICLR 2019 (figure 2).
    """
    check_sizes(classes=classes)
    return MLP(features=(300, 100, classes), dtype=dtype)


class ResidualMLP(nn.Module):
    """A perceptron with skip connections and batch normalisation after every dense layer.

    x <- f(x + N(W' f(N(W x)))) per block, after a first layer x = f(N(W_0 x)); the output layer is
    linear. Dense layers before a normalisation have no bias. The layers are called `input`,
    `input_norm`, `block_0/dense_0`, `block_0/norm_0`, ... and `output`.

    Attributes:
      width: width of all hidden layers.
      blocks: number of residual blocks, two dense layers each.
      classes: outputs, k.
      epsilon: added to the variances by the normalisation; it bounds the factor by which the
        gradient of a unit that is constant over a batch is multiplied, 1 / sqrt(epsilon).
      kernel_init: law of the kernels at the start.
      dtype: dtype of the computation; None: that of the parameters (float32).
      axis_name: name of a mapped axis over which the batch statistics are averaged.
    """

    width: int = 160
    blocks: int = 4
    classes: int = 10
    epsilon: float = 1e-5
    kernel_init: nn.initializers.Initializer = he_normal
    dtype: Any = None
    axis_name: str | None = None

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool = False) -> jax.Array:
        """Applies the network.

        Args:
          x: inputs, `[b, ...]`, floating-point; the axes behind the first are flattened.
          train: normalise with the statistics of this batch (and update the running ones, if
            `batch_stats` is mutable), else with the running ones.

        Returns:
          Outputs, `[b, k]`, float32 or wider.
        """
        check_floating(x)
        x = x.reshape(x.shape[0], -1)
        dense = {"use_bias": False, "kernel_init": self.kernel_init, "dtype": self.dtype}
        norm = {"use_running_average": not train, "momentum": 0.9, "epsilon": self.epsilon}
        norm |= {"dtype": self.dtype, "axis_name": self.axis_name}
        x = nn.Dense(self.width, name="input", **dense)(x)
        x = nn.relu(BatchNorm(name="input_norm", **norm)(x))
        for i in range(self.blocks):
            block = _ResidualBlock(self.width, dense=dense, norm=norm, name=f"block_{i}")
            x = block(x)
        return as_logits(
            nn.Dense(self.classes, kernel_init=self.kernel_init, dtype=self.dtype, name="output")(x)
        )


class _ResidualBlock(nn.Module):
    width: int
    dense: dict[str, Any]
    norm: dict[str, Any]

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        y = nn.Dense(self.width, name="dense_0", **self.dense)(x)
        y = nn.relu(BatchNorm(name="norm_0", **self.norm)(y))
        y = nn.Dense(self.width, name="dense_1", **self.dense)(y)
        return nn.relu(x + BatchNorm(name="norm_1", **self.norm)(y))


def residual_mlp(
    *,
    width: int = 160,
    blocks: int = 4,
    classes: int = 10,
    epsilon: float = 1e-5,
    dtype: Any = None,
) -> ResidualMLP:
    """Builds a residual perceptron, a network in which rewinding to step 0 already fails.

    A dense layer, `blocks` residual blocks of two dense layers, an output layer; batch
    normalisation (momentum 0.9) after all but the last; He normal kernels.

    Args:
      width: width of all hidden layers.
      blocks: number of residual blocks.
      classes: outputs, k.
      epsilon: added to the variances by the normalisation, above 0.
      dtype: dtype of the computation; None: float32.

    Returns:
      A module `[b, ...] -> [b, k]` with collections `params` and `batch_stats`.

    Raises:
      ValueError: a size that is not a positive integer, or an `epsilon` that is not above 0.

    Example:
      >>> variables = residual_mlp(width=8).init(jax.random.key(0), jax.numpy.zeros((1, 28, 28)))
      >>> sorted(variables)
      ['batch_stats', 'params']

    Reference: He et al., Deep Residual Learning for Image Recognition, CVPR 2016 (the block, here
    with dense layers in place of convolutions).
    """
    check_sizes(width=width, blocks=blocks, classes=classes)
    if not epsilon > 0:
        raise ValueError(f"epsilon={epsilon} must be above 0, such as 1e-5")
    return ResidualMLP(width=width, blocks=blocks, classes=classes, epsilon=epsilon, dtype=dtype)
