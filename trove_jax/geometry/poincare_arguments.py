"""What is known about the arguments of a ball operation before it is traced, and its errors."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

Curvature = float | jax.Array


def points(**named: Any) -> list[jax.Array]:
    """Arrays of ball points `[..., d]` that agree in dtype and d; refuses what cannot be points."""
    found = {name: vectors(name, value) for name, value in named.items()}
    for name, x in found.items():
        if x.dtype not in (jnp.float32, jnp.float64):
            raise ValueError(
                f"{name} has dtype {x.dtype}; points of the ball need float32 or float64: in half "
                "precision nothing near the boundary can be told apart, so store tangent vectors "
                "at 0 (logmap0) instead"
            )
    (first, x), *others = found.items()
    for name, y in others:
        if y.dtype != x.dtype:
            raise ValueError(
                f"{first} has dtype {x.dtype} and {name} has {y.dtype}; convert one to the other's"
            )
    check_channels(found)
    return list(found.values())


def tangents(name: str, value: Any, like: jax.Array) -> jax.Array:
    """Tangent vectors `[..., d]`, half precision raised to the dtype of the points."""
    v = vectors(name, value)
    if jnp.finfo(v.dtype).bits < 32:
        v = v.astype(like.dtype)
    if v.dtype != like.dtype:
        raise ValueError(
            f"{name} has dtype {v.dtype} and the points have {like.dtype}; convert one to the "
            "other's"
        )
    return v


def vectors(name: str, value: Any) -> jax.Array:
    """A floating-point array with a channel axis."""
    x = jnp.asarray(value)
    if not jnp.issubdtype(x.dtype, jnp.floating):
        raise ValueError(f"{name} has dtype {x.dtype}; a floating-point dtype is wanted")
    if x.ndim == 0 or x.shape[-1] == 0:
        raise ValueError(
            f"{name} has shape {x.shape}; `[..., d]` with d >= 1 channels in the last axis is "
            "wanted"
        )
    return x


def check_channels(named: dict[str, jax.Array]) -> None:
    """Refuses arrays whose last axes differ or whose other axes do not broadcast."""
    shapes = {name: x.shape for name, x in named.items()}
    if len({shape[-1] for shape in shapes.values()}) > 1:
        raise ValueError(f"shapes {shapes} must agree in the last axis, the channels")
    try:
        np.broadcast_shapes(*shapes.values())
    except ValueError:
        raise ValueError(f"shapes {shapes} must broadcast in all axes but the last") from None


def curvature_of(value: Curvature, dtype: Any) -> jax.Array:
    """The curvature as a scalar array of the dtype of the points."""
    if not isinstance(value, jax.Array):
        number = np.asarray(value)
        if number.ndim == 0 and not (np.isfinite(number) and number > 0):
            raise ValueError(
                f"curvature={value} must be a finite number above 0; the sectional curvature of "
                "the ball is -curvature"
            )
        return curvature_of(jnp.asarray(number.astype(dtype)), dtype)
    if value.ndim != 0 or not jnp.issubdtype(value.dtype, jnp.floating):
        raise ValueError(
            f"curvature has shape {value.shape} and dtype {value.dtype}; one floating-point number "
            "is wanted"
        )
    return value.astype(dtype)
