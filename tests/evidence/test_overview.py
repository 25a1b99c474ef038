"""The overview finds every run and says what is wrong with the ones it cannot show."""

import pathlib

import pytest

from trove_jax.evidence import (
    Claim,
    Evidence,
    System,
    build_record,
    find_runs,
    overview,
    overview_text,
    write_record,
)


def add_run(
    folder: pathlib.Path, *, number: int = 1, preset: str = "smoke", better="higher"
) -> None:
    folder.mkdir(parents=True)
    claim = Claim("C1", "New & old.", "score", "new", "old", better=better)
    arms = {"new": {"score": [2.0, 2.1, 2.2]}, "old": {"score": [1.0, 1.2, 1.1]}}
    record = build_record(
        Evidence(arms=arms),
        system=System(number, f"Thing <{number}>", "P"),
        claims=[claim],
        experiment=f"thing{number}",
        preset=preset,
        seeds=range(3),
        started="2026-01-02T03:04:05",
        duration_s=3.0,
        environment={},
        config={},
    )
    (folder / "config.json").write_text("{}")
    (folder / "report.html").write_text("report")
    write_record(record, folder / "evidence.json")


@pytest.fixture
def runs(tmp_path: pathlib.Path) -> pathlib.Path:
    root = tmp_path / "runs"
    add_run(root / "b" / "a run #1", number=2, better="lower")
    add_run(root / "z", number=1, preset="laptop")
    add_run(root / ".hidden" / "x", number=9)
    (root / "cut").mkdir()
    (root / "cut" / "evidence.json").write_text('{"format": 1')
    (root / "going").mkdir()
    (root / "going" / "config.json").write_text("{}")
    (root / "going" / "evidence").mkdir()
    (root / "going" / "evidence" / "config.json").write_text("{}")
    (root / "empty").mkdir()
    return root


def test_runs_are_found_in_order_and_the_others_named(runs: pathlib.Path) -> None:
    found = find_runs(runs)
    assert [(run.folder.name, run.state) for run in found] == [
        ("z", "finished"),
        ("a run #1", "finished"),
        ("cut", "unreadable"),
        ("going", "unfinished"),
    ]
    assert "is damaged" in found[2].reason


def test_a_run_directory_itself_may_be_named(runs: pathlib.Path) -> None:
    assert [run.state for run in find_runs(runs / "z")] == ["finished"]


def test_page_links_each_report_from_where_it_lies(runs: pathlib.Path) -> None:
    out = runs.parent / "pages" / "deep"
    out.mkdir(parents=True)
    text = overview(find_runs(runs), out_folder=out)
    assert 'href="../../runs/b/a%20run%20%231/report.html"' in text
    assert 'href="../../runs/z/report.html"' in text
    assert (out / "../../runs/z/report.html").is_file()
    assert "Thing &lt;2&gt;" in text
    assert "http" not in text
    assert text.index("thing1, laptop") < text.index("thing2, smoke")


def test_page_counts_verdicts_and_lists_broken_runs(runs: pathlib.Path) -> None:
    text = overview(find_runs(runs), out_folder=runs)
    assert '<div class="tile supported"><b>1</b>' in text
    assert '<div class="tile contradicted"><b>1</b>' in text
    assert '<div class="tile inconclusive none"><b>0</b>' in text
    assert "is damaged" in text
    assert str(runs / "going") in text


def test_a_run_without_its_report_is_shown_without_a_link(runs: pathlib.Path) -> None:
    (runs / "z" / "report.html").unlink()
    text = overview(find_runs(runs), out_folder=runs)
    assert "Thing &lt;1&gt;" in text
    assert "z/report.html" not in text


def test_text_has_a_line_per_claim(runs: pathlib.Path) -> None:
    lines = overview_text(find_runs(runs)).splitlines()
    assert " ".join(lines[0].split()) == "system experiment preset claim verdict effect seeds"
    assert lines[1].split()[:5] == ["01", "thing1", "laptop", "C1", "supported"]
    assert lines[2].split()[:5] == ["02", "thing2", "smoke", "C1", "contradicted"]
    assert lines[4] == "1 supported, 1 contradicted, 0 inconclusive"
    assert lines[5].startswith("could not be read: ")
    assert lines[6] == f"not finished: {runs / 'going'}"


def test_a_folder_that_is_not_there_is_refused(tmp_path: pathlib.Path) -> None:
    with pytest.raises(ValueError, match="is not a directory") as caught:
        find_runs(tmp_path / "nothing")
    assert "nothing" in str(caught.value)
