"""Propagation depth and transformation depth apart: DGMLP, and a grid of networks between."""

import itertools
from typing import Any, ClassVar

import flax.linen as nn
import jax

from trove_jax import layers
from trove_jax.graphs.propagation import propagate
from trove_jax.graphs.topology import Topology
from trove_jax.layers.graph_convolution import SYMMETRIC, TopologyOptions
from trove_jax.layers.residual_mlp import Skip, add_skip, check_skip
from trove_jax.models.inputs import as_logits, check_sizes


class DGMLP(nn.Module):
    """A perceptron with skips on features that were propagated and mixed before.

    y = MLP(m),   m = graphs.mix_hops(A, x, K)

    The graph is used once, before training, so that a step costs what a perceptron costs and may
    see any batch of rows.

    Attributes:
      hidden: width of the hidden layers.
      classes: outputs, k.
      depth: number of matrices, D_t (1 for the citation graphs, 6 for ogbn graphs).
      dropout: share of the units that are set to 0 in training.
      skip: `"res"`, `"dense"` or None.

    Raises:
      ValueError: sizes that are not positive; an unknown `skip`.

    Example:
      >>> import jax.numpy as jnp
      >>> mixed = jnp.ones((3, 5))
      >>> model = DGMLP(classes=2)
      >>> y, _ = model.init_with_output(jax.random.key(0), None, mixed)
      >>> y.shape
      (3, 2)

    Reference: Zhang et al., Evaluating Deep Graph Neural Networks, arXiv 2108.00955, 2021
    (section 6).
    """

    hidden: int = 64
    classes: int = 2
    depth: int = 1
    dropout: float = 0.0
    skip: Skip = "res"

    @nn.compact
    def __call__(self, topology: Topology | None, x: Any, *, train: bool = False) -> jax.Array:
        """Applies the network.

        Args:
          topology: not used; x has been mixed.
          x: mixed features, `[n, d]`, or any rows of them.
          train: whether dropout draws, from the stream `"dropout"`.

        Returns:
          Logits, `[n, k]`, float32 or wider.
        """
        del topology
        check_sizes(hidden=self.hidden, classes=self.classes, depth=self.depth)
        mlp = layers.ResidualMLP(self.classes, self.hidden, self.depth, self.dropout, self.skip)
        return as_logits(mlp(x, train=train))


class DepthGrid(nn.Module):
    """A network with D_p hops and D_t matrices, the hops spread evenly over the matrices.

    h_l = f(A^(p_l) D(h_{l-1}) W_l) + S_l,   p_1 + ... + p_{D_t} = D_p

    with dropout D, f = ReLU (none in the last layer, which has no skip either) and S as in
    `layers.ResidualMLP`. D_p = D_t is a GCN, with `"res"` a ResGCN, with `"dense"` a DenseGCN;
    D_t = 1 is SGC; D_p = 0 a perceptron; D_t = 2 with a growing D_p keeps the matrices and deepens
    the propagation alone.

    Attributes:
      dp: number of hops, D_p, at least 0.
      dt: number of matrices, D_t, at least 1.
      hidden: width of the hidden layers.
      classes: outputs, k.
      skip: `"res"`, `"dense"` or None.
      dropout: share of the units that D sets to 0 in training.
      TOPOLOGY: A with self-loops, D^-1/2 (A + I) D^-1/2.

    Raises:
      ValueError: sizes that are not positive; negative `dp`; an unknown `skip`.

    Example:
      >>> import jax.numpy as jnp
      >>> from trove_jax import graphs
      >>> topology = graphs.topology.from_edges([[0, 1], [1, 2]], 3, **DepthGrid.TOPOLOGY)
      >>> model = DepthGrid(dp=5, dt=2, hidden=4)
      >>> y, _ = model.init_with_output(jax.random.key(0), topology, jnp.ones((3, 5)))
      >>> print(y.shape, model.hops())
      (3, 2) [3, 2]

    Reference: Zhang et al., Evaluating Deep Graph Neural Networks, arXiv 2108.00955, 2021
    (section 4).
    """

    dp: int
    dt: int
    hidden: int = 64
    classes: int = 2
    skip: Skip = None
    dropout: float = 0.5

    TOPOLOGY: ClassVar[TopologyOptions] = SYMMETRIC

    def hops(self) -> list[int]:
        """Hops before each matrix; what does not divide evenly comes first."""
        ends = [-(-self.dp * layer // self.dt) for layer in range(self.dt + 1)]
        return [b - a for a, b in itertools.pairwise(ends)]

    @nn.compact
    def __call__(self, topology: Topology, x: Any, *, train: bool = False) -> jax.Array:
        """Applies the network.

        Args:
          topology: the graph of `n` nodes, as `TOPOLOGY` says.
          x: features of the nodes, `[n, d]`, dense or a `SparseInput`.
          train: whether dropout draws, from the stream `"dropout"`.

        Returns:
          Logits, `[n, k]`, float32 or wider.
        """
        check_sizes(hidden=self.hidden, classes=self.classes, dt=self.dt)
        check_skip(self.skip)
        if self.dp < 0:
            raise ValueError(f"dp={self.dp} is negative; 0 or more hops are wanted")
        h, skip = x, None
        for i, hops in enumerate(self.hops()):
            last = i == self.dt - 1
            h = layers.SparseDropout(self.dropout)(h, deterministic=not train)
            width = self.classes if last else self.hidden
            # The product with W first: the same result, and the narrower one is propagated.
            h = layers.SparseDense(width, use_bias=False, name=f"layer_{i}")(h)
            for _ in range(hops):
                h = propagate(topology, h)
            bias = self.param(f"bias_{i}", nn.initializers.zeros, (1, width))
            h = h + bias.astype(h.dtype)
            if not last:
                h, skip = add_skip(self.skip, nn.relu(h), skip)
        return as_logits(h)
