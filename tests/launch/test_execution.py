"""The record that a run leaves, where the disk does not take it."""

import datetime
import logging
import types

import ml_collections
import pytest

from launch import execution, run
from trove_jax import core, evidence

EXPERIMENT = types.SimpleNamespace(
    SYSTEM=evidence.System(number=1, title="t", paper="p", url="https://example.org"), CLAIMS=()
)


def finish(folder):
    """An experiment that trains nothing, from its folder to its record."""
    config = ml_collections.ConfigDict({"seeds": 1})
    described = execution.Run(EXPERIMENT, "nothing", "smoke", config, "command")
    directory = core.RunDirectory(folder, described.identity)
    try:
        with execution.working_in(
            directory, steps=1, seeds=1, settings=execution.Settings()
        ) as context:
            logging.getLogger("trove_jax").info("trained nothing")
        found = evidence.Evidence(arms={"a": {"accuracy": [1.0]}})
        return execution.publish(
            described,
            directory,
            found,
            context=context,
            started=datetime.datetime.now(datetime.UTC),
            duration_s=1.0,
        )
    finally:
        directory.close()


def test_a_run_leaves_its_log_and_its_record(tmp_path):
    record = finish(tmp_path)
    assert "trained nothing" in (tmp_path / "log.txt").read_text()
    assert evidence.read_record(tmp_path / "evidence.json") == record


@pytest.mark.parametrize("name", ["log.txt", "report.html", "evidence.json", "metrics.jsonl"])
def test_a_folder_in_place_of_a_file_is_one_line_and_without_it_the_run_ends(tmp_path, name):
    (tmp_path / name / "something").mkdir(parents=True)
    with pytest.raises(core.TroveError, match=r"cannot write .*: Is a directory") as refusal:
        finish(tmp_path)
    assert "\n" not in str(refusal.value)
    (tmp_path / name / "something").rmdir()
    (tmp_path / name).rmdir()
    assert finish(tmp_path)["arms"] == {"a": {"accuracy": [1.0]}}


def test_a_log_without_room_does_not_stop_a_run(tmp_path, monkeypatch, capsys):
    def refuse(handler):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(logging.FileHandler, "flush", refuse)
    finish(tmp_path)
    assert "Traceback" not in capsys.readouterr().err


def test_a_record_that_cannot_be_read_is_one_line(tmp_path):
    (tmp_path / "evidence.json").mkdir()
    directory = core.RunDirectory(tmp_path, {})
    assert directory.finished
    with pytest.raises(core.TroveError, match=r"evidence\.json is damaged .*; delete it"):
        run._show_finished(directory)
    directory.close()
