"""Optimisers as papers of image classification use them, put together from optax."""

import math
from collections.abc import Mapping

import jax
import optax

from trove_jax.transforms.masking import is_kernel


def momentum_sgd(
    learning_rate: float,
    *,
    momentum: float = 0.9,
    weight_decay: float = 0.0,
    drops: Mapping[int, float] | None = None,
    warmup: int = 0,
) -> optax.GradientTransformation:
    """Momentum SGD with a linear warm-up, drops of the rate, and weight decay on kernels.

    v <- momentum v + g + weight_decay W;  W <- W - rate(step) v

    Args:
      learning_rate: the rate after the warm-up.
      momentum: in [0, 1).
      weight_decay: added to the gradient of kernels (`is_kernel`), not of biases and scales.
      drops: step -> factor, such as `{20_000: 0.1, 25_000: 0.1}`.
      warmup: steps over which the rate rises linearly from 0.

    Returns:
      A transformation whose schedule counts its own updates (`init_at_step` sets it).

    Raises:
      ValueError: an argument outside its range.

    Example:
      >>> tx = momentum_sgd(0.1, drops={1: 0.5})
      >>> state = tx.init({"kernel": jax.numpy.zeros((1, 1))})

    Reference: He et al., Deep residual learning for image recognition, CVPR 2016, section 4.2.
    """
    if not (
        0 < learning_rate < math.inf
        and 0 <= momentum < 1
        and 0 <= weight_decay < math.inf
        and 0 <= warmup < math.inf
    ):
        raise ValueError(
            f"learning_rate={learning_rate} and momentum={momentum} must lie in (0, inf) and "
            f"[0, 1), weight_decay={weight_decay} and warmup={warmup} in [0, inf)"
        )
    after = optax.piecewise_constant_schedule(learning_rate, dict(drops or {}))
    rising = optax.linear_schedule(0.0, 1.0, warmup) if warmup else optax.constant_schedule(1.0)
    return optax.chain(
        optax.add_decayed_weights(weight_decay, mask=_kernels),
        optax.sgd(lambda step: after(step) * rising(step), momentum=momentum),
    )


def _kernels(params):
    return jax.tree_util.tree_map_with_path(
        lambda path, leaf: is_kernel(jax.tree_util.keystr(path, simple=True, separator="/"), leaf),
        params,
    )
