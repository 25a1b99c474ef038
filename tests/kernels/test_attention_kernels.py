"""The TPU and GPU kernels of attention: interpreted, lowered, and compiled for a TPU."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from trove_jax.kernels import attention
from trove_jax.kernels.attention_pattern import (
    big_bird,
    causal,
    fixed_blocks,
    sliding_window,
)


def slope(q_ids, kv_ids, head):
    """A bias of positions that kernels evaluate tile by tile."""
    return -((head + 1) * jnp.abs(q_ids - kv_ids)).astype(jnp.float32) / 8


def drawn(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape)


def integers(high, *shape, seed=0):
    return np.random.default_rng(seed).integers(0, high, shape).astype(np.int32)


# The first example has one key, which most of its queries do not see.
MASK = np.stack([np.arange(280) == 100, drawn(280) > 0])
# (queries, keys, channels, values, dtype, options): ragged sizes, rows without keys, all extras.
CASES = {
    "random": (
        *(280, 280, 8, 8, jnp.bfloat16),
        {"pattern": big_bird(280, 16, random=2, heads=2), "kv_mask": MASK, "bias": slope},
    ),
    "ids": (
        *(20, 140, 4, 6, jnp.float32),
        {
            "q_ids": integers(140, 2, 20),
            "kv_ids": integers(140, 1, 140),
            "pattern": causal() & fixed_blocks(8, 2),
            "bias": drawn(1, 2, 20, 140),
        },
    ),
}


def results_and_gradients(implementation, options):
    """A compiled function of q, k, v and perhaps a bias, and cotangents."""
    bias = options.get("bias")
    rest = {name: x for name, x in options.items() if name != "bias"}
    rest = {name: jnp.asarray(x) if isinstance(x, np.ndarray) else x for name, x in rest.items()}

    def run(inputs, d_output, d_lse):
        def call(q, k, v, *given):
            given = given[0] if given else bias
            return attention(q, k, v, bias=given, implementation=implementation, **rest)

        found, pull = jax.vjp(call, *inputs)
        return *found, *pull(type(found)(d_output, d_lse))

    return jax.jit(run)


def arguments(n, m, d, e, dtype, options):
    shapes = [(2, n, 2, d), (2, m, 2, d), (2, m, 2, e), (2, n, 2, e)]
    q, k, v, d_output = (
        jnp.asarray(drawn(*shape, seed=i), dtype) for i, shape in enumerate(shapes)
    )
    inputs, bias = [q, k, v], options.get("bias")
    if isinstance(bias, np.ndarray):
        inputs.append(jnp.asarray(bias, jnp.float32))
    return inputs, d_output, jnp.asarray(drawn(2, n, 2), jnp.float32)


@pytest.mark.parametrize("implementation", ["interpret_tpu", "interpret_gpu"])
@pytest.mark.parametrize("case", CASES)
def test_kernels_equal_the_reference(case, implementation):
    """The order of summation differs, and half precision rounds weights before their product."""
    *sizes, dtype, options = CASES[case]
    given = arguments(*sizes, dtype, options)
    found = results_and_gradients(implementation, options)(*given)
    wanted = results_and_gradients("reference", options)(*given)
    tolerance = 2e-5 if dtype == jnp.float32 else 2**-6
    for a, b in zip(found, wanted, strict=True):
        assert a.dtype == b.dtype
        a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
        scale = np.abs(b[np.isfinite(b)]).max()
        np.testing.assert_allclose(a, b, rtol=tolerance, atol=tolerance * scale)
    if case == "random":
        assert np.isneginf(found[1]).any()


@pytest.mark.parametrize("platform", ["tpu", "cuda"])
@pytest.mark.parametrize("case", CASES)
def test_kernels_lower_without_the_machine(case, platform):
    """Three kernels: one forward, two backward."""
    *sizes, dtype, options = CASES[case]
    run = results_and_gradients("pallas", options)
    text = run.trace(*arguments(*sizes, dtype, options)).lower(lowering_platforms=(platform,))
    calls = {"tpu": "tpu_custom_call", "cuda": "__gpu$xla.gpu.triton"}[platform]
    assert text.as_text().count(calls) >= 3


def test_the_tpu_compiler_takes_the_kernels(monkeypatch):
    """They fit the fast memory, and the slow one holds copies of inputs and results alone."""
    pytest.importorskip("libtpu", reason="needs the extra pod-check")
    from jax.experimental import topologies

    monkeypatch.setenv("TPU_SKIP_MDS_QUERY", "1")
    topology = topologies.get_topology_desc(platform="tpu", topology_name="v5e:2x2")
    device = jax.sharding.SingleDeviceSharding(topology.devices[0])
    n, d, dtype = 8192, 128, jnp.bfloat16
    pattern = big_bird(n, random=2, heads=2) & causal() | sliding_window(256, 0)
    wide = jax.ShapeDtypeStruct((1, n, 2, d), dtype, sharding=device)
    narrow = jax.ShapeDtypeStruct((1, n, 2), jnp.float32, sharding=device)
    run = results_and_gradients(None, {"pattern": pattern, "bias": slope})
    lowered = run.trace([wide] * 3, wide, narrow).lower(lowering_platforms=("tpu",))
    temporary = lowered.compile().memory_analysis().temp_size_in_bytes
    assert temporary < 16 * wide.size * 4
