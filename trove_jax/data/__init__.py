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
from trove_jax.data.listops import LISTOPS_TOKENS, listops
from trove_jax.data.other_images import OtherImages, load_other_images, match_images
from trove_jax.data.pixel_sequences import digit_sequences, pixel_sequences
from trove_jax.data.preparation import Prepared, prepare
from trove_jax.data.running_text import character_windows
from trove_jax.data.sequence_tasks import SequenceData, copy_paste, parity
from trove_jax.data.source import DataSet, Location, cache_dir, contents_sha256, data_folder, find
from trove_jax.data.splits import holdout, stratified_split
from trove_jax.data.texts import (
    TextData,
    TextPart,
    load_texts,
    text_bytes,
    text_tokens,
    word_vocabulary,
)

__all__ = [
    "DATA_SETS",
    "LISTOPS_TOKENS",
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
    "TextData",
    "TextPart",
    "abstract_inputs",
    "cache_dir",
    "center_crop",
    "character_windows",
    "contents_sha256",
    "copy_paste",
    "data_folder",
    "describe",
    "digit_sequences",
    "find",
    "holdout",
    "image_statistics",
    "input_shape",
    "listops",
    "load_graph",
    "load_graphs",
    "load_images",
    "load_inputs",
    "load_link_graph",
    "load_other_images",
    "load_texts",
    "match_images",
    "parity",
    "pixel_sequences",
    "prepare",
    "random_crop",
    "random_flip",
    "random_resized_crop",
    "read_edges",
    "split_links",
    "standard_augmentation",
    "standardize",
    "stratified_split",
    "text_bytes",
    "text_tokens",
    "word_vocabulary",
]
