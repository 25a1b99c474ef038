"""Writing files so that a reader sees the old content or the new one, never a part."""

import os
import pathlib


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
