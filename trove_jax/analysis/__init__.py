"""Measurements: pure functions of weights, activations, data and landscapes."""

from trove_jax.analysis.agreement import error_consistency
from trove_jax.analysis.attacks import fgsm, pgd, robust_accuracy, untargeted_loss
from trove_jax.analysis.attention import (
    attention_maps,
    head_redundancy,
    inclusion_probability,
    pathway_reach,
    support_mass,
)
from trove_jax.analysis.cka_layers import (
    CKASums,
    cka_init,
    cka_matrix,
    cka_result,
    cka_update,
)
from trove_jax.analysis.depth_probe import SmoothingCurve, layer_gradient_norms, smoothing_curve
from trove_jax.analysis.model_cost import (
    activation_bytes,
    encoder_parameter_count,
    parameter_count,
)
from trove_jax.analysis.ood import (
    OODReport,
    aupr,
    auroc,
    energy_score,
    fpr_at_tpr,
    max_softmax_score,
    ood_report,
)
from trove_jax.analysis.probes import linear_probe_accuracy
from trove_jax.analysis.smoothness import Smoothness, smoothness
from trove_jax.analysis.stability import (
    LinearBarrier,
    Stability,
    linear_barrier,
    masked_angle,
    masked_distance,
    stability_to_order,
    stability_to_pruning,
)
from trove_jax.analysis.topological_concentration import (
    Concentration,
    approximate_concentration,
    concentration_shift,
    subgraph_density,
    topological_concentration,
)
from trove_jax.losses.similarity import (
    alignment,
    gram,
    is_degenerate,
    linear_cka,
    procrustes,
    rbf_cka,
    rsa,
)

__all__ = [
    "CKASums",
    "Concentration",
    "LinearBarrier",
    "OODReport",
    "SmoothingCurve",
    "Smoothness",
    "Stability",
    "activation_bytes",
    "alignment",
    "approximate_concentration",
    "attention_maps",
    "aupr",
    "auroc",
    "cka_init",
    "cka_matrix",
    "cka_result",
    "cka_update",
    "concentration_shift",
    "encoder_parameter_count",
    "energy_score",
    "error_consistency",
    "fgsm",
    "fpr_at_tpr",
    "gram",
    "head_redundancy",
    "inclusion_probability",
    "is_degenerate",
    "layer_gradient_norms",
    "linear_barrier",
    "linear_cka",
    "linear_probe_accuracy",
    "masked_angle",
    "masked_distance",
    "max_softmax_score",
    "ood_report",
    "parameter_count",
    "pathway_reach",
    "pgd",
    "procrustes",
    "rbf_cka",
    "robust_accuracy",
    "rsa",
    "smoothing_curve",
    "smoothness",
    "stability_to_order",
    "stability_to_pruning",
    "subgraph_density",
    "support_mass",
    "topological_concentration",
    "untargeted_loss",
]
