"""Checkpoints: bits survive, and damage of every kind is noticed."""

import json
import pathlib
import shutil
import threading

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from trove_jax import core


def make_state():
    return {
        "float": jnp.linspace(0.0, 1.0, 7),
        "half": jnp.arange(5, dtype=jnp.bfloat16),
        "mask": jnp.array([True, False, True]),
        "count": jnp.int32(3),
        "empty": jnp.zeros((0, 4)),
        "key": jax.random.split(jax.random.key(7), 2),
        "none": None,
    }


def make_history(steps=4):
    return core.History(np.arange(steps), {"loss": np.random.default_rng(0).random((2, steps))})


@pytest.fixture
def checkpoints(tmp_path):
    saved = core.Checkpoints(tmp_path / "run", identity="mine", keep=3)
    for step in (5, 10):
        saved.save(step, make_state() | {"count": jnp.int32(step)}, make_history(step))
    return saved


def bits(tree):
    leaves = [
        jax.random.key_data(x) if jnp.issubdtype(x.dtype, jax.dtypes.prng_key) else x
        for x in jax.tree.leaves(tree)
    ]
    return [np.asarray(x).tobytes() for x in leaves]


def test_every_bit_comes_back(checkpoints):
    restored = checkpoints.restore(make_state())
    expected = make_state() | {"count": jnp.int32(10)}
    assert restored.step == 10
    assert bits(restored.state) == bits(expected)
    assert [x.dtype for x in jax.tree.leaves(restored.state)] == [
        x.dtype for x in jax.tree.leaves(expected)
    ]
    assert restored.history.metrics["loss"].tobytes() == make_history(10).metrics["loss"].tobytes()


def test_shapes_are_enough_to_restore(checkpoints):
    like = jax.eval_shape(make_state)
    assert bits(checkpoints.restore(like).state) == bits(make_state() | {"count": jnp.int32(10)})


def test_nothing_saved_is_nothing_restored(tmp_path):
    assert core.Checkpoints(tmp_path / "none", identity="mine").restore(make_state()) is None


def test_only_the_newest_stay(checkpoints):
    for step in (15, 20):
        checkpoints.save(step, make_state(), make_history())
    assert checkpoints.steps() == [10, 15, 20]


def content_files(folder: pathlib.Path):
    return sorted(p for p in folder.rglob("*") if p.is_file() and p.stat().st_size)


def names_of_content_files(tmp_path):
    saved = core.Checkpoints(tmp_path, identity="x")
    saved.save(1, make_state(), make_history())
    return [str(p.relative_to(tmp_path / "1")) for p in content_files(tmp_path / "1")]


@pytest.mark.parametrize("damage", ["flip", "truncate", "delete"])
def test_damage_to_any_file_is_noticed_or_harmless(checkpoints, damage, tmp_path, caplog):
    """The newest step is never used with a wrong number in it."""
    good = tmp_path / "good"
    shutil.copytree(checkpoints.directory, good)
    noticed = 0
    for name in names_of_content_files(tmp_path / "names"):
        shutil.rmtree(checkpoints.directory)
        shutil.copytree(good, checkpoints.directory)
        file = checkpoints.directory / "10" / name
        if not file.exists():
            continue
        content = bytearray(file.read_bytes())
        if damage == "flip":
            content[len(content) // 2] ^= 4
            file.write_bytes(content)
        elif damage == "truncate":
            file.write_bytes(content[: len(content) // 2])
        else:
            file.unlink()
        try:
            restored = checkpoints.restore(make_state())
        except core.RunMismatch:
            assert name == "manifest.json"  # a flipped bit in the identity or a shape
            continue
        expected = make_state() | {"count": jnp.int32(restored.step)}
        assert bits(restored.state) == bits(expected), name
        if restored.step == 5:
            noticed += 1
            assert any(checkpoints.directory.glob("10.damaged-*"))
    assert noticed >= 4
    assert "set aside" in caplog.text


def test_an_empty_step_folder_is_not_a_checkpoint(checkpoints):
    (checkpoints.directory / "99").mkdir()
    assert checkpoints.restore(make_state()).step == 10
    assert (checkpoints.directory / "99.damaged-1").is_dir()


def test_an_unfinished_save_is_not_a_checkpoint(checkpoints):
    shutil.copytree(checkpoints.directory / "10", checkpoints.directory / "11.unfinished")
    assert checkpoints.restore(make_state()).step == 10


def test_a_step_under_another_number_is_damaged(checkpoints):
    (checkpoints.directory / "10").rename(checkpoints.directory / "12")
    assert checkpoints.restore(make_state()).step == 5


def test_all_damaged_is_an_error(checkpoints):
    for manifest in checkpoints.directory.glob("*/manifest.json"):
        manifest.write_text("{")
    with pytest.raises(core.CheckpointError, match=r"every checkpoint .* is damaged"):
        checkpoints.restore(make_state())


def test_another_configuration_is_refused(checkpoints):
    other = core.Checkpoints(checkpoints.directory, identity="yours")
    with pytest.raises(core.RunMismatch, match="another configuration"):
        other.restore(make_state())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"float": jnp.zeros(7, jnp.bfloat16)}, "float as .*float32.*bfloat16"),
        ({"float": jnp.zeros(8)}, r"float as .*\[7\].*\[8\]"),
        ({"more": jnp.zeros(1)}, "more as nothing"),
    ],
)
def test_other_dtypes_and_shapes_are_refused(checkpoints, change, message):
    with pytest.raises(core.RunMismatch, match=message):
        checkpoints.restore(make_state() | change)


def test_a_full_disk_is_one_line_and_leaves_the_old_steps(checkpoints, monkeypatch):
    def refuse(path, content):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("trove_jax.core.checkpoint.write_durably", refuse)
    with pytest.raises(core.CheckpointError, match=r"step 15 .*No space left.*intact"):
        checkpoints.save(15, make_state(), make_history())
    assert checkpoints.restore(make_state()).step == 10


def test_the_manifest_names_every_leaf(checkpoints):
    manifest = json.loads((checkpoints.directory / "10" / "manifest.json").read_text())
    assert set(manifest["leaves"]) == {"float", "half", "mask", "count", "empty", "key"}


def test_keeping_nothing_is_refused(tmp_path):
    with pytest.raises(ValueError, match="keep=0"):
        core.Checkpoints(tmp_path, identity="x", keep=0)
    with pytest.raises(ValueError, match="every=0"):
        core.SaveCheckpoints(core.Checkpoints(tmp_path, identity="x"), every=0)


def moment(step, state, *, final=False):
    return core.Moment(step, 30, lambda: state, make_history(0), final, 1.0)


@pytest.fixture
def gated(tmp_path, monkeypatch):
    """Checkpoints whose writing waits for a gate, and the gate."""
    saved = core.Checkpoints(tmp_path / "run", identity="mine")
    gate, write = threading.Event(), saved.save

    def save(*arguments):
        assert gate.wait(timeout=60)
        write(*arguments)

    monkeypatch.setattr(saved, "save", save)
    return saved, gate


def test_training_goes_on_while_a_step_is_written(gated):
    saved, gate = gated
    hook = core.SaveCheckpoints(saved, every=10)
    hook(moment(10, make_state()))
    assert saved.steps() == []
    gate.set()
    hook(moment(20, make_state()))
    assert 10 in saved.steps()
    hook(moment(30, make_state(), final=True))
    assert saved.steps() == [20, 30]
    hook.close()


def test_what_is_written_late_is_the_state_of_its_step(gated):
    """The memory of a state belongs to the next chunk as soon as the hook returns."""
    saved, gate = gated
    state = {"weight": np.arange(4, dtype=np.float32)}
    hook = core.SaveCheckpoints(saved, every=10)
    hook(moment(10, state))
    state["weight"][:] = -1
    gate.set()
    hook.close()
    np.testing.assert_array_equal(
        saved.restore(state).state["weight"], np.arange(4, dtype=np.float32)
    )


def test_a_step_that_could_not_be_written_is_reported_at_the_next_moment(tmp_path, monkeypatch):
    saved = core.Checkpoints(tmp_path / "run", identity="mine")

    def refuse(*_):
        raise OSError(28, "No space left on device")

    hook = core.SaveCheckpoints(saved, every=10)
    with monkeypatch.context() as full:
        full.setattr("trove_jax.core.checkpoint.write_durably", refuse)
        hook(moment(10, make_state()))
        with pytest.raises(core.CheckpointError, match="could not save step 10"):
            hook(moment(20, make_state()))
        hook(moment(20, make_state()))
        with pytest.raises(core.CheckpointError, match="step 20"):
            hook.close()
