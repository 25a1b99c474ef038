"""Graphs without parameters: topology, propagation, sampling and structural features."""

from trove_jax.graphs import heuristics, topology
from trove_jax.graphs.fastrp import fastrp, similarity_product
from trove_jax.graphs.hop_weights import hop_scores, mix_hops, node_smoothing_level
from trove_jax.graphs.intersection import (
    Neighbours,
    common_neighbour_counts,
    common_neighbour_sum,
    common_neighbours,
    neighbour_difference,
    neighbour_difference_counts,
    weighted_neighbour_sum,
)
from trove_jax.graphs.propagation import (
    edge_softmax,
    gather_receivers,
    gather_senders,
    hop_stack,
    propagate,
    segment_reduce,
)
from trove_jax.graphs.random_projection import random_projection, very_sparse_projection
from trove_jax.graphs.random_walks import random_walks
from trove_jax.graphs.reweight import reweight_by_agreement
from trove_jax.graphs.stationary import components, stationary_features
from trove_jax.graphs.topology import Topology

__all__ = [
    "Neighbours",
    "Topology",
    "common_neighbour_counts",
    "common_neighbour_sum",
    "common_neighbours",
    "components",
    "edge_softmax",
    "fastrp",
    "gather_receivers",
    "gather_senders",
    "heuristics",
    "hop_scores",
    "hop_stack",
    "mix_hops",
    "neighbour_difference",
    "neighbour_difference_counts",
    "node_smoothing_level",
    "propagate",
    "random_projection",
    "random_walks",
    "reweight_by_agreement",
    "segment_reduce",
    "similarity_product",
    "stationary_features",
    "topology",
    "very_sparse_projection",
    "weighted_neighbour_sum",
]
