"""Faults that befall a run: it goes on to the same bits, or ends in one line."""

import pytest

from launch.benchmarks.faults import damage, disk, moments
from launch.benchmarks.faults.outcome import Bench
from trove_jax import core


@pytest.fixture(scope="module")
def bench(tmp_path_factory):
    # One file in eleven: a leaf's numbers, its shape, orbax's own notes; the script takes them all.
    return Bench(tmp_path_factory.mktemp("faults"), every=11)


@pytest.mark.parametrize(
    ("fault", "equal", "refused"),
    [
        (damage.flip_bits, 2, 0),
        (damage.cut_files, 2, 0),
        (damage.remove_files, 2, 0),
        (damage.misplace_steps, 4, 0),
        (damage.damage_every_step, 1, 1),
        (damage.damage_other_files, 4, 1),
        (damage.mix_configurations, 0, 3),
        (disk.limit_files, 1, 1),
        (disk.forbid_writing, 1, 2),
        (disk.stand_in_the_way, 1, 2),
        (moments.stop_and_start_twice, 1, 0),
        (moments.set_clock_back, 1, 0),
        (moments.break_numbers, 0, 2),
        (moments.break_image, 1, 2),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_a_fault_ends_in_the_same_numbers_or_in_one_line(bench, fault, equal, refused):
    found = fault(bench)
    assert not found.wrong
    assert found.equal >= equal
    assert found.refused >= refused
    assert found.count == found.equal + found.refused


def test_a_disk_that_fills_up_ends_in_one_line_and_loses_nothing(bench):
    found = disk.fill_disk(bench)
    if not found.count:
        pytest.skip("no small file system can be mounted here")
    assert not found.wrong
    assert (found.equal, found.refused) == (1, 2)


def test_metrics_that_cannot_be_written_are_one_line(tmp_path, monkeypatch):
    writer = core.MetricWriter(tmp_path, tensorboard=False)
    writer.write("a", 5, {"loss": [1.0]})
    writer.flush()

    def refuse(descriptor):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as full:
        full.setattr("os.fsync", refuse)
        with pytest.raises(core.TroveError, match=r"cannot write .*metrics\.jsonl: No space left"):
            writer.rewind("a", 0)
        with pytest.raises(core.TroveError, match="No space left"):
            writer.close()
    assert [line["step"] for line in core.read_metrics(writer.path)] == [5]
    with pytest.raises(core.TroveError, match="cannot write"):
        core.MetricWriter(tmp_path / "none", tensorboard=False)


def test_lines_of_metrics_that_a_disk_has_spoilt_are_passed_over(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(b'{"stage": "a", "step": 5}\n{"stbge": "a", "step": 5}\n7\n\xff{"a\n')
    assert core.read_metrics(path) == [{"stage": "a", "step": 5}]
