"""Writing files so that a reader sees the old content or the new one, never a part."""

import contextlib
import os
import pathlib
from collections.abc import Iterator
from typing import Any

from trove_jax.core.errors import TroveError


@contextlib.contextmanager
def writing(what: Any) -> Iterator[None]:
    """Makes one line of what the disk has to say while something is written.

    Args:
      what: a path, or what else stands for it in the message.

    Raises:
      TroveError: in place of an OSError.

    Example:
      >>> with writing("notes.txt"):
      ...     raise IsADirectoryError(21, "Is a directory")
      Traceback (most recent call last):
      ...
      trove_jax.core.errors.TroveError: cannot write notes.txt: Is a directory
    """
    try:
        yield
    except OSError as error:
        raise TroveError(f"cannot write {what}: {error.strerror or error}") from error


def write_durably(path: str | os.PathLike, content: bytes) -> None:
    """Writes a file whole: to a neighbour first, to the disk, then under its name.

    Raises:
      OSError: the disk is full or refuses; the old content stays.
    """
    path = pathlib.Path(path)
    unfinished = path.with_name(f"{path.name}.unfinished")
    try:
        with unfinished.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
