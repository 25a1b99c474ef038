"""Image classification sets, ready for `core.Data`, and the statistics to standardise them."""

import dataclasses
import math
import os
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from trove_jax.data.catalogue import describe
from trove_jax.data.preparation import prepare
from trove_jax.data.source import contents_sha256, find, load_arrays

Examples = dict[str, np.ndarray]

_BLOCK = 4096


@dataclasses.dataclass(frozen=True)
class ImageData:
    """A set of images for classification, on the host.

    Attributes:
      train: `{"image": uint8 [n, h, w, c], "label": int32 [n]}`.
      test: the same keys. Models are not chosen on it: see `holdout`.
      class_names: one for each class.
      provenance: name, source, sha256 (of the arrays), split sizes, licence and remarks, as plain
        values that go into evidence.json.
    """

    train: Examples
    test: Examples
    class_names: tuple[str, ...]
    provenance: dict[str, Any]


def load_images(
    name: str, *, data_dir: str | os.PathLike | None = None, download: bool = False
) -> ImageData:
    """Loads a set of images by name, from the first of the places that `source` lists.

    Args:
      name: digits, mnist_5k, mnist, fashion_mnist, cifar10, cifar10_20k, cifar100 or svhn.
      data_dir: a folder of .npz files, in place of the one that TROVE_DATA_DIR names.
      download: whether a set that is not here may be fetched into the user's cache.

    Returns:
      The images as published (uint8, nothing standardised) with their split and provenance.

    Raises:
      ValueError: unknown name; says which is nearest.
      DataUnavailable: the set is not here, or damaged; says what to do.
    """
    data_set = describe(name)
    if data_set.is_folder:
        raise ValueError(f"name={name!r} is a folder of files; read it with data.ImageFolder")
    if download and find(data_set, data_dir=data_dir) is None:
        prepare(data_set)
    arrays, location = load_arrays(data_set, data_dir=data_dir)
    digest = contents_sha256(arrays)
    provenance = {
        "name": data_set.name,
        "source": location.description,
        "sha256": digest,
        "split": {"train": len(arrays["y_train"]), "test": len(arrays["y_test"])},
        "licence": data_set.licence,
        "citation": data_set.citation,
    }
    if remark := data_set.editions.get(digest):
        provenance["remark"] = remark
    return ImageData(
        train=_examples(arrays["x_train"], arrays["y_train"]),
        test=_examples(arrays["x_test"], arrays["y_test"]),
        class_names=data_set.class_names,
        provenance=provenance,
    )


def image_statistics(
    images: np.ndarray, *, per_channel: bool = True
) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation of training images, with 255 counted as 1.

    Computed from exact counts of the 256 values, so that they do not depend on any order of
    summation. Give it training images only.

    Args:
      images: uint8 `[n, h, w, c]`.
      per_channel: one mean and deviation for each channel, or the same for all.

    Returns:
      Mean and standard deviation, float32 `[c]`.

    Raises:
      ValueError: `images` is not uint8 of rank 4, is empty, or a channel is constant.

    Example:
      >>> black_and_white = np.array([0, 255], np.uint8).reshape(2, 1, 1, 1)
      >>> image_statistics(black_and_white)
      (array([0.5], dtype=float32), array([0.5], dtype=float32))
    """
    if images.dtype != np.uint8 or images.ndim != 4 or not images.size:
        raise ValueError(
            f"images is {images.dtype} {list(images.shape)}, expected uint8 [n, h, w, c]"
        )
    channels = images.shape[-1]
    counts = np.zeros((channels, 256), np.int64)
    for start in range(0, len(images), _BLOCK):
        block = images[start : start + _BLOCK]
        for channel in range(channels):
            counts[channel] += np.bincount(block[..., channel].ravel(), minlength=256)
    if not per_channel:
        counts = np.broadcast_to(counts.sum(axis=0), counts.shape)
    mean, deviation = [], []
    for channel, histogram in enumerate(counts.tolist()):
        # Python integers: n * sum(x^2) passes 2^63 for 60,000 images already.
        total = sum(histogram)
        first = sum(value * count for value, count in enumerate(histogram))
        second = sum(value * value * count for value, count in enumerate(histogram))
        spread = total * second - first * first
        if spread == 0:
            raise ValueError(f"images has a constant channel ({channel}), which has no deviation")
        mean.append(first / total / 255)
        deviation.append(math.sqrt(spread) / total / 255)
    return np.array(mean, np.float32), np.array(deviation, np.float32)


def standardize(images: jax.Array | np.ndarray, *, mean: Any, std: Any) -> jax.Array:
    """(images / 255 - mean) / std for each channel; for use inside jit, after augmentation.

    Args:
      images: uint8 `[..., c]`.
      mean: of the training images, `[c]`, from `image_statistics`.
      std: likewise, `[c]`, positive.

    Returns:
      float32 `[..., c]`.

    Raises:
      ValueError: `images` is not uint8 (it may be standardised already), or `mean` or `std` do not
        have one value for each channel.

    Example:
      >>> print(standardize(np.array([[0], [255]], np.uint8), mean=[0.5], std=[0.25]).ravel())
      [-2.  2.]
    """
    images = jnp.asarray(images)
    if images.dtype != jnp.uint8:
        raise ValueError(f"images is {images.dtype}, expected uint8 values from 0 to 255")
    if not images.ndim:
        raise ValueError("images is a scalar, expected [..., c]")
    mean, std = jnp.asarray(mean, jnp.float32), jnp.asarray(std, jnp.float32)
    for name, value in (("mean", mean), ("std", std)):
        if value.shape != images.shape[-1:]:
            raise ValueError(
                f"{name} has the shape {list(value.shape)}, expected one value for each of the "
                f"{images.shape[-1]} channels"
            )
    ones = (1,) * (images.ndim - 1)
    scale = (1.0 / (255.0 * std)).reshape(*ones, -1)
    shift = (mean / std).reshape(*ones, -1)
    return images.astype(jnp.float32) * scale - shift


def _examples(images: np.ndarray, labels: np.ndarray) -> Examples:
    if images.ndim == 3:
        images = images[..., None]
    return {"image": np.ascontiguousarray(images), "label": labels.astype(np.int32)}
