"""Link prediction: a network that embeds nodes, and one that scores a pair of embeddings."""

from typing import Any

import flax.linen as nn
import jax

from trove_jax.graphs.topology import Topology
from trove_jax.models.inputs import as_logits, check_sizes


class HadamardDecoder(nn.Module):
    """A perceptron on the product of two embeddings, entry by entry; symmetric in the pair.

    MLP(h_i * h_j)

    Attributes:
      hidden: width of the hidden layers.
      depth: number of layers, the last one included.
      dropout: share of hidden units set to 0 in training.

    Example:
      >>> decoder = HadamardDecoder(hidden=8)
      >>> h = jax.numpy.ones((5, 4))
      >>> s, _ = decoder.init_with_output(jax.random.key(0), h, h)
      >>> s.shape
      (5,)

    Reference: Hu et al., Open Graph Benchmark, NeurIPS 2020 (the link predictors of its examples).
    """

    hidden: int = 256
    depth: int = 2
    dropout: float = 0.0

    @nn.compact
    def __call__(self, first: jax.Array, second: jax.Array, *, train: bool = False) -> jax.Array:
        """Scores pairs.

        Args:
          first: embeddings of one end, `[..., d]`.
          second: embeddings of the other end, `[..., d]`.
          train: whether dropout draws, from the stream `"dropout"`.

        Returns:
          Logits, `[...]`, float32 or wider.

        Raises:
          ValueError: `hidden` or `depth` is not positive.
        """
        check_sizes(hidden=self.hidden, depth=self.depth)
        h = first * second
        for _ in range(self.depth - 1):
            h = nn.relu(nn.Dense(self.hidden)(h))
            h = nn.Dropout(self.dropout, deterministic=not train)(h)
        return as_logits(nn.Dense(1)(h)[..., 0])


def embed_nodes(
    model: Any, topology: Topology, x: Any, table_init: Any, *, train: bool
) -> jax.Array:
    """What a model's `encoder` makes of `x`, or of its `table` of parameters where `x` is None."""
    if x is None:
        if model.table < 1:
            raise ValueError(
                "x is None and table=0; give features, or a width for a table of parameters"
            )
        x = model.param("table", table_init, (topology.n_node, model.table))
    return model.encoder(topology, x, train=train)


class LinkPredictor(nn.Module):
    """Embeds the nodes of a graph, then scores pairs of them.

    s_ij = decoder(h_i, h_j),  h = encoder(topology, x)

    Attributes:
      encoder: called as `encoder(topology, x, train=train)`, gives `[n, d]`: a `models.GNN` whose
        `classes` are the width of the embedding.
      decoder: called as `decoder(h_i, h_j, train=train)`, gives `[b]`.
      table: width of a table of free parameters, one row per node, that stands in for x where x is
        None; 0: there is none.

    Example:
      >>> from trove_jax import graphs, models
      >>> topology = graphs.topology.from_edges([[0, 1], [1, 2]], 3, self_loops="add_remaining")
      >>> encoder = models.GNN("gcn", classes=8, depth=1, dropout=0.0)
      >>> model = LinkPredictor(encoder, HadamardDecoder(hidden=8), table=4)
      >>> pairs = jax.numpy.array([[0, 2], [1, 2]])
      >>> s, _ = model.init_with_output(jax.random.key(0), topology, None, pairs)
      >>> s.shape
      (2,)
    """

    encoder: nn.Module
    decoder: nn.Module
    table: int = 0

    @nn.compact
    def embed(self, topology: Topology, x: Any, *, train: bool = False) -> jax.Array:
        """Embeds all nodes, `[n, d]`; arguments as for `__call__`."""
        return embed_nodes(self, topology, x, nn.initializers.xavier_uniform(), train=train)

    def decode(self, h: jax.Array, pairs: jax.Array, *, train: bool = False) -> jax.Array:
        """Scores pairs of embedded nodes: `h` `[n, d]`, `pairs` `[b, 2]` to logits `[b]`."""
        decoder: Any = self.decoder
        return decoder(h[pairs[:, 0]], h[pairs[:, 1]], train=train)

    def __call__(
        self, topology: Topology, x: Any, pairs: jax.Array, *, train: bool = False
    ) -> jax.Array:
        """Scores pairs.

        Args:
          topology: the graph that messages pass, `n` nodes.
          x: features of the nodes, `[n, d]`, dense or a `SparseInput`; None: the table.
          pairs: indices of nodes, integer `[b, 2]`.
          train: whether dropout draws.

        Returns:
          Logits, `[b]`.

        Raises:
          ValueError: `x` is None and there is no table.
        """
        return self.decode(self.embed(topology, x, train=train), pairs, train=train)
