"""Real data sets: where their bytes come from, how they are split, and augmentation inside jit."""

from trove_jax.data.augmentation import (
    center_crop,
    random_crop,
    random_flip,
    random_resized_crop,
)
from trove_jax.data.catalogue import DATA_SETS, describe
from trove_jax.data.image_folder import ImageFolder
from trove_jax.data.images import ImageData, image_statistics, load_images, standardize
from trove_jax.data.preparation import Prepared, prepare
from trove_jax.data.source import DataSet, Location, cache_dir, contents_sha256, data_folder, find
from trove_jax.data.splits import holdout, stratified_split

__all__ = [
    "DATA_SETS",
    "DataSet",
    "ImageData",
    "ImageFolder",
    "Location",
    "Prepared",
    "cache_dir",
    "center_crop",
    "contents_sha256",
    "data_folder",
    "describe",
    "find",
    "holdout",
    "image_statistics",
    "load_images",
    "prepare",
    "random_crop",
    "random_flip",
    "random_resized_crop",
    "standardize",
    "stratified_split",
]
