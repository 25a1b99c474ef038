"""Loss terms: pure functions of outputs, captured activations and targets."""

from trove_jax.losses.classification import accuracy, classification, cross_entropy
from trove_jax.losses.distillation import distillation_loss, distilled
from trove_jax.losses.graph_ssl import (
    PretextTargets,
    label_context,
    pretext_head,
    pretext_loss,
    pretext_targets,
)
from trove_jax.losses.guidance import (
    Resemblance,
    gradient_norms,
    guidance_loss,
    guided,
    layer_map,
    until,
)
from trove_jax.losses.guide import (
    Guide,
    module_guide,
    noise_fed,
    shuffled,
    tabulate,
    tabulated,
)
from trove_jax.losses.link import link_bce
from trove_jax.losses.local import (
    LocalLosses,
    local_learning,
    local_losses,
    local_value_and_grad,
    reconstruction_loss,
    similarity_matching,
    without_auxiliaries,
)
from trove_jax.losses.prototypes import Prototypes, corrected_labels, find_prototypes
from trove_jax.losses.sequence import (
    bits_per_token,
    sequence_accuracy,
    sequence_classification,
    token_accuracy,
    token_cross_entropy,
    token_prediction,
)
from trove_jax.losses.skip_gram import skip_gram_loss

__all__ = [
    "Guide",
    "LocalLosses",
    "PretextTargets",
    "Prototypes",
    "Resemblance",
    "accuracy",
    "bits_per_token",
    "classification",
    "corrected_labels",
    "cross_entropy",
    "distillation_loss",
    "distilled",
    "find_prototypes",
    "gradient_norms",
    "guidance_loss",
    "guided",
    "label_context",
    "layer_map",
    "link_bce",
    "local_learning",
    "local_losses",
    "local_value_and_grad",
    "module_guide",
    "noise_fed",
    "pretext_head",
    "pretext_loss",
    "pretext_targets",
    "reconstruction_loss",
    "sequence_accuracy",
    "sequence_classification",
    "shuffled",
    "similarity_matching",
    "skip_gram_loss",
    "tabulate",
    "tabulated",
    "token_accuracy",
    "token_cross_entropy",
    "token_prediction",
    "until",
    "without_auxiliaries",
]
