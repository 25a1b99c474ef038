"""The ideas of 64 deep-learning papers as parts that work, fit together and have been tested.

Each room holds one kind of part (`trove_jax.transforms`, `trove_jax.models`, ...). Rooms load on
first use, so that `import trove_jax` stays quick.
"""

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from trove_jax import analysis as analysis
    from trove_jax import core as core
    from trove_jax import data as data
    from trove_jax import evidence as evidence
    from trove_jax import geometry as geometry
    from trove_jax import graphs as graphs
    from trove_jax import kernels as kernels
    from trove_jax import layers as layers
    from trove_jax import losses as losses
    from trove_jax import models as models
    from trove_jax import search as search
    from trove_jax import transforms as transforms

__version__ = "0.1.0"

_ROOMS = (
    "analysis",
    "core",
    "data",
    "evidence",
    "geometry",
    "graphs",
    "kernels",
    "layers",
    "losses",
    "models",
    "search",
    "transforms",
)

__all__ = [*_ROOMS, "__version__"]


def __getattr__(name: str):
    if name in _ROOMS:
        return importlib.import_module(f"trove_jax.{name}")
    raise AttributeError(f"module 'trove_jax' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
