"""Graphs without parameters: topology, propagation, sampling and structural features."""

from trove_jax.graphs import heuristics, topology
from trove_jax.graphs.batching import (
    Budget,
    PaddedBatch,
    batch,
    pad,
    padded_batches,
    padding_budget,
    pool,
    unbatch,
)
from trove_jax.graphs.completion import difference_sum, two_hop_sum, weighted_neighbour_sum
from trove_jax.graphs.edge_lookup import has_edges
from trove_jax.graphs.fastrp import fastrp, similarity_product
from trove_jax.graphs.fastrp_rows import fastrp_rows
from trove_jax.graphs.hop_weights import hop_scores, mix_hops, node_smoothing_level
from trove_jax.graphs.hops import bfs, harmonic, two_hop
from trove_jax.graphs.intersection import (
    Neighbours,
    common_neighbour_counts,
    common_neighbour_sum,
    common_neighbours,
    neighbour_difference,
    neighbour_difference_counts,
)
from trove_jax.graphs.negative_edges import negative_edges
from trove_jax.graphs.negative_links import NonLinks, draw_non_links, non_links
from trove_jax.graphs.neighbourhood import Neighbourhood, khop_neighbourhood
from trove_jax.graphs.propagation import (
    edge_softmax,
    gather_receivers,
    gather_senders,
    hop_stack,
    propagate,
    segment_reduce,
)
from trove_jax.graphs.random_projection import random_projection, very_sparse_projection
from trove_jax.graphs.random_walks import node2vec_walks, random_walks
from trove_jax.graphs.reweight import reweight_by_agreement
from trove_jax.graphs.sampling import (
    NeighbourSample,
    SampledTree,
    sample_layers,
    sample_neighbours,
)
from trove_jax.graphs.stationary import components, stationary_features
from trove_jax.graphs.target_links import remove_links
from trove_jax.graphs.topology import Topology

__all__ = [
    "Budget",
    "NeighbourSample",
    "Neighbourhood",
    "Neighbours",
    "NonLinks",
    "PaddedBatch",
    "SampledTree",
    "Topology",
    "batch",
    "bfs",
    "common_neighbour_counts",
    "common_neighbour_sum",
    "common_neighbours",
    "components",
    "difference_sum",
    "draw_non_links",
    "edge_softmax",
    "fastrp",
    "fastrp_rows",
    "gather_receivers",
    "gather_senders",
    "harmonic",
    "has_edges",
    "heuristics",
    "hop_scores",
    "hop_stack",
    "khop_neighbourhood",
    "mix_hops",
    "negative_edges",
    "neighbour_difference",
    "neighbour_difference_counts",
    "node2vec_walks",
    "node_smoothing_level",
    "non_links",
    "pad",
    "padded_batches",
    "padding_budget",
    "pool",
    "propagate",
    "random_projection",
    "random_walks",
    "remove_links",
    "reweight_by_agreement",
    "sample_layers",
    "sample_neighbours",
    "segment_reduce",
    "similarity_product",
    "stationary_features",
    "topology",
    "two_hop",
    "two_hop_sum",
    "unbatch",
    "very_sparse_projection",
    "weighted_neighbour_sum",
]
