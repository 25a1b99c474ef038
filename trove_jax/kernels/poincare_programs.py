"""The row programs of a Poincare network, on tangent vectors at 0.

Between layers a point x of the ball is its tangent vector v = log_0(x), which keeps its digits at
any radius and in any dtype. What a layer does to a row is then one program of `fused_rows`: the
part of a convolution behind its linear map, the moments of a batch, the normalisation, a sum.

Inside, a point is on the hyperboloid, where its coordinates are

    s = sinh(2C|v|)/(2C|v|) v,   t = cosh(2C|v|) = sqrt(1 + 4c|s|^2),   C = sqrt(c),

the inverse map is v = asinh(2C|s|)/(2C|s|) s, a midpoint is a sum, and a translation m (+) x, of
which the gyrovector formulas are rational functions, is linear in (s, t). What depends on the
shared point alone is worked out before the rows. Rounding errors grow with cosh(2C|m|)
cosh(2C|v|), as they do of any coordinates; nothing overflows.

Vectors longer than `largest_norm` are shortened to it, as a projection into the ball by the
published radius does; the gradient is that of the projection.

Reference: van Spengler et al., Poincare ResNet, ICCV 2023; Shimizu et al., Hyperbolic Neural
Networks++, ICLR 2021; Law et al., Lorentzian Distance Learning, ICML 2019.
"""

import dataclasses
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from trove_jax.kernels.gyro import boundary_eps
from trove_jax.kernels.hyperbolic_functions import asinh, asinhc, cosh_and_sinhc, sinhc, tanhc


def _shortening(q: jax.Array, c: jax.Array) -> jax.Array:
    """What brings a tangent vector of squared norm q to the largest norm, at most 1."""
    most = math.atanh(1.0 - boundary_eps(q.dtype))
    return jnp.minimum(most * lax.rsqrt(jnp.maximum(c * q, 0.25 * most * most)), 1.0)


def _clipped(q: jax.Array, c: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The factor that brings a tangent vector into the ball, and its squared norm then."""
    scale = _shortening(q, c)
    return scale, scale * scale * q


@jax.custom_jvp
def _scaled_sinh(p: jax.Array, shift: jax.Array) -> jax.Array:
    """e^-shift sinh(p), accurate relative to itself where shift is 0; shift is held constant."""
    return _scaled_sinh_and_slope(p, shift)[0]


@_scaled_sinh.defjvp
def _scaled_sinh_jvp(primals, tangents):
    value, slope = _scaled_sinh_and_slope(*primals)
    return value, slope * tangents[0]


def _scaled_sinh_and_slope(p, shift):
    size = jnp.abs(p)
    power = jnp.exp(size - shift)
    inverse = jnp.exp(-2.0 * shift) / power
    far = jnp.copysign(0.5 * (power - inverse), p)
    is_near = (size < 0.5) & (shift == 0.0)
    q = p * p
    if p.dtype == jnp.float64:
        near = p * sinhc(q)
    else:
        near = p * (1.0 + q * (1 / 6 + q * (1 / 120 + q * (1 / 5040 + q / 362880))))
    return jnp.where(is_near, near, far), 0.5 * (power + inverse)


def _angles(dot, rows, shared):
    """p_k, C times the signed distances to hyperplanes, and |x|^2 within the ball."""
    (t, q), (s, r, c) = rows, shared
    twice = 2.0 * jnp.sqrt(c)
    scale, q = _clipped(q, c)
    cosh, sinhc = cosh_and_sinhc(4.0 * c * q)
    cosh_r, sinhc_r = cosh_and_sinhc(4.0 * c * r * r)
    alpha = dot.combine((twice * scale * sinhc, -twice * cosh), (t * cosh_r, r * sinhc_r))
    return 2.0 * s * asinh(alpha), q


@dataclasses.dataclass(frozen=True)
class Scores:
    """Signed distances to hyperplanes, times the lengths of their normals."""

    def __call__(self, dot, rows, shared):
        p, _ = _angles(dot, rows, shared)
        return (p / jnp.sqrt(shared[-1]),), ()


@dataclasses.dataclass(frozen=True)
class Epilogue:
    """log_0 FC(exp_0 x) from T = <x, z_k>/|z_k| and q = |x|^2 of the receptive field x."""

    sums: bool

    def __call__(self, dot, rows, shared):
        *hyperplanes, c, steepest, farthest = shared
        p, q = _angles(dot, rows, (*hyperplanes, c))
        twice = 2.0 * jnp.sqrt(c)
        # |p| is at most 4C max(s)|x| + 4C max(s|r|), by the inequality of Cauchy and Schwarz.
        # Where its exponential might overflow, a factor is taken out.
        safe = 300.0 if p.dtype == jnp.float64 else 40.0
        bound = 2.0 * twice * (steepest * jnp.sqrt(q) + farthest)
        shift = lax.stop_gradient(jnp.clip(bound - safe, 0.0, safe))
        h = _scaled_sinh(jnp.clip(p, -2.0 * safe, 2.0 * safe), shift)
        n = dot(h, h)
        is_far = shift > 0.0
        n_far = jnp.where(is_far, n, 1.0)
        far = (shift + 0.5 * jnp.log(4.0 * n_far)) * lax.rsqrt(n_far)
        length = jnp.where(is_far, far, asinhc(jnp.where(is_far, 1.0, n))) / twice
        scale, q = _clipped(length * length * n, c)
        out = dot.combine((length * scale,), (h,))
        if not self.sums:
            return (out,), ()
        cosh, sinhc = cosh_and_sinhc(4.0 * c * q)
        return (out,), (cosh, dot.combine((sinhc,), (out,)))


@dataclasses.dataclass(frozen=True)
class Sums:
    """The coordinates t and s, whose sums give the midpoint."""

    def __call__(self, dot, rows, shared):
        (v,), (c,) = rows, shared
        scale, q = _clipped(dot(v, v), c)
        cosh, sinhc = cosh_and_sinhc(4.0 * c * q)
        return (), (cosh, dot.combine((scale * sinhc,), (v,)))


class Boost(NamedTuple):
    """The translation x -> m (+) x on the hyperboloid, from the tangent vector m.

    s' = s + (bend <s, m> + sinhc t) m,   t' = cosh t + 4c sinhc <s, m>
    """

    cosh: jax.Array  # cosh(2C|m|)
    sinhc: jax.Array  # sinh(2C|m|) / (2C|m|)
    bend: jax.Array  # (cosh(2C|m|) - 1) / |m|^2
    ball: jax.Array  # |exp_0 m| / |m|


def boost_of(q: jax.Array, c: jax.Array) -> Boost:
    """The translation by a point whose tangent vector has the squared norm q."""
    cosh, sinh_by = cosh_and_sinhc(4.0 * c * q)
    return Boost(cosh, sinh_by, 2.0 * c * sinhc(c * q) ** 2.0, tanhc(c * q))


@dataclasses.dataclass(frozen=True)
class Spread:
    """The squared distance to the midpoint with tangent vector m: that of (-m) (+) x to 0."""

    def __call__(self, dot, rows, shared):
        (v,), (m, sinhc_m, bend, c) = rows, shared
        scale, q = _clipped(dot(v, v), c)
        cosh, sinhc = cosh_and_sinhc(4.0 * c * q)
        factor = scale * sinhc
        s = dot.combine((factor, bend * factor * dot(v, m) - sinhc_m * cosh), (v, m))
        n = dot(s, s)
        return (), (4.0 * n * asinhc(4.0 * c * n) ** 2.0,)


@dataclasses.dataclass(frozen=True)
class Normalise:
    """exp_b(k PT_{m->b} log_m(x)), then the ReLU.

    With a = <s, m>, e = <s, b> and t of the row, everything up to the multiplication by k, and
    everything behind it, is linear in (a, e, t); `linear_forms` has the coefficients.
    """

    relu: bool

    def __call__(self, dot, rows, shared):
        (v,) = rows
        m, b, k, c, ta, tt, ma, me, mt, ba, be, bt, oa, oe, ot, b_cosh, b_sinhc = shared
        scale, q = _clipped(dot(v, v), c)
        t, factor = cosh_and_sinhc(4.0 * c * q)
        factor = factor * scale
        a, e = factor * dot(v, m), factor * dot(v, b)
        # (-m) (+) x, on the hyperboloid; then k times its tangent vector, and back.
        squared = jnp.maximum((tt * t + ta * a) ** 2.0 - 1.0, 0.0)
        multiple = k * asinhc(squared)
        squared = 0.25 * multiple * multiple * squared
        scale = _shortening(squared / c, c)
        cosh, sinh_by = cosh_and_sinhc(4.0 * scale * scale * squared)
        multiple = multiple * scale * sinh_by
        # The translation to b, and the tangent vector of the result.
        squared = (b_cosh * cosh + multiple * (oa * a + oe * e + ot * t)) ** 2.0 - 1.0
        squared = jnp.maximum(squared, 0.0)
        length = asinhc(squared)
        length = length * _shortening(0.25 * length * length * squared / c, c)
        multiple = multiple * length
        out = dot.combine(
            (
                multiple * factor,
                multiple * (ma * a + me * e + mt * t),
                multiple * (ba * a + be * e + bt * t) + b_sinhc * length * cosh,
            ),
            (v, m, b),
        )
        return (jnp.maximum(out, 0.0) if self.relu else out,), ()


def linear_forms(m: jax.Array, b: jax.Array, c: jax.Array) -> tuple[jax.Array, ...]:
    """What `Normalise` shares of the points m and b, from their tangent vectors `[d]`."""
    mm, mb, bb = jnp.sum(m * m), jnp.sum(m * b), jnp.sum(b * b)
    from_m, to_b = boost_of(mm, c), boost_of(bb, c)
    # Behind (-m) (+): s' = s + (bend a - sinhc t) m, so <s', m>, <s', b> and t' are, by (a, e, t):
    a, e, t = jnp.eye(3, dtype=m.dtype)
    along = from_m.bend * a - from_m.sinhc * t
    sm, sb = a + mm * along, e + mb * along
    # gyr[b, -m], in the plane of the points b and m of the ball.
    x, y = c * to_b.ball * to_b.ball, c * from_m.ball * from_m.ball
    xy = c * to_b.ball * from_m.ball
    whole = 0.5 - xy * mb + 0.5 * x * y * mm * bb
    by_b = (xy * (2.0 * xy * mb - 1.0) * sm - x * y * mm * sb) / whole
    by_m = along + (xy * sb - x * y * bb * sm) / whole
    turned = e + mb * by_m + bb * by_b
    by_b = by_b + to_b.bend * turned
    time = from_m.cosh * t - 4.0 * c * from_m.sinhc * a
    out_time = 4.0 * c * to_b.sinhc * turned
    return (time[0], time[2], *by_m, *by_b, *out_time, to_b.cosh, to_b.sinhc)


@dataclasses.dataclass(frozen=True)
class Residual:
    """log_0(x (+) y), then the ReLU."""

    relu: bool

    def __call__(self, dot, rows, shared):
        (x, y), (c,) = rows, shared
        scale_x, q = _clipped(dot(x, x), c)
        cosh_x, sinhc_x = cosh_and_sinhc(4.0 * c * q)
        bend = 2.0 * c * sinhc(c * q) ** 2.0
        scale_y, q = _clipped(dot(y, y), c)
        cosh_y, sinhc_y = cosh_and_sinhc(4.0 * c * q)
        inner = scale_x * scale_y * sinhc_y * dot(x, y)
        time = cosh_x * cosh_y + 4.0 * c * sinhc_x * inner
        squared = jnp.maximum(time * time - 1.0, 0.0)
        length = asinhc(squared)
        length = length * _shortening(0.25 * length * length * squared / c, c)
        along = length * scale_x * (bend * inner + sinhc_x * cosh_y)
        out = dot.combine((along, length * scale_y * sinhc_y), (x, y))
        return (jnp.maximum(out, 0.0) if self.relu else out,), ()
