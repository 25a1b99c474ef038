"""Riemannian Adam against geoopt's, in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from trove_jax.geometry import poincare
from trove_jax.transforms import riemannian_adam

torch = pytest.importorskip("torch", reason="needs the extra bench")
geoopt = pytest.importorskip("geoopt", reason="needs the extra bench")


def _points(rng, c, n=6, d=4):
    x = rng.normal(size=(n, d))
    return x * rng.uniform(0.01, 0.95, (n, 1)) / np.linalg.norm(x, axis=1, keepdims=True) / c**0.5


def _theirs(x, w, targets, c, steps, rate, weight_decay):
    # The exact ball walks along geodesics; `PoincareBall` itself replaces them by straight lines.
    ball = geoopt.PoincareBallExact(c=torch.tensor(c, dtype=torch.float64))
    points = geoopt.ManifoldParameter(torch.tensor(x), manifold=ball)
    plain = torch.nn.Parameter(torch.tensor(w))
    optimiser = geoopt.optim.RiemannianAdam(
        [points, plain], lr=rate, betas=(0.9, 0.99), eps=1e-8, weight_decay=weight_decay
    )
    path = []
    for _ in range(steps):
        optimiser.zero_grad()
        way = ball.dist(points, torch.tensor(targets))
        ((way**2).sum() + (plain * points).sum()).backward()
        optimiser.step()
        path.append((points.detach().numpy().copy(), plain.detach().numpy().copy()))
    return (np.stack(column) for column in zip(*path, strict=True))


def _ours(x, w, targets, c, steps, rate, weight_decay):
    tx = optax.chain(
        optax.add_decayed_weights(weight_decay),
        riemannian_adam(rate, is_ball=lambda path, _: path == "points", b2=0.99, curvature=c),
    )

    def loss(p):
        way = poincare.dist(p["points"], jnp.asarray(targets), curvature=c)
        return jnp.sum(way**2) + jnp.sum(p["plain"] * p["points"])

    def body(carry, _):
        params, state = carry
        updates, state = tx.update(jax.grad(loss)(params), state, params)
        params = optax.apply_updates(params, updates)
        return (params, state), params

    params = {"points": jnp.asarray(x), "plain": jnp.asarray(w)}
    start = (params, tx.init(params))
    path = jax.jit(lambda start: jax.lax.scan(body, start, None, length=steps)[1])(start)
    return path["points"], path["plain"]


@pytest.mark.parametrize(("c", "weight_decay"), [(0.1, 0.0), (1.0, 1e-2), (3.0, 0.0)])
def test_the_whole_path_is_geoopts(c, weight_decay):
    rng = np.random.default_rng(0)
    x, targets, w = _points(rng, c), _points(rng, c), rng.normal(size=(6, 4))
    want_points, want_plain = _theirs(x, w, targets, c, 40, 0.05, weight_decay)
    with jax.enable_x64(True), jax.numpy_dtype_promotion("standard"):
        points, plain = _ours(x, w, targets, c, 40, 0.05, weight_decay)
        assert points.dtype == jnp.float64
    assert np.abs(want_points[-1] - x).max() > 0.05
    # geoopt's artanh and norms are clipped at 1e-15; rounding grows along 40 steps.
    np.testing.assert_allclose(points, want_points, atol=1e-9)
    np.testing.assert_allclose(plain, want_plain, atol=1e-9)
