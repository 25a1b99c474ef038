"""Weights of edges that favour senders who agree with what their receiver hears on average."""

import jax
import jax.numpy as jnp

from trove_jax.graphs.propagation import edge_softmax, gather_receivers
from trove_jax.graphs.topology import Topology


def reweight_by_agreement(
    topology: Topology, agreement: jax.Array, *, alpha: float = 1.0
) -> jax.Array:
    """Adds to each receiver's incoming weights a share that follows the agreement of its senders.

    a_ij + alpha p_ij sum_i' a_i'j,  p_ij = exp(q_ij) / sum_i' exp(q_i'j)

    over the edges i' -> j, so that alpha adds alpha times the weight that comes in. Give the
    original topology every time: weights do not accumulate. No gradient is stopped here.

    Args:
      topology: with the original weights a.
      agreement: q of each edge, floating `[e]` in the stored order; in the paper the probability
        of a link between sender and the mean of the receiver's neighbours.
      alpha: how much is added, finite and at least 0.

    Returns:
      Weights, `[e]`, for `topology.with_weight`; 0 where edges are masked.

    Raises:
      ValueError: `agreement` is no floating `[e]`, or `alpha` is negative.

    Example:
      >>> from trove_jax.graphs import topology
      >>> graph = topology.from_edges([[0, 1], [2, 1]], 3, undirected=False)
      >>> weights = reweight_by_agreement(graph, jnp.log(jnp.array([1.0, 3.0])))
      >>> print([f"{weight:.3f}" for weight in weights])
      ['1.500', '2.500']

    Reference: Wang et al., A Topological Perspective on Demystifying GNN-Based Link Prediction
    Performance, ICLR 2024 (section 4, algorithm of edge re-weighting).
    """
    if agreement.shape != (topology.n_edge,) or not jnp.issubdtype(agreement.dtype, jnp.floating):
        raise ValueError(
            f"agreement is {agreement.dtype} {list(agreement.shape)}, expected floating "
            f"[{topology.n_edge}]"
        )
    if not alpha >= 0:
        raise ValueError(f"alpha={alpha} is negative")
    weight = jnp.asarray(topology.weight)
    incoming = jax.ops.segment_sum(
        weight, topology.receivers, topology.n_node, indices_are_sorted=True
    )
    share = edge_softmax(topology, agreement.astype(weight.dtype))
    return topology.masked(weight + alpha * share * gather_receivers(topology, incoming))
