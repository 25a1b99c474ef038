"""Graph convolutions whose weights come with the graph: GCN, SGC, APPNP, SAGE, GIN, and none.

All share one interface, `conv(topology, x, train=...)`, with those of
`graph_convolution_anisotropic`; `x` is `[n, d]`, dense or a `SparseInput`. A message goes from the
sender j to the receiver i. `TOPOLOGY` of a class holds the arguments under which
`graphs.topology.build` makes the graph that its paper uses; another graph is not refused.
"""

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, ClassVar, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from trove_jax.graphs.propagation import hop_stack, propagate
from trove_jax.graphs.topology import Topology
from trove_jax.layers.sparse_features import SparseDense

TopologyOptions = Mapping[str, Any]

# Adjacency with self-loops, symmetrically normalised; and bare neighbours.
SYMMETRIC: TopologyOptions = MappingProxyType({"self_loops": "add_remaining", "norm": "sym"})
NEIGHBOURS: TopologyOptions = MappingProxyType({"self_loops": "remove", "norm": None})
WITH_SELF: TopologyOptions = MappingProxyType({"self_loops": "add_remaining", "norm": None})

glorot_uniform = nn.initializers.glorot_uniform()


class GCNConv(nn.Module):
    """The graph convolution of Kipf and Welling.

    x'_i = sum_j A_ij W x_j + b, with A the weights of the topology

    Attributes:
      features: width of the output.
      use_bias: whether there is a b; it starts at 0.
      kernel_init: law of W at the start, `[d, features]`.
      dtype: dtype of the computation; None: that of the parameters.
      TOPOLOGY: A with self-loops, D^-1/2 (A + I) D^-1/2.

    Example:
      >>> from trove_jax import graphs
      >>> topology = graphs.topology.from_edges([[0, 1], [1, 2]], 3, **GCNConv.TOPOLOGY)
      >>> conv = GCNConv(2, kernel_init=nn.initializers.ones)
      >>> y, _ = conv.init_with_output(jax.random.key(0), topology, jnp.ones((3, 1)))
      >>> print(np.asarray(y[:, 0]).round(2))
      [0.91 1.15 0.91]

    Reference: Kipf & Welling, Semi-Supervised Classification with Graph Convolutional Networks,
    ICLR 2017 (equation 2).
    """

    features: int
    use_bias: bool = True
    kernel_init: nn.initializers.Initializer = glorot_uniform
    dtype: Any = None

    TOPOLOGY: ClassVar[TopologyOptions] = SYMMETRIC

    @nn.compact
    def __call__(self, topology: Topology, x: Any, *, train: bool = False) -> jax.Array:
        """Applies the convolution.

        Args:
          topology: the graph, `n` nodes.
          x: `[n, d]`, dense or a `SparseInput`.
          train: not used.

        Returns:
          `[n, features]`; a node without a message has b.
        """
        del train
        return _hops(self, topology, x, 1)


class SGConv(nn.Module):
    """Simplified graph convolution: a linear map after K hops.

    x' = A^K X W + b, computed as A^K (X W)

    Attributes:
      features: width of the output.
      hops: K, at least 1.
      use_bias: whether there is a b; it starts at 0.
      kernel_init: law of W at the start, `[d, features]`.
      dtype: dtype of the computation; None: that of the parameters.
      TOPOLOGY: as for `GCNConv`.

    Raises:
      ValueError: `hops` below 1.

    Example:
      >>> from trove_jax import graphs
      >>> topology = graphs.topology.from_edges([[0, 1]], 2, **SGConv.TOPOLOGY)
      >>> conv = SGConv(1, hops=4, kernel_init=nn.initializers.ones)
      >>> y, _ = conv.init_with_output(jax.random.key(0), topology, jnp.array([[0.0], [4.0]]))
      >>> print(y[:, 0])
      [2. 2.]

    Reference: Wu et al., Simplifying Graph Convolutional Networks, ICML 2019 (equation 8).
    """

    features: int
    hops: int = 2
    use_bias: bool = True
    kernel_init: nn.initializers.Initializer = glorot_uniform
    dtype: Any = None

    TOPOLOGY: ClassVar[TopologyOptions] = SYMMETRIC

    @nn.compact
    def __call__(self, topology: Topology, x: Any, *, train: bool = False) -> jax.Array:
        """Applies the convolution; arguments and result as for `GCNConv`."""
        del train
        return _hops(self, topology, x, check_hops(self.hops))


class APPNPConv(nn.Module):
    """Personalised propagation: K steps of a walk that returns to where it began.

    z_0 = x,  z_{k+1} = (1 - alpha) A z_k + alpha x

    It has no parameters. In training, each step may drop entries of A.

    Attributes:
      hops: K, at least 1.
      alpha: probability of returning, in [0, 1].
      dropout_rate: share of the entries of A that a step drops in training (0.5 in the paper).
      TOPOLOGY: as for `GCNConv`.

    Raises:
      ValueError: `hops` below 1; `alpha` outside [0, 1]; `dropout_rate` outside [0, 1).

    Example:
      >>> from trove_jax import graphs
      >>> topology = graphs.topology.from_edges([[0, 1]], 2, **APPNPConv.TOPOLOGY)
      >>> y = APPNPConv(hops=1, alpha=0.5).apply({}, topology, jnp.array([[0.0], [4.0]]))
      >>> print(y[:, 0])
      [1. 3.]

    Reference: Gasteiger et al., Predict then Propagate, ICLR 2019 (equation 4).
    """

    hops: int = 10
    alpha: float = 0.1
    dropout_rate: float = 0.0

    TOPOLOGY: ClassVar[TopologyOptions] = SYMMETRIC

    @nn.compact
    def __call__(self, topology: Topology, x: jax.Array, *, train: bool = False) -> jax.Array:
        """Propagates `x`.

        Args:
          topology: the graph, `n` nodes.
          x: `[n, d]`, dense.
          train: whether entries of A are dropped, from the stream `"dropout"`.

        Returns:
          `[n, d]`.
        """
        check_rate("alpha", self.alpha, closed=True)
        check_rate("dropout_rate", self.dropout_rate)
        hops = check_hops(self.hops)
        if not (train and self.dropout_rate):
            # z_K as a sum over hops: all of them are one product that folds seeds once.
            share = (1.0 - self.alpha) ** np.arange(hops + 1)
            share[:-1] *= self.alpha
            stack = hop_stack(topology, x, hops)
            return jnp.tensordot(jnp.asarray(share, stack.dtype), stack, 1)
        teleport = self.alpha * x
        key, keep = self.make_rng("dropout"), 1.0 - self.dropout_rate

        def step(k, z):
            kept = jax.random.bernoulli(jax.random.fold_in(key, k), keep, topology.weight.shape)
            weight = jnp.where(kept, topology.weight / keep, 0.0).astype(topology.weight.dtype)
            return (1 - self.alpha) * propagate(topology, z, weight) + teleport

        return jax.lax.fori_loop(0, hops, step, x)


class SAGEConv(nn.Module):
    """GraphSAGE: a node's own features beside a summary of its neighbours'.

    x'_i = U x_i + V m_i + b,  m_i = mean_j x_j, or m_i = max_j relu(P x_j + c) for
    `aggregate="max"`, taken feature by feature

    U and V are the two halves of the paper's one matrix on the concatenation. m_i = 0 for a node
    without neighbours. The mean is weighted by the topology's weights, the maximum is not.

    Attributes:
      features: width of the output.
      aggregate: `"mean"` or `"max"` (pooling).
      unit_length: whether each row of the output is divided by its length (a zero row stays 0).
      use_bias: whether there is a b; it starts at 0.
      kernel_init: law of U, V and P at the start.
      dtype: dtype of the computation; None: that of the parameters.
      TOPOLOGY: neighbours without the node itself, weights 1.

    Raises:
      ValueError: another `aggregate`.

    Example:
      >>> from trove_jax import graphs
      >>> topology = graphs.topology.from_edges([[0, 1], [1, 2]], 4, **SAGEConv.TOPOLOGY)
      >>> conv = SAGEConv(1, kernel_init=nn.initializers.ones)
      >>> x = jnp.array([[1.0], [2.0], [5.0], [7.0]])
      >>> y, _ = conv.init_with_output(jax.random.key(0), topology, x)
      >>> print(y[:, 0])
      [3. 5. 7. 7.]

    Reference: Hamilton et al., Inductive Representation Learning on Large Graphs, NeurIPS 2017
    (algorithm 1, section 3.3).
    """

    features: int
    aggregate: Literal["mean", "max"] = "mean"
    unit_length: bool = False
    use_bias: bool = True
    kernel_init: nn.initializers.Initializer = glorot_uniform
    dtype: Any = None

    TOPOLOGY: ClassVar[TopologyOptions] = NEIGHBOURS

    @nn.compact
    def __call__(self, topology: Topology, x: Any, *, train: bool = False) -> jax.Array:
        """Applies the convolution; arguments and result as for `GCNConv`."""
        del train
        own = linear(self, self.features, "own", use_bias=self.use_bias)(x)
        neighbours = linear(self, self.features, "neighbours", use_bias=False)
        if self.aggregate == "mean":
            # The mean is linear: it is taken of the narrower features.
            out = own + propagate(topology, neighbours(x), reduce="mean")
        elif self.aggregate == "max":
            pooled = nn.relu(linear(self, self.features, "pool", use_bias=True)(x))
            out = own + neighbours(propagate(topology, pooled, reduce="max"))
        else:
            raise ValueError(f'aggregate={self.aggregate!r} is unknown; use "mean" or "max"')
        if not self.unit_length:
            return out
        squared = jnp.sum(jnp.square(out), axis=-1, keepdims=True)
        # The guard is inside the root, whose slope at 0 is infinite.
        length = jnp.sqrt(jnp.where(squared > 0, squared, 1))
        return out / length


class GINConv(nn.Module):
    """The graph isomorphism layer: sums of neighbours, which tell multisets apart.

    x'_i = W_2 f(W_1 ((1 + epsilon) x_i + sum_j a_ij x_j) + b_1) + b_2

    W_1 is applied before the sum, which is the same and adds up narrower features.

    Attributes:
      features: width of the output.
      hidden: width between W_1 and W_2; None: `features`.
      epsilon: weight of the node itself at the start, less 1.
      learn_epsilon: whether epsilon is a parameter.
      activation: f.
      kernel_init: law of W_1 and W_2 at the start; biases start at 0.
      dtype: dtype of the computation; None: that of the parameters.
      TOPOLOGY: neighbours without the node itself, weights 1.

    Example:
      >>> from trove_jax import graphs
      >>> topology = graphs.topology.from_edges([[0, 1], [1, 2]], 3, **GINConv.TOPOLOGY)
      >>> conv = GINConv(1, kernel_init=nn.initializers.ones)
      >>> y, _ = conv.init_with_output(jax.random.key(0), topology, jnp.ones((3, 1)))
      >>> print(y[:, 0])
      [2. 3. 2.]

    Reference: Xu et al., How Powerful are Graph Neural Networks?, ICLR 2019 (equation 4.1).
    """

    features: int
    hidden: int | None = None
    epsilon: float = 0.0
    learn_epsilon: bool = False
    activation: Callable[[jax.Array], jax.Array] = nn.relu
    kernel_init: nn.initializers.Initializer = glorot_uniform
    dtype: Any = None

    TOPOLOGY: ClassVar[TopologyOptions] = NEIGHBOURS

    @nn.compact
    def __call__(self, topology: Topology, x: Any, *, train: bool = False) -> jax.Array:
        """Applies the convolution; arguments and result as for `GCNConv`."""
        del train
        width = self.hidden or self.features
        y = linear(self, width, "first", use_bias=False)(x)
        own = jnp.asarray(1.0 + self.epsilon, y.dtype)
        if self.learn_epsilon:
            epsilon = self.param("epsilon", nn.initializers.constant(self.epsilon), ())
            own = (1.0 + epsilon).astype(y.dtype)
        y = add_bias(self, "first_bias", own * y + propagate(topology, y))
        return linear(self, self.features, "second", use_bias=True)(self.activation(y))


class MLPConv(nn.Module):
    """The layer of a perceptron, which looks at no neighbour: the baseline of all others.

    x'_i = W x_i + b

    Attributes:
      features: width of the output.
      use_bias: whether there is a b; it starts at 0.
      kernel_init: law of W at the start, `[d, features]`.
      dtype: dtype of the computation; None: that of the parameters.
      TOPOLOGY: as for `GCNConv`, so that one graph serves both.

    Example:
      >>> conv = MLPConv(2, kernel_init=nn.initializers.ones)
      >>> y, _ = conv.init_with_output(jax.random.key(0), None, jnp.ones((1, 3)))
      >>> print(y)
      [[3. 3.]]
    """

    features: int
    use_bias: bool = True
    kernel_init: nn.initializers.Initializer = glorot_uniform
    dtype: Any = None

    TOPOLOGY: ClassVar[TopologyOptions] = SYMMETRIC

    @nn.compact
    def __call__(self, topology: Topology | None, x: Any, *, train: bool = False) -> jax.Array:
        """Applies the layer; arguments and result as for `GCNConv`, but `topology` is not used."""
        del topology, train
        return linear(self, self.features, "linear", use_bias=self.use_bias)(x)


def linear(module: Any, features: int, name: str, *, use_bias: bool) -> SparseDense:
    """A dense layer of a convolution, with its law at the start and its dtype."""
    if not isinstance(features, int) or features < 1:
        raise ValueError(f"features={features!r}, want a positive integer")
    return SparseDense(
        features,
        use_bias=use_bias,
        kernel_init=module.kernel_init,
        dtype=module.dtype,
        name=name,
    )


def add_bias(module: nn.Module, name: str, x: jax.Array) -> jax.Array:
    """Adds a parameter that starts at 0 to the last axis of `x`."""
    bias = module.param(name, nn.initializers.zeros, (x.shape[-1],))
    return x + jnp.expand_dims(bias, range(x.ndim - 1)).astype(x.dtype)


def check_hops(hops: int) -> int:
    """Refuses a number of hops that is not a positive integer, and returns it."""
    if not isinstance(hops, int) or hops < 1:
        raise ValueError(f"hops={hops!r}, want a positive integer")
    return hops


def check_rate(name: str, rate: float, *, closed: bool = False) -> None:
    """Refuses a share outside [0, 1), or outside [0, 1] where `closed`."""
    if not (0.0 <= rate < 1.0 or (closed and rate == 1.0)):
        raise ValueError(f"{name}={rate!r} is outside [0, 1{']' if closed else ')'}")


def _hops(module, topology, x, hops):
    y = linear(module, module.features, "linear", use_bias=False)(x)
    y = propagate(topology, y) if hops == 1 else hop_stack(topology, y, hops)[-1]
    return add_bias(module, "bias", y) if module.use_bias else y
