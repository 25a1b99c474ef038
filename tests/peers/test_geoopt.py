"""The Poincare ball against geoopt, values and gradients."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from trove_jax.geometry import poincare

torch = pytest.importorskip("torch", reason="needs the extra bench")
math = pytest.importorskip("geoopt.manifolds.stereographic.math", reason="needs the extra bench")

C = 0.6
N, D = 40, 6
# Points reach 0.9 of the radius: float32 has 6e-8/(1 - 0.81) there, a few times over, and geoopt,
# which subtracts c^2 |x|^2 |y|^2 from 2c<x,y>, several times that. Gradients divide once more.
TOLERANCE = {"float64": (1e-9, 1e-9), "float32": (2e-5, 2e-4)}


# name -> ours, geoopt's, and the operands: p points, v tangent vectors
OPERATIONS = {
    "conformal": (poincare.conformal, math.lambda_x, "p"),
    "dist": (poincare.dist, math.dist, "pp"),
    "expmap": (poincare.expmap, math.expmap, "pv"),
    "expmap0": (poincare.expmap0, math.expmap0, "v"),
    "gyration": (poincare.gyration, math.gyration, "ppv"),
    "logmap": (poincare.logmap, math.logmap, "pp"),
    "logmap0": (poincare.logmap0, math.logmap0, "p"),
    "midpoint": (poincare.midpoint, math.weighted_midpoint, "p"),
    "mobius_add": (poincare.mobius_add, math.mobius_add, "pp"),
    "mobius_scale": (
        lambda x, **options: poincare.mobius_scale(-1.7, x, **options),
        lambda x, k: math.mobius_scalar_mul(torch.tensor(-1.7, dtype=x.dtype), x, k=k),
        "p",
    ),
    "project": (
        lambda x, **options: poincare.project(3 * x, **options),
        lambda x, k: math.project(3 * x, k=k),
        "p",
    ),
    "transport": (poincare.transport, math.parallel_transport, "ppv"),
}


def draw(kind, seed):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(N, D))
    x *= rng.uniform(0.01, 0.9, size=(N, 1)) / np.linalg.norm(x, axis=-1, keepdims=True)
    # Tangent vectors that lead no further than the points lie.
    return x / np.sqrt(C) if kind == "p" else 0.3 * x


def ours(function, operands, dtype):
    @jax.jit
    def both(c, *operands):
        value, pull = jax.vjp(lambda c, *a: function(*a, curvature=c), c, *operands)
        u = jnp.cos(jnp.arange(value.size, dtype=value.dtype)).reshape(value.shape)
        return value, pull(u)

    value, gradients = both(jnp.asarray(C, dtype), *(jnp.asarray(a, dtype) for a in operands))
    return np.asarray(value), [np.asarray(g) for g in gradients]


def theirs(function, operands, dtype):
    kind = getattr(torch, dtype)
    c = torch.tensor(C, dtype=kind, requires_grad=True)
    operands = [torch.tensor(a, dtype=kind, requires_grad=True) for a in operands]
    value = function(*operands, k=-c)
    u = torch.cos(torch.arange(value.numel(), dtype=kind)).reshape(value.shape)
    gradients = torch.autograd.grad(value, [c, *operands], u)
    return value.detach().numpy(), [g.numpy() for g in gradients]


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("name", OPERATIONS)
def test_equals_geoopt(name, dtype):
    function, peer, kinds = OPERATIONS[name]
    operands = [draw(kind, seed) for seed, kind in enumerate(kinds)]
    of_value, of_gradient = TOLERANCE[dtype]
    with jax.enable_x64(dtype == "float64"):
        value, gradients = ours(function, operands, dtype)
    want, wanted = theirs(peer, operands, dtype)
    assert value.dtype == want.dtype == dtype
    np.testing.assert_allclose(value, want, rtol=of_value, atol=of_value * np.abs(want).max())
    for got, want in zip(gradients, wanted, strict=True):
        slack = of_gradient * np.abs(want).max()
        np.testing.assert_allclose(got, want, rtol=of_gradient, atol=slack)


@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_scores_are_distances_to_geoopt_planes(dtype):
    x, z, r = draw("p", 0), draw("v", 1)[:4], np.array([0.2, -0.4, 0.0, 0.3])
    with jax.enable_x64(dtype == "float64"):
        got = poincare.mlr(
            *(jnp.asarray(a, dtype) for a in (x, z.T, r)), curvature=jnp.asarray(C, dtype)
        )
        got = np.asarray(got)
    kind = getattr(torch, dtype)
    k = torch.tensor(-C, dtype=kind)
    x, z, r = (torch.tensor(a, dtype=kind) for a in (x, z, r))
    norms = z.norm(dim=-1)
    through = math.expmap0(r[:, None] * z / norms[:, None], k=k)
    distances = math.dist2plane(x[:, None], through[None], z[None], k=k, signed=True)
    want, tolerance = (2 * norms * distances).numpy(), TOLERANCE[dtype][0]
    np.testing.assert_allclose(got, want, rtol=tolerance, atol=tolerance)
