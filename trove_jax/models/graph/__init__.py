"""Networks on graphs."""

from trove_jax.models.graph.dagnn import DAGNN
from trove_jax.models.graph.depth_grid import DGMLP, DepthGrid
from trove_jax.models.graph.gnn import CONVOLUTIONS, GNN, appnp, gat, gcn, sgc
from trove_jax.models.graph.iterative_classification import iterative_classification
from trove_jax.models.graph.link_predictor import HadamardDecoder, LinkPredictor

__all__ = [
    "CONVOLUTIONS",
    "DAGNN",
    "DGMLP",
    "GNN",
    "DepthGrid",
    "HadamardDecoder",
    "LinkPredictor",
    "appnp",
    "gat",
    "gcn",
    "iterative_classification",
    "sgc",
]
