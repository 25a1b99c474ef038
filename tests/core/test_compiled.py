"""What is read from compiled programs, against programs written by hand and counted by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from tests.core.problems import TASK, make_data
from trove_jax import core

PROGRAM = """HloModule jit_run_chunk, is_scheduled=true, num_partitions=16

%add (x: f32[], y: f32[]) -> f32[] {
  %x = f32[] parameter(0)
  %y = f32[] parameter(1)
  ROOT %sum = f32[] add(%x, %y)
}

%fixed (p: (s32[], f32[8])) -> pred[] {
  %p = (s32[]{:T(128)}, f32[8]{0:T(128)}) parameter(0)
  %n = s32[]{:T(128)} constant(5)
  %i = s32[]{:T(128)} get-tuple-element(%p), index=0
  ROOT %less = pred[]{:T(512)} compare(%i, %n), direction=LT
}

%traced (p: (s32[], s32[], f32[8])) -> pred[] {
  %p = (s32[], s32[], f32[8]) parameter(0)
  %i = s32[] get-tuple-element(%p), index=0
  %n = s32[] get-tuple-element(%p), index=1
  ROOT %less = pred[] compare(%i, %n), direction=LT
}

%inner (p: (s32[], f32[8])) -> (s32[], f32[8]) {
  %p = (s32[], f32[8]) parameter(0)
  %moved = bf16[4,2]{1,0:T(8,128)(2,1)} collective-permute(%x), source_target_pairs={{0,1},{1,0}}
}

%all-reduce-scatter.1 (x: f32[32]) -> f32[8] {
  %x = f32[32]{0} parameter(0)
  ROOT %sum = f32[32]{0} all-reduce(%x), replica_groups={{0,1,2,3},{4,5,6,7}}, to_apply=%add
}

%step (p: (s32[], s32[], f32[8])) -> (s32[], s32[], f32[8]) {
  %p = (s32[], s32[], f32[8]) parameter(0)
  %both = (f32[8]{0:T(128)S(1)}, /*index=1*/f32[3,2]{1,0:T(8,128)}) all-reduce(%a, %b), GROUPS
  %cut = f32[8]{0} fusion(%c), kind=kCustom, calls=%all-reduce-scatter.1
  %loop = (s32[], f32[8]) while(%q), condition=%other, body=%inner, COUNT
}

%other (p: (s32[], f32[8])) -> pred[] {
  ROOT %less = pred[] fusion(%p), kind=kLoop, calls=%fixed
}

%lane (p: (s32[], f32[8])) -> (s32[], f32[8]) {
  %p = (s32[], f32[8]) parameter(0)
  %steps = (s32[], s32[], f32[8]) while(%q), condition=%traced, body=%step
}

ENTRY %main (x: f32[8]) -> f32[8] {
  %x = f32[8]{0} parameter(0)
  %start = (f32[8]{0}, f32[32]{0}) all-gather-start(%x), replica_groups=[4,4]<=[16], dimensions={0}
  %gathered = f32[32]{0} all-gather-done(%start)
  %whole = u8[40]{0} all-to-all(%x), replica_groups={}
  %lanes = (s32[], f32[8]) while(%q), condition=%fixed, body=%lane
}
""".replace(
    "GROUPS",
    "channel_id=1, replica_groups=mesh['axis_0'=2,'axis_1'=8] {'axis_1'}, to_apply=%add",
).replace("COUNT", 'backend_config={"known_trip_count":{"n":"3"}}')


def test_a_program_written_by_hand():
    program = core.read_program(PROGRAM)
    assert program.rounds == 5
    assert program.loops == (3,)
    assert sorted(program.collectives) == [
        core.Collective("all-gather", 128, 4, 1, False),
        core.Collective("all-reduce", 4 * (8 + 6), 8, 5, True),
        core.Collective("all-to-all", 40, 16, 1, False),
        core.Collective("collective-permute", 16, 2, 15, True),
        core.Collective("reduce-scatter", 128, 4, 5, True),
    ]


def test_bytes_sent_are_those_of_a_ring_simulated_chip_by_chip():
    """g chips pass parts of n / g bytes: a reduction, then a gathering, g - 1 rounds each."""
    size, group = 960, 4
    part, rounds = size // group, group - 1
    sent = {
        kind: core.Collective(kind, size, group, 1, True).sent
        for kind in ("all-reduce", "all-gather", "reduce-scatter", "collective-permute")
    }
    assert sent == {
        "all-reduce": 2 * rounds * part,
        "all-gather": rounds * part,
        "reduce-scatter": rounds * part,
        "collective-permute": size,
    }


def test_no_program_is_refused():
    with pytest.raises(ValueError, match="no ENTRY computation in its 5 characters"):
        core.read_program("hello")


def described(batch_size, seeds, streams=False):
    shapes = jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), make_data().examples
    )
    return core.PodStep(
        "a test", TASK, optax.sgd(0.1), core.Data(shapes), batch_size, seeds, streams
    )


def make_mesh(**axes):
    return core.make_mesh(axes)


def test_a_data_parallel_step_reduces_every_gradient_once():
    """The bytes of the all-reduces of a step are those of the parameters, and of few scalars."""
    step = described(10, 1, streams=True)
    lowered = core.lower_step(step, make_mesh(data=2))
    program = core.read_program(lowered.compile().as_text())
    params = jax.eval_shape(TASK.init, jax.random.key(0))["params"]
    gradients = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(params))
    reduced = [c for c in program.collectives if c.kind == "all-reduce" and c.in_step]
    assert {c.group for c in reduced} == {2}
    assert gradients <= sum(c.times * c.bytes for c in reduced) <= gradients + 100


def test_seeds_on_two_devices_need_no_collective_in_a_step():
    lowered = core.lower_step(described(10, 3), make_mesh(seed=2))
    program = core.read_program(lowered.compile().as_text())
    assert not any(collective.in_step for collective in program.collectives)


def test_a_batch_that_does_not_divide_the_mesh_is_refused():
    with pytest.raises(ValueError, match=r"batch_size=9 is not divisible by .* data axis of 2"):
        core.lower_step(described(9, 1), make_mesh(data=2))


@pytest.mark.parametrize(
    ("batch_size", "seeds", "devices", "axes"),
    [
        (1024, 5, 16, (1, 16)),  # 5 networks x 64 examples; seed:2 would be 3 x 128
        (1024, 5, 256, (2, 128)),  # 3 x 8; seed:1 is 5 x 8 at the least, seed:4 is 2 x 16
        (128, 10, 256, (16, 16)),  # 1 x 8
        (None, 4, 4, (4, 1)),
        (10, 1, 4, (2, 2)),
    ],
)
def test_axes_are_chosen_for_the_least_work_of_a_chip(batch_size, seeds, devices, axes):
    chosen = core.choose_pod_axes(described(batch_size, seeds), devices)
    assert (chosen["seed"], chosen["data"]) == axes


def test_the_described_chunk_is_the_one_that_training_runs():
    """Compiled from shapes and called with real arrays, it ends where `core.train_seeds` ends."""
    mesh, keys = make_mesh(seed=1), core.seed_keys(2)
    data, tx = make_data(), optax.sgd(0.1)
    step = described(10, 2)._replace(tx=tx)
    compiled = core.lower_step(step, mesh).compile()
    end, _ = core.train_seeds(TASK, tx, data, keys, steps=3, batch_size=10, mesh=mesh)
    indices = np.zeros((2, 1000, 10), np.int32)
    for seed in range(2):
        order = np.asarray(core.epoch_order(keys[seed], 0, 100))
        indices[seed, :3] = order[:30].reshape(3, 10)
    here = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())
    state = jax.device_put(core.init_states(TASK, tx, keys), here)
    state, records = compiled(
        state, *jax.device_put((data, jnp.asarray(indices), keys, jnp.int32(3)), here)
    )
    assert int(state.step) == 3
    assert records["loss"].shape == (2, 1000)
    # The same operations, compiled twice.
    for a, b in zip(jax.tree.leaves(state.variables), jax.tree.leaves(end.variables), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-6)
