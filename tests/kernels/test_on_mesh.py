"""Kernels on a mesh: the same numbers, each device on its own rows."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from trove_jax.core import make_mesh
from trove_jax.kernels import attention_pattern, fused_rows
from trove_jax.kernels.attention import attention
from trove_jax.kernels.on_mesh import by_rows


def program(dot, rows, shared):
    """A result for each row, and a sum over rows."""
    (x,), (c,) = rows, shared
    return (x * jnp.exp(-c * dot(x, x)),), (x * x,)


def objective(implementation, x, c):
    (y,), (total,) = fused_rows(program, (x,), (c,), implementation=implementation)
    return jnp.sum(jnp.sin(y)) + jnp.sum(total**2) / x.size


def gradients(implementation):
    return jax.value_and_grad(functools.partial(objective, implementation), argnums=(0, 1))


def arrays(rows):
    return jax.random.normal(jax.random.key(rows), (rows, 4, 3)), jnp.float32(0.3)


def test_a_divided_kernel_equals_plain_jax():
    """Values and gradients of rows that the mesh divides; sums in another order."""
    x, c = arrays(6)
    wanted = gradients("autodiff")(x, c)
    mesh = make_mesh({"seed": 1, "data": 2})
    with jax.set_mesh(mesh):
        own = jax.device_put(x, NamedSharding(mesh, PartitionSpec("data")))
        found = jax.jit(gradients("interpret_tpu"))(own, c)
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(wanted), strict=True):
        np.testing.assert_allclose(a, b, rtol=2e-5, atol=1e-5)


def test_each_device_gets_its_own_rows():
    seen = []

    def kernel(rows, shared):
        seen.append(rows[0].shape)
        return rows, shared

    x = jnp.arange(12.0).reshape(6, 2)
    with jax.set_mesh(make_mesh({"data": 2})):
        outs, sums = jax.jit(by_rows(kernel))((x,), (jnp.float32(2.0),))
    assert set(seen) == {(3, 2)}
    np.testing.assert_array_equal(outs[0], x)
    assert sums[0] == 4.0  # what is summed over rows is added across devices
    outs, sums = by_rows(kernel)((x,), (jnp.float32(2.0),))
    assert seen[-1] == (6, 2)
    assert sums[0] == 2.0
    with jax.set_mesh(make_mesh({"data": 2})):
        _, sums = jax.jit(by_rows(kernel))((x[:5],), (jnp.float32(2.0),))
    assert seen[-1] == (5, 2)  # two devices cannot halve five rows: each has them all
    assert sums[0] == 2.0


def test_a_data_parallel_step_lowers_for_a_tpu():
    """Within the seed axis, as `core.train_seeds` does it: without a rule the lowering refuses."""
    mesh = make_mesh({"seed": 1, "data": 2})
    lanes = jax.shard_map(
        lambda x, c: jax.lax.map(lambda one: gradients(None)(one, c)[1], x),
        mesh=mesh,
        in_specs=(PartitionSpec("seed"), PartitionSpec()),
        out_specs=PartitionSpec("seed"),
        axis_names={"seed"},
        check_vma=False,
    )
    x, c = arrays(6)
    x = jax.ShapeDtypeStruct(
        (1, *x.shape), x.dtype, sharding=NamedSharding(mesh, PartitionSpec("seed", "data"))
    )
    with jax.set_mesh(mesh):
        text = jax.jit(lanes).trace(x, c).lower(lowering_platforms=("tpu",)).as_text()
    assert text.count("tpu_custom_call") >= 2


def attended(implementation, q, k, v, bias, mask):
    """A number and its gradients, of attention whose bias all examples share."""

    def loss(q, k, v, bias):
        found = attention(
            q, k, v, pattern=attention_pattern.causal(), bias=bias, kv_mask=mask,
            implementation=implementation,
        )  # fmt: skip
        return jnp.sum(jnp.sin(found.output)) + jnp.sum(jnp.where(mask[:, :, None], found.lse, 0.0))

    return jax.value_and_grad(loss, argnums=(0, 1, 2, 3))(q, k, v, bias)


@pytest.mark.parametrize("examples", [4, 3], ids=["divided", "whole"])
def test_attention_on_a_mesh_equals_the_reference(examples):
    """Each device has its own examples, the gradient of the shared bias is added across devices."""
    keys = jax.random.split(jax.random.key(examples), 4)
    q, k, v = (jax.random.normal(key, (examples, 16, 2, 8)) for key in keys[:3])
    bias = jax.random.normal(keys[3], (2, 16, 16))
    mask = jnp.arange(16)[None] < jnp.arange(10, 10 + examples)[:, None]
    wanted = attended("reference", q, k, v, bias, mask)
    with jax.set_mesh(make_mesh({"seed": 1, "data": 2})):
        found = jax.jit(functools.partial(attended, "interpret_tpu"))(q, k, v, bias, mask)
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(wanted), strict=True):
        np.testing.assert_allclose(a, b, rtol=2e-5, atol=1e-5)


def test_attention_of_a_data_parallel_step_lowers_for_a_tpu():
    mesh = make_mesh({"seed": 1, "data": 2})
    place = NamedSharding(mesh, PartitionSpec("data"))
    x = jax.ShapeDtypeStruct((4, 128, 2, 64), jnp.float32, sharding=place)
    mask = jax.ShapeDtypeStruct((4, 128), jnp.bool_, sharding=place)
    bias = jax.ShapeDtypeStruct((2, 128, 128), jnp.float32)
    with jax.set_mesh(mesh):
        traced = jax.jit(functools.partial(attended, None)).trace(x, x, x, bias, mask)
        text = traced.lower(lowering_platforms=("tpu",)).as_text()
    assert text.count("tpu_custom_call") >= 2
