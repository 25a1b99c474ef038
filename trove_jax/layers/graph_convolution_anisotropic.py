"""Graph convolutions that weigh every message by sender and receiver: GAT and GatedGCN.

Their interface is that of `graph_convolution`. The weights of the topology are not used; edges that
its `edge_mask` takes out send nothing.
"""

from typing import Any, ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp

from trove_jax.graphs.propagation import (
    edge_softmax,
    gather_receivers,
    gather_senders,
    propagate,
)
from trove_jax.graphs.topology import Topology
from trove_jax.layers.graph_convolution import (
    NEIGHBOURS,
    WITH_SELF,
    TopologyOptions,
    add_bias,
    check_rate,
    glorot_uniform,
    linear,
)


class GATConv(nn.Module):
    """Graph attention with several heads.

    x'_i = sum_j alpha_ij W x_j,  alpha_i = softmax over the senders j of
    leaky_relu(a_s . W x_j + a_r . W x_i)

    for each head; heads are concatenated or averaged, and b is added.

    Attributes:
      features: width of the output, all heads together.
      heads: number of heads, h.
      concatenate: whether heads are concatenated, each `features / h` wide; else each is `features`
        wide and their mean is taken, as in a last layer.
      slope: of leaky_relu below 0.
      dropout_rate: share of the alpha_ij that are set to 0 in training.
      use_bias: whether there is a b; it starts at 0.
      kernel_init: law of W at the start, `[d, h w]` for heads of width w. a_s and a_r, `[h, w]`,
        start by Glorot's uniform law.
      dtype: dtype of the computation; None: that of the parameters.
      TOPOLOGY: with self-loops, so that a node attends to itself.

    Raises:
      ValueError: `heads` that do not divide `features` where they are concatenated; a
        `dropout_rate` outside [0, 1).

    Example:
      >>> from trove_jax import graphs
      >>> topology = graphs.topology.from_edges([[0, 1]], 2, **GATConv.TOPOLOGY)
      >>> conv = GATConv(4, heads=2, kernel_init=nn.initializers.ones)
      >>> y, _ = conv.init_with_output(jax.random.key(0), topology, jnp.ones((2, 3)))
      >>> print(y)
      [[3. 3. 3. 3.]
       [3. 3. 3. 3.]]

    Reference: Velickovic et al., Graph Attention Networks, ICLR 2018 (equations 3 to 6).
    """

    features: int
    heads: int = 1
    concatenate: bool = True
    slope: float = 0.2
    dropout_rate: float = 0.0
    use_bias: bool = True
    kernel_init: nn.initializers.Initializer = glorot_uniform
    dtype: Any = None

    TOPOLOGY: ClassVar[TopologyOptions] = WITH_SELF

    @nn.compact
    def __call__(self, topology: Topology, x: Any, *, train: bool = False) -> jax.Array:
        """Applies the convolution.

        Args:
          topology: the graph, `n` nodes.
          x: `[n, d]`, dense or a `SparseInput`.
          train: whether attention is dropped, from the stream `"dropout"`.

        Returns:
          `[n, features]`; a node without a sender has b.
        """
        check_rate("dropout_rate", self.dropout_rate)
        if self.heads < 1 or (self.concatenate and self.features % self.heads):
            raise ValueError(
                f"heads={self.heads} does not divide features={self.features}; choose a divisor, "
                "or concatenate=False"
            )
        width = self.features // self.heads if self.concatenate else self.features
        y = linear(self, self.heads * width, "linear", use_bias=False)(x)
        y = y.reshape(*y.shape[:-1], self.heads, width)
        sent = gather_senders(topology, self._scores("sender", y))
        received = gather_receivers(topology, self._scores("receiver", y))
        alpha = edge_softmax(topology, nn.leaky_relu(sent + received, self.slope))
        alpha = nn.Dropout(self.dropout_rate, deterministic=not train)(alpha)
        out = propagate(topology, y, alpha)
        if self.concatenate:
            out = out.reshape(*out.shape[:-2], self.features)
        else:
            out = jnp.mean(out, axis=-2)
        return add_bias(self, "bias", out) if self.use_bias else out

    def _scores(self, name, y):
        vector = self.param(name, glorot_uniform, y.shape[-2:])
        return jnp.einsum("...hw,hw->...h", y, vector.astype(y.dtype))


class GatedGCNConv(nn.Module):
    """The gated graph convolution, whose gates may read and update features of edges.

    e'_ij = C e_ij + D x_j + E x_i,  eta_ij = sigmoid(e'_ij),
    x'_i = A x_i + sum_j eta_ij (B x_j) / (sum_j eta_ij + 1e-6), feature by feature

    Without features of edges there is no C. Normalisation, nonlinearity and residuals of the
    papers' layers are the network's.

    Attributes:
      features: width of the output of nodes and edges.
      use_bias: whether A to E have biases; they start at 0.
      kernel_init: law of A to E at the start.
      dtype: dtype of the computation; None: that of the parameters.
      TOPOLOGY: neighbours without the node itself.

    Example:
      >>> from trove_jax import graphs
      >>> topology = graphs.topology.from_edges([[0, 1]], 3, **GatedGCNConv.TOPOLOGY)
      >>> conv = GatedGCNConv(1, kernel_init=nn.initializers.ones)
      >>> x = jnp.array([[1.0], [2.0], [3.0]])
      >>> y, _ = conv.init_with_output(jax.random.key(0), topology, x)
      >>> print([f"{value:.2f}" for value in y[:, 0].tolist()])
      ['3.00', '3.00', '3.00']

    Reference: Bresson & Laurent, Residual Gated Graph ConvNets, 2017 (equation 11); normalised
    gates and edge features as in Dwivedi et al., Benchmarking Graph Neural Networks, JMLR 2023.
    """

    features: int
    use_bias: bool = True
    kernel_init: nn.initializers.Initializer = glorot_uniform
    dtype: Any = None

    TOPOLOGY: ClassVar[TopologyOptions] = NEIGHBOURS

    @nn.compact
    def __call__(
        self,
        topology: Topology,
        x: Any,
        *,
        edges: jax.Array | None = None,
        train: bool = False,
    ) -> Any:
        """Applies the convolution.

        Args:
          topology: the graph, `n` nodes and `e` edges.
          x: `[n, d]`, dense or a `SparseInput`.
          edges: e_ij in the topology's order, `[e, d']`, or None.
          train: not used.

        Returns:
          `[n, features]`; with `edges` a pair of this and e', `[e, features]`.
        """
        del train

        def mapped(name, inputs):
            return linear(self, self.features, name, use_bias=self.use_bias)(inputs)

        value = mapped("value", x)
        gates = gather_senders(topology, mapped("sender", x))
        gates = gates + gather_receivers(topology, mapped("receiver", x))
        if edges is not None:
            gates = gates + mapped("edge", edges)
        opened = nn.sigmoid(gates)
        # A gate per feature is a head of width 1; its sum is the same product with ones.
        pair = jnp.stack([value, jnp.ones_like(value)], axis=-1)
        weighted, total = jnp.moveaxis(propagate(topology, pair, opened), -1, 0)
        out = mapped("own", x) + weighted / (total + 1e-6)
        return out if edges is None else (out, gates)
