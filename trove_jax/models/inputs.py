"""What the networks accept and give back: checks of inputs and the dtype of outputs."""

import flax.linen as nn
import jax
import jax.numpy as jnp

# The published normal law of He et al.; `nn.initializers.he_normal` would cut it off at two
# standard deviations.
he_normal = nn.initializers.variance_scaling(2.0, "fan_in", "normal")


def check_images(x: jax.Array, *, smallest: int) -> None:
    """Refuses what is not a batch of images, rows first and channels last.

    Args:
      x: `[b, height, width, channels]`, floating-point.
      smallest: the least height and width that the network's strides leave something of.

    Raises:
      ValueError: another rank or dtype, or images that are too small.

    Example:
      >>> check_images(jnp.zeros((2, 3, 32, 32)), smallest=8)  # doctest: +ELLIPSIS
      Traceback (most recent call last):
      ...
      ValueError: x has shape (2, 3, 32, 32), want images [b, height, width, channels] of at ...
    """
    if x.ndim != 4 or min(x.shape[1:3]) < smallest:
        raise ValueError(
            f"x has shape {x.shape}, want images [b, height, width, channels] of at least "
            f"{smallest}x{smallest} pixels; add the missing axis with x[..., None], or move "
            "channels last with x.transpose(0, 2, 3, 1)"
        )
    check_floating(x)


def check_floating(x: jax.Array) -> None:
    """Refuses inputs that are not floating-point, such as undivided pixel bytes.

    Args:
      x: any shape.

    Raises:
      ValueError: an integer, boolean or complex dtype.

    Example:
      >>> check_floating(jnp.zeros(3))
    """
    if not jnp.issubdtype(x.dtype, jnp.floating):
        raise ValueError(
            f"x has dtype {x.dtype}, want floating-point; for pixel bytes: "
            "x.astype(jnp.float32) / 255"
        )


def check_sizes(**sizes: int) -> None:
    """Refuses sizes of networks that are not positive integers.

    Args:
      **sizes: the sizes by name.

    Raises:
      ValueError: names the first one that is not a positive integer.

    Example:
      >>> check_sizes(width=16, classes=10)
    """
    for name, size in sizes.items():
        if not isinstance(size, int) or isinstance(size, bool) or size < 1:
            raise ValueError(f"{name}={size!r}, want a positive integer, such as {name}=10")


def check_dense(*, norm: str | None, dropout_rate: float) -> None:
    """Refuses an unknown normalisation and a rate that drops everything.

    Args:
      norm: of a dense layer.
      dropout_rate: likewise.

    Raises:
      ValueError: `norm` is neither None nor "batch"; `dropout_rate` is outside [0, 1).

    Example:
      >>> check_dense(norm="batch", dropout_rate=0.1)
    """
    if norm not in (None, "batch"):
        raise ValueError(f'norm={norm!r} is unknown; use "batch" or None')
    if not 0.0 <= dropout_rate < 1.0:
        raise ValueError(f"dropout_rate={dropout_rate} is outside [0, 1)")


def as_logits(x: jax.Array) -> jax.Array:
    """Widens the outputs of a half-precision network to float32, in which losses are taken.

    Args:
      x: any shape, floating-point.

    Returns:
      `x` in float32, or unchanged if it is wider.

    Example:
      >>> as_logits(jnp.ones(2, jnp.bfloat16)).dtype
      dtype('float32')
    """
    return x.astype(jnp.float32) if jnp.finfo(x.dtype).bits < 32 else x
