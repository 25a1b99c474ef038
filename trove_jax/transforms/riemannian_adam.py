"""Adam for parameters that are points of the Poincare ball, beside Adam for all others."""

import math
from collections.abc import Callable
from typing import Any, NamedTuple, TypeGuard

import jax
import jax.numpy as jnp
import optax

from trove_jax.geometry import poincare

PyTree = Any
IsBall = Callable[[str, jax.Array], bool]
Scalar = float | jax.Array
Schedule = Callable[[jax.Array], Any]


class RiemannianAdamState(NamedTuple):
    """State of the ball points in `riemannian_adam`.

    Attributes:
      count: updates done, int32 scalar; stays at its largest value instead of wrapping.
      mu: first moments, tangent vectors at the points, `[..., d]` as the points.
      nu: second moments, one number for each point, `[..., 1]`.
    """

    count: jax.Array
    mu: PyTree
    nu: PyTree


def riemannian_adam(
    learning_rate: Scalar | Schedule,
    *,
    is_ball: IsBall | PyTree,
    b1: Scalar = 0.9,
    b2: Scalar = 0.999,
    eps: Scalar = 1e-8,
    curvature: Scalar = 1.0,
) -> optax.GradientTransformationExtraArgs:
    """Adam whose steps on chosen parameters follow geodesics of the Poincare ball.

    r = g / lambda_x^2,  m <- b1 m + (1 - b1) r,  v <- b2 v + (1 - b2) lambda_x^2 |r|^2,
    x' = project(exp_x(-rate m^ / (sqrt(v^) + eps))),  m <- PT_{x -> x'}(m)

    with m^ = m / (1 - b1^t), v^ = v / (1 - b2^t). v is one number for each point: single
    components have no meaning that survives a change of coordinates. Parameters that are not
    chosen get `optax.adam` with the same rate, b1, b2 and eps.

    The update of a point is the difference x' - x, so that `optax.apply_updates` lands on x' to
    one rounding of x, far less than the distance of the largest radius from the boundary. Put
    nothing behind this rule that changes updates (scaling, clipping, averaging: x' would not be
    the point any more); what changes gradients belongs before it. A point whose gradient is 0
    goes on moving with its momentum, as in Adam.

    The gradient is the Euclidean one, as `jax.grad` gives it. Points between the largest radius
    and the boundary are brought back to that radius by their first step. With
    `optax.inject_hyperparams` name `is_ball` in `static_args`.

    Args:
      learning_rate: not negative; number, scalar array or `count -> rate`. The geodesic length of
        a step of a point, as long as its gradients agree.
      is_ball: which parameters are points `[..., d]` of the ball: `(path, leaf) -> bool` with
        names joined by `/`, that looks at path, shape and dtype only; or a tree of booleans with
        the structure (or a prefix) of the parameters.
      b1: in [0, 1).
      b2: in [0, 1).
      eps: added to sqrt(v^); 1e-8, as in Adam.
      curvature: c > 0 of the ball, a number or a scalar array; not trained by this rule.

    Returns:
      A transformation whose `update` needs the parameters. Its state is a pytree of arrays.

    Raises:
      ValueError: b1, b2, eps, a rate or a curvature that is out of range; on `init`: `is_ball`
        chooses nothing, or a leaf that is not float32 or float64 `[..., d]`, or points outside the
        ball (the leaf is named; values are not seen under `jax.jit`, where the first step brings
        them back); on `update`: no parameters.

    Example:
      >>> tx = riemannian_adam(0.1, is_ball=lambda path, leaf: path == "prototypes")
      >>> params = {"prototypes": jnp.array([[0.6, 0.0], [0.0, 0.0]])}
      >>> state = tx.init(params)
      >>> gradient = {"prototypes": jnp.array([[1.0, 0.0], [0.0, 0.0]])}
      >>> with jax.numpy_dtype_promotion("standard"):  # optax mixes dtypes
      ...     updates, state = tx.update(gradient, state, params)
      >>> moved = optax.apply_updates(params, updates)["prototypes"]
      >>> way = poincare.dist(moved, params["prototypes"])
      >>> print([f"{length:.3f}" for length in way.tolist()])
      ['0.100', '0.000']

    Reference: Becigneul and Ganea, Riemannian Adaptive Optimization Methods, ICLR 2019 (section
    4); one second moment for each factor, which here is a point.
    """
    for name, value in (("b1", b1), ("b2", b2)):
        if _is_number(value) and not 0 <= value < 1:
            raise ValueError(f"{name}={value} is outside [0, 1)")
    for name, value in (("learning_rate", learning_rate), ("eps", eps)):
        if _is_number(value) and not 0 <= value < math.inf:
            raise ValueError(f"{name}={value} must be finite and not negative")
    if _is_number(curvature) and not 0 < curvature < math.inf:
        raise ValueError(f"curvature={curvature} must be a finite number above 0")

    def labels(tree: PyTree) -> PyTree:
        if not callable(is_ball):
            return jax.tree.map(lambda chosen: "ball" if chosen else "euclidean", is_ball)
        return jax.tree_util.tree_map_with_path(
            lambda path, leaf: "ball" if is_ball(_name(path), leaf) else "euclidean", tree
        )

    steps: Any = {
        "ball": _ball_adam(learning_rate, b1=b1, b2=b2, eps=eps, curvature=curvature),
        "euclidean": optax.adam(learning_rate, b1=b1, b2=b2, eps=eps),  # type: ignore
    }
    both = optax.multi_transform(steps, labels)

    def update(updates, state, params=None, **extra_args):
        if params is None:
            raise ValueError(
                "params=None: a step on the ball starts from the points; call "
                "update(gradients, state, params)"
            )
        return both.update(updates, state, params, **extra_args)

    return optax.GradientTransformationExtraArgs(both.init, update)


def _ball_adam(
    learning_rate: Scalar | Schedule, *, b1: Scalar, b2: Scalar, eps: Scalar, curvature: Scalar
) -> optax.GradientTransformation:
    """Riemannian Adam of leaves that are all points."""

    def init(params: PyTree) -> RiemannianAdamState:
        leaves, structure = jax.tree_util.tree_flatten_with_path(params)
        if not leaves:
            raise ValueError(
                "is_ball chooses no parameter; want it to be true for at least one leaf, or use "
                "optax.adam"
            )
        for path, x in leaves:
            _check_points(_name(path), x, curvature)
        nu = [jnp.zeros((*x.shape[:-1], 1), x.dtype) for _, x in leaves]
        return RiemannianAdamState(
            count=jnp.zeros((), jnp.int32),
            mu=jax.tree.map(jnp.zeros_like, params),
            nu=jax.tree.unflatten(structure, nu),
        )

    def update(updates, state, params=None):
        rate = learning_rate(state.count) if callable(learning_rate) else learning_rate
        count = jnp.asarray(optax.safe_increment(state.count))
        points, structure = jax.tree.flatten(params)
        moved = []
        for x, g, m, v in zip(
            points, *(jax.tree.leaves(tree) for tree in (updates, state.mu, state.nu)), strict=True
        ):
            first, second, step, floor = (_as(value, x.dtype) for value in (b1, b2, rate, eps))
            stretch = poincare.conformal(x, curvature=curvature)[..., None]
            # |r| at x is |g| / lambda; r itself has one lambda more.
            g = g.astype(x.dtype) / stretch
            m = first * m + (1 - first) * (g / stretch)
            v = second * v + (1 - second) * jnp.sum(g * g, axis=-1, keepdims=True)
            size = jnp.sqrt(v / _unbias(b2, count, x.dtype)) + floor
            way = -step * (m / _unbias(b1, count, x.dtype)) / jnp.where(size > 0, size, 1)
            # A point that stays would otherwise drift by a rounding with every step.
            stays = (way == 0).all(axis=-1, keepdims=True)
            there = jnp.where(
                stays,
                poincare.project(x, curvature=curvature),
                poincare.expmap(x, way, curvature=curvature),
            )
            m = poincare.transport(x, there, m, curvature=curvature)
            moved.append((there - x, m, v))
        change, mu, nu = (
            jax.tree.unflatten(structure, column) for column in zip(*moved, strict=True)
        )
        return change, RiemannianAdamState(count, mu, nu)

    return optax.GradientTransformation(init, update)


def _unbias(decay: Scalar, count: jax.Array, dtype: Any) -> jax.Array:
    """1 - decay^t, without the digits that float32 loses where decay is near 1."""
    if _is_number(decay):
        log = jnp.asarray(math.log(decay) if decay > 0 else -math.inf, dtype)
    else:
        log = jnp.log(_as(decay, dtype))
    return -jnp.expm1(count.astype(dtype) * log)


def _check_points(name: str, x: jax.Array, curvature: Scalar) -> None:
    try:
        jax.eval_shape(lambda x: poincare.project(x, curvature=curvature), x)
        poincare.check_points(x, curvature=curvature)
    except (jax.errors.TracerArrayConversionError, jax.errors.ConcretizationTypeError):
        pass
    except ValueError as error:
        raise ValueError(
            f"is_ball chooses {name!r}, which holds no points of the ball: {error}; for a "
            "Euclidean parameter let is_ball be false"
        ) from error


def _as(value: Any, dtype: Any) -> Any:
    return value if _is_number(value) else jnp.asarray(value).astype(dtype)


def _is_number(value: Any) -> TypeGuard[float]:
    return isinstance(value, float | int)


def _name(path: Any) -> str:
    return jax.tree_util.keystr(path, simple=True, separator="/")
