"""Networks on graphs."""

from trove_jax.models.graph.dagnn import DAGNN
from trove_jax.models.graph.depth_grid import DGMLP, DepthGrid
from trove_jax.models.graph.gnn import CONVOLUTIONS, GNN, appnp, gat, gcn, sgc
from trove_jax.models.graph.iterative_classification import iterative_classification
from trove_jax.models.graph.link_predictor import HadamardDecoder, LinkPredictor
from trove_jax.models.graph.ncn import NCN

__all__ = [
    "CONVOLUTIONS",
    "DAGNN",
    "DGMLP",
    "GNN",
    "NCN",
    "DepthGrid",
    "HadamardDecoder",
    "LinkPredictor",
    "appnp",
    "gat",
    "gcn",
    "iterative_classification",
    "sgc",
]
