"""The kernels of the ball's operations against plain JAX, forward and backward."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from trove_jax.kernels import gyro_rows
from trove_jax.kernels.gyro import boundary_eps

# Operands of every operation: p a point, v a tangent vector, k a number a row, and for the
# hyperplanes t (products with normals), s (their norms) and r (offsets), which all rows share.
OPERATIONS = {
    "clip_tangent": "v",
    "conformal": "p",
    "dist": "pp",
    "expmap": "pv",
    "expmap0": "v",
    "fc": "ptsr",
    "gyration": "ppv",
    "logmap": "pp",
    "logmap0": "p",
    "mlr": "ptsr",
    "mobius_add": "pp",
    "mobius_scale": "kp",
    "project": "p",
    "transport": "ppv",
}
KERNELS = ("interpret_tpu", "interpret_gpu")
SHAPES = list(itertools.product((1, 7, 1024, 1025), (1, 3, 8, 33, 64, 200)))
# Every operation in both kernels, every shape once or twice.
CASES = [
    (operation, kernel, *SHAPES[i % len(SHAPES)])
    for i, (operation, kernel) in enumerate(itertools.product(OPERATIONS, KERNELS))
]
C = 0.6


def draw(operation, n, d):
    rng = np.random.default_rng(n + d)

    def operand(kind):
        if kind == "k":
            return rng.uniform(-2, 2, size=(n, 1))
        if kind in "sr":
            return rng.uniform(0.1, 0.3, size=d)
        x = rng.normal(size=(n, d))
        x /= np.linalg.norm(x, axis=-1, keepdims=True)
        # Every fifth row is 0, and some points lie beyond the largest radius.
        return (
            x
            * rng.uniform(0, {"p": 1.1, "v": 5.0, "t": 0.3}[kind], size=(n, 1))
            * (np.arange(n) % 5 > 0)[:, None]
        )

    return [jnp.asarray(operand(kind), jnp.float32) for kind in OPERATIONS[operation]]


def run(operation, implementation):
    """Value and the gradient of every operand and of the curvature."""

    # Unoptimised code compiles in half the time.
    @functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})
    def both(*operands):
        value, pull = jax.vjp(
            lambda c, *a: gyro_rows(operation, *a, curvature=c, implementation=implementation),
            jnp.float32(C),
            *operands,
        )
        return value, pull(jnp.cos(jnp.arange(value.size, dtype=jnp.float32)).reshape(value.shape))

    return both


@pytest.mark.parametrize(("operation", "kernel", "n", "d"), CASES)
def test_kernels_equal_plain_jax(operation, kernel, n, d):
    operands = draw(operation, n, d)
    value, gradients = run(operation, kernel)(*operands)
    want, wanted = run(operation, "reference")(*operands)
    assert value.dtype == jnp.float32
    # Sums over channels and rows are taken in another order; near the boundary that is divided by
    # the gap 1 - c|x|^2 = 0.008 of the outermost points.
    np.testing.assert_allclose(value, want, rtol=2e-5, atol=2e-5 * np.abs(want).max())
    for got, want in zip(gradients, wanted, strict=True):
        assert bool(jnp.all(jnp.isfinite(want)))
        # Where all terms cancel (one channel cannot turn) their rounding is left.
        tolerance = max(1e-4 * np.abs(want).max(), 2e-5)
        np.testing.assert_allclose(got, want, rtol=1e-4, atol=tolerance)


@pytest.mark.parametrize("kernel", [*KERNELS, None])
def test_a_shared_point_equals_its_copies(kernel):
    (x, y, v) = draw("transport", 7, 3)

    def total(x, y, v):
        out = gyro_rows("transport", x, y, v, curvature=jnp.float32(C), implementation=kernel)
        return jnp.sum(out * jnp.arange(21.0).reshape(7, 3)), out

    gradients = jax.jit(jax.grad(total, argnums=(0, 1, 2), has_aux=True))
    got, out = gradients(x[1], y, v)
    want, expected = gradients(jnp.broadcast_to(x[1], x.shape), y, v)
    np.testing.assert_allclose(out, expected, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(got[0], want[0].sum(0), rtol=1e-4, atol=1e-4)
    for g, w in zip(got[1:], want[1:], strict=True):
        np.testing.assert_allclose(g, w, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("platform", ["tpu", "cuda"])
@pytest.mark.parametrize("operation", OPERATIONS)
def test_forward_and_backward_are_lowered(operation, platform):
    traced = run(operation, "pallas").trace(*draw(operation, 1025, 33))
    text = traced.lower(lowering_platforms=(platform,)).as_text()
    call = {"tpu": "tpu_custom_call", "cuda": "triton"}[platform]
    assert text.count(call) >= 2


def test_half_precision_tangents_are_clipped_in_float32():
    v = draw("clip_tangent", 7, 8)[0].astype(jnp.bfloat16)
    for kernel in (*KERNELS, "reference"):
        got = gyro_rows("clip_tangent", v, curvature=jnp.float32(C), implementation=kernel)
        assert got.dtype == jnp.bfloat16
        limit = np.arctanh(1 - boundary_eps(jnp.float32)) / np.sqrt(C)
        wide = np.asarray(v, np.float64)
        norm = np.maximum(np.linalg.norm(wide, axis=-1, keepdims=True), 1e-9)
        np.testing.assert_allclose(
            np.asarray(got, np.float64), wide * np.minimum(1, limit / norm), rtol=2**-8
        )


def test_wrong_calls_are_refused():
    x, c = jnp.ones((4, 3)), jnp.float32(1.0)
    with pytest.raises(ValueError, match=r"operation='mobius_sum' is unknown; use one of .*'dist'"):
        gyro_rows("mobius_sum", x, curvature=c)
    with pytest.raises(ValueError, match=r"operands of dist have shapes \[\(4, 3\), \(2, 3\)\]"):
        gyro_rows("dist", x, x[:2], curvature=c)
    with pytest.raises(ValueError, match="implementation='triton' is unknown"):
        gyro_rows("project", x, curvature=c, implementation="triton")
