"""Images of other sets in the shape of one's own: what a network is asked that it never learned."""

import math
import os
import pathlib
from typing import Any, Literal, NamedTuple

import jax
import numpy as np

from trove_jax.core import DataUnavailable
from trove_jax.data.catalogue import describe
from trove_jax.data.image_folder import ImageFolder
from trove_jax.data.images import load_images
from trove_jax.data.source import find, how_to_get

# Luma of ITU-R BT.601, as pictures are turned grey everywhere.
_LUMA = (0.299, 0.587, 0.114)
_BLOCK = 256


class OtherImages(NamedTuple):
    """Images without labels, on the host.

    Attributes:
      images: uint8 `[n, h, w, c]`.
      provenance: as `ImageData.provenance`, with the number of images used.
    """

    images: np.ndarray
    provenance: dict[str, Any]


def load_other_images(
    name: str,
    *,
    shape: tuple[int, int, int],
    count: int | None = None,
    fit: Literal["resize", "pad"] = "resize",
    data_dir: str | os.PathLike | None = None,
) -> OtherImages:
    """Loads test images of a set in the shape of another set.

    Args:
      name: a set that `load_images` knows, or a folder of images such as `places365` or `textures`
        (its shorter sides are resized and the middle is cut, as `ImageFolder` does).
      shape: h, w, c of the images to be; c is 1 or 3, and for a folder h = w.
      count: how many; None: all. Fewer than there are: evenly spaced over the set, so that a set
        sorted by class keeps its classes. More than there are: all.
      fit: as `match_images`; folders are always resized.
      data_dir: a folder of data sets, in place of the one that TROVE_DATA_DIR names.

    Returns:
      The images, uint8 `[n, h, w, c]`, nothing standardised.

    Raises:
      ValueError: unknown name, `count` below 1, or a shape that cannot be had.
      DataUnavailable: the set is not here, or damaged; says what to put where.
    """
    data_set = describe(name)
    if count is not None and count < 1:
        raise ValueError(f"count={count} leaves no image; use at least 1, or None for all")
    _check_shape(shape)
    if not data_set.is_folder:
        found = load_images(name, data_dir=data_dir)
        images = found.test["image"]
        images = match_images(images[_spread(len(images), count)], shape=shape, fit=fit)
        return OtherImages(images, found.provenance | {"split": {"test": len(images)}})
    if shape[0] != shape[1]:
        raise ValueError(f"shape={shape}: images of the folder {name!r} can only be made square")
    location = find(data_set, data_dir=data_dir)
    if location is None:
        raise DataUnavailable(f"{name} is not here: {how_to_get(data_set)}")
    split = data_set.test_folder or "val"
    try:
        folder = ImageFolder(pathlib.Path(location.path), split, size=shape[0])
    except DataUnavailable as error:
        raise DataUnavailable(f"{error}; {how_to_get(data_set)}") from error
    chosen = _spread(len(folder), count)
    blocks = [
        match_images(folder[chosen[start : start + _BLOCK]]["image"], shape=shape)
        for start in range(0, len(chosen), _BLOCK)
    ]
    facts = {"licence": data_set.licence, "citation": data_set.citation}
    return OtherImages(
        np.concatenate(blocks), {**folder.provenance, "split": {split: len(chosen)}, **facts}
    )


def match_images(
    images: np.ndarray, *, shape: tuple[int, int, int], fit: Literal["resize", "pad"] = "resize"
) -> np.ndarray:
    """Brings images into another height, width and number of channels.

    Grey becomes colour by repetition; colour becomes grey as 0.299 R + 0.587 G + 0.114 B.

    Args:
      images: uint8 `[n, h', w', c']`, c' 1 or 3.
      shape: h, w, c to be, c 1 or 3.
      fit: `"resize"` (bilinear, averaging where pixels are lost, the aspect is not kept), or
        `"pad"` (black on all sides; odd differences have one more below and on the right).

    Returns:
      uint8 `[n, h, w, c]`; the same array where it has that shape already.

    Raises:
      ValueError: other dtype, rank or channels; an unknown `fit`; `"pad"` for images that are
        larger than `shape`.

    Example:
      >>> image = np.full((1, 2, 2, 1), 200, np.uint8)
      >>> padded = match_images(image, shape=(4, 4, 3), fit="pad")
      >>> print(padded[0, :, :, 2])
      [[  0   0   0   0]
       [  0 200 200   0]
       [  0 200 200   0]
       [  0   0   0   0]]
    """
    if images.dtype != np.uint8 or images.ndim != 4 or images.shape[-1] not in (1, 3):
        raise ValueError(
            f"images is {images.dtype} {list(images.shape)}, expected uint8 [n, h, w, 1 or 3]"
        )
    _check_shape(shape)
    if fit not in ("resize", "pad"):
        raise ValueError(f'fit={fit!r} is unknown; use "resize" or "pad"')
    height, width, channels = shape
    if channels < images.shape[-1]:
        grey = images.astype(np.float32) @ np.asarray(_LUMA, np.float32)
        images = np.rint(grey).astype(np.uint8)[..., None]
    if images.shape[1:3] != (height, width):
        images = _padded(images, height, width) if fit == "pad" else _resized(images, height, width)
    if channels > images.shape[-1]:
        images = np.repeat(images, channels, axis=-1)
    return images


def _padded(images: np.ndarray, height: int, width: int) -> np.ndarray:
    rows, columns = height - images.shape[1], width - images.shape[2]
    if rows < 0 or columns < 0:
        raise ValueError(
            f"images of {images.shape[1]}x{images.shape[2]} pixels do not fit into "
            f'{height}x{width}; use fit="resize"'
        )
    sides = ((rows // 2, rows - rows // 2), (columns // 2, columns - columns // 2))
    return np.pad(images, ((0, 0), *sides, (0, 0)))


def _resized(images: np.ndarray, height: int, width: int) -> np.ndarray:
    resized = np.empty((len(images), height, width, images.shape[-1]), np.uint8)
    for start in range(0, len(images), _BLOCK):
        block = images[start : start + _BLOCK].astype(np.float32)
        shape = (len(block), *resized.shape[1:])
        block = np.asarray(jax.image.resize(block, shape, method="bilinear"))
        resized[start : start + _BLOCK] = np.clip(np.rint(block), 0, 255)
    return resized


def _spread(size: int, count: int | None) -> np.ndarray:
    count = size if count is None else min(count, size)
    return np.arange(count) * size // max(count, 1)


def _check_shape(shape: tuple[int, int, int]) -> None:
    if len(shape) != 3 or math.prod(shape) < 1 or shape[2] not in (1, 3):
        raise ValueError(f"shape={shape} is not (height, width, 1 or 3 channels)")
