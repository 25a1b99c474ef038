"""Changes of an input, bounded in the maximum norm, that raise a network's loss.

Everything is in the units of the network's own inputs. For standardised images divide: a change
of 8 grey levels is `epsilon = 8 / (255 * std)`, black and white are `clip = (-mean / std,
(1 - mean) / std)`, one value for each channel.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from trove_jax.losses.classification import accuracy

LossFn = Callable[[jax.Array, Any], jax.Array]
LogitsFn = Callable[[jax.Array], jax.Array]
Bound = Any
Clip = tuple[Bound, Bound]


def fgsm(
    loss_fn: LossFn, x: jax.Array, y: Any, *, epsilon: Bound, clip: Clip | None = None
) -> jax.Array:
    """Fast gradient sign method: one step to the corner of the box that the gradient points to.

    x' = clip(x + epsilon sign(grad_x L(x, y)))

    Args:
      loss_fn: `(x, y) -> loss`, scalar or one value for each example; such as
        `untargeted_loss(logits_fn)`; the negative loss of a wished class makes a targeted attack.
      x: inputs, floating `[b, ...]`, inside `clip`.
      y: what `loss_fn` takes beside them, such as labels, integer `[b]`.
      epsilon: largest change of an entry, at least 0; number, or an array that broadcasts against
        `x` from the last axis (one for each channel).
      clip: smallest and largest value of an entry, each as `epsilon`; None: no limit. Entries that
        lie outside are brought inside, whatever `epsilon`.

    Returns:
      Changed inputs, `[b, ...]` in the dtype of `x`. An entry with gradient 0 stays. The change is
      at most `epsilon` up to the rounding of `x`.

    Raises:
      ValueError: `x` is not floating, `epsilon` is negative, `clip` is empty, or one of them does
        not broadcast.

    Example:
      >>> loss = lambda x, y: jnp.sum(x * jnp.array([[1.0, -2.0]]))
      >>> print(fgsm(loss, jnp.array([[0.5, 0.05]]), None, epsilon=0.1, clip=(0.0, 1.0)))
      [[0.6 0. ]]

    Reference: Goodfellow, Shlens and Szegedy, Explaining and Harnessing Adversarial Examples, ICLR
    2015 (section 4).
    """
    radius, low, high = _box(x, epsilon, clip)
    return _limit(x + radius * _ascent(loss_fn, x, y), low, high)


def pgd(
    loss_fn: LossFn,
    x: jax.Array,
    y: Any,
    key: jax.Array | None = None,
    *,
    epsilon: Bound,
    step_size: Bound | None = None,
    steps: int = 10,
    clip: Clip | None = None,
) -> jax.Array:
    """Projected gradient descent in the maximum norm: small sign steps that stay in the box.

    x_0 = x + U(-epsilon, epsilon),  x_{i+1} = clip(P_epsilon(x_i + a sign(grad_x L(x_i, y))))

    P_epsilon cuts every entry to [x - epsilon, x + epsilon]. The loop is compiled once for any
    number of steps.

    Args:
      loss_fn: as `fgsm`.
      x: as `fgsm`.
      y: as `fgsm`.
      key: random key of the start; None: start at `x`. Same key, same bits.
      epsilon: as `fgsm`.
      step_size: a, as `epsilon`, above 0; None: 2.5 epsilon / steps, with which the box can be
        crossed (Madry et al., their public code).
      steps: at least 1.
      clip: as `fgsm`; holds for the random start as well.

    Returns:
      The last of the changed inputs, `[b, ...]` in the dtype of `x`.

    Raises:
      ValueError: `steps` is below 1 or `step_size` not above 0; as `fgsm`.

    Example:
      >>> loss = lambda x, y: -jnp.sum((x - y) ** 2)
      >>> x = jnp.array([[0.0]])
      >>> print(pgd(loss, x, jnp.array([[0.05]]), epsilon=0.1, step_size=0.01, steps=5).round(3))
      [[0.05]]

    Reference: Madry et al., Towards Deep Learning Models Resistant to Adversarial Attacks, ICLR
    2018 (section 2.1).
    """
    radius, low, high = _box(x, epsilon, clip)
    if steps < 1:
        raise ValueError(f"steps={steps} takes no step; use at least 1")
    if step_size is None:
        size = radius * (2.5 / steps)
    else:
        _check_number("step_size", step_size, above=True)
        size = _against(x, "step_size", step_size)
    start = x
    if key is not None:
        noise = jax.random.uniform(key, x.shape, x.dtype, -1.0, 1.0)
        start = _limit(x + radius * noise, low, high)

    def step(_, changed):
        moved = changed + size * _ascent(loss_fn, changed, y)
        # The change is cut, not its end points: x - epsilon rounds where x is large.
        change = jnp.clip(moved - x, -radius, radius)
        return _limit(x + change, low, high)

    return jax.lax.fori_loop(0, steps, step, start)


def untargeted_loss(logits_fn: LogitsFn) -> LossFn:
    """Makes the loss whose ascent is that of the cross-entropy, without its saturation.

    L = logsumexp_{k != y} l_k - l_y = log((1 - p_y) / p_y)

    The cross-entropy is log(1 + exp(L)), a rising function of L example by example, so that the
    sign of the gradient is the same. In float32 the gradient of the cross-entropy loses the
    label's part when p_y rounds to 1 (a margin above 17): a network that is merely confident
    would then look robust.

    Args:
      logits_fn: `inputs [b, ...] -> logits [b, k]`, k at least 2; examples must not depend on each
        other (batch-norm with its running statistics).

    Returns:
      `(inputs, labels [b]) -> loss [b]`, computed in float32 at least.

    Raises:
      ValueError: on use, logits and labels that do not belong together, or a single class.

    Example:
      >>> loss = untargeted_loss(lambda x: x)
      >>> print(loss(jnp.array([[2.0, 0.0], [40.0, 0.0]]), jnp.array([0, 0])))
      [ -2. -40.]
    """

    def loss(x: jax.Array, y: jax.Array) -> jax.Array:
        logits = logits_fn(x)
        if logits.ndim != 2 or logits.shape[1] < 2 or y.shape != logits.shape[:1]:
            raise ValueError(
                f"logits {list(logits.shape)} and labels {list(y.shape)} do not belong together; "
                "[b, k] with k at least 2 and [b] are wanted"
            )
        if not jnp.issubdtype(y.dtype, jnp.integer):
            raise ValueError(f"labels has dtype {y.dtype}; integer classes are wanted")
        if logits.dtype.itemsize < 4:
            logits = logits.astype(jnp.float32)
        is_label = y[:, None] == jnp.arange(logits.shape[1], dtype=y.dtype)[None]
        others = jax.nn.logsumexp(jnp.where(is_label, -jnp.inf, logits), axis=1)
        return others - jnp.where(is_label, logits, 0.0).sum(axis=1)

    return loss


def robust_accuracy(
    logits_fn: LogitsFn,
    x: jax.Array,
    y: jax.Array,
    attack: Callable[[LossFn, jax.Array, jax.Array], jax.Array],
) -> jax.Array:
    """Share of examples that are still answered rightly after an attack on each.

    Args:
      logits_fn: as `untargeted_loss`.
      x: inputs, floating `[b, ...]`.
      y: labels, integer `[b]`.
      attack: `(loss_fn, x, y) -> changed x`, such as
        `functools.partial(fgsm, epsilon=0.1, clip=(0.0, 1.0))`.

    Returns:
      float32 scalar in [0, 1]; NaN where a logit is NaN. For many examples map it over equal
      blocks and take the mean: an attack holds the gradient of all of them.

    Raises:
      ValueError: `attack` changes shape or dtype; as `fgsm` and `untargeted_loss`.

    Example:
      >>> x, y = jnp.array([[0.3], [-0.05]]), jnp.array([1, 0])
      >>> attack = lambda loss_fn, x, y: fgsm(loss_fn, x, y, epsilon=0.1)
      >>> print(robust_accuracy(lambda x: jnp.concatenate([-x, x], axis=1), x, y, attack))
      0.5
    """
    changed = attack(untargeted_loss(logits_fn), x, y)
    if changed.shape != x.shape or changed.dtype != x.dtype:
        raise ValueError(
            f"attack gives {changed.dtype} {list(changed.shape)}, expected that of its inputs, "
            f"{x.dtype} {list(x.shape)}"
        )
    return accuracy(logits_fn(changed), y)


def _ascent(loss_fn: LossFn, x: jax.Array, y: Any) -> jax.Array:
    return jnp.sign(jax.grad(lambda x: jnp.sum(loss_fn(x, y)))(x))


def _box(x: jax.Array, epsilon: Bound, clip: Clip | None) -> tuple[jax.Array, Any, Any]:
    if not jnp.issubdtype(x.dtype, jnp.floating):
        raise ValueError(
            f"x is {x.dtype}, expected floating inputs of the network; prepare stored images first"
        )
    _check_number("epsilon", epsilon, above=False)
    radius = _against(x, "epsilon", epsilon)
    if clip is None:
        return radius, None, None
    low, high = clip
    if isinstance(low, float | int) and isinstance(high, float | int) and not low < high:
        raise ValueError(f"clip=({low}, {high}) leaves no value; expected (lowest, highest)")
    return radius, _against(x, "clip", low), _against(x, "clip", high)


def _limit(x: jax.Array, low: Any, high: Any) -> jax.Array:
    return x if low is None else jnp.clip(x, low, high)


def _against(x: jax.Array, name: str, bound: Bound) -> jax.Array:
    """A bound in the dtype of `x`, with as many axes."""
    bound = jnp.asarray(bound, x.dtype)
    shape = (1,) * (x.ndim - bound.ndim) + bound.shape
    fits = len(shape) == x.ndim and all(
        size in (1, wanted) for size, wanted in zip(shape, x.shape, strict=True)
    )
    if not fits:
        raise ValueError(
            f"{name} has the shape {list(bound.shape)}, which does not broadcast against x "
            f"{list(x.shape)} from the last axis"
        )
    return bound.reshape(shape)


def _check_number(name: str, value: Bound, *, above: bool) -> None:
    if isinstance(value, float | int) and not (value > 0 if above else value >= 0):
        raise ValueError(f"{name}={value} must be {'above 0' if above else 'at least 0'}")
