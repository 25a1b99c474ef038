"""Fetching and converting a data set into one .npz file. Only this downloads."""

import dataclasses
import os
import pathlib
import shutil

import numpy as np

from trove_jax.core import DataUnavailable
from trove_jax.data.archive import plain_name, read_originals
from trove_jax.data.download import Progress, download, set_aside
from trove_jax.data.npz import read_npz, write_npz
from trove_jax.data.source import (
    Arrays,
    DataSet,
    Location,
    cache_dir,
    check_arrays,
    contents_sha256,
    find,
    how_to_get,
    read_location,
)
from trove_jax.data.text_file import read_text


@dataclasses.dataclass(frozen=True)
class Prepared:
    """What `prepare` did.

    Attributes:
      path: the file that holds the set now.
      sha256: `contents_sha256` of its arrays.
      action: what was done, in a few words.
    """

    path: pathlib.Path
    sha256: str
    action: str


def prepare(
    data_set: DataSet,
    *,
    origin: str | os.PathLike | None = None,
    data_dir: str | os.PathLike | None = None,
    mirror: str | None = None,
    timeout: float = 60.0,
    progress: Progress | None = None,
) -> Prepared:
    """Makes a set ready for use; does nothing where it is ready.

    Args:
      data_set: from `catalogue.describe(name)`.
      origin: the original files in a folder or an archive of the user's own, or an .npz (of a
        text: a .txt.gz); instead of a download.
      data_dir: where `<name>.npz` goes, made if missing; the user's cache by default.
      mirror: a URL of a folder that serves the published files, in place of their own addresses.
        The digests are checked all the same.
      timeout: seconds without an answer after which an address is given up.
      progress: called as `progress(file name, bytes so far, bytes in all or None)`.

    Returns:
      Where the set is, the digest of its contents, and what was done.

    Raises:
      DataUnavailable: the set cannot be had, is damaged or not what it claims; a transfer that was
        cut is kept and continued by the next call. Other contents under the same name are never
        overwritten.
    """
    if data_set.is_folder:
        raise DataUnavailable(f"{data_set.name} is used as it is: {data_set.obtain}")
    if data_dir is not None:
        try:
            pathlib.Path(data_dir).expanduser().mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise DataUnavailable(f"cannot make the folder {data_dir}: {error}") from error
    folder = pathlib.Path(data_dir).expanduser() if data_dir is not None else cache_dir()
    target = folder / f"{data_set.name}.npz"
    if origin is not None:
        arrays = _convert_own(data_set, pathlib.Path(origin).expanduser())
        return _store(data_set, arrays, target, action=f"converted from {origin}")
    location = find(data_set, data_dir=data_dir)
    if location is not None:
        try:
            arrays = read_location(data_set, location)
        except DataUnavailable:
            if location.path != target or not data_set.downloads:
                raise
            set_aside(target, suffix=".damaged")
        else:
            return _keep(data_set, arrays, location, target, explicit=data_dir is not None)
    if not data_set.downloads:
        raise DataUnavailable(f"{data_set.name} cannot be fetched: {how_to_get(data_set)}")
    downloads = cache_dir() / "downloads" / data_set.name
    for file in data_set.downloads:
        urls = file.urls if mirror is None else (f"{mirror.rstrip('/')}/{file.name}",)
        download(
            urls,
            downloads / file.name,
            sha256=file.sha256,
            size=file.size,
            timeout=timeout,
            progress=progress,
        )
    prepared = _store(
        data_set, _convert(data_set, downloads), target, action="downloaded and converted"
    )
    shutil.rmtree(downloads, ignore_errors=True)
    return prepared


def _keep(
    data_set: DataSet, arrays: Arrays, location: Location, target: pathlib.Path, *, explicit: bool
) -> Prepared:
    """The set is here: only a copy into a folder that the user named may be left to do."""
    digest = contents_sha256(arrays)
    if location.kind == "bundled":
        return Prepared(location.path, digest, f"comes with {location.description}")
    if explicit and location.path != target:
        return _store(data_set, arrays, target, action=f"copied from {location.path}")
    return Prepared(location.path, digest, "already here and intact")


def _store(data_set: DataSet, arrays: Arrays, target: pathlib.Path, *, action: str) -> Prepared:
    digest = contents_sha256(arrays)
    if target.exists():
        try:
            present = contents_sha256(
                read_npz(target, shapes=data_set.shapes, dtypes=data_set.dtypes)
            )
        except DataUnavailable:
            set_aside(target, suffix=".damaged")
        else:
            if present == digest:
                return Prepared(target, digest, "already here and intact")
            raise DataUnavailable(
                f"{target} is there with other contents (SHA-256 {present}, these have {digest}); "
                "remove it, or choose another --data_dir"
            )
    names = {"class_names": np.array(data_set.class_names)} if data_set.class_names else {}
    write_npz(target, {**arrays, **names})
    return Prepared(target, digest, action)


def _convert_own(data_set: DataSet, origin: pathlib.Path) -> Arrays:
    if origin.suffix == ".npz":
        arrays = read_npz(origin, shapes=data_set.shapes, dtypes=data_set.dtypes)
        check_arrays(data_set, arrays, origin=str(origin))
        return arrays
    if data_set.is_text and origin.name.endswith(".txt.gz"):
        arrays = {"text": read_text(origin)}
        check_arrays(data_set, arrays, origin=str(origin))
        return arrays
    if data_set.convert is None:
        raise DataUnavailable(
            f"{data_set.name} has no original files to convert; --from takes "
            f"{' or '.join(data_set.file_names)}"
        )
    if not origin.exists():
        raise DataUnavailable(f"{origin} does not exist; give a folder or an archive")
    return _convert(data_set, origin)


def _convert(data_set: DataSet, origin: pathlib.Path) -> Arrays:
    """Reads the originals from `origin`, or from a published archive that lies in that folder."""
    assert data_set.convert is not None
    archives = [
        origin / file.name
        for file in data_set.downloads
        if plain_name(file.name) not in data_set.originals
    ]
    for archive in archives:
        if archive.is_file():
            origin = archive
    arrays = data_set.convert(read_originals(origin, data_set.originals))
    check_arrays(data_set, arrays, origin=str(origin))
    return arrays
