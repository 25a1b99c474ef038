"""Riemannian Adam against NumPy, on a problem of known solution, and under isometries."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from trove_jax import core
from trove_jax.geometry import poincare
from trove_jax.transforms import RiemannianAdamState, riemannian_adam


@pytest.fixture(autouse=True)
def standard_promotion():
    # optax's own code mixes dtypes.
    with jax.numpy_dtype_promotion("standard"):
        yield


def _is_points(path, leaf):
    return path == "points"


def _points(seed=0, n=5, d=3, c=1.0, reach=0.9):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, d))
    x *= rng.uniform(0.05, reach, (n, 1)) / np.linalg.norm(x, axis=1, keepdims=True)
    return x / np.sqrt(c)


def _states(state):
    nodes = jax.tree.leaves(state, is_leaf=lambda node: isinstance(node, RiemannianAdamState))
    return [node for node in nodes if isinstance(node, RiemannianAdamState)]


def _run(tx, params, gradients):
    """All updates in one compiled loop; `gradients(params, i)`."""

    def body(carry, i):
        params, state = carry
        updates, state = tx.update(gradients(params, i), state, params)
        params = optax.apply_updates(params, updates)
        return (params, state), params

    return jax.jit(
        lambda params, steps: jax.lax.scan(body, (params, tx.init(params)), steps)[1],
    )


def _add(x, y, c):
    xy, xx, yy = (np.sum(a * b, axis=-1, keepdims=True) for a, b in ((x, y), (x, x), (y, y)))
    top = (1 + 2 * c * xy + c * yy) * x + (1 - c * xx) * y
    return top / (1 + 2 * c * xy + c**2 * xx * yy)


def _numpy_adam(x, gradients, *, rate, b1, b2, eps, c):
    """The rule as the paper has it; transport through gyr[y, -x] w = -(y - x) + (y + (-x + w))."""
    root = np.sqrt(c)
    m, v, path = np.zeros_like(x), np.zeros((len(x), 1)), []
    for t, g in enumerate(gradients, start=1):
        stretch = 2 / (1 - c * np.sum(x * x, axis=-1, keepdims=True))
        r = g / stretch**2
        m = b1 * m + (1 - b1) * r
        v = b2 * v + (1 - b2) * stretch**2 * np.sum(r * r, axis=-1, keepdims=True)
        way = -rate * m / (1 - b1**t) / (np.sqrt(v / (1 - b2**t)) + eps)
        length = np.linalg.norm(way, axis=-1, keepdims=True)
        y = _add(x, np.tanh(root * stretch * length / 2) * way / (root * length), c)
        after = 2 / (1 - c * np.sum(y * y, axis=-1, keepdims=True))
        # A gyration is linear: small enough, its argument is in the ball.
        small = m * (0.1 / root) / np.linalg.norm(m, axis=-1, keepdims=True).max()
        turned = _add(-_add(y, -x, c), _add(y, _add(-x, small, c), c), c)
        m = stretch / after * turned * (np.linalg.norm(m, axis=-1).max() * root / 0.1)
        x = y
        path.append(x)
    return np.stack(path)


@pytest.mark.parametrize("c", [0.3, 1.7])
def test_equal_to_numpy_in_float64(c):
    rng = np.random.default_rng(1)
    x, gradients = (
        _points(c=c),
        rng.normal(size=(25, 5, 3)) * 10.0 ** rng.integers(-3, 3, (1, 5, 1)),
    )
    options = {"b1": 0.8, "b2": 0.95, "eps": 1e-6}
    want = _numpy_adam(x, gradients, rate=0.1, c=c, **options)
    with jax.enable_x64(True):
        tx = riemannian_adam(0.1, is_ball=_is_points, curvature=c, **options)
        held = jnp.asarray(gradients)
        got = _run(tx, {"points": jnp.asarray(x)}, lambda _, i: {"points": held[i]})(
            {"points": jnp.asarray(x)}, jnp.arange(25)
        )["points"]
    np.testing.assert_allclose(got, want, rtol=1e-10, atol=1e-12)


def test_other_leaves_get_plain_adam():
    rng = np.random.default_rng(2)
    params = {"points": jnp.asarray(_points(), jnp.float32), "w": jnp.ones((4, 3))}
    gradients = jnp.asarray(rng.normal(size=(6, 4, 3)), jnp.float32)
    tx = riemannian_adam(0.03, is_ball=_is_points, b1=0.7)
    both = _run(tx, params, lambda p, i: {"points": 0 * p["points"], "w": gradients[i]})(
        params, jnp.arange(6)
    )
    alone = _run(optax.adam(0.03, b1=0.7), params["w"], lambda _, i: gradients[i])(
        params["w"], jnp.arange(6)
    )
    # The same operations; XLA joins products and sums differently in different programs.
    np.testing.assert_allclose(both["w"], alone, rtol=3e-7)
    np.testing.assert_array_equal(both["points"][-1], params["points"])


@pytest.mark.parametrize("c", [0.1, 1.0])
def test_it_finds_the_frechet_mean(c):
    targets = jnp.asarray(_points(3, n=12, c=c), jnp.float32)
    start = {"points": jnp.asarray(_points(4, n=1, c=c)[0], jnp.float32)}

    def gradient(params, i):
        def loss(p):
            return jnp.mean(poincare.dist(p["points"], targets, curvature=c) ** 2)

        return jax.grad(loss)(params)

    rate = optax.exponential_decay(0.3 / np.sqrt(c), 20, 0.7)
    tx = riemannian_adam(rate, is_ball=_is_points, curvature=c, b2=0.9)
    found = _run(tx, start, gradient)(start, jnp.arange(300))["points"][-1]
    want = poincare.frechet_mean(targets, curvature=c)
    assert float(poincare.dist(start["points"], want, curvature=c)) > 0.3
    # The rate has fallen to 0.005 of its start; float32 gradients of a flat minimum end there.
    assert float(poincare.dist(found, want, curvature=c)) < 2e-3


def test_isometries_of_the_ball_carry_one_run_into_the_other():
    # b + x is an isometry: the same problem seen from b must give the same steps seen from b.
    c, seen_from = 0.5, jnp.array([0.4, -0.5, 0.2])
    x, target = (jnp.asarray(_points(s, c=c, reach=0.6), jnp.float32) for s in (5, 6))

    def run(x, target):
        def gradient(params, i):
            return jax.grad(
                lambda p: jnp.sum(poincare.dist(p["points"], target, curvature=c) ** 2)
            )(params)

        tx = riemannian_adam(0.1, is_ball=_is_points, curvature=c)
        return _run(tx, {"points": x}, gradient)({"points": x}, jnp.arange(15))["points"]

    def move(x):
        return poincare.mobius_add(seen_from, x, curvature=c)

    # Float32 near the boundary: 1 - c|x|^2 is down to 0.06 there, digits are lost 16 times over.
    np.testing.assert_allclose(run(move(x), move(target)), move(run(x, target)), atol=2e-4)


def test_points_never_leave_the_ball():
    c = 2.0
    outward = jnp.asarray(_points(7, n=6, c=c), jnp.float32)
    tx = riemannian_adam(2.0, is_ball=_is_points, curvature=c)
    scale = jnp.logspace(-12, 12, 6)[:, None]
    path = _run(tx, {"points": outward}, lambda p, i: {"points": -scale * p["points"]})(
        {"points": outward}, jnp.arange(60)
    )["points"]
    assert bool(jnp.isfinite(path).all())
    radii = np.sqrt(c) * np.linalg.norm(np.asarray(path, np.float64), axis=-1)
    limit = 1 - poincare.boundary_eps(jnp.float32)
    # One rounding of x + (x' - x), and those of the projection itself.
    assert radii.max() < limit + 4 * 2**-24
    assert radii[-1, 1:].min() > limit - 1e-3, "the test must reach the boundary"


def test_the_difference_lands_on_the_point():
    x = jnp.asarray(_points(8, n=50), jnp.float32)
    gradient = jnp.asarray(np.random.default_rng(9).normal(size=x.shape), jnp.float32)
    tx = riemannian_adam(0.2, is_ball={"points": True})
    updates, _ = tx.update({"points": gradient}, tx.init({"points": x}), {"points": x})
    moved = optax.apply_updates({"points": x}, updates)["points"]
    way = -0.2 * gradient / jnp.linalg.norm(gradient, axis=1, keepdims=True)
    want = poincare.expmap(x, way / poincare.conformal(x)[:, None])
    np.testing.assert_allclose(moved, want, atol=4 * 2**-24)
    np.testing.assert_allclose(poincare.dist(x, moved), 0.2, rtol=1e-4)


def test_seeds_side_by_side_equal_seeds_one_by_one():
    points = jnp.stack([jnp.asarray(_points(s), jnp.float32) for s in (10, 11)])
    gradients = jnp.asarray(np.random.default_rng(12).normal(size=(4, *points.shape)), jnp.float32)
    tx = riemannian_adam(0.1, is_ball=_is_points)

    def run(x, g):
        return _run(tx, {"points": x}, lambda _, i: {"points": g[i]})({"points": x}, jnp.arange(4))

    together = jax.vmap(run, in_axes=(0, 1))(points, gradients)["points"]
    for s in range(2):
        alone = run(points[s], gradients[:, s])["points"]
        np.testing.assert_allclose(together[s], alone, rtol=1e-6, atol=1e-7)


def test_points_on_two_devices_move_as_on_one():
    x = {"points": jnp.asarray(_points(13, n=8), jnp.float32)}
    gradient = jax.tree.map(jnp.cos, x)
    tx = riemannian_adam(0.1, is_ball=_is_points)

    def two_steps(x, gradient):
        state = tx.init(x)
        for _ in range(2):
            updates, state = tx.update(gradient, state, x)
            x = optax.apply_updates(x, updates)
        return x, state

    want, _ = jax.jit(two_steps)(x, gradient)
    rows = NamedSharding(core.make_mesh({"data": 2}), PartitionSpec("data"))
    got, state = jax.jit(two_steps)(*jax.device_put((x, gradient), rows))
    np.testing.assert_allclose(got["points"], want["points"], rtol=1e-6, atol=1e-7)
    assert got["points"].sharding.is_equivalent_to(rows, 2)
    (ball,) = _states(state)
    assert ball.mu["points"].sharding.is_equivalent_to(rows, 2)
    assert ball.nu["points"].shape == (8, 1)
    assert int(ball.count) == 2


def test_it_trains_in_the_common_loop_with_its_rate_in_the_state():
    targets = jnp.asarray(_points(14, n=4, d=2), jnp.float32)

    def init(key):
        return {"params": {"points": 0.1 * jax.random.normal(key, (4, 2))}}

    def loss(variables, batch, key, step):
        way = poincare.dist(variables["params"]["points"], batch.shared["targets"])
        return jnp.mean(way**2), core.Aux()

    task = core.Task(init, loss, lambda variables, data: {})
    tx = optax.inject_hyperparams(riemannian_adam, static_args=("is_ball",))(
        learning_rate=0.1, is_ball=lambda path, leaf: path.endswith("points")
    )
    data = core.Data({"x": jnp.zeros((2, 1))}, shared={"targets": targets})
    state, _ = core.train_seeds(task, tx, data, core.seed_keys(2), steps=150, batch_size=None)
    way = poincare.dist(state.variables["params"]["points"], targets[None])
    assert way.shape == (2, 4)
    assert float(way.max()) < 0.05


@pytest.mark.parametrize(
    ("leaf", "message"),
    [
        (jnp.array([[0.9, 0.9], [0.1, 0.0]]), "'points'.*1 of 2 points .*largest.*1.27.*project"),
        (jnp.array([[0.0, jnp.nan]]), "'points'.*1 of 1 points of x hold NaN"),
        (jnp.zeros((2, 2), jnp.bfloat16), "'points'.*bfloat16"),
        (jnp.zeros((2, 2), jnp.int32), "'points'.*int32"),
        (jnp.zeros(()), r"'points'.*\[\.\.\., d\]"),
    ],
)
def test_what_is_no_point_of_the_ball_is_refused(leaf, message):
    tx = riemannian_adam(0.1, is_ball=_is_points)
    with pytest.raises(ValueError, match=f"is_ball chooses {message}.*let is_ball be false"):
        tx.init({"points": leaf, "w": jnp.ones(3)})
    riemannian_adam(0.1, is_ball=lambda path, _: path == "other").init(
        {"other": jnp.zeros(2), "points": leaf}
    )


def test_points_outside_that_are_only_seen_compiled_come_back():
    x = {"points": jnp.array([[0.9, 0.9], [0.0, 0.999]])}
    tx = riemannian_adam(0.0, is_ball=_is_points)
    updates, _ = jax.jit(lambda x: tx.update(jax.tree.map(jnp.ones_like, x), tx.init(x), x))(x)
    moved = optax.apply_updates(x, updates)["points"]
    np.testing.assert_allclose(moved, poincare.project(x["points"]), atol=1e-6)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"b1": 1.0}, r"b1=1.0 is outside \[0, 1\)"),
        ({"b2": -0.1}, "b2=-0.1 is outside"),
        ({"eps": -1e-8}, "eps=-1e-08 must be finite and not negative"),
        ({"learning_rate": -0.1}, "learning_rate=-0.1 must be"),
        ({"curvature": 0.0}, "curvature=0.0 must be a finite number above 0"),
    ],
)
def test_bad_options_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        riemannian_adam(**{"learning_rate": 0.1, "is_ball": _is_points} | options)


def test_a_choice_of_nothing_and_a_step_without_points_are_refused():
    tx = riemannian_adam(0.1, is_ball=lambda path, leaf: False)
    with pytest.raises(ValueError, match="is_ball chooses no parameter"):
        tx.init({"w": jnp.ones(3)})
    tx = riemannian_adam(0.1, is_ball=_is_points)
    params = {"points": jnp.zeros((2, 3))}
    with pytest.raises(ValueError, match="params=None: a step on the ball"):
        tx.update(params, tx.init(params))
