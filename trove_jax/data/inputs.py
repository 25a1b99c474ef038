"""A set of images as a training loop takes it: data, and the functions that make inputs of them.

Images stay uint8 wherever they wait; `augment` and `prepare` run inside the compiled step.
"""

import functools
import os
import pathlib
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from trove_jax.core import Data
from trove_jax.data.augmentation import center_crop, random_crop, random_flip, random_resized_crop
from trove_jax.data.catalogue import describe
from trove_jax.data.image_folder import ImageFolder
from trove_jax.data.images import image_statistics, load_images, standardize
from trove_jax.data.source import data_folder

PHOTO_SIDE, PHOTO_STORED = 224, 256
_PHOTO_CLASSES = 1000
_PHOTO_MEAN, _PHOTO_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class ImageInputs(NamedTuple):
    """Images for classification.

    Attributes:
      train: `{"image": uint8 [n, h, w, c], "label": int32 [n]}`, arrays or a stream.
      test: the same; models are not chosen on it.
      prepare: stored images to network inputs: standardised with the statistics of the training
        images (photographs: those of ImageNet, and the middle 224 x 224 pixels).
      provenance: plain values that go into the evidence.
    """

    train: Data
    test: Data
    prepare: Callable[[jax.Array], jax.Array]
    provenance: dict[str, Any]


def load_inputs(name: str, *, data_dir: str | os.PathLike | None = None) -> ImageInputs:
    """Loads a set of images for training.

    Args:
      name: a set that `load_images` knows, or a folder of photographs such as `imagenet`.
      data_dir: a folder of data sets, in place of the one that TROVE_DATA_DIR names.

    Returns:
      The data, with what makes inputs of it.

    Raises:
      ValueError: unknown name, or a set that is only tested on (see `load_other_images`).
      DataUnavailable: the set is not here, or damaged; says what to do.
    """
    if _is_photos(name):
        root = (data_folder(data_dir) or pathlib.Path()) / name
        train, test = (ImageFolder(root, split, size=PHOTO_STORED) for split in ("train", "val"))
        return ImageInputs(Data(train), Data(test), _prepare_photos, train.provenance)
    images = load_images(name, data_dir=data_dir)
    mean, std = image_statistics(images.train["image"])
    train, test = (Data(jax.tree.map(jnp.asarray, part)) for part in (images.train, images.test))
    prepare = functools.partial(standardize, mean=mean, std=std)
    return ImageInputs(train, test, prepare, images.provenance)


def input_shape(name: str) -> tuple[jax.ShapeDtypeStruct, int]:
    """Shape of one prepared input, and the number of classes, known before any byte is read.

    Args:
      name: as `load_inputs`.

    Returns:
      float32 `[h, w, c]`, and k.

    Raises:
      ValueError: as `load_inputs`.
    """
    data_set = describe(name)
    if _is_photos(name):
        return jax.ShapeDtypeStruct((PHOTO_SIDE, PHOTO_SIDE, 3), jnp.float32), _PHOTO_CLASSES
    height, width, *channels = data_set.shapes["x_train"][1:]
    shape = (height, width, *(channels or [1]))
    return jax.ShapeDtypeStruct(shape, jnp.float32), len(data_set.class_names)


def abstract_inputs(name: str) -> ImageInputs:
    """What `load_inputs` will give, in shapes, for compiling a step before there are data.

    Args:
      name: as `load_inputs`.

    Returns:
      Shapes in place of arrays; of photographs, whose number is not known, of one. `prepare` has
      the cost of the real one, but not the statistics of the images.

    Raises:
      ValueError: as `load_inputs`.
    """
    if _is_photos(name):
        sizes, prepare = (1, 1), _prepare_photos
        stored = (PHOTO_STORED, PHOTO_STORED, 3)
    else:
        shapes, stored = describe(name).shapes, input_shape(name)[0].shape
        sizes = (shapes["y_train"][0], shapes["y_test"][0])
        half = (0.5,) * stored[-1]
        prepare = functools.partial(standardize, mean=half, std=half)
    train, test = (
        Data(
            {
                "image": jax.ShapeDtypeStruct((n, *stored), jnp.uint8),
                "label": jax.ShapeDtypeStruct((n,), jnp.int32),
            }
        )
        for n in sizes
    )
    return ImageInputs(train, test, prepare, {"name": name})


def standard_augmentation(name: str) -> Callable[[jax.Array, jax.Array], jax.Array]:
    """The usual augmentation of a set.

    Args:
      name: as `load_inputs`.

    Returns:
      `(key, images) -> images`: flips, and crops after padding by 4 pixels; for photographs flips,
      and crops of random size and shape.

    Raises:
      ValueError: as `load_inputs`.
    """
    photos = _is_photos(name)

    def augment(key: jax.Array, images: jax.Array) -> jax.Array:
        crop, flip = jax.random.split(key)
        if photos:
            images = random_resized_crop(crop, images, size=PHOTO_SIDE)
        else:
            images = random_crop(crop, images, padding=4)
        return random_flip(flip, images)

    return augment


def _is_photos(name: str) -> bool:
    data_set = describe(name)
    if data_set.test_folder:
        raise ValueError(
            f"name={name!r} is only tested on; read its images with data.load_other_images"
        )
    return data_set.is_folder


def _prepare_photos(images: jax.Array) -> jax.Array:
    cut = center_crop(images, size=PHOTO_SIDE)
    return standardize(cut, mean=_PHOTO_MEAN, std=_PHOTO_STD)
