"""Gaussian gradient noise of decaying variance, as a stage of any optax chain.

The noise of a leaf is a function of the key, the number of the update and the leaf's path, never
of the other leaves: freezing a layer, adding one or pruning one changes nothing elsewhere.
"""

import hashlib
import operator
from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
import optax

from trove_jax.kernels import standard_normal

PyTree = Any
State = TypeVar("State")


class GradientNoiseState(NamedTuple):
    """State of `gradient_noise`.

    Attributes:
      count: updates done, int32 scalar; stays at its largest value instead of wrapping.
      key: typed random key, scalar; the same through all updates.
    """

    count: jax.Array
    key: jax.Array


def gradient_noise(
    eta: float | jax.Array | None,
    gamma: float | jax.Array = 0.55,
    *,
    key: jax.Array | int,
    mask: PyTree | Callable[[PyTree], PyTree] | None = None,
    schedule: Callable[[jax.Array], jax.Array] | None = None,
) -> optax.GradientTransformation:
    """Adds independent normal noise of decaying variance to every component of the gradient.

    g~_t = g_t + sigma_t xi_t,  sigma_t^2 = eta / (1 + t)^gamma,  xi_t ~ N(0, I),  t = 0, 1, ...

    Order in a chain: after clipping (which would cut the noise away) and after the mean over
    replicas, before the optimiser and weight decay (so that the learning rate scales the noise and
    the decay is not part of the noisy gradient); `noisy` builds it. Placed after
    `optax.scale_by_learning_rate` the noise is not scaled by the rate. Under float16 loss scaling
    it belongs after unscaling. Adam divides by sqrt(v), which noise inflates: a large `eta` then
    shrinks the steps, so choose `eta` per optimiser. Inside `optax.MultiSteps` there is one draw
    per real update, and t counts real updates.

    With a `threefry2x32` key (the default of `jax.random.key`) the noise is bit for bit the same
    under `jax.vmap`, on any sharding of the leaves and on any number of devices. An `rbg` key gives
    the same bits under `jax.lax.map` but not under `jax.vmap`; on a CPU it is also slower than the
    fused threefry of `kernels.standard_normal` (`launch.bench --only=gradient_noise`). Inside
    `jax.shard_map` with `check_vma=True`, each shard of a leaf draws its own noise, and a
    replicated leaf the same everywhere; with `check_vma=False` give each shard its own key.

    `jax.vmap(tx.init)` gives all lanes the same key: `core.init_states` gives each seed its own,
    elsewhere use `reseed`.

    Args:
      eta: variance (not standard deviation: see `gradient_noise_from_std`) of the first update,
        float or scalar array, at least 0; the paper takes 0.01, 0.3 or 1. 0 returns the gradients
        bit for bit. None is allowed with `schedule`.
      gamma: exponent of the decay, float or scalar array, at least 0; 0.55 in the paper.
      key: typed random key or an integer.
      mask: tree of booleans with the structure (or a prefix) of the gradients, or a function from
        gradients to one; a leaf under False passes untouched. None: all leaves are noised.
      schedule: `t -> variance`, takes the place of `eta / (1 + t)^gamma`.

    Returns:
      A transformation with state `GradientNoiseState`. sigma_t is computed in float32; leaves
      narrower than float32 get float32 noise rounded to their dtype, others noise with one bit
      less than their dtype has; complex leaves circular noise of total variance sigma_t^2; integer
      leaves, `None` and `optax.MaskedNode` pass untouched.
      A negative variance that is known only at run time gives NaN.

    Raises:
      ValueError: `eta` or `gamma` is negative, not finite or no scalar; `eta` and `schedule` are
        both missing; `key` is no typed key or integer; on use, a mask that does not fit.

    Example:
      >>> tx = optax.chain(gradient_noise(0.01, key=0), optax.sgd(0.1))
      >>> gradients = {"kernel": jnp.ones((2, 2))}
      >>> updates, state = tx.update(gradients, tx.init(gradients))
      >>> print(int(state[0].count), bool(jnp.unique(updates["kernel"]).size == 4))
      1 True

    Reference: Neelakantan et al., Adding Gradient Noise Improves Learning for Very Deep Networks,
    2015, arXiv 1511.06807 (section 3).
    """
    start = _as_key(key)
    if eta is None and schedule is None:
        raise ValueError("eta=None needs schedule=; give a variance, such as eta=0.01")
    known = None if eta is None else _check_scalar("eta", eta)
    _check_scalar("gamma", gamma)
    is_off = schedule is None and known == 0.0
    is_on = schedule is None and known is not None and not is_off

    def init(params: optax.Params) -> GradientNoiseState:
        del params
        # A copy: a train loop that donates its state would delete the caller's key.
        return GradientNoiseState(jnp.zeros((), jnp.int32), jnp.copy(start))

    def update(updates, state, params=None):
        del params
        following = state._replace(count=optax.safe_increment(state.count))
        if is_off:
            return updates, following
        if schedule is None:
            variance = _variance(state.count, eta, gamma)
        else:
            variance = jnp.asarray(schedule(state.count)).astype(jnp.float32)
        leaves, structure = jax.tree.flatten(updates)
        noise = _noise(state.key, state.count, updates, variance, _chosen(mask, updates))
        noised = [
            leaf
            if draw is None
            # Adding 0 would turn -0 into 0.
            else (leaf + draw if is_on else jnp.where(variance == 0, leaf, leaf + draw))
            for leaf, draw in zip(leaves, noise, strict=True)
        ]
        return jax.tree.unflatten(structure, noised), following

    return optax.GradientTransformation(init, update)


def gradient_noise_from_std(
    std: float | jax.Array,
    gamma: float | jax.Array = 0.55,
    *,
    key: jax.Array | int,
    mask: PyTree | Callable[[PyTree], PyTree] | None = None,
) -> optax.GradientTransformation:
    """Makes `gradient_noise` from a standard deviation.

    sigma_t = std / (1 + t)^(gamma / 2), that is eta = std^2

    Args:
      std: standard deviation of the first update, float or scalar array, at least 0.
      gamma: exponent of the decay of the variance.
      key: as `gradient_noise`.
      mask: as `gradient_noise`.

    Returns:
      As `gradient_noise`.

    Raises:
      ValueError: `std` is negative, not finite or no scalar; as `gradient_noise`.

    Example:
      >>> tx = gradient_noise_from_std(0.1, key=0)
    """
    _check_scalar("std", std)
    return gradient_noise(std * std, gamma, key=key, mask=mask)


def noise_at(
    key: jax.Array | int,
    count: int | jax.Array,
    params: PyTree,
    eta: float | jax.Array,
    gamma: float | jax.Array = 0.55,
) -> PyTree:
    """Draws the noise of one update; what `gradient_noise` adds, without any state.

    sigma_t xi(key, t, path),  sigma_t^2 = eta / (1 + t)^gamma

    The key of a leaf is the key with t and a hash of the leaf's path folded in.

    Args:
      key: typed random key or an integer.
      count: t, updates done before, int32 scalar.
      params: pytree of arrays; only paths, shapes and dtypes are read.
      eta: variance at t = 0.
      gamma: exponent of the decay.

    Returns:
      Tree like `params`, same shapes and dtypes; zeros for leaves that are neither floating-point
      nor complex.

    Raises:
      ValueError: as `gradient_noise`.

    Example:
      >>> small = noise_at(0, 3, {"b": jnp.ones(2)}, 0.01)
      >>> large = noise_at(0, 3, {"a": jnp.ones(5), "b": jnp.ones(2)}, 0.01)
      >>> bool((small["b"] == large["b"]).all())
      True
    """
    _check_scalar("eta", eta)
    _check_scalar("gamma", gamma)
    leaves, structure = jax.tree.flatten(params)
    variance = _variance(jnp.asarray(count, jnp.int32), eta, gamma)
    noise = _noise(_as_key(key), count, params, variance, [True] * len(leaves))
    return jax.tree.unflatten(
        structure,
        [
            jnp.zeros(jnp.shape(leaf), jnp.result_type(leaf)) if draw is None else draw
            for leaf, draw in zip(leaves, noise, strict=True)
        ],
    )


def noisy(
    optimizer: optax.GradientTransformation,
    *,
    eta: float | jax.Array | None,
    gamma: float | jax.Array = 0.55,
    key: jax.Array | int,
    clip: float | None = None,
    mask: PyTree | Callable[[PyTree], PyTree] | None = None,
    schedule: Callable[[jax.Array], jax.Array] | None = None,
) -> optax.GradientTransformationExtraArgs:
    """Puts gradient noise before an optimiser, in the right order.

    clip by global norm (if asked for) -> noise -> optimiser

    Weight decay inside `optimizer` comes after the noise: it is not part of the noisy gradient.

    Args:
      optimizer: any optax rule, learning rate and weight decay included.
      eta: as `gradient_noise`.
      gamma: as `gradient_noise`.
      key: as `gradient_noise`.
      clip: largest global norm of the gradient before the noise, above 0; None: no clipping.
      mask: as `gradient_noise`.
      schedule: as `gradient_noise`.

    Returns:
      The chain.

    Raises:
      ValueError: `clip` is not above 0; as `gradient_noise`.

    Example:
      >>> tx = noisy(optax.sgd(0.1), eta=0.01, key=0, clip=10.0)

    Reference: Neelakantan et al., 2015, sections 3 and 4.1 (clipping at 10).
    """
    if clip is not None and not clip > 0:
        raise ValueError(f"clip={clip} must be above 0; None for no clipping")
    noise = gradient_noise(eta, gamma, key=key, mask=mask, schedule=schedule)
    first = () if clip is None else (optax.clip_by_global_norm(clip),)
    return optax.with_extra_args_support(optax.chain(*first, noise, optimizer))


def reseed(state: State, key: jax.Array | int) -> State:
    """Puts another key into the noise states inside an optimiser state.

    Args:
      state: a `GradientNoiseState`, or any pytree that holds some (of a chain, `optax.masked`,
        `optax.multi_transform`, a train state). All get the same key: leaves have different paths,
        and so different noise, whichever of them they belong to.
      key: typed random key of the old one's shape and generator, or an integer. For states stacked
        over seeds `[s]`: one key per seed, `[s]`.

    Returns:
      The same state with the new key; the count stays.

    Raises:
      ValueError: no `GradientNoiseState` inside, or a key of another shape or generator.

    Example:
      >>> tx = gradient_noise(0.01, key=0)
      >>> start = lambda key: reseed(tx.init({}), key)
      >>> print(jax.vmap(start)(jax.random.split(jax.random.key(1), 3)).key.shape)
      (3,)
    """
    key = _as_key(key)

    def is_noise(node):
        return isinstance(node, GradientNoiseState)

    nodes = jax.tree.leaves(state, is_leaf=is_noise)
    found = [node for node in nodes if is_noise(node)]
    if not found:
        raise ValueError(
            f"state of type {type(state).__name__} holds no GradientNoiseState; add "
            "transforms.gradient_noise to the chain"
        )
    for node in found:
        if (node.key.shape, node.key.dtype) != (key.shape, key.dtype):
            raise ValueError(
                f"key is {key.dtype}{list(key.shape)}, want {node.key.dtype}"
                f"{list(node.key.shape)} as in the state; states of several seeds need a key each"
            )
    return jax.tree.map(
        lambda node: node._replace(key=jnp.copy(key)) if is_noise(node) else node,
        state,
        is_leaf=is_noise,
    )


def _variance(count: jax.Array, eta: Any, gamma: Any) -> jax.Array:
    updates = count.astype(jnp.float32) + 1.0
    return jnp.asarray(eta).astype(jnp.float32) / updates ** jnp.asarray(gamma).astype(jnp.float32)


def _noise(key, count, tree, variance, chosen) -> list[jax.Array | None]:
    """Noise per leaf in flattening order, None where the leaf passes untouched."""
    flat, _ = jax.tree_util.tree_flatten_with_path(tree)
    drawn = [
        draw and jnp.issubdtype(jnp.result_type(leaf), jnp.inexact)
        for draw, (_, leaf) in zip(chosen, flat, strict=True)
    ]
    paths = [path for draw, (path, _) in zip(drawn, flat, strict=True) if draw]
    if not paths:
        return [None] * len(flat)
    keys = iter(_leaf_keys(key, count, paths))
    std = jnp.sqrt(variance)
    return [
        _draw(next(keys), leaf, std) if draw else None
        for draw, (_, leaf) in zip(drawn, flat, strict=True)
    ]


def _leaf_keys(key: jax.Array, count: Any, paths: list[Any]) -> jax.Array:
    """One key per leaf, `[leaves]`: the update's number and the path's hash folded in."""
    names = [jax.tree_util.keystr(path, simple=True, separator="/") for path in paths]
    digests = b"".join(hashlib.sha256(name.encode()).digest()[:8] for name in names)
    words = np.frombuffer(digests, "<u4").reshape(-1, 2).astype(np.uint32)
    of_update = jax.random.fold_in(key, count)
    fold = jax.random.fold_in
    return jax.vmap(lambda pair: fold(fold(of_update, pair[0]), pair[1]))(jnp.asarray(words))


def _draw(key: jax.Array, leaf: Any, std: jax.Array) -> jax.Array:
    shape, dtype = jnp.shape(leaf), jnp.result_type(leaf)
    # Under shard_map only the axes that this leaf is laid out on, and the key is not, part it.
    for axis in sorted(_varying(leaf) - _varying(key)):
        key = jax.random.fold_in(key, jax.lax.axis_index(axis))
    if dtype in (jnp.float64, jnp.complex64, jnp.complex128):
        normal = jax.random.normal(key, shape, dtype)
    else:
        normal = standard_normal(key, shape)
    # Without roundings in between, XLA joins the constant of the normal law with the standard
    # deviation, and product and sum with the gradient, in some programs and not in others; the
    # last bits would then depend on the program.
    noise = std.astype(normal.dtype) * _round(normal, normal.dtype)
    return _round(noise, dtype).astype(dtype)


def _round(x: jax.Array, dtype: Any) -> jax.Array:
    """Rounds to the numbers of a narrower dtype; to one bit less than those of the same dtype."""
    if jnp.issubdtype(dtype, jnp.complexfloating):
        return jax.lax.complex(_round(x.real, x.real.dtype), _round(x.imag, x.imag.dtype))
    limits = jnp.finfo(dtype)
    mantissa = limits.nmant - (dtype == x.dtype)
    return jax.lax.reduce_precision(x, exponent_bits=limits.nexp, mantissa_bits=mantissa)


def _varying(x: Any) -> frozenset[str]:
    """Mesh axes over which a value differs, inside `jax.shard_map`."""
    kind = jax.typeof(x)
    axes = getattr(kind, "manual_axis_type", None)  # jax below 0.10 called it vma
    return frozenset(getattr(kind, "vma", ()) if axes is None else axes.varying)


def _chosen(mask: Any, updates: PyTree) -> list[bool]:
    """For each leaf of `updates` whether the mask lets noise at it."""
    if mask is None:
        return [True] * len(jax.tree.leaves(updates))
    tree = mask(updates) if callable(mask) else mask
    for leaf in jax.tree.leaves(tree):
        if not isinstance(leaf, (bool, np.bool_)):
            raise ValueError(
                f"mask has a leaf of type {type(leaf).__name__}, want True or False per leaf of "
                "the gradients; to hold single entries, wrap the optimiser in transforms.masked"
            )
    try:
        return [bool(leaf) for leaf in jax.tree.leaves(jax.tree.broadcast(tree, updates))]
    except ValueError as error:
        raise ValueError(
            f"mask has the structure {jax.tree.structure(tree)}, which is no prefix of that of the "
            f"gradients, {jax.tree.structure(updates)}"
        ) from error


def _as_key(key: Any) -> jax.Array:
    if key is None:
        raise ValueError("key=None would be the same noise in every run; give jax.random.key(0)")
    if jnp.issubdtype(getattr(key, "dtype", np.dtype(object)), jax.dtypes.prng_key):
        return key
    try:
        return jax.random.key(operator.index(key))
    except TypeError:
        raise ValueError(
            f"key is {type(key).__name__}, want a typed key or an integer; make one of raw words "
            "with jax.random.wrap_key_data"
        ) from None


def _check_scalar(name: str, value: Any) -> float | None:
    """Refuses what is no finite scalar of at least 0; None where it is known only at run time."""
    if jnp.shape(value):
        raise ValueError(f"{name} has shape {jnp.shape(value)}, want a scalar; vmap for several")
    try:
        known = float(value)
    except jax.errors.ConcretizationTypeError:
        return None
    if not (np.isfinite(known) and known >= 0):
        raise ValueError(f"{name}={known} must be finite and not negative, such as 0.01")
    return known
