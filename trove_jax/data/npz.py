"""Arrays in a .npz file: read strictly and never through pickle, written in one piece."""

import os
import pathlib
import zipfile
from collections.abc import Mapping

import numpy as np

from trove_jax.core import DataUnavailable

Shapes = Mapping[str, tuple[int, ...]]


def check_npz(
    path: str | os.PathLike, *, shapes: Shapes, dtypes: Mapping[str, str] | None = None
) -> None:
    """Checks names, dtypes and shapes from the headers alone, in milliseconds.

    Args:
      path: the .npz file.
      shapes: the members wanted, and their shapes. Other members are allowed.
      dtypes: of the members that are not uint8.

    Raises:
      DataUnavailable: the file is missing, not an .npz, cut, or holds other arrays.
    """
    path = pathlib.Path(path)
    try:
        with zipfile.ZipFile(path) as archive:
            present = set(archive.namelist())
            missing = [name for name in shapes if f"{name}.npy" not in present]
            if missing:
                raise _unusable(path, f"it lacks the array {missing[0]!r}")
            for name, shape in shapes.items():
                with archive.open(f"{name}.npy") as member:
                    found_shape, found_dtype = _read_header(member)
                if found_dtype.hasobject:
                    raise _unusable(path, f"{name!r} holds Python objects, which are never loaded")
                dtype = (dtypes or {}).get(name, "uint8")
                if found_dtype != np.dtype(dtype) or found_shape != tuple(shape):
                    raise _unusable(
                        path,
                        f"{name!r} is {found_dtype} {list(found_shape)}, "
                        f"expected {dtype} {list(shape)}",
                    )
    except DataUnavailable:
        raise
    except Exception as error:  # A damaged file may raise anything.
        raise _unusable(path, f"it is damaged ({_one_line(error)})") from error


def read_npz(
    path: str | os.PathLike, *, shapes: Shapes, dtypes: Mapping[str, str] | None = None
) -> dict[str, np.ndarray]:
    """Reads the named arrays whole, and with them the checksum of each member.

    Args:
      path: the .npz file.
      shapes: the members wanted and their shapes.
      dtypes: of the members that are not uint8.

    Returns:
      The arrays by name.

    Raises:
      DataUnavailable: as `check_npz`, and for contents that fail their checksum.
    """
    check_npz(path, shapes=shapes, dtypes=dtypes)
    try:
        with open(path, "rb") as opened, np.load(opened, allow_pickle=False) as file:
            return {name: file[name] for name in shapes}
    except Exception as error:  # A damaged file may raise anything.
        raise _unusable(pathlib.Path(path), f"it is damaged ({_one_line(error)})") from error


def write_npz(path: str | os.PathLike, arrays: Mapping[str, np.ndarray]) -> None:
    """Writes compressed arrays under a temporary name, then renames: all or nothing.

    Raises:
      DataUnavailable: the folder cannot be written, or the disk is full.
    """
    path = pathlib.Path(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with open(temporary, "wb") as file:
                np.savez_compressed(file, allow_pickle=False, **arrays)
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)
    except OSError as error:
        raise DataUnavailable(f"could not write {path}: {_one_line(error)}") from error


def _read_header(member) -> tuple[tuple[int, ...], np.dtype]:
    version = np.lib.format.read_magic(member)
    if version == (1, 0):
        shape, _, dtype = np.lib.format.read_array_header_1_0(member)
    elif version == (2, 0):
        shape, _, dtype = np.lib.format.read_array_header_2_0(member)
    else:
        raise ValueError(f"array format {version} is not 1.0 or 2.0")
    return shape, dtype


def _unusable(path: pathlib.Path, reason: str) -> DataUnavailable:
    return DataUnavailable(f"cannot use {path}: {reason}; replace the file, or remove it")


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split()) or type(error).__name__
