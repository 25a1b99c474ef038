"""Optimiser rules: `optax.GradientTransformation`s and the masks that they carry."""

from trove_jax.transforms.gradient_noise import (
    GradientNoiseState,
    gradient_noise,
    gradient_noise_from_std,
    noise_at,
    noisy,
    reseed,
)
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
from trove_jax.transforms.noise_walk import expected_weight_std
from trove_jax.transforms.pruning import magnitude_mask, random_mask
from trove_jax.transforms.recipes import momentum_sgd
from trove_jax.transforms.restart import init_at_step
from trove_jax.transforms.riemannian_adam import RiemannianAdamState, riemannian_adam

__all__ = [
    "GradientNoiseState",
    "MaskedState",
    "RiemannianAdamState",
    "apply_mask",
    "check_mask",
    "density",
    "emptied_layers",
    "expected_weight_std",
    "get_mask",
    "gradient_noise",
    "gradient_noise_from_std",
    "init_at_step",
    "is_kernel",
    "layer_densities",
    "magnitude_mask",
    "masked",
    "momentum_sgd",
    "noise_at",
    "noisy",
    "ones_mask",
    "random_mask",
    "reseed",
    "riemannian_adam",
    "set_mask",
]
