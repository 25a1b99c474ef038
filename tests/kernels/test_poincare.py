"""The programs of Poincare networks, against the operations of the ball and across kernels."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from trove_jax.geometry import poincare as ball
from trove_jax.kernels import poincare

C = 0.7


@pytest.fixture(scope="module", autouse=True)
def _double():
    with jax.enable_x64(True):
        yield


def tangents(*shape, seed=0, size=1.0, dtype=np.float64):
    return jnp.asarray(size * np.random.default_rng(seed).normal(size=shape), dtype)


def hyperplanes(n, m, seed=5):
    z, r = tangents(n, m, seed=seed), tangents(m, seed=seed + 1, size=0.3)
    return z, jnp.linalg.norm(z, axis=0), r


def exp0(v):
    return ball.expmap0(v, curvature=C)


def log0(x):
    return ball.logmap0(x, curvature=C)


def test_epilogue_is_the_fully_connected_map():
    """Two routes, rounding apart: 1e-10 in float64, with lambda up to 20."""
    x, (z, norms, r) = tangents(50, 6, size=0.5), hyperplanes(6, 4)
    wanted = log0(ball.fc(exp0(x), z, r, curvature=C))
    squares, units = jnp.sum(x**2, -1, keepdims=True), z / norms[None]
    found, (time, space) = poincare.conv_epilogue(
        x @ units, squares, norms, r, curvature=C, sums=True
    )
    np.testing.assert_allclose(found, wanted, rtol=1e-10, atol=1e-12)
    for a, b in zip((time, space), poincare.point_sums(wanted, curvature=C), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-8)
    scores = poincare.hyperplane_scores(x @ units, squares, norms, r, curvature=C)
    np.testing.assert_allclose(scores, ball.mlr(exp0(x), z, r, curvature=C), rtol=1e-10)


def test_epilogue_keeps_direction_where_sinh_overflows():
    """sinh(95) is beyond float32: p = (95, 94.5) still gives a ratio of e^0.5."""
    norms, alpha = jnp.array([8.0, 8.0], jnp.float32), np.sinh(np.array([95.0, 94.5]) / 16)
    x = np.float32(3.0) / C**0.5
    products = jnp.asarray(alpha * x / np.sinh(2 * C**0.5 * x), jnp.float32)[None]
    out = poincare.conv_epilogue(
        products, jnp.full((1, 1), x**2), norms, jnp.zeros(2, jnp.float32), curvature=C
    )
    # p is 64 eps off, as asinh and its factor 16 round it.
    assert out.dtype == jnp.float32
    capped = np.exp(0.0)  # both beyond 80: as long as each other
    np.testing.assert_allclose(out[0, 0] / out[0, 1], capped, rtol=1e-4)
    products = jnp.asarray(np.sinh(np.array([75.0, 74.5]) / 16) * x / np.sinh(2 * C**0.5 * x))
    out = poincare.conv_epilogue(
        products.astype(jnp.float32)[None],
        jnp.full((1, 1), x**2),
        norms,
        jnp.zeros(2, jnp.float32),
        curvature=C,
    )
    np.testing.assert_allclose(out[0, 0] / out[0, 1], np.exp(0.5), rtol=1e-3)
    np.testing.assert_allclose(jnp.linalg.norm(out), np.arctanh(1 - 4e-3) / C**0.5, rtol=1e-5)


def test_normalise_is_log_transport_exp():
    x, m, b = (
        tangents(40, 5, size=0.5),
        tangents(5, seed=1, size=0.4),
        tangents(5, seed=2, size=0.3),
    )
    k = 0.8
    moved = ball.transport(
        exp0(m), exp0(b), k * ball.logmap(exp0(m), exp0(x), curvature=C), curvature=C
    )
    wanted = log0(ball.expmap(exp0(b), moved, curvature=C))
    found = poincare.normalise(x, m, b, jnp.asarray(k), curvature=C)
    np.testing.assert_allclose(found, wanted, rtol=1e-9, atol=1e-11)
    rectified = poincare.normalise(x, m, b, jnp.asarray(k), curvature=C, relu=True)
    np.testing.assert_allclose(rectified, np.maximum(wanted, 0), rtol=1e-9, atol=1e-11)


def test_midpoint_and_distances():
    x = tangents(40, 5, size=0.5)
    mean = poincare.midpoint_of_sums(*poincare.point_sums(x, curvature=C), count=40, curvature=C)
    np.testing.assert_allclose(exp0(mean), ball.midpoint(exp0(x), curvature=C), rtol=1e-10)
    found = poincare.squared_distances(x, mean, curvature=C)
    wanted = jnp.sum(ball.dist(exp0(x), exp0(mean)[None], curvature=C) ** 2)
    np.testing.assert_allclose(found, wanted, rtol=1e-10)


def test_residual_is_moebius_addition():
    x, y = tangents(40, 5, size=0.5), tangents(40, 5, seed=1, size=0.5)
    wanted = log0(ball.mobius_add(exp0(x), exp0(y), curvature=C))
    np.testing.assert_allclose(poincare.residual(x, y, curvature=C), wanted, rtol=1e-10)
    rectified = poincare.residual(x, y, curvature=C, relu=True)
    np.testing.assert_allclose(rectified, np.maximum(wanted, 0), rtol=1e-10)


def calls(d, dtype):
    """Each operation as a function of differentiable arguments, and arguments for `rows` rows."""
    m = tangents(d, seed=1, size=0.3, dtype=np.float32)
    b = tangents(d, seed=2, size=0.2, dtype=np.float32)
    norms, c = jnp.abs(b) + 0.4, jnp.asarray(C, jnp.float32)

    def rows(count, seed=0):
        return tangents(count, d, seed=seed, size=0.5, dtype=np.float32).astype(dtype)

    def epilogue(t, q, s, r, c, *, implementation):
        return poincare.conv_epilogue(
            t, q, s, r, curvature=c, sums=True, implementation=implementation
        )

    def operation(function, **options):
        return lambda *a, implementation: function(
            *a[:-1], curvature=a[-1], implementation=implementation, **options
        )

    square = functools.partial(jnp.sum, axis=-1, keepdims=True)
    return {
        "epilogue": lambda n: (
            epilogue,
            (rows(n), 2 * square(rows(n).astype(jnp.float32) ** 2), norms, b, c),
        ),
        "scores": lambda n: (
            operation(poincare.hyperplane_scores),
            (rows(n), 2 * square(rows(n).astype(jnp.float32) ** 2), norms, b, c),
        ),
        "sums": lambda n: (operation(poincare.point_sums), (rows(n), c)),
        "distances": lambda n: (operation(poincare.squared_distances), (rows(n), m, c)),
        "normalise": lambda n: (
            operation(poincare.normalise, relu=True),
            (rows(n), m, b, jnp.asarray(0.8, jnp.float32), c),
        ),
        "residual": lambda n: (operation(poincare.residual), (rows(n), rows(n, 7), c)),
    }


OPERATIONS = ["epilogue", "scores", "sums", "distances", "normalise", "residual"]


def value_and_gradients(call, implementation):
    """The results, and the pull-back of ones per row and of 1/n for sums, compiled."""

    def run(*arguments):
        out, pull = jax.vjp(functools.partial(call, implementation=implementation), *arguments)
        weigh = 1.0 / arguments[0].shape[0]
        return out, pull(
            jax.tree.map(lambda y: jnp.full_like(y, 1.0 if y.ndim > 1 else weigh), out)
        )

    return jax.jit(run)


SHAPES = [
    (1, 3, jnp.float32),
    (1025, 33, jnp.bfloat16),
    (1025, 8, jnp.float32),
    (7, 1, jnp.bfloat16),
    (7, 200, jnp.float32),
    (1024, 64, jnp.bfloat16),
]


def rotated(start):
    """Two shapes for each operation, other ones for each, so that all operations cover all."""
    return [
        pytest.param(operation, *SHAPES[(start + i + shift) % 6], id=f"{operation}-{shift}")
        for i, operation in enumerate(OPERATIONS)
        for shift in (0, 3)
    ]


@pytest.mark.parametrize(
    ("implementation", "operation", "rows", "d", "dtype"),
    [
        pytest.param(name, *case.values, id=f"{name}-{case.id}")
        for start, name in enumerate(("interpret_tpu", "interpret_gpu"))
        for case in rotated(start)
    ],
)
def test_kernels_equal_plain_jax(implementation, operation, rows, d, dtype):
    """Same formulas, other order of summation: 1e-4 of the largest entry or of 0.1, for gradients
    that are sums of terms of order 1 which cancel; bfloat16 rounds once."""
    call, arguments = calls(d, dtype)[operation](rows)
    found = value_and_gradients(call, implementation)(*arguments)
    wanted = value_and_gradients(call, "autodiff")(*arguments)
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(wanted), strict=True):
        assert a.dtype == b.dtype
        tolerance = 2**-7 if a.dtype == jnp.bfloat16 else 1e-4
        a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
        np.testing.assert_allclose(a, b, rtol=tolerance, atol=tolerance * (np.abs(b).max() + 0.1))


@pytest.mark.parametrize("operation", OPERATIONS)
@pytest.mark.parametrize("platform", ["tpu", "cuda"])
def test_kernels_lower(operation, platform):
    call, arguments = calls(16, jnp.bfloat16)[operation](1025)
    run = value_and_gradients(call, "pallas")
    text = run.trace(*arguments).lower(lowering_platforms=(platform,)).as_text()
    assert {"tpu": "tpu_custom_call", "cuda": "triton"}[platform] in text


def test_the_tpu_compiler_takes_every_kernel(monkeypatch):
    pytest.importorskip("libtpu", reason="needs the extra pod-check")
    from jax.experimental import topologies

    monkeypatch.setenv("TPU_SKIP_MDS_QUERY", "1")
    topology = topologies.get_topology_desc(platform="tpu", topology_name="v5e:2x2")
    device = jax.sharding.SingleDeviceSharding(topology.devices[0])
    with jax.enable_x64(False):
        for operation in OPERATIONS:
            call, arguments = calls(33, jnp.bfloat16)[operation](1025)
            shapes = [jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=device) for a in arguments]
            run = value_and_gradients(call, None)
            compiled = run.trace(*shapes).lower(lowering_platforms=("tpu",)).compile()
            assert compiled.memory_analysis().temp_size_in_bytes < 2**24


@pytest.mark.parametrize("operation", OPERATIONS)
def test_zero_and_boundary_are_finite(operation):
    """Rows of zeros, tiny ones and ones far beyond the ball, in value and gradient, for any c."""
    call, (rows, *others) = calls(4, jnp.float32)[operation](8)
    sizes = jnp.array([0, 0, 1e-30, 1e-10, 1, 30, 1e4, 1e15], jnp.float32)[:, None]
    arguments = [sizes * rows, *others]
    if operation in ("epilogue", "scores"):
        arguments[1] = 2 * jnp.sum(arguments[0] ** 2, -1, keepdims=True)
    if operation == "residual":
        arguments[1] = jnp.flip(sizes) * rows
    run = value_and_gradients(call, "blocks")
    for c in (1e-3, 10.0):
        found = run(*arguments[:-1], jnp.asarray(c, jnp.float32))
        assert all(bool(jnp.isfinite(a).all()) for a in jax.tree.leaves(found))


@pytest.mark.parametrize("operation", ["epilogue", "normalise", "residual", "sums", "distances"])
def test_gradients_equal_finite_differences(operation):
    """In float64, at rows inside the ball and at a row of zeros, along one random direction."""
    call, arguments = calls(4, jnp.float32)[operation](6)
    arguments = [a.astype(jnp.float64) for a in arguments]
    arguments[0] = arguments[0].at[0].set(0.0)
    if operation == "epilogue":
        arguments[1] = 2 * jnp.sum(arguments[0] ** 2, -1, keepdims=True) + 0.1
    rng = np.random.default_rng(0)
    direction = [jnp.asarray(rng.normal(size=a.shape)) for a in arguments]
    weights = None

    def scalar(*arguments):
        nonlocal weights
        leaves = jax.tree.leaves(call(*arguments, implementation="blocks"))
        if weights is None:
            weights = [np.random.default_rng(1).normal(size=y.shape) for y in leaves]
        return sum(jnp.sum(w * y) for w, y in zip(weights, leaves, strict=True))

    gradients = jax.grad(scalar, argnums=tuple(range(len(arguments))))(*arguments)
    found = sum(float(jnp.sum(g * u)) for g, u in zip(gradients, direction, strict=True))
    step = 1e-6
    ahead, behind = (
        scalar(*(a + s * step * u for a, u in zip(arguments, direction, strict=True)))
        for s in (1.0, -1.0)
    )
    np.testing.assert_allclose(found, (ahead - behind) / (2 * step), rtol=2e-6, atol=1e-7)
