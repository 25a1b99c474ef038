"""Original files out of a folder, a tar or a zip, read into memory: nothing is ever unpacked."""

import gzip
import io
import os
import pathlib
import re
import stat
import tarfile
import zipfile
from collections.abc import Iterator, Sequence

from trove_jax.core import DataUnavailable

_MAX_BYTES = 1 << 30
_MAX_DEPTH = 3


def plain_name(name: str) -> str:
    """The name under which an original file is known: no folder, no .gz, dashes before idx.

    Example:
      >>> plain_name("MNIST/raw/train-images.idx3-ubyte.gz")
      'train-images-idx3-ubyte'
    """
    return name.replace("\\", "/").rsplit("/", 1)[-1].removesuffix(".gz").replace(".idx", "-idx")


def read_originals(path: str | os.PathLike, wanted: Sequence[str]) -> dict[str, bytes]:
    """Reads the wanted files from a folder (three levels deep), a tar or a zip.

    Files compressed with gzip are expanded. An archive is refused whole if one of its members is a
    link or a device, or has an absolute path or one that climbs out with `..`.

    Args:
      path: folder or archive (.tar, .tar.gz, .tar.bz2, .tar.xz, .zip).
      wanted: names as `plain_name` gives them.

    Returns:
      Contents by name, one entry for each name in `wanted`.

    Raises:
      DataUnavailable: `path` is missing, damaged or refused, a wanted file is not in it, or it is
        in it twice.
    """
    path = pathlib.Path(path)
    try:
        if path.is_dir():
            members = _folder_members(path)
        elif not path.exists():
            raise DataUnavailable(f"{path} does not exist; give a folder or an archive")
        elif zipfile.is_zipfile(path):
            members = _zip_members(path)
        elif tarfile.is_tarfile(path):
            members = _tar_members(path)
        else:
            raise DataUnavailable(
                f"{path} is damaged, or neither a folder nor a tar nor a zip archive"
            )
        contents: dict[str, bytes] = {}
        for name, read in members:
            known = plain_name(name)
            if known not in wanted:
                continue
            if known in contents:
                raise DataUnavailable(f"{path} holds {known!r} twice; remove one of them")
            contents[known] = _expand(read(), f"{path}: {name}")
    except DataUnavailable:
        raise
    except Exception as error:  # A damaged archive may raise anything.
        reason = " ".join(str(error).split()) or type(error).__name__
        raise DataUnavailable(f"cannot read {path}: it is damaged ({reason})") from error
    missing = [name for name in wanted if name not in contents]
    if missing:
        raise DataUnavailable(f"{path} lacks {', '.join(missing)}; expected {', '.join(wanted)}")
    return contents


def _folder_members(path: pathlib.Path) -> Iterator:
    for folder, folders, names in os.walk(path):
        folders.sort()
        if len(pathlib.Path(folder).relative_to(path).parts) >= _MAX_DEPTH:
            folders.clear()
        for name in sorted(names):
            yield name, (pathlib.Path(folder) / name).read_bytes


def _tar_members(path: pathlib.Path) -> Iterator:
    with tarfile.open(path, "r:*") as archive:
        for member in archive:
            if not (member.isfile() or member.isdir()):
                kind = "a link" if member.issym() or member.islnk() else "a device"
                raise DataUnavailable(f"{path} is refused: its member {member.name!r} is {kind}")
            _check_member(path, member.name, member.size)
            if member.isfile():
                yield member.name, lambda member=member: _bytes_of(archive.extractfile(member))


def _zip_members(path: pathlib.Path) -> Iterator:
    with zipfile.ZipFile(path) as archive:
        for member in archive.infolist():
            mode = member.external_attr >> 16
            if stat.S_IFMT(mode) not in (0, stat.S_IFREG, stat.S_IFDIR):
                kind = "a link" if stat.S_ISLNK(mode) else "a device"
                raise DataUnavailable(
                    f"{path} is refused: its member {member.filename!r} is {kind}"
                )
            _check_member(path, member.filename, member.file_size)
            if not member.is_dir():
                yield member.filename, lambda member=member: archive.read(member)


def _check_member(path: pathlib.Path, name: str, size: int) -> None:
    parts = re.split(r"[\\/]", name)
    if name.startswith(("/", "\\")) or ".." in parts or re.match(r"[A-Za-z]:", name):
        raise DataUnavailable(f"{path} is refused: its member {name!r} points outside the archive")
    if size > _MAX_BYTES:
        raise DataUnavailable(f"{path} is refused: its member {name!r} has {size} bytes")


def _bytes_of(file) -> bytes:
    with file:
        return file.read()


def _expand(contents: bytes, name: str) -> bytes:
    if not contents.startswith(b"\x1f\x8b"):
        return contents
    with gzip.GzipFile(fileobj=io.BytesIO(contents)) as file:
        expanded = file.read(_MAX_BYTES + 1)
    if len(expanded) > _MAX_BYTES:
        raise DataUnavailable(f"{name} is refused: it expands to more than {_MAX_BYTES} bytes")
    return expanded
