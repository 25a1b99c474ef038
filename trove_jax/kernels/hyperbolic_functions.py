"""Hyperbolic functions of a squared argument: smooth at zero, accurate, and made for kernels.

On the Poincare ball a point enters as x tanh(s)/s with s = C|x|. As a function of s the quotient is
0/0 at the origin, and the norm has no derivative there; as a function of q = s^2 it is analytic.
Here each such function has its exact value and slope at q = 0. They are written with exp, log1p,
sqrt and tanh alone, because Pallas has no atanh, asinh, sinh, cosh or expm1 on a TPU.

Relative errors in float32: 6e-7 of a value, 8e-6 of a slope; in float64: 2e-15 and 1e-13 (sinh and
cosh: times 1 + |argument|, as large as a rounding of the argument makes them). NaN stays NaN.
"""

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp

# Below it a quotient by q is not taken; its limit is exact there in either dtype.
_TINY = 1e-30
# Beyond it sqrt(1 + a^2) is |a| in either dtype, and its square still fits float32.
_LARGE = 1e18


class _Series(NamedTuple):
    """Where the Taylor series takes over from the closed form, and how many terms that needs."""

    coefficients: Sequence[float]
    below: tuple[float, float]  # in float32, in float64
    terms: tuple[int, int]

    def value(self, q: jax.Array) -> jax.Array:
        return _horner(self.coefficients[: self.terms[_is_double(q)]], q)

    def slope(self, q: jax.Array) -> jax.Array:
        count = self.terms[_is_double(q)]
        return _horner([k * c for k, c in enumerate(self.coefficients)][1 : count + 1], q)

    def holds(self, q: jax.Array) -> jax.Array:
        return q < self.below[_is_double(q)]


def _horner(coefficients: Sequence[float], q: jax.Array) -> jax.Array:
    total = jnp.full_like(q, coefficients[-1])
    for coefficient in reversed(coefficients[:-1]):
        total = total * q + coefficient
    return total


def _is_double(q: jax.Array) -> bool:
    return q.dtype == jnp.float64


def _even(
    value: Callable[[jax.Array], jax.Array],
    edge: Callable[[jax.Array], jax.Array],
    series: _Series,
    *,
    cancels: bool = False,
) -> Callable[[jax.Array], jax.Array]:
    """Makes f(q) with 2 q f'(q) = edge(q) - f(q), the form of every f(q) = F(sqrt q)/sqrt q.

    `value` and `edge` are the closed forms for q > 0; `cancels` says that `value` too loses digits
    where the series holds.
    """

    def closed_slope(q: jax.Array) -> jax.Array:
        return (edge(q) - value(q)) / (2.0 * q)

    @jax.custom_jvp
    def function(q: jax.Array) -> jax.Array:
        away = jnp.where(q < _TINY, 1.0, q)
        if cancels:
            return jnp.where(series.holds(q), series.value(q), value(away))
        return jnp.where(q < _TINY, 1.0, value(away))

    @jax.custom_jvp
    def slope(q: jax.Array) -> jax.Array:
        # The same guard as above, so that the compiler finds the transcendental function once.
        away = jnp.where(q < _TINY, 1.0, q)
        return jnp.where(series.holds(q), series.slope(q), closed_slope(away))

    def smooth_slope(q: jax.Array) -> jax.Array:
        holds = series.holds(q)
        return jnp.where(holds, series.slope(q), closed_slope(jnp.where(holds, 1.0, q)))

    @function.defjvp
    def _function_jvp(primals, tangents):
        (q,), (dq,) = primals, tangents
        return function(q), slope(q) * dq

    @slope.defjvp
    def _slope_jvp(primals, tangents):
        return slope(*primals), jax.jvp(smooth_slope, primals, tangents)[1]

    return function


def _checked(name: str, value: jax.Array) -> jax.Array:
    value = jnp.asarray(value)
    if value.dtype not in (jnp.float32, jnp.float64):
        raise ValueError(
            f"{name} has dtype {value.dtype}; these functions take float32 or float64: convert "
            "first, half precision has too few digits for them"
        )
    return value


def _tanh_coefficients(count: int) -> list[float]:
    # tanh' = 1 - tanh^2, term by term; all products of one power have the same sign.
    found = [1.0]
    for k in range(1, count):
        found.append(-sum(found[i] * found[k - 1 - i] for i in range(k)) / (2 * k + 1))
    return found


def _cosh(s: jax.Array) -> jax.Array:
    power = jnp.exp(s)
    return 0.5 * (power + 1.0 / power)


def _sinh(s: jax.Array) -> jax.Array:
    power = jnp.exp(s)
    return 0.5 * (power - 1.0 / power)


def _atanhc_value(q: jax.Array) -> jax.Array:
    s = jnp.sqrt(q)
    # 1 - s = (1 - q)/(1 + s), where 1 - q is exact.
    return 0.5 * jnp.log1p(2.0 * s * (1.0 + s) / (1.0 - q)) / s


def _asinhc_value(q: jax.Array) -> jax.Array:
    s = jnp.sqrt(q)
    return jnp.log1p(s + q / (1.0 + jnp.sqrt(1.0 + q))) / s


_SINH_SERIES = _Series([1 / math.factorial(2 * k + 1) for k in range(13)], (2.0, 2.0), (8, 12))
_ASINH_SERIES = [math.comb(2 * k, k) / ((-4.0) ** k * (2 * k + 1)) for k in range(15)]

_tanhc = _even(
    lambda q: jnp.tanh(jnp.sqrt(q)) / jnp.sqrt(q),
    lambda q: 1.0 - jnp.tanh(jnp.sqrt(q)) ** 2,
    _Series(_tanh_coefficients(15), (0.5, 0.05), (14, 13)),
)
_atanhc = _even(
    _atanhc_value,
    lambda q: 1.0 / (1.0 - q),
    _Series([1 / (2 * k + 1) for k in range(15)], (0.25, 0.05), (14, 13)),
)
_asinhc = _even(
    _asinhc_value,
    lambda q: 1.0 / jnp.sqrt(1.0 + q),
    _Series(_ASINH_SERIES, (0.25, 0.05), (13, 13)),
)
_sinhc = _even(
    lambda q: _sinh(jnp.sqrt(q)) / jnp.sqrt(q),
    lambda q: _cosh(jnp.sqrt(q)),
    _SINH_SERIES,
    cancels=True,
)


def tanhc(q: jax.Array) -> jax.Array:
    """Computes tanh(sqrt q) / sqrt q, the scale of the exponential map at 0.

    1 - q/3 + 2 q^2/15 - ...; exp_0(v) = v tanhc(c|v|^2)

    Args:
      q: squared argument >= 0, float32 or float64, any shape.

    Returns:
      The shape and dtype of `q`, in (0, 1].

    Raises:
      ValueError: half precision or an integer.

    Example:
      >>> print(f"{tanhc(1.0):.4f}, slope at 0: {jax.grad(tanhc)(0.0):.4f}")
      0.7616, slope at 0: -0.3333
    """
    return _tanhc(_checked("q", q))


def atanhc(q: jax.Array) -> jax.Array:
    """Computes atanh(sqrt q) / sqrt q, the scale of the logarithm at 0.

    1 + q/3 + q^2/5 + ...; log_0(y) = y atanhc(c|y|^2)

    Args:
      q: squared argument in [0, 1), float32 or float64, any shape. From 1 on the result is inf or
        NaN: project points into the ball first.

    Returns:
      The shape and dtype of `q`, at least 1.

    Raises:
      ValueError: half precision or an integer.

    Example:
      >>> print(f"{atanhc(0.25):.4f}, slope at 0: {jax.grad(atanhc)(0.0):.4f}")
      1.0986, slope at 0: 0.3333
    """
    return _atanhc(_checked("q", q))


def asinhc(q: jax.Array) -> jax.Array:
    """Computes asinh(sqrt q) / sqrt q.

    1 - q/6 + 3 q^2/40 - ...

    Args:
      q: squared argument >= 0, finite, float32 or float64, any shape.

    Returns:
      The shape and dtype of `q`, in (0, 1].

    Raises:
      ValueError: half precision or an integer.

    Example:
      >>> print(f"{asinhc(1.0):.4f}, slope at 0: {jax.grad(asinhc)(0.0):.4f}")
      0.8814, slope at 0: -0.1667
    """
    return _asinhc(_checked("q", q))


def sinhc(q: jax.Array) -> jax.Array:
    """Computes sinh(sqrt q) / sqrt q.

    1 + q/6 + q^2/120 + ...

    Args:
      q: squared argument >= 0, float32 or float64, any shape. Beyond sqrt q = 88 in float32 (709
        in float64) exp overflows and the result is inf: the caller bounds q.

    Returns:
      The shape and dtype of `q`, at least 1.

    Raises:
      ValueError: half precision or an integer.

    Example:
      >>> print(f"{sinhc(1.0):.4f}, slope at 0: {jax.grad(sinhc)(0.0):.4f}")
      1.1752, slope at 0: 0.1667
    """
    return _sinhc(_checked("q", q))


@jax.custom_jvp
def _cosh_sqrt(q: jax.Array) -> jax.Array:
    return _cosh(jnp.sqrt(jnp.where(q < _TINY, 0.0, q)))


@_cosh_sqrt.defjvp
def _cosh_sqrt_jvp(primals, tangents):
    (q,), (dq,) = primals, tangents
    return _cosh_sqrt(q), 0.5 * _sinhc(q) * dq


def cosh_sqrt(q: jax.Array) -> jax.Array:
    """Computes cosh(sqrt q); its derivative is sinhc(q)/2.

    1 + q/2 + q^2/24 + ...

    Args:
      q: squared argument >= 0, float32 or float64, any shape. Beyond sqrt q = 88 in float32 (709
        in float64) exp overflows and the result is inf: the caller bounds q.

    Returns:
      The shape and dtype of `q`, at least 1.

    Raises:
      ValueError: half precision or an integer.

    Example:
      >>> print(f"{cosh_sqrt(1.0):.4f}, slope at 0: {jax.grad(cosh_sqrt)(0.0):.4f}")
      1.5431, slope at 0: 0.5000
    """
    return _cosh_sqrt(_checked("q", q))


@jax.custom_jvp
def _cosh_and_sinhc(q: jax.Array) -> tuple[jax.Array, jax.Array]:
    is_tiny = q < _TINY
    s = jnp.sqrt(jnp.where(is_tiny, 1.0, q))
    power = jnp.exp(s)
    cosh = jnp.where(is_tiny, 1.0, 0.5 * (power + 1.0 / power))
    far = 0.5 * (power - 1.0 / power) / s
    return cosh, jnp.where(_SINH_SERIES.holds(q), _SINH_SERIES.value(q), far)


@_cosh_and_sinhc.defjvp
def _cosh_and_sinhc_jvp(primals, tangents):
    (q,), (dq,) = primals, tangents
    cosh, sinhc = _cosh_and_sinhc(q)
    holds = _SINH_SERIES.holds(q)
    slope = jnp.where(
        holds, _SINH_SERIES.slope(q), (cosh - sinhc) / (2.0 * jnp.where(holds, 1.0, q))
    )
    return (cosh, sinhc), (0.5 * sinhc * dq, slope * dq)


def cosh_and_sinhc(q: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Computes `cosh_sqrt(q)` and `sinhc(q)` with one exponential.

    Args:
      q: squared argument >= 0, float32 or float64, any shape. Beyond sqrt q = 88 in float32 (709
        in float64) exp overflows and the results are inf: the caller bounds q.

    Returns:
      cosh(sqrt q) and sinh(sqrt q) / sqrt q.

    Raises:
      ValueError: half precision or an integer.

    Example:
      >>> print(*(f"{y:.4f}" for y in cosh_and_sinhc(1.0)))
      1.5431 1.1752
    """
    return _cosh_and_sinhc(_checked("q", q))


@jax.custom_jvp
def _asinh(a: jax.Array) -> jax.Array:
    size = jnp.abs(a)
    bounded = jnp.minimum(size, _LARGE)
    log = jnp.log1p(size + size * (bounded / (1.0 + jnp.sqrt(1.0 + bounded * bounded))))
    return jnp.where(a < 0.0, -log, log)


@_asinh.defjvp
def _asinh_jvp(primals, tangents):
    (a,), (da,) = primals, tangents
    is_large = jnp.abs(a) > _LARGE
    bounded = jnp.where(is_large, 1.0, a)
    far = 1.0 / jnp.where(is_large, jnp.abs(a), 1.0)
    return _asinh(a), jnp.where(is_large, far, 1.0 / jnp.sqrt(1.0 + bounded * bounded)) * da


def asinh(a: jax.Array) -> jax.Array:
    """Computes the inverse hyperbolic sine with one logarithm, for arguments of any size.

    sign(a) log1p(|a| + a^2/(1 + sqrt(1 + a^2)))

    Args:
      a: float32 or float64, any shape, up to half of the dtype's largest number.

    Returns:
      The shape and dtype of `a`; odd, and accurate relative to itself for tiny `a` too.

    Raises:
      ValueError: half precision or an integer.

    Example:
      >>> print(asinh(jnp.array([-1.0, 0.0, 1e30])).round(4))
      [-0.8814  0.     69.7707]
    """
    return _asinh(_checked("a", a))


@jax.custom_jvp
def _sinh_odd(p: jax.Array) -> jax.Array:
    size = jnp.abs(p)
    near = p * _SINH_SERIES.value(jnp.minimum(size * size, 1.0))
    far = _sinh(size)
    return jnp.where(size < 1.0, near, jnp.where(p < 0.0, -far, far))


@_sinh_odd.defjvp
def _sinh_odd_jvp(primals, tangents):
    (p,), (dp,) = primals, tangents
    return _sinh_odd(p), _cosh_even(p) * dp


@jax.custom_jvp
def _cosh_even(p: jax.Array) -> jax.Array:
    return _cosh(jnp.abs(p))


@_cosh_even.defjvp
def _cosh_even_jvp(primals, tangents):
    (p,), (dp,) = primals, tangents
    return _cosh_even(p), _sinh_odd(p) * dp


def sinh(p: jax.Array) -> jax.Array:
    """Computes the hyperbolic sine with one exponential.

    (e^p - e^-p)/2, by its Taylor series for |p| < 1

    Args:
      p: float32 or float64, any shape. Beyond |p| = 88 in float32 (709 in float64) exp overflows
        and the result is inf: the caller bounds p.

    Returns:
      The shape and dtype of `p`; odd, and accurate relative to itself for tiny `p` too.

    Raises:
      ValueError: half precision or an integer.

    Example:
      >>> print(sinh(jnp.array([-1.0, 0.0, 2.0])).round(4))
      [-1.1752  0.      3.6269]
    """
    return _sinh_odd(_checked("p", p))
