"""The neural common neighbour: one pass over the graph, then scores that see common neighbours."""

from typing import Any

import flax.linen as nn
import jax

from trove_jax.graphs.topology import Topology
from trove_jax.models.graph.link_predictor import embed_nodes


class NCN(nn.Module):
    """Embeds the nodes of a graph, then scores pairs with the graph between them.

    s_ij = head(topology, h, (i, j)),  h = encoder(topology, x)

    In training, take the links that are scored out of the graph first (`graphs.remove_links`): both
    encoder and head see what is left.

    Attributes:
      encoder: called as `encoder(topology, x, train=train)`, gives `[n, d]`: a `layers.PureGCN`, or
        a `models.GNN` whose `classes` are d.
      head: called as `head(topology, h, pairs, train=train)`, gives `[b]`: a `layers.CNHead` whose
        `features` are d.
      table: width of a table of free parameters, one row per node with an orthogonal start, that
        stands in for x where x is None; 0: there is none.

    Example:
      >>> import jax.numpy as jnp
      >>> from trove_jax import graphs, layers
      >>> topology = graphs.topology.from_edges(
      ...     [[0, 1], [1, 2]], 3, **layers.PureGCN.TOPOLOGY)
      >>> model = NCN(layers.PureGCN(8), layers.CNHead("ncn", features=8))
      >>> pairs = jnp.array([[0, 2], [1, 2]])
      >>> s, _ = model.init_with_output(jax.random.key(0), topology, jnp.ones((3, 5)), pairs)
      >>> s.shape
      (2,)

    Reference: Wang et al., Neural Common Neighbor with Completion for Link Prediction, ICLR 2024.
    """

    encoder: nn.Module
    head: nn.Module
    table: int = 0

    @nn.compact
    def embed(self, topology: Topology, x: Any, *, train: bool = False) -> jax.Array:
        """Embeds all nodes, `[n, d]`; arguments as for `__call__`."""
        return embed_nodes(self, topology, x, nn.initializers.orthogonal(), train=train)

    def decode(
        self, topology: Topology, h: jax.Array, pairs: jax.Array, *, train: bool = False
    ) -> jax.Array:
        """Scores pairs of embedded nodes: `h` `[n, d]`, `pairs` `[b, 2]` to logits `[b]`."""
        head: Any = self.head
        return head(topology, h, pairs, train=train)

    def __call__(
        self, topology: Topology, x: Any, pairs: jax.Array, *, train: bool = False
    ) -> jax.Array:
        """Scores pairs.

        Args:
          topology: the graph, `n` nodes, as the encoder wants it.
          x: features of the nodes, `[n, d]`, dense or a `SparseInput`; None: the table.
          pairs: nodes, integer `[b, 2]`.
          train: whether dropout draws, from the stream `"dropout"`.

        Returns:
          Logits, `[b]`.

        Raises:
          ValueError: `x` is None and there is no table.
        """
        h = self.embed(topology, x, train=train)
        return self.decode(topology, h, pairs, train=train)
