"""An encoder of nodes that only averages: one linear map, then hops without parameters."""

from typing import Any, ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp

from trove_jax.graphs.propagation import propagate
from trove_jax.graphs.topology import Topology
from trove_jax.layers.graph_convolution import SYMMETRIC, TopologyOptions
from trove_jax.layers.sparse_features import SparseDense, SparseDropout


class JumpSum(nn.Module):
    """A learned weight for each layer's output, the same for all nodes.

    y = sum over l of w_l h_l

    Attributes:
      weight_init: law of w at the start; published is a standard normal law, under which one layer
        alone may start near 0 and learn late.

    Example:
      >>> stack = jnp.array([[[1.0], [2.0]], [[3.0], [4.0]]])
      >>> y, _ = JumpSum(nn.initializers.ones).init_with_output(jax.random.key(0), stack)
      >>> print(y.ravel())
      [4. 6.]

    Reference: Xu et al., Representation Learning on Graphs with Jumping Knowledge Networks, ICML
    2018 (the idea); Wang et al., Neural Common Neighbor with Completion for Link Prediction, ICLR
    2024 (this form).
    """

    weight_init: nn.initializers.Initializer = nn.initializers.normal(1.0)

    @nn.compact
    def __call__(self, stack: jax.Array) -> jax.Array:
        """Applies the layer.

        Args:
          stack: outputs of the layers, `[l, ...]`.

        Returns:
          `[...]`.

        Raises:
          ValueError: there is no layer.
        """
        if not stack.ndim or not stack.shape[0]:
            raise ValueError(f"stack has shape {stack.shape}; [l, ...] with l >= 1 is wanted")
        weight = self.param("weight", self.weight_init, (stack.shape[0],), jnp.float32)
        return jnp.tensordot(weight.astype(stack.dtype), stack, 1)


class PureGCN(nn.Module):
    """A linear map, then hops with the weights of the topology and nothing in between.

    h_0 = D(D_x(x) W + b),  h_l = A h_(l-1),  y = sum over l >= 1 of w_l h_l

    with dropout D_x, D and, of the last hop, D_t. Without `jump`, y is the last hop.

    Attributes:
      features: width of the output.
      depth: number of hops, at least 1.
      linear: whether there is a W; without one, x must be `[n, features]`, as a table of free
        parameters is.
      input_dropout: rate of D_x.
      dropout: rate of D.
      tail_dropout: rate of D_t.
      edge_dropout: share of the entries of A that each hop drops in training; those that stay are
        divided by 1 - rate.
      jump: whether hops are added with learned weights.
      jump_init: law of these weights at the start (see `JumpSum`).
      TOPOLOGY: A with self-loops, D^-1/2 (A + I) D^-1/2.

    Example:
      >>> from trove_jax import graphs
      >>> topology = graphs.topology.from_edges([[0, 1]], 2, **PureGCN.TOPOLOGY)
      >>> encoder = PureGCN(2, linear=False, jump=False)
      >>> print(encoder.apply({}, topology, jnp.array([[0.0, 2.0], [4.0, 2.0]])))
      [[2. 2.]
       [2. 2.]]

    Reference: Wang et al., Neural Common Neighbor with Completion for Link Prediction, ICLR 2024
    (the encoder on the citation graphs).
    """

    features: int = 256
    depth: int = 1
    linear: bool = True
    input_dropout: float = 0.0
    dropout: float = 0.0
    tail_dropout: float = 0.0
    edge_dropout: float = 0.0
    jump: bool = True
    jump_init: nn.initializers.Initializer = nn.initializers.normal(1.0)

    TOPOLOGY: ClassVar[TopologyOptions] = SYMMETRIC

    @nn.compact
    def __call__(self, topology: Topology, x: Any, *, train: bool = False) -> jax.Array:
        """Applies the encoder.

        Args:
          topology: the graph, `n` nodes.
          x: `[n, d]`, dense or a `SparseInput`.
          train: whether dropout draws, from the stream `"dropout"`.

        Returns:
          `[n, features]`.

        Raises:
          ValueError: `depth` below 1; without `linear`, an `x` that is not `[n, features]`.
        """
        if self.depth < 1:
            raise ValueError(f"depth={self.depth}; at least one hop is wanted")
        h = SparseDropout(self.input_dropout)(x, deterministic=not train)
        if self.linear:
            h = SparseDense(self.features)(h)
        elif x.shape[-1] != self.features:
            raise ValueError(
                f"x has width {x.shape[-1]} and linear=False; features={self.features} is wanted"
            )
        h = SparseDropout(self.dropout)(h, deterministic=not train)
        found = []
        for _ in range(self.depth):
            weight = jnp.asarray(topology.weight).astype(h.dtype)
            weight = SparseDropout(self.edge_dropout)(weight, deterministic=not train)
            h = propagate(topology, h, weight)
            found.append(h)
        found[-1] = SparseDropout(self.tail_dropout)(h, deterministic=not train)
        if not self.jump:
            return found[-1]
        return JumpSum(self.jump_init, name="jump")(jnp.stack(found))
