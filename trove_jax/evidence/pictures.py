"""A figure of a report, and its file: drawn once, saved as a PNG."""

import dataclasses
import io
import pathlib
from collections.abc import Callable, Sequence
from typing import Any

DPI = 200
"""Twice the 100 pixels per inch that the report shows figures at."""


@dataclasses.dataclass(frozen=True)
class Figure:
    """A picture of the report.

    Args:
      name: of its file, without the ending.
      caption: what it shows, in a sentence.
      draw: a function that returns a matplotlib Figure, a matplotlib Figure, or the bytes of a PNG.
      claim: id of the claim it belongs to; empty for a picture of the whole run.

    Raises:
      ValueError: a name that is no plain file name.
    """

    name: str
    caption: str
    draw: Callable[[], Any] | Any
    claim: str = ""

    def __post_init__(self) -> None:
        plain = self.name.replace("-", "").replace("_", "").replace(".", "")
        if not plain.isalnum() or not self.name.isascii() or self.name.startswith("."):
            raise ValueError(
                f"name={self.name!r} of a figure; use letters, digits, '.', '_' and '-'"
            )


def png(figure: Figure) -> bytes:
    """Draws a figure as a PNG at twice the size it is shown at.

    Raises:
      ValueError: `draw` gives neither a matplotlib Figure nor the bytes of a PNG.
    """
    drawn: Any = figure.draw() if callable(figure.draw) else figure.draw
    if isinstance(drawn, bytes):
        if not drawn.startswith(b"\x89PNG\r\n\x1a\n"):
            raise ValueError(f"figure {figure.name!r} gives bytes that are no PNG")
        return drawn
    if not hasattr(drawn, "savefig"):
        raise ValueError(
            f"figure {figure.name!r} gives a {type(drawn).__name__}; wanted a matplotlib Figure or "
            "the bytes of a PNG"
        )
    buffer = io.BytesIO()
    drawn.savefig(buffer, format="png", dpi=DPI, facecolor="white", metadata={"Software": None})
    return buffer.getvalue()


def save_figures(figures: Sequence[Figure], folder: pathlib.Path) -> dict[str, bytes]:
    """Draws figures and saves each as `<folder>/<name>.png`.

    Returns:
      Name -> bytes of the PNG.
    """
    folder.mkdir(parents=True, exist_ok=True)
    drawn = {figure.name: png(figure) for figure in figures}
    for name, content in drawn.items():
        (folder / f"{name}.png").write_bytes(content)
    return drawn
