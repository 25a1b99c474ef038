"""The folder of a run: one run, one process at a time, and clear refusals."""

import json

import pytest

from trove_jax import core

RUN = {"experiment": "x", "preset": "smoke", "config": {"seeds": 2, "part": {"rate": 0.1}}}


def test_a_new_folder_holds_the_configuration(tmp_path):
    directory = core.RunDirectory(tmp_path / "a" / "b", RUN)
    assert json.loads((directory.path / "config.json").read_text()) == RUN
    assert not directory.resumed
    assert not directory.finished
    directory.close()


def test_the_same_run_comes_back_and_its_time_adds_up(tmp_path):
    first = core.RunDirectory(tmp_path, RUN)
    first.checkpoints("x").mkdir(parents=True)
    first.note_time()
    first.close()
    clock = tmp_path / "checkpoints" / "time_spent.json"
    clock.write_text('{"seconds": 1000.0}')
    second = core.RunDirectory(tmp_path, RUN)
    assert second.resumed
    assert second.identity == first.identity
    assert 1000.0 <= second.seconds < 1100.0
    second.close()
    clock.write_text("{")
    third = core.RunDirectory(tmp_path, RUN)
    assert third.seconds < 100.0
    third.close()


def test_another_configuration_is_refused_and_the_difference_named(tmp_path):
    core.RunDirectory(tmp_path, RUN).close()
    other = json.loads(json.dumps(RUN))
    other["config"]["part"]["rate"] = 0.2
    with pytest.raises(core.RunMismatch, match=r"config.part.rate is 0.1 there and 0.2 here"):
        core.RunDirectory(tmp_path, other)


def test_a_second_process_is_refused(tmp_path):
    first = core.RunDirectory(tmp_path, RUN)
    with pytest.raises(core.RunMismatch, match="another process is running"):
        core.RunDirectory(tmp_path, RUN)
    first.close()
    core.RunDirectory(tmp_path, RUN).close()


def test_a_damaged_configuration_is_refused(tmp_path):
    (tmp_path / "config.json").write_text('{"experiment": ')
    with pytest.raises(core.RunMismatch, match=r"config.json is damaged"):
        core.RunDirectory(tmp_path, RUN)


def test_a_file_in_the_way_is_one_line(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(core.TroveError, match="cannot write to"):
        core.RunDirectory(tmp_path / "file" / "run", RUN)


def test_a_durable_write_leaves_the_old_content_when_it_fails(tmp_path, monkeypatch):
    target = tmp_path / "file"
    core.write_durably(target, b"old")

    def refuse(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", refuse)
    with pytest.raises(OSError, match="No space"):
        core.write_durably(target, b"new")
    assert target.read_bytes() == b"old"


def test_a_clock_that_cannot_be_written_is_one_line(tmp_path):
    directory = core.RunDirectory(tmp_path, {})
    with pytest.raises(core.TroveError, match=r"cannot write .*time_spent\.json: No such file"):
        directory.note_time()  # the folder of checkpoints is not there
    directory.close()
