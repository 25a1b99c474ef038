"""Many processes train as one does, continue what one began, and one continues what they began."""

import jax
import numpy as np
import pytest

from launch.benchmarks.programs import run_together
from tests.core import in_processes
from trove_jax import core
from trove_jax.core import processes


def in_processes_of_their_own(count, folder, mesh, steps, kind):
    """Runs `in_processes` in as many processes, and gives what the first alone says."""
    said = run_together("tests.core.in_processes", count, str(folder), mesh, str(steps), kind)
    assert [len(lines) for lines in said] == [1] + [0] * (count - 1)
    return said[0][0]


@pytest.fixture(scope="module")
def straight(tmp_path_factory):
    return in_processes.train(tmp_path_factory.mktemp("straight"), mesh=None, steps=30)


def assert_same_run(found, straight):
    # Sums over a batch are taken in another order on another mesh.
    np.testing.assert_allclose(found, straight[1].metrics["loss"], rtol=1e-4)


def test_one_process_continues_what_two_began(tmp_path, straight):
    found = in_processes_of_their_own(2, tmp_path / "run", "seed:2", 20, "resident")
    assert np.shape(found["loss"]) == (2, 20)
    state, history, _ = in_processes.train(tmp_path / "run", mesh=None, steps=30)
    assert_same_run(history.metrics["loss"], straight)
    for a, b in zip(jax.tree.leaves(state), jax.tree.leaves(straight[0]), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)


def test_four_processes_continue_what_one_began_and_each_reads_its_part_of_a_stream(
    tmp_path, straight
):
    in_processes.train(tmp_path / "run", mesh=None, steps=20)
    found = in_processes_of_their_own(4, tmp_path / "run", "seed:2,data:2", 30, "stream")
    assert_same_run(found["loss"], straight)
    # Of two seeds' ten steps with batches of ten each reads a quarter, and one row for shapes.
    assert found["read"] == [51] * 4


def test_alone_nothing_is_exchanged():
    assert core.is_speaker()
    assert core.share(lambda: b"bytes") == b"bytes"
    with pytest.raises(core.DataUnavailable, match="gone"):
        core.share(_fail)
    assert processes.agree(7, True) == (7, True)


def _fail():
    raise core.DataUnavailable("gone")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("batch:2", "names 'batch'"),
        ("seed:2,seed:2", "names an axis twice"),
        ("seed", "gives seed the size ''"),
        ("data:0", "gives data the size '0'"),
        ("data:-1", "gives data the size '-1'"),
        ("", "names ''"),
    ],
)
def test_a_mesh_that_is_none_is_refused_by_name(text, message):
    with pytest.raises(ValueError, match=message):
        core.parse_mesh(text)


def test_seeds_take_the_fewest_devices_that_need_no_further_round():
    assert jax.device_count() == 2
    assert [core.choose_axes(seeds)["seed"] for seeds in (1, 2, 3, 5)] == [1, 2, 2, 2]


def test_large_arrays_are_cut_along_model_and_the_run_is_the_same():
    import optax

    from tests.core.problems import make_data

    def init(key):
        return {"params": {"w": jax.random.normal(key, (8, 4)), "wide": np.zeros((3, 2**14))}}

    def loss(variables, batch, key, step):
        w, wide = variables["params"]["w"], variables["params"]["wide"]
        error = batch.examples["x"] @ w - batch.examples["y"] + wide[:1, :4]
        return (error**2).mean() + ((wide - 1.0) ** 2).mean(), core.Aux()

    task = core.Task(init, loss, lambda variables, data: {})
    options = {"steps": 20, "batch_size": 10}
    arguments = task, optax.adam(1e-2), make_data(), core.seed_keys(1)[0]
    alone, records = core.train(*arguments, **options)
    cut, cut_records = core.train(*arguments, mesh=core.make_mesh({"model": 2}), **options)
    wide = cut.variables["params"]["wide"]
    assert {shard.data.shape for shard in wide.addressable_shards} == {(3, 2**13)}
    np.testing.assert_allclose(wide, alone.variables["params"]["wide"], rtol=1e-5)
    np.testing.assert_allclose(records.metrics["loss"], cut_records.metrics["loss"], rtol=1e-5)
