"""The scalar functions against NumPy in extended precision, and their derivatives near zero."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from trove_jax.kernels import asinh, asinhc, atanhc, cosh_sqrt, sinh, sinhc, tanhc

_LONG = np.longdouble

# name -> function, F with f(q) = F(sqrt q)/sqrt q, F', largest q in the test
_QUOTIENTS = {
    "tanhc": (tanhc, np.tanh, lambda s: 1 / np.cosh(s) ** 2, 1e3),
    "atanhc": (atanhc, np.arctanh, lambda s: 1 / (1 - s * s), 0.9999),
    "asinhc": (asinhc, np.arcsinh, lambda s: 1 / np.sqrt(1 + s * s), 1e22),
    "sinhc": (sinhc, np.sinh, np.cosh, 30.0),
}
# f'(0) and f''(0) from the Taylor series.
_AT_ZERO = {
    "tanhc": (-1 / 3, 4 / 15),
    "atanhc": (1 / 3, 2 / 5),
    "asinhc": (-1 / 6, 3 / 20),
    "sinhc": (1 / 6, 1 / 60),
    "cosh_sqrt": (1 / 2, 1 / 12),
}
_FUNCTIONS = {name: row[0] for name, row in _QUOTIENTS.items()} | {"cosh_sqrt": cosh_sqrt}
# A few units in the last place; the slope divides a difference of two roundings by q.
_RTOL = {"float32": (6e-7, 8e-6), "float64": (2e-15, 1e-13)}


def _points(largest: float, dtype: str) -> np.ndarray:
    near = np.geomspace(1e-28, 1e-3, 60)
    # Dense around every place where a series gives way to the closed form.
    middle = np.linspace(1e-3, min(largest, 2.5), 1501)
    far = np.geomspace(min(largest, 2.5), largest, 60)
    return np.concatenate([near, middle, far]).astype(dtype)


def _evaluate(function, points, dtype):
    with jax.enable_x64(dtype == "float64"):
        x = jnp.asarray(points)
        assert x.dtype == dtype
        value, slope = jax.jit(lambda x: jax.jvp(function, (x,), (jnp.ones_like(x),)))(x)
        np.testing.assert_allclose(value, jax.jit(function)(x), rtol=4 * jnp.finfo(dtype).eps)
        assert value.dtype == slope.dtype == dtype
        return np.asarray(value), np.asarray(slope)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", _QUOTIENTS)
def test_quotients_and_slopes_are_accurate_for_every_size(name, dtype):
    function, big, slope_of_big, largest = _QUOTIENTS[name]
    points = _points(largest, dtype)
    value, slope = _evaluate(function, points, dtype)
    q = points.astype(_LONG)
    rtol_value, rtol_slope = _RTOL[dtype]
    # A relative rounding of q moves exp(sqrt q) by sqrt(q)/2 of it.
    slack = 1 + np.sqrt(q) if name == "sinhc" else 1
    want = big(np.sqrt(q)) / np.sqrt(q)
    assert np.max(np.abs(value / want - 1) / slack) < rtol_value
    # Extended precision leaves 1e-19 / q of the slope; below, two terms of its series do.
    clear = q > 4e-6
    s = np.sqrt(q[clear])
    want = (slope_of_big(s) - big(s) / s) / (2 * s * s)
    slack = slack[clear] if name == "sinhc" else 1
    assert np.max(np.abs(slope[clear] / want - 1) / slack) < rtol_slope
    first, second = _AT_ZERO[name]
    np.testing.assert_allclose(
        slope[~clear], first + second * points[~clear], rtol=max(rtol_value, 3e-11)
    )


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_cosh_and_its_slope_are_accurate(dtype):
    points = _points(30.0, dtype)
    value, slope = _evaluate(cosh_sqrt, points, dtype)
    q = points.astype(_LONG)
    slack, s = 1 + np.sqrt(q), np.sqrt(q)
    assert np.max(np.abs(value / np.cosh(s) - 1) / slack) < _RTOL[dtype][0]
    assert np.max(np.abs(slope / (np.sinh(s) / (2 * s)) - 1) / slack) < _RTOL[dtype][0]


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(
    ("function", "big", "slope_of_big", "largest"),
    [
        (asinh, np.arcsinh, lambda a: 1 / np.sqrt(1 + a * a), 1e37),
        (sinh, np.sinh, np.cosh, 60.0),
    ],
)
def test_odd_functions_are_accurate_and_odd(function, big, slope_of_big, largest, dtype):
    points = np.concatenate([_points(2.5, dtype), np.geomspace(2.5, largest, 200).astype(dtype)])
    value, slope = _evaluate(function, points, dtype)
    a = points.astype(_LONG)
    slack = 1 + a if function is sinh else 1
    assert np.max(np.abs(value / big(a) - 1) / slack) < _RTOL[dtype][0]
    assert np.max(np.abs(slope / slope_of_big(a) - 1) / slack) < _RTOL[dtype][0]
    negative, negative_slope = _evaluate(function, -points, dtype)
    np.testing.assert_array_equal(negative, -value)
    np.testing.assert_array_equal(negative_slope, slope)


@pytest.mark.parametrize("name", _FUNCTIONS)
def test_value_and_derivatives_at_zero_are_exact(name):
    function, (first, second) = _FUNCTIONS[name], _AT_ZERO[name]
    assert float(function(0.0)) == 1.0
    np.testing.assert_allclose(jax.grad(function)(0.0), first, rtol=2e-7)
    np.testing.assert_allclose(jax.grad(jax.grad(function))(0.0), second, rtol=2e-7)
    with jax.enable_x64(True):
        zero = jnp.zeros((), jnp.float64)
        np.testing.assert_allclose(jax.grad(function)(zero), first, rtol=1e-15)
        np.testing.assert_allclose(jax.grad(jax.grad(function))(zero), second, rtol=1e-15)


@pytest.mark.parametrize("name", _FUNCTIONS)
def test_second_derivative_is_that_of_the_slope(name):
    # Central differences of the slope in float64, good to h^2 = 1e-8 and 1e-13/h.
    function = _FUNCTIONS[name]
    q = np.concatenate([np.linspace(2e-4, 0.95, 700), np.linspace(1.8, 2.2, 50)])
    if name == "atanhc":
        q = q[q < 0.7]
    with jax.enable_x64(True):
        slope = jax.jit(jax.vmap(jax.grad(function)))
        second = jax.jit(jax.vmap(jax.grad(jax.grad(function))))(jnp.asarray(q))
        want = (slope(jnp.asarray(q + 1e-4)) - slope(jnp.asarray(q - 1e-4))) / 2e-4
    np.testing.assert_allclose(second, want, rtol=2e-6)


@pytest.mark.parametrize("function", [*_FUNCTIONS.values(), asinh, sinh])
def test_no_nan_at_zero_denormal_or_nearby(function):
    q = jnp.array([0.0, 1e-45, 1e-38, 1e-31, 1e-29, 1e-20, 1e-10])
    for differentiated in (function, jax.grad(function), jax.grad(jax.grad(function))):
        assert bool(jnp.all(jnp.isfinite(jax.vmap(differentiated)(q))))


@pytest.mark.parametrize("function", [tanhc, asinhc])
def test_the_largest_numbers_are_taken(function):
    q = jnp.array([1e20, 1e38, float(np.finfo(np.float32).max)])
    value, slope = jax.jvp(function, (q,), (jnp.ones(3),))
    assert bool(jnp.all(jnp.isfinite(value) & (value > 0) & jnp.isfinite(slope)))


@pytest.mark.parametrize("function", [*_FUNCTIONS.values(), asinh, sinh])
def test_nan_is_not_hidden(function):
    nan = jnp.array(jnp.nan)
    assert bool(jnp.isnan(function(nan)))
    assert bool(jnp.isnan(jax.grad(function)(nan)))


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "int32"])
def test_half_precision_and_integers_are_refused(dtype):
    for name, function in {**_FUNCTIONS, "asinh": asinh, "sinh": sinh}.items():
        argument = {"asinh": "a", "sinh": "p"}.get(name, "q")
        with pytest.raises(ValueError, match=f"{argument} has dtype {dtype}; .* float32"):
            function(jnp.ones(2, dtype))
