"""Optimiser rules: `optax.GradientTransformation`s and the masks that they carry."""

from trove_jax.transforms.masking import (
    MaskedState,
    apply_mask,
    check_mask,
    density,
    emptied_layers,
    get_mask,
    is_kernel,
    layer_densities,
    masked,
    ones_mask,
    set_mask,
)

__all__ = [
    "MaskedState",
    "apply_mask",
    "check_mask",
    "density",
    "emptied_layers",
    "get_mask",
    "is_kernel",
    "layer_densities",
    "masked",
    "ones_mask",
    "set_mask",
]
