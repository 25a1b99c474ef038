"""A picture may come as a function, a figure or a PNG, and lands in a file of its name."""

import pathlib
import re

import pytest

from trove_jax.evidence import Figure, curves, save_figures
from trove_jax.evidence.pictures import png


def draw():
    return curves([1, 2], {"new": [[1.0, 2.0]]}, xlabel="x", ylabel="y")


def test_a_figure_may_be_a_function_a_figure_or_a_png() -> None:
    content = png(Figure("a", "", draw()))
    assert png(Figure("a", "", draw)) == content
    assert png(Figure("a", "", content)) == content


@pytest.mark.parametrize("draw", [b"GIF89a", lambda: None, "a.png"])
def test_anything_else_is_refused(draw) -> None:
    with pytest.raises(ValueError, match="figure 'a' gives") as caught:
        png(Figure("a", "", draw))
    assert "PNG" in str(caught.value)


@pytest.mark.parametrize("name", ["", "a/b", "../x", ".hidden", "ä"])
def test_figure_names_are_plain_file_names(name: str) -> None:
    with pytest.raises(ValueError, match=re.escape(f"name={name!r} of a figure")) as caught:
        Figure(name, "A picture.", b"")
    assert "\n" not in str(caught.value)


def test_files_are_named_after_the_figures(tmp_path: pathlib.Path) -> None:
    drawn = save_figures([Figure("a", "", draw)], tmp_path / "deep" / "figures")
    assert (tmp_path / "deep" / "figures" / "a.png").read_bytes() == drawn["a"]
