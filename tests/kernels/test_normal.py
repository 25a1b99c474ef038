"""The fused normal numbers against those of jax.random, bit for bit."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from trove_jax import core
from trove_jax.kernels import standard_normal


@pytest.mark.parametrize("shape", [(), (1,), (7,), (0, 3), (50, 50), (3, 2, 5, 7), (70_001,)])
@pytest.mark.parametrize("jit", [False, True])
def test_has_the_bits_of_jax_random(shape, jit):
    def draw(key, implementation):
        return standard_normal(key, shape, implementation=implementation)

    draw = jax.jit(draw, static_argnums=1) if jit else draw
    for seed in range(3):
        key = jax.random.key(seed)
        got = draw(key, "fused")
        assert got.dtype == jnp.float32
        assert got.shape == shape
        np.testing.assert_array_equal(got, draw(key, "reference"))
        np.testing.assert_array_equal(got, jax.random.normal(key, shape))
        np.testing.assert_array_equal(got, draw(key, None))


def test_the_default_is_one_loop_without_an_array_of_bits():
    def draw(key, x, implementation):
        return x + 0.1 * standard_normal(key, x.shape, implementation=implementation)

    x = jnp.zeros((512, 512))

    def compiled(implementation):
        lowered = jax.jit(draw, static_argnums=2).lower(jax.random.key(0), x, implementation)
        return lowered.compile()

    fused, reference = compiled(None), compiled("reference")
    assert "while" in reference.as_text()
    assert "while" not in fused.as_text()
    # Nothing of the size of x between input and output.
    assert fused.memory_analysis().temp_size_in_bytes < x.nbytes / 10


def test_vmap_over_keys_equals_the_loop():
    keys = core.seed_keys(4)
    together = jax.jit(jax.vmap(lambda key: standard_normal(key, (6, 5))))(keys)
    for key, got in zip(keys, together, strict=True):
        np.testing.assert_array_equal(got, standard_normal(key, (6, 5)))


@pytest.mark.parametrize("spec", [("data", None), (None, "data"), (None, None)])
def test_sharded_bits_are_the_same_and_cost_no_communication(spec):
    mesh = core.make_mesh({"data": 2})
    sharding = NamedSharding(mesh, PartitionSpec(*spec))
    draw = jax.jit(lambda key: standard_normal(key, (8, 6)), out_shardings=sharding)
    key = jax.random.key(5)
    np.testing.assert_array_equal(draw(key), standard_normal(key, (8, 6)))
    text = draw.lower(key).compile().as_text()
    assert not any(word in text for word in ("all-gather", "all-reduce", "collective"))


def test_bits_do_not_depend_on_the_partitionable_flag():
    key = jax.random.key(0)
    want = standard_normal(key, (9,))
    with jax.threefry_partitionable(False):
        np.testing.assert_array_equal(standard_normal(key, (9,)), want)


def test_moments_are_those_of_the_normal_law():
    x = np.asarray(standard_normal(jax.random.key(1), (200_000,)), np.float64)
    # Standard errors of the first four moments for n = 200,000; five of each.
    for power, (moment, error) in enumerate([(0, 1), (1, 2**0.5), (0, 15**0.5), (3, 96**0.5)], 1):
        assert abs((x**power).mean() - moment) < 5 * error / np.sqrt(x.size)


def test_other_generators_take_the_reference():
    key = jax.random.key(0, impl="rbg")
    np.testing.assert_array_equal(standard_normal(key, (5,)), jax.random.normal(key, (5,)))
    with pytest.raises(ValueError, match="not 5 from rbg"):
        standard_normal(key, (5,), implementation="fused")


def test_wrong_calls_are_refused():
    with pytest.raises(ValueError, match="implementation='pallas' is unknown"):
        standard_normal(jax.random.key(0), (5,), implementation="pallas")
    with pytest.raises(ValueError, match="fewer than 2\\^32 numbers"):
        jax.eval_shape(
            lambda key: standard_normal(key, (2**16, 2**16), implementation="fused"),
            jax.random.key(0),
        )
