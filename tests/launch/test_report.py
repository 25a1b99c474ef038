"""launch.report as it is typed: a table, a page, and one-line errors with their exit codes."""

import pathlib
import subprocess
import sys

import pytest

from trove_jax.evidence import Claim, Evidence, System, build_record, publish

ROOT = pathlib.Path(__file__).parents[2]


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "launch.report", *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )


def test_table_and_page_of_all_runs(tmp_path: pathlib.Path) -> None:
    workdir = tmp_path / "runs" / "one"
    workdir.mkdir(parents=True)
    record = build_record(
        Evidence(arms={"new": {"score": [2.0, 2.1, 2.2]}, "old": {"score": [1.0, 1.2, 1.1]}}),
        system=System(3, "Thing", "P"),
        claims=[Claim("C1", "New beats old.", "score", "new", "old")],
        experiment="thing",
        preset="smoke",
        seeds=[0, 1, 2],
        started="2026-01-02T03:04:05",
        duration_s=3.0,
        environment={},
        config={},
    )
    publish(record, workdir)
    out = tmp_path / "pages" / "all.html"
    done = run(f"--runs={tmp_path / 'runs'}", f"--out={out}")
    assert done.returncode == 0, done.stderr
    assert "03      thing       smoke   C1     supported  +1.00" in done.stdout
    assert f"page: {out}" in done.stdout
    assert 'href="../runs/one/report.html"' in out.read_text()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--runs={tmp}/nothing"], "error: --runs: {tmp}/nothing is not a directory"),
        (["--runs={tmp}"], "error: --runs: no run directory in {tmp}"),
        (["--runs={tmp}", "stray"], "error: unexpected argument 'stray'"),
    ],
)
def test_wrong_use_is_one_line_and_exit_code_2(
    arguments: list[str], message: str, tmp_path: pathlib.Path
) -> None:
    done = run(*(argument.format(tmp=tmp_path) for argument in arguments))
    assert done.returncode == 2
    assert done.stderr.startswith(message.format(tmp=tmp_path))
    assert done.stderr.count("\n") == 1


def test_out_that_is_a_directory_is_refused(tmp_path: pathlib.Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.json").write_text("{}")
    done = run(f"--runs={tmp_path}", f"--out={tmp_path}")
    assert done.returncode == 2
    assert f"--out={tmp_path} is a directory" in done.stderr
    assert f"not finished: {tmp_path / 'run'}" in done.stdout
