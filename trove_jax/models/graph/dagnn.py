"""DAGNN: a perceptron classifies, K hops propagate, and every node mixes the hops."""

from typing import Any, ClassVar

import flax.linen as nn
import jax

from trove_jax import layers
from trove_jax.graphs.propagation import hop_stack
from trove_jax.graphs.topology import Topology
from trove_jax.layers.graph_convolution import SYMMETRIC, TopologyOptions
from trove_jax.models.inputs import as_logits, check_sizes

_TORCH = nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform")


class DAGNN(nn.Module):
    """Deep adaptive graph neural network.

    Z = W_2 D(f(W_1 D(x))),  H_0 = Z,  H_k = A H_{k-1},  y_i = sum_k sigmoid(H_ik s + b) H_ik

    with dropout D and f = ReLU (biases left out). The width that is propagated is the number of
    classes, so that a hop costs as many products as the graph has edges and the output has classes.

    Attributes:
      hidden: width of the hidden layer (64 in the paper; 256 for ogbn-arxiv).
      classes: outputs, k.
      hops: K (10 for Cora and CiteSeer, 20 for PubMed).
      dropout: share of the units that D sets to 0 in training.
      input_dropout: the same of x; None: `dropout` (the paper takes 0 for ogbn-arxiv).
      norm: None, or `"batch"`: batch normalisation after W_1 (ogbn-arxiv).
      TOPOLOGY: A with self-loops, D^-1/2 (A + I) D^-1/2.

    Raises:
      ValueError: sizes that are not positive; a rate outside [0, 1); an unknown norm.

    Example:
      >>> import jax.numpy as jnp
      >>> from trove_jax import graphs
      >>> topology = graphs.topology.from_edges([[0, 1], [1, 2]], 3, **DAGNN.TOPOLOGY)
      >>> model = DAGNN(hidden=16, classes=2, hops=4)
      >>> variables = model.init(jax.random.key(0), topology, jnp.ones((3, 5)))
      >>> logits, retained = model.apply(
      ...     variables, topology, jnp.ones((3, 5)), method="with_scores")
      >>> logits.shape, retained.shape
      ((3, 2), (3, 5))

    Reference: Liu et al., Towards Deeper Graph Neural Networks, KDD 2020 (section 4).
    """

    hidden: int = 64
    classes: int = 2
    hops: int = 10
    dropout: float = 0.5
    input_dropout: float | None = None
    norm: str | None = None

    TOPOLOGY: ClassVar[TopologyOptions] = SYMMETRIC

    def setup(self) -> None:
        """Checks the attributes and makes the layers."""
        check_sizes(hidden=self.hidden, classes=self.classes, hops=self.hops)
        if self.norm not in (None, "batch"):
            raise ValueError(f'norm={self.norm!r} is unknown; use "batch" or None')
        first = self.dropout if self.input_dropout is None else self.input_dropout
        self.drop_input = layers.SparseDropout(first)
        self.hidden_layer = layers.SparseDense(self.hidden, kernel_init=_TORCH)
        self.normalise = layers.BatchNorm(momentum=0.9) if self.norm else None
        self.drop = layers.SparseDropout(self.dropout)
        self.output = layers.SparseDense(self.classes, kernel_init=_TORCH)
        self.readout = layers.AdaptiveHopReadout()

    def __call__(self, topology: Topology, x: Any, *, train: bool = False) -> jax.Array:
        """Applies the network.

        Args:
          topology: the graph of `n` nodes, as `TOPOLOGY` says.
          x: features of the nodes, `[n, d]`, dense or a `SparseInput`.
          train: whether dropout draws, from the stream `"dropout"`, and batch normalisation takes
            the statistics of these nodes.

        Returns:
          Logits, `[n, k]`, float32 or wider.
        """
        return as_logits(self.readout(self.hop_logits(topology, x, train=train)))

    def with_scores(
        self, topology: Topology, x: Any, *, train: bool = False
    ) -> tuple[jax.Array, jax.Array]:
        """Returns the logits, `[n, k]`, and what each node keeps of each hop, `[n, hops + 1]`."""
        logits, scores = self.readout(self.hop_logits(topology, x, train=train), with_scores=True)
        return as_logits(logits), scores

    def hop_logits(self, topology: Topology, x: Any, *, train: bool = False) -> jax.Array:
        """Returns H before the readout, `[hops + 1, n, k]`."""
        h = self.hidden_layer(self.drop_input(x, deterministic=not train))
        if self.normalise is not None:
            h = self.normalise(h, use_running_average=not train)
        h = self.drop(nn.relu(h), deterministic=not train)
        return hop_stack(topology, self.output(h), self.hops)
