"""A folder of image files as examples that are read batch by batch."""

import concurrent.futures
import hashlib
import os
import pathlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from trove_jax.core import DataUnavailable

_ENDINGS = (".jpeg", ".jpg", ".png")


class ImageFolder:
    """Reads `<root>/<split>/<class>/*.JPEG` on the host, as `core.Data.examples` wants it.

    `folder[indices]` decodes those files in threads, resizes the shorter side to `size` and cuts
    the middle square: a pure function of the indices. What is random happens inside jit, from the
    step's key: `augmentation.random_resized_crop` and `random_flip` for training,
    `augmentation.center_crop` (224 of 256) for evaluation. Against cutting at random from the full
    photograph, training thus never sees the far sides of long pictures, and small windows come
    from 256 pixels; evaluation is the same.

    Args:
      root: folder with a folder for each split.
      split: `"train"` or `"val"`, or another folder's name.
      size: side of the squares.
      threads: how many files are decoded at once.

    Attributes:
      class_names: the folders of `<root>/train` in sorted order; a label is a place in it. Where
        there is no such folder, those of the split.
      labels: int32 `[n]`.
      provenance: name, source, number of images and a digest over the names and sizes of the files
        (not over their contents), as plain values.

    Raises:
      DataUnavailable: a folder is missing or holds no images; while reading, a broken file.
    """

    def __init__(
        self, root: str | os.PathLike, split: str, *, size: int = 256, threads: int | None = None
    ) -> None:
        if size <= 0:
            raise ValueError(f"size={size} is not positive")
        self.root, self.split, self.size = pathlib.Path(root).expanduser(), split, size
        folder = self.root / split
        if not folder.is_dir():
            raise DataUnavailable(
                f"{folder} is not a folder; put the images there as {split}/<class>/*.JPEG"
            )
        train = self.root / "train"
        self.class_names = _folders(train if train.is_dir() else folder)
        self._files: list[str] = []
        labels: list[int] = []
        place = {name: label for label, name in enumerate(self.class_names)}
        digest = hashlib.sha256()
        for name in _folders(folder):
            if name not in place:
                raise DataUnavailable(f"{folder / name} is a class that {train} lacks")
            for file, bytes_in_file in _images(folder / name):
                self._files.append(os.path.join(name, file))
                labels.append(place[name])
                digest.update(f"{name}/{file} {bytes_in_file}\n".encode())
        if not self._files:
            raise DataUnavailable(
                f"{folder} holds no images; put them there as {split}/<class>/*.JPEG"
            )
        self.labels = np.array(labels, np.int32)
        self.provenance: dict[str, Any] = {
            "name": self.root.name,
            "source": f"{split} folder, names and sizes digested",
            "sha256": digest.hexdigest(),
            "split": {split: len(self._files)},
        }
        self._threads = threads or min(32, os.cpu_count() or 1)
        self._pool: concurrent.futures.ThreadPoolExecutor | None = None

    def __len__(self) -> int:
        return len(self._files)

    def __getitem__(self, indices: Sequence[int] | np.ndarray) -> dict[str, np.ndarray]:
        """Reads a batch.

        Args:
          indices: integers `[b]`.

        Returns:
          `{"image": uint8 [b, size, size, 3], "label": int32 [b]}`.

        Raises:
          DataUnavailable: a file cannot be decoded; names it.
        """
        indices = np.asarray(indices)
        if indices.ndim != 1 or indices.dtype.kind not in "iu":
            raise ValueError(
                f"indices is {indices.dtype} {list(indices.shape)}, expected integers [b]"
            )
        if self._pool is None:
            self._pool = concurrent.futures.ThreadPoolExecutor(
                self._threads, thread_name_prefix="image_folder"
            )
        images = np.empty((len(indices), self.size, self.size, 3), np.uint8)
        for place, image in enumerate(self._pool.map(self._read, indices)):
            images[place] = image
        return {"image": images, "label": self.labels[indices]}

    def _read(self, index: int) -> np.ndarray:
        from PIL import Image

        path = self.root / self.split / self._files[index]
        try:
            with Image.open(path) as file:
                image = file.convert("RGB")
        except Exception as error:  # A damaged picture may raise anything.
            raise DataUnavailable(
                f"cannot decode {path} ({' '.join(str(error).split())}); replace the file"
            ) from error
        width, height = image.size
        if width < height:
            shape = (self.size, max(self.size, int(self.size * height / width)))
        else:
            shape = (max(self.size, int(self.size * width / height)), self.size)
        image = image.resize(shape, Image.Resampling.BILINEAR)
        left, top = round((shape[0] - self.size) / 2), round((shape[1] - self.size) / 2)
        return np.asarray(image.crop((left, top, left + self.size, top + self.size)))


def _folders(path: pathlib.Path) -> tuple[str, ...]:
    with os.scandir(path) as entries:
        return tuple(sorted(entry.name for entry in entries if entry.is_dir()))


def _images(path: pathlib.Path) -> list[tuple[str, int]]:
    with os.scandir(path) as entries:
        return sorted(
            (entry.name, entry.stat().st_size)
            for entry in entries
            if entry.name.lower().endswith(_ENDINGS)
        )
