"""How a node mixes what it holds after 0, 1, ..., K hops: by learned scores or given weights."""

from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from trove_jax.graphs.hop_weights import Weighting, node_smoothing_level


class AdaptiveHopReadout(nn.Module):
    """Every node decides how much of each hop it keeps.

    S_ik = sigmoid(H_ik s + b),   y_i = sum_k S_ik H_ik

    One vector s and one number b serve all hops and nodes. The scores of a node need not sum to 1.

    Attributes:
      kernel_init: law of s at the start, `[f, 1]`.

    Example:
      >>> stack = jnp.array([[[1.0], [2.0]], [[3.0], [4.0]]])
      >>> readout = AdaptiveHopReadout(kernel_init=nn.initializers.zeros)
      >>> y, _ = readout.init_with_output(jax.random.key(0), stack)
      >>> print(y.ravel())
      [2. 3.]

    Reference: Liu et al., Towards Deeper Graph Neural Networks, KDD 2020 (equations 10 to 12).
    """

    kernel_init: nn.initializers.Initializer = nn.initializers.variance_scaling(
        1 / 3, "fan_in", "uniform"
    )

    @nn.compact
    def __call__(self, stack: jax.Array, *, with_scores: bool = False) -> Any:
        """Applies the readout.

        Args:
          stack: what nodes hold after each hop, `[k + 1, n, f]`.
          with_scores: whether to return the scores as well.

        Returns:
          `[n, f]`; with `with_scores` also S, `[n, k + 1]` in (0, 1).

        Raises:
          ValueError: `stack` does not have three axes.
        """
        check_stack(stack)
        kernel = self.param("kernel", self.kernel_init, (stack.shape[-1], 1), jnp.float32)
        bias = self.param("bias", nn.initializers.zeros, (1,), jnp.float32)
        score = jnp.einsum("knf,f->kn", stack, kernel[:, 0].astype(stack.dtype))
        score = nn.sigmoid(score + bias.astype(stack.dtype)[None])
        y = jnp.einsum("kn,knf->nf", score, stack)
        return (y, score.T) if with_scores else y


def check_stack(stack: jax.Array) -> None:
    """Refuses what is no `[k + 1, n, f]`."""
    if stack.ndim != 3 or not stack.shape[0]:
        raise ValueError(
            f"stack has shape {stack.shape}; [k + 1, n, f] is wanted, as graphs.hop_stack makes it"
        )


class HopMix(nn.Module):
    """Mixes hops with weights that need no parameters: the readout's place, without learning.

    w_i^k = softmax over k of NSL_i(k),   y_i = sum_k w_i^k H_ik

    (`graphs.node_smoothing_level`), or the mean over hops. For wide features, whose stack is large,
    `graphs.mix_hops` gives the same in two passes.

    Attributes:
      weighting: `"smoothing"` or `"uniform"`.

    Example:
      >>> stack = jnp.array([[[1.0], [2.0]], [[3.0], [4.0]]])
      >>> print(HopMix("uniform").apply({}, stack).ravel())
      [2. 3.]

    Reference: Zhang et al., Evaluating Deep Graph Neural Networks, arXiv 2108.00955, 2021
    (equations 9 and 10).
    """

    weighting: Weighting = "smoothing"

    @nn.compact
    def __call__(self, stack: jax.Array, x_inf: jax.Array | None = None) -> jax.Array:
        """Applies the mix.

        Args:
          stack: what nodes hold after each hop, `[k + 1, n, f]`.
          x_inf: what they hold after infinitely many, `[n, f]`; for `"smoothing"`.

        Returns:
          `[n, f]`.

        Raises:
          ValueError: `stack` does not have three axes; an unknown weighting; no `x_inf` for
            `"smoothing"`.
        """
        check_stack(stack)
        if self.weighting == "uniform":
            return stack.mean(axis=0)
        if self.weighting != "smoothing":
            raise ValueError(
                f'weighting={self.weighting!r} is unknown; use "smoothing" or "uniform"'
            )
        if x_inf is None:
            raise ValueError('x_inf is wanted for "smoothing": graphs.stationary_features')
        weights = nn.softmax(node_smoothing_level(stack, stack[0], x_inf), axis=0)
        return jnp.einsum("kn,knf->nf", weights, stack)
