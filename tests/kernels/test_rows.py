"""Row programs: every implementation against plain JAX, forward and backward."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from trove_jax.kernels import fused_rows


def program(dot, rows, shared):
    """A program with everything in it: scalars, vectors, both kinds of results."""
    (x, y), (c, b) = rows, shared
    product, square = dot(x, y), dot(x, x)
    scale = jnp.exp(-square)
    turned = dot.combine((jnp.tanh(c * product), scale, c * c), (x, y, b))
    return (turned, product), (square, x * b, dot.combine((scale,), (y,)))


def arrays(rows, d, dtype=jnp.float32, lead=()):
    keys = jax.random.split(jax.random.key(rows + d), 3)
    x = jax.random.normal(keys[0], (*lead, rows, d)) / d**0.5
    y = jax.random.normal(keys[1], (*lead, rows, d))
    b = jax.random.normal(keys[2], (d,))
    return x.astype(dtype), y.astype(dtype), jnp.asarray(0.7, jnp.float32), b


def objective(implementation, x, y, c, b):
    (turned, product), sums = fused_rows(program, (x, y), (c, b), implementation=implementation)
    values = [jnp.sin(turned), product**2, *(a / x.size for a in sums)]
    total = sum(jnp.sum(v.astype(jnp.float32)) for v in values)
    return total, (turned, product, sums)


def evaluate(implementation, arguments):
    call = jax.jit(functools.partial(objective, implementation))
    return jax.value_and_grad(call, argnums=(0, 1, 2, 3), has_aux=True)(*arguments)


def assert_agree(found, wanted, *, rtol):
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(wanted), strict=True):
        assert a.dtype == b.dtype
        a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
        np.testing.assert_allclose(a, b, rtol=rtol, atol=rtol * (np.abs(b).max(initial=0) + 1e-3))


@pytest.mark.parametrize("implementation", ["interpret_tpu", "interpret_gpu"])
@pytest.mark.parametrize(("rows", "d"), [(1, 3), (7, 1), (1025, 8), (1024, 33), (7, 200)])
def test_kernels_equal_plain_jax(implementation, rows, d):
    arguments = arrays(rows, d)
    assert_agree(evaluate(implementation, arguments), evaluate("autodiff", arguments), rtol=2e-5)


@pytest.mark.parametrize("implementation", ["reference", "blocks", None])
@pytest.mark.parametrize(
    ("rows", "d"), [(1, 3), (7, 1), (3 * 4096, 64), (2 * 65537, 1), (1000, 64)]
)
def test_forms_on_a_cpu_equal_automatic_differentiation(implementation, rows, d):
    """3 * 4096 rows make three blocks; the others have no such number of rows, and make one."""
    arguments = arrays(rows, d)
    assert_agree(evaluate(implementation, arguments), evaluate("autodiff", arguments), rtol=1e-4)


@pytest.mark.parametrize("implementation", ["interpret_tpu", "interpret_gpu", "blocks"])
def test_half_precision_is_computed_in_single(implementation):
    """Outputs and gradients are rounded to bfloat16 once, at the end: one part in 256."""
    x, y, c, b = arrays(1025, 33, jnp.bfloat16)

    def pull_back(implementation, x, y):
        def turned_and_sum(x, y):
            (turned, _), (total, *_) = fused_rows(
                program, (x, y), (c, b), implementation=implementation
            )
            return turned, total

        (turned, total), pull = jax.vjp(turned_and_sum, x, y)
        return turned, total, *pull((jnp.ones_like(turned), jnp.ones_like(total)))

    single = (x.astype(jnp.float32), y.astype(jnp.float32))
    found = jax.jit(functools.partial(pull_back, implementation))(x, y)
    wanted = jax.jit(functools.partial(pull_back, "autodiff"))(*single)
    half = [jnp.bfloat16, jnp.float32, jnp.bfloat16, jnp.bfloat16]
    assert [a.dtype for a in found] == half
    for a, w in zip(found, wanted, strict=True):
        np.testing.assert_allclose(a.astype(jnp.float32), w, rtol=2**-8, atol=2**-8)


def test_leading_axes_are_kept():
    x, y, c, b = arrays(6, 4, lead=(2, 3))
    apply = jax.jit(functools.partial(fused_rows, program))
    (turned, product), sums = apply((x, y), (c, b))
    (flat, _), flat_sums = apply((x.reshape(-1, 4), y.reshape(-1, 4)), (c, b))
    assert turned.shape == x.shape
    assert product.shape == (2, 3, 6, 1)
    np.testing.assert_allclose(turned.reshape(-1, 4), flat, rtol=1e-6)
    np.testing.assert_allclose(sums[0], flat_sums[0], rtol=1e-6)


def test_double_precision_stays():
    with jax.enable_x64(True):
        x, y, c, b = (a.astype(jnp.float64) for a in arrays(50, 4))
        found, wanted = evaluate("blocks", (x, y, c, b)), evaluate("autodiff", (x, y, c, b))
        assert found[1][0].dtype == jnp.float64
        np.testing.assert_allclose(found[1][0], wanted[1][0], rtol=1e-12, atol=1e-14)


def test_the_gradient_has_a_gradient():
    x, y, c, b = arrays(5, 3)

    def norm_of_gradient(implementation, x):
        gradient = jax.grad(lambda x: objective(implementation, x, y, c, b)[0])(x)
        return jnp.sum(gradient**2)

    found, wanted = (
        jax.jit(jax.grad(functools.partial(norm_of_gradient, name)))(x)
        for name in (None, "autodiff")
    )
    np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-5)


def test_vmap_equals_a_loop():
    x, y, c, b = arrays(40, 4, lead=(3,))
    gradient = jax.jit(jax.grad(lambda x, y: objective(None, x, y, c, b)[0]))
    looped = jnp.stack([gradient(x[i], y[i]) for i in range(3)])
    np.testing.assert_allclose(jax.vmap(gradient)(x, y), looped, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("platform", ["tpu", "cuda"])
def test_kernels_lower_without_the_machine(platform):
    arguments = arrays(1025, 33)
    call = jax.jit(jax.grad(lambda *a: objective(None, *a)[0], argnums=(0, 1, 2, 3)))
    text = call.trace(*arguments).lower(lowering_platforms=(platform,)).as_text()
    calls = {"tpu": "tpu_custom_call", "cuda": "__gpu$xla.gpu.triton"}[platform]
    assert text.count(calls) >= 2


@pytest.mark.parametrize(
    ("rows", "shared", "message"),
    [
        ((), (), "rows have shapes"),
        ((jnp.ones((2, 3)), jnp.ones((3, 3))), (), "must agree"),
        ((jnp.ones((2, 3)),), (jnp.ones((1, 3)),), "only scalars and vectors"),
        ((jnp.ones((2, 3), jnp.int32),), (), "rows has dtype int32"),
    ],
)
def test_bad_arguments_are_named(rows, shared, message):
    with pytest.raises(ValueError, match=message):
        fused_rows(program, rows, shared)


def test_an_unknown_implementation_is_named():
    with pytest.raises(ValueError, match="implementation='triton' is unknown"):
        fused_rows(program, (jnp.ones((2, 3)),), implementation="triton")
