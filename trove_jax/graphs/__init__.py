"""Graphs without parameters: topology, propagation, sampling and structural features."""

from trove_jax.graphs import topology
from trove_jax.graphs.fastrp import fastrp, similarity_product
from trove_jax.graphs.hop_weights import hop_scores, mix_hops, node_smoothing_level
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
    "Topology",
    "components",
    "edge_softmax",
    "fastrp",
    "gather_receivers",
    "gather_senders",
    "hop_scores",
    "hop_stack",
    "mix_hops",
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
]
