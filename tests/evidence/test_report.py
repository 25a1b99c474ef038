"""The report is one valid page, holds everything, loads nothing, and escapes what it is given."""

import base64
import html.parser
import pathlib
import re
import shutil

import pytest

from trove_jax.evidence import (
    Claim,
    Evidence,
    Figure,
    System,
    build_record,
    publish,
    read_record,
    render,
)
from trove_jax.evidence import figures as drawing
from trove_jax.evidence import report as report_module

VOID = {"meta", "img", "br", "link", "input", "hr"}
PAPER = "https://arxiv.org/abs/1234.56789"


class Page(html.parser.HTMLParser):
    """Checks that tags are balanced and collects what a page says and refers to."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []
        self.ids: list[str] = []
        self.references: list[str] = []
        self.words: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list) -> None:
        self.tags.append(tag)
        if tag not in VOID:
            self.open.append(tag)
        for name, value in attrs:
            if name in ("src", "href", "srcset", "action", "data", "poster"):
                self.references.append(value)
            if name == "id":
                self.ids.append(value)
            assert not name.startswith("on")

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words.append(data)

    @property
    def text(self) -> str:
        return re.sub(r"\s+", " ", " ".join(self.words))


def make(*, n: int = 5, claims: int = 3, **fields) -> tuple[dict, list[Figure]]:
    known = [
        Claim(
            "C1",
            'New is <b>better</b> & "safe".',
            "score",
            "new",
            "old",
            unit="points",
            paper="9.9 against 1.1 (their data)",
            setting="a tenth of the data",
        ),
        Claim(
            "C2", "New is cheaper.", "cost", "new", "old", better="lower", kind="ratio", margin=1
        ),
        Claim("C3", "Both are equal.", "score", "new", "old", kind="equality", margin=0.5),
        Claim("C9", "Big is better.", "score", "big", "old"),
    ]
    extra = Figure(
        "extra",
        "An <i>extra</i> picture.",
        lambda: drawing.curves([1, 2], {}, xlabel="x", ylabel="y"),
    )
    arms = {
        "new": {
            "score": [3.0 + 0.1 * i for i in range(n)],
            "cost": [1.0 + 0.01 * i for i in range(n)],
        },
        "old": {"score": [1.0 + 0.2 * i for i in range(n)], "cost": [2.0] * n},
        "</style><script>alert(1)</script>": {"score": [float("nan")] * n},
    }
    made = Evidence(
        arms=arms,
        figures=[extra],
        data=[{"name": "set", "sha256": "ab" * 32, "split": "test", "source": "here"}],
        notes=["Small <regime>."],
        not_tested={"C9": "needs a big machine"},
    )
    record = build_record(
        made,
        **{
            "system": System(7, "Things & more", "Somebody, arXiv 1234.56789", PAPER),
            "claims": [*known[:claims], known[3]],
            "experiment": "things",
            "preset": "laptop",
            "seeds": range(100, 100 + n),
            "started": "2026-01-02T03:04:05+00:00",
            "duration_s": 75.0,
            "environment": {
                "python": "3.11.9",
                "packages": {"jax": "0.10.2"},
                "devices": "2 x cpu",
            },
            "config": {"train": {"steps": 1234}},
            "command": "python -m launch.run --experiment=things",
            "cost": {"steps_per_s": 812.25},
            **fields,
        },
    )
    return record, [extra]


@pytest.fixture(scope="module")
def published(tmp_path_factory) -> tuple[pathlib.Path, dict]:
    """A run directory and its record; tests only read them."""
    folder = tmp_path_factory.mktemp("run")
    record, figures = make()
    publish(record, folder, figures=figures)
    return folder, record


def test_page_is_balanced_and_loads_nothing(published) -> None:
    text = (published[0] / "report.html").read_text()
    page = Page(text)
    assert page.open == []
    assert text.startswith("<!doctype html>")
    assert not {"script", "link", "iframe", "object", "base"} & set(page.tags)
    outside = [r for r in page.references if not r.startswith(("data:image/png;base64,", "#"))]
    assert outside == [PAPER]
    assert {r[1:] for r in page.references if r.startswith("#")} <= set(page.ids)
    style = text.split("<style>")[1].split("</style>")[0]
    assert "url(" not in style
    assert "@import" not in style


def test_page_says_all_that_was_promised(published) -> None:
    folder, record = published
    text = Page((folder / "report.html").read_text()).text.replace("\N{NO-BREAK SPACE}", " ")
    for claim in record["claims"]:
        assert claim["statement"] in text
        assert claim["verdict"] in text
    for words in (
        "System 07",
        "Things & more",
        "Score of new is 1.80 points higher than that of old: 3.20 against 1.40 (95 % interval",
        "5 seeds",
        "9.9 against 1.1 (their data)",
        "a tenth of the data",
        "Holm",
        "Big is better.",
        "needs a big machine",
        "An <i>extra</i> picture.",
        "</style><script>alert(1)</script>",
        "(5 failed)",
        "3.20 ± ",
        "seed 104",
        "Small <regime>.",
        "1 min 15 s",
        "steps per s",
        "ab" * 32,
        "0.10.2",
        '"steps": 1234',
        "python -m launch.run --experiment=things",
    ):
        assert words in text


def test_pictures_are_those_in_the_folder(published) -> None:
    folder, record = published
    saved = {p.name: p.read_bytes() for p in (folder / "figures").iterdir()}
    assert set(saved) == {pathlib.Path(f["file"]).name for f in record["figures"]}
    assert {"effects.png", "claim-C1.png", "extra.png"} <= set(saved)
    references = Page((folder / "report.html").read_text()).references
    shown = {base64.b64decode(r.partition(",")[2]) for r in references if r.startswith("data:")}
    assert shown == set(saved.values())


def test_report_can_be_made_again_from_the_directory(published, tmp_path) -> None:
    folder = shutil.copytree(published[0], tmp_path / "copy")
    (folder / "report.html").unlink()
    publish(read_record(folder / "evidence.json"), folder)
    for name in ("report.html", "evidence.json"):
        assert (folder / name).read_bytes() == (published[0] / name).read_bytes()


def test_record_is_written_last(tmp_path: pathlib.Path, monkeypatch) -> None:
    record, figures = make()

    def fail(*_: object) -> str:
        raise ValueError("no page")

    monkeypatch.setattr(report_module, "render", fail)
    with pytest.raises(ValueError, match="no page"):
        publish(record, tmp_path, figures=figures)
    assert not (tmp_path / "evidence.json").exists()


@pytest.mark.parametrize("n", [1, 2, 12])
@pytest.mark.parametrize("claims", [0, 1, 3])
def test_any_number_of_seeds_and_claims_gives_a_page(n: int, claims: int) -> None:
    record, _ = make(n=n, claims=claims)
    page = Page(render(record, {}))
    assert page.open == []
    assert "img" not in page.tags
    assert len([i for i in page.ids if i.startswith("claim-")]) == claims
    assert ("Holm" in page.text) == (claims > 1)


def test_seeds_that_were_left_out_are_named() -> None:
    record, _ = make()
    record["claims"][0].update(left_out=[1, 3], note="2 of 5 seeds left out.")
    assert "2 of 5 seeds left out. Left out: seed 101, 103." in Page(render(record, {})).text
