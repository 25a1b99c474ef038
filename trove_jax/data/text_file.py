"""Texts in files: one text as .txt.gz, with or without marks of parts, and labelled lines."""

import gzip
import os
import pathlib
import zlib

import numpy as np

from trove_jax.core import DataUnavailable

_MARK = "#file "
_MAX_BYTES = 1 << 30


def read_text(path: str | os.PathLike) -> np.ndarray:
    """Reads the bytes of a text out of a .txt.gz.

    Args:
      path: the file.

    Returns:
      The bytes, uint8 `[n]`.

    Raises:
      DataUnavailable: the file cannot be read, is cut or no gzip, or expands beyond 1 GiB.
    """
    path = pathlib.Path(path)
    try:
        with gzip.open(path, "rb") as file:
            contents = file.read(_MAX_BYTES + 1)
    except (OSError, EOFError, zlib.error) as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise DataUnavailable(
            f"cannot read {path}: it is damaged ({reason}); remove it and get it again"
        ) from error
    if len(contents) > _MAX_BYTES:
        raise DataUnavailable(f"{path} is refused: it expands to more than {_MAX_BYTES} bytes")
    return np.frombuffer(contents, np.uint8)


def split_parts(text: np.ndarray | bytes, *, origin: str) -> dict[str, list[str]]:
    """Lines of a text by the part that a line `#file NAME` before them begins.

    Lines end with a line feed and nothing else: other characters that Unicode counts as ends of
    lines occur inside sentences.

    Args:
      text: UTF-8, bytes or uint8 `[n]`.
      origin: where it came from, for messages.

    Returns:
      Lines by part, in order; lines before the first mark are the part `""`.

    Raises:
      DataUnavailable: the text is not UTF-8, or a part begins twice.

    Example:
      >>> split_parts(b"#file train\\n1 good\\n0 bad\\n#file test\\n1 fine\\n", origin="here")
      {'train': ['1 good', '0 bad'], 'test': ['1 fine']}
    """
    try:
        lines = bytes(text).decode("utf8").split("\n")
    except UnicodeDecodeError as error:
        raise DataUnavailable(f"{origin} is no UTF-8 text ({error})") from error
    if lines[-1] == "":
        lines.pop()
    parts: dict[str, list[str]] = {}
    name = ""
    for line in lines:
        if line.startswith(_MARK):
            name = line.removeprefix(_MARK).strip()
            if name in parts:
                raise DataUnavailable(f"{origin} begins the part {name!r} twice")
            parts[name] = []
        else:
            parts.setdefault(name, []).append(line)
    return parts


def split_labels(lines: list[str], *, classes: int, origin: str) -> tuple[list[str], np.ndarray]:
    """Takes the label off lines `LABEL text`.

    Args:
      lines: of one part.
      classes: number of classes; labels are integers from 0.
      origin: where they came from, for messages.

    Returns:
      The texts, and their labels int32 `[n]`.

    Raises:
      DataUnavailable: a line does not begin with such a label.

    Example:
      >>> split_labels(["1 a fine film", "0 dull"], classes=2, origin="here")
      (['a fine film', 'dull'], array([1, 0], dtype=int32))
    """
    texts, labels = [], []
    for number, line in enumerate(lines, 1):
        label, _, text = line.partition(" ")
        if not (label.isascii() and label.isdigit() and int(label) < classes):
            raise DataUnavailable(
                f"{origin}: line {number} of the part begins with {label[:20]!r}, expected a label "
                f"from 0 to {classes - 1}"
            )
        texts.append(text.strip())
        labels.append(int(label))
    return texts, np.array(labels, np.int32)
