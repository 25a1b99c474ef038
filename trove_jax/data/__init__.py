"""Real data sets: where their bytes come from, how they are split, and augmentation inside jit."""

from trove_jax.data.augmentation import (
    center_crop,
    random_crop,
    random_flip,
    random_resized_crop,
)
from trove_jax.data.catalogue import DATA_SETS, describe
from trove_jax.data.edge_files import EdgeFile, read_edges
from trove_jax.data.graphs import (
    GraphCollection,
    GraphData,
    SparseFeatures,
    load_graph,
    load_graphs,
    load_link_graph,
)
from trove_jax.data.image_folder import ImageFolder
from trove_jax.data.images import ImageData, image_statistics, load_images, standardize
from trove_jax.data.inputs import (
    ImageInputs,
    abstract_inputs,
    input_shape,
    load_inputs,
    standard_augmentation,
)
from trove_jax.data.link_split import LinkSplit, split_links
from trove_jax.data.other_images import OtherImages, load_other_images, match_images
from trove_jax.data.preparation import Prepared, prepare
from trove_jax.data.sequence_tasks import SequenceData, copy_paste, parity
from trove_jax.data.source import DataSet, Location, cache_dir, contents_sha256, data_folder, find
from trove_jax.data.splits import holdout, stratified_split

__all__ = [
    "DATA_SETS",
    "DataSet",
    "EdgeFile",
    "GraphCollection",
    "GraphData",
    "ImageData",
    "ImageFolder",
    "ImageInputs",
    "LinkSplit",
    "Location",
    "OtherImages",
    "Prepared",
    "SequenceData",
    "SparseFeatures",
    "abstract_inputs",
    "cache_dir",
    "center_crop",
    "contents_sha256",
    "copy_paste",
    "data_folder",
    "describe",
    "find",
    "holdout",
    "image_statistics",
    "input_shape",
    "load_graph",
    "load_graphs",
    "load_images",
    "load_inputs",
    "load_link_graph",
    "load_other_images",
    "match_images",
    "parity",
    "prepare",
    "random_crop",
    "random_flip",
    "random_resized_crop",
    "read_edges",
    "split_links",
    "standard_augmentation",
    "standardize",
    "stratified_split",
]
