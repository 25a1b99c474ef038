"""A perceptron whose hidden layers are added to what they start from."""

from typing import Any, Literal

import jax
from flax import linen as nn

from trove_jax.layers.sparse_features import SparseDense, SparseDropout

Skip = Literal["res", "dense"] | None


class ResidualMLP(nn.Module):
    """Dense layers with skips of equal width, and a linear layer at the end.

    h_1 = relu(W_1 D(x)),   h_l = relu(W_l D(h_{l-1})) + S_l,   y = W_depth D(h_{depth-1})

    with dropout D and S_l = h_{l-1} for `"res"`, h_1 + ... + h_{l-1} for `"dense"` (biases left
    out). With depth 1 it is logistic regression.

    Attributes:
      features: width of the output.
      hidden: width of the hidden layers.
      depth: number of matrices, at least 1.
      dropout: share of the units that D sets to 0 in training.
      skip: `"res"`, `"dense"` or None.

    Raises:
      ValueError: an unknown `skip`; `depth` below 1.

    Example:
      >>> x = jax.numpy.ones((4, 3))
      >>> y, variables = ResidualMLP(2, hidden=8, depth=3).init_with_output(jax.random.key(0), x)
      >>> print(y.shape, sorted(variables["params"]))
      (4, 2) ['hidden_0', 'hidden_1', 'output']

    Reference: Zhang et al., Evaluating Deep Graph Neural Networks, arXiv 2108.00955, 2021
    (equation 11; every layer has its own matrix, unlike in the published program).
    """

    features: int
    hidden: int = 64
    depth: int = 2
    dropout: float = 0.0
    skip: Skip = "res"

    @nn.compact
    def __call__(self, x: Any, *, train: bool = False) -> jax.Array:
        """Applies the layers.

        Args:
          x: `[n, d]`, dense or a `SparseInput`.
          train: whether dropout draws, from the stream `"dropout"`.

        Returns:
          `[n, features]`.
        """
        check_skip(self.skip)
        if self.depth < 1:
            raise ValueError(f"depth={self.depth} has no matrix; use at least 1")
        h, skip = x, None
        for i in range(self.depth - 1):
            dropped = SparseDropout(self.dropout)(h, deterministic=not train)
            h = nn.relu(SparseDense(self.hidden, name=f"hidden_{i}")(dropped))
            h, skip = add_skip(self.skip, h, skip)
        dropped = SparseDropout(self.dropout)(h, deterministic=not train)
        return SparseDense(self.features, name="output")(dropped)


def add_skip(
    kind: Skip, h: jax.Array, skip: jax.Array | None
) -> tuple[jax.Array, jax.Array | None]:
    """Adds what is skipped to a hidden layer, and says what the next one is to be added to."""
    if kind is None:
        return h, None
    h = h if skip is None else h + skip
    return h, h if kind == "res" or skip is None else h + skip


def check_skip(skip: str | None) -> None:
    """Refuses an unknown kind of skip."""
    if skip not in (None, "res", "dense"):
        raise ValueError(f'skip={skip!r} is unknown; use "res", "dense" or None')
