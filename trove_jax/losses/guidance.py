"""Guidance: a loss that makes the layers of one network resemble those of a frozen other one.

L(theta) = L_task(theta) + alpha sum_j [1 - CKA(A_{map(j)}(theta), B_j)]

A are activations of the target on a batch, B those of the guide on the same batch. Nothing of
either network is edited: activations are captured from outside.
"""

import dataclasses
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp

from trove_jax.core import Aux, Batch, Data, Task, Variables
from trove_jax.layers import capturing, linear_like
from trove_jax.layers.capture import Filter
from trove_jax.losses.guide import Guide, without_ends
from trove_jax.losses.similarity import is_degenerate, linear_cka

Activations = dict[str, jax.Array]
Schedule = Callable[[jax.Array], Any]
Similarity = Callable[..., jax.Array]
Mode = Literal["even", "by_depth"]
MapLike = Mode | Sequence[int] | Mapping[str, str]

_INIT = 11


class Resemblance(NamedTuple):
    """What `guidance_loss` gives.

    Attributes:
      loss: sum (or mean) of 1 - similarity, scalar.
      similarities: of every pair that counts, `target <- guide` -> scalar.
      degenerate: how many of the pairs hold a layer that is the same for all examples; their
        similarity counts as 0, without a gradient.
    """

    loss: jax.Array
    similarities: dict[str, jax.Array]
    degenerate: jax.Array


def layer_map(n_target: int, n_guide: int, mode: Mode = "even") -> tuple[int, ...]:
    """Says which layer of the target each layer of the guide is compared with.

    even: map(j) = min(round(j (n - 1) / (m - 1)), n - 1), j = 0..m-1, halves to even; map(0) = 0
    where m = 1. by_depth: map(j) = ceil((j + 1) n / m) - 1, the layer at the same share of the
    depth, so that a single guide layer is compared with the last one.

    Args:
      n_target: layers of the target, n.
      n_guide: layers of the guide, m; where m > n several share a layer.
      mode: the rule.

    Returns:
      m indices from 0 to n - 1, rising.

    Raises:
      ValueError: no layers, or an unknown mode.

    Example:
      >>> layer_map(30, 6)
      (0, 6, 12, 17, 23, 29)

    Reference: Subramaniam et al., Training the Untrainable, NeurIPS 2025 (`layer_sim.py` of the
    published code: even).
    """
    if n_target < 1 or n_guide < 1:
        raise ValueError(f"n_target={n_target} and n_guide={n_guide} must be at least 1")
    if mode == "by_depth":
        return tuple(-((j + 1) * -n_target // n_guide) - 1 for j in range(n_guide))
    if mode != "even":
        raise ValueError(f'mode={mode!r} is unknown; use "even" or "by_depth"')
    if n_guide == 1:
        return (0,)
    return tuple(_round_half_even(j * (n_target - 1), n_guide - 1) for j in range(n_guide))


def until(step: int, alpha: float = 1.0) -> Schedule:
    """Guidance that stops: `alpha` for the first steps, 0 from then on.

    Args:
      step: first step without guidance.
      alpha: weight before it.

    Returns:
      A schedule for `guided`.

    Example:
      >>> schedule = until(300)
      >>> float(schedule(299)), float(schedule(300))
      (1.0, 0.0)
    """
    return lambda count: jnp.where(count < step, alpha, 0.0)


def guidance_loss(
    target: Activations,
    guide: Activations,
    mapping: MapLike = "even",
    *,
    similarity: Similarity = linear_cka,
    duplicates: Literal["sum", "last"] = "sum",
    reduce: Literal["sum", "mean"] = "sum",
    weights: Sequence[float] | None = None,
    axis_name: str | None = None,
) -> Resemblance:
    """Compares layers of a target with layers of a guide.

    sum_j w_j [1 - similarity(A_{map(j)}, B_j)]; the gradient goes through A only.

    Args:
      target: name -> activations A, `[b, ...]`, in execution order (an `OrderedDict` keeps it
        through `jit`, a plain dict is sorted there).
      guide: name -> activations B of the same examples, `[b, ...]`.
      mapping: a rule of `layer_map`, its m indices, or `{guide name: target name}`.
      similarity: `(x, y) -> scalar`, 1 for layers that agree; with `axis_name` as an argument
        where the batch is sharded.
      duplicates: where guide layers share a target layer, whether all count (`"sum"`) or the last
        one (`"last"`, as the published code does).
      reduce: `"sum"` over pairs, or their `"mean"`, which makes alpha independent of their number.
      weights: w, one for each layer of the guide that is compared; None: 1.
      axis_name: mapped axis over which the batch is sharded.

    Returns:
      The loss, the similarities behind it and the number of degenerate pairs.

    Raises:
      ValueError: layers that are unknown (those that exist are listed), a wrong number of indices
        or weights, an unknown option, or layers with different batches (both are named).

    Reference: Subramaniam et al., Training the Untrainable, NeurIPS 2025 (section 3).
    """
    if duplicates not in ("sum", "last"):
        raise ValueError(f'duplicates={duplicates!r} is unknown; use "sum" or "last"')
    if reduce not in ("sum", "mean"):
        raise ValueError(f'reduce={reduce!r} is unknown; use "sum" or "mean"')
    pairs = _pairs(list(target), list(guide), mapping)
    if weights is not None and len(weights) != len(pairs):
        raise ValueError(f"weights has {len(weights)} numbers for {len(pairs)} compared layers")
    weighted = list(zip(pairs, weights or [1.0] * len(pairs), strict=True))
    if duplicates == "last":
        weighted = list({pair[0]: (pair, weight) for pair, weight in weighted}.values())
    options = {} if axis_name is None else {"axis_name": axis_name}
    similarities, total, degenerate = {}, 0.0, jnp.int32(0)
    for (ours, theirs), weight in weighted:
        a, b = target[ours], jax.lax.stop_gradient(guide[theirs])
        if a.shape[:1] != b.shape[:1]:
            raise ValueError(
                f"layer {ours!r} of the target has shape {a.shape}, layer {theirs!r} of the guide "
                f"{b.shape}; the first axis is the batch and must be the same"
            )
        found = similarity(a, b, **options)
        similarities[f"{ours} <- {theirs}"] = found
        total = total + weight * (1.0 - found)
        flat = [is_degenerate(jax.lax.stop_gradient(x), **options) for x in (a, b)]
        degenerate += (flat[0] | flat[1]).astype(jnp.int32)
    if reduce == "mean":
        total = total / len(weighted)
    return Resemblance(jnp.asarray(total), similarities, degenerate)


def guided(
    task: Task,
    guide: Guide,
    *,
    mapping: MapLike = "even",
    alpha: float | Schedule = 1.0,
    filter: Filter | str = linear_like,
    similarity: Similarity = linear_cka,
    duplicates: Literal["sum", "last"] = "sum",
    reduce: Literal["sum", "mean"] = "sum",
    weights: Sequence[float] | None = None,
    collection: str = "guide",
    axis_name: str | None = None,
) -> Task:
    """Adds guidance to a task; model, optimiser and loop stay what they are.

    The variables get one collection more, the guide's, drawn by `guide.init` or put there by the
    caller (a trained guide); it is carried along, one per seed, and never optimised. The target
    is applied once: the pass that gives the task's loss gives the activations.

    With `alpha=0.0` the loss is the task's own, bit for bit. While a schedule says 0 the guide is
    not computed, and its measurements are NaN.

    Args:
      task: what the target learns; its loss applies Flax modules.
      guide: the other network, such as `module_guide(...)` and its controls.
      mapping: as `guidance_loss`; counts the layers that are compared.
      alpha: weight of the guidance, at least 0, or a schedule `step -> weight`, such as `until`.
      filter: which activations of the target count, as `layers.capturing`. Of `linear_like` the
        last one (the logits) is left out, of `post_activation` the first (the inputs).
      similarity: as `guidance_loss`.
      duplicates: as `guidance_loss`.
      reduce: as `guidance_loss`.
      weights: as `guidance_loss`.
      collection: name of the guide's collection; another one for a second guide.
      axis_name: mapped axis over which the batch is sharded.

    Returns:
      A task. Its loss adds the metrics `task_loss` and, under the name of the collection,
      `guide_loss`, `guide_similarity` (mean over pairs) and `guide_degenerate`.

    Raises:
      ValueError: a negative `alpha`; `collection` is `params` or taken; when the loss is called,
        as `guidance_loss` and `layers.capturing`, or one example in the batch.

    Reference: Subramaniam et al., Training the Untrainable, NeurIPS 2025.
    """
    if not callable(alpha) and not alpha >= 0.0:
        raise ValueError(f"alpha={alpha} must be at least 0, or a schedule")
    if collection == "params":
        raise ValueError(
            "collection='params' would hand the guide to the optimiser; take another name"
        )

    def split(variables: Variables) -> tuple[Variables, Any]:
        variables = dict(variables)
        return variables, variables.pop(collection, None)

    def init(key):
        variables = dict(task.init(key))
        if collection in variables:
            raise ValueError(
                f"collection={collection!r} is taken; name that of a second guide differently"
            )
        return {**variables, collection: guide.init(jax.random.fold_in(key, _INIT))}

    def compare(frozen, ours, batch, key):
        count = _examples(batch)
        theirs = batch_first(guide.activations(frozen, guide.inputs(batch, key)), count)
        ours = batch_first(without_ends(ours, filter), count)
        found = guidance_loss(
            ours,
            theirs,
            mapping,
            similarity=similarity,
            duplicates=duplicates,
            reduce=reduce,
            weights=weights,
            axis_name=axis_name,
        )
        mean = jnp.mean(jnp.stack([*found.similarities.values()]))
        return found.loss, (mean, found.degenerate.astype(jnp.float32))

    def loss(variables, batch: Batch, key, step):
        variables, frozen = split(variables)
        if not callable(alpha) and alpha == 0.0:
            return task.loss(variables, batch, key, step)
        if frozen is None:
            raise ValueError(
                f"variables has no collection {collection!r}; take those of the guided task's init"
            )
        with capturing(filter) as ours:
            value, aux = task.loss(variables, batch, key, step)
        frozen = jax.lax.stop_gradient(frozen)
        noise = jax.random.fold_in(key, _INIT)
        if callable(alpha):
            weight = jnp.asarray(alpha(step), value.dtype)

            def on():
                return compare(frozen, ours, batch, noise)

            def off():
                zero, *rest = jax.tree.leaves(jax.eval_shape(on))
                return jnp.zeros((), zero.dtype), tuple(
                    jnp.full((), jnp.nan, x.dtype) for x in rest
                )

            extra, (mean, flat) = jax.lax.cond(weight != 0, on, off)
        else:
            weight = alpha
            extra, (mean, flat) = compare(frozen, ours, batch, noise)
        measured = {
            f"{collection}_loss": extra,
            f"{collection}_similarity": mean,
            f"{collection}_degenerate": flat,
        }
        metrics = {"task_loss": value, **aux.metrics, **measured}
        return value + weight * extra.astype(value.dtype), Aux(metrics, aux.updates)

    def metrics(variables, data: Data):
        return task.metrics(split(variables)[0], data)

    return dataclasses.replace(task, init=init, loss=loss, metrics=metrics)


def gradient_norms(
    task: Task, variables: Variables, batch: Batch, key: jax.Array, step: jax.Array | int = 0
) -> dict[str, jax.Array]:
    """Norms of the gradients of the two parts of a guided loss.

    The gradient of CKA grows as 1 / |A|: where activations shrink with depth, guidance can drown
    the task. Their ratio says whether it does.

    Args:
      task: from `guided`.
      variables: of one network.
      batch: what one step sees.
      key: as that of the loss.
      step: as that of the loss.

    Returns:
      `{"task": norm, "guidance": norm}`, scalars; without the factor alpha.

    Raises:
      ValueError: `task` is not guided by a collection called `guide`, or alpha is 0.
    """
    rest = {name: value for name, value in variables.items() if name != "params"}

    def parts(params):
        _, aux = task.loss({"params": params, **rest}, batch, key, jnp.asarray(step))
        if not {"task_loss", "guide_loss"} <= set(aux.metrics):
            raise ValueError(f"task is not guided; its loss measures {sorted(aux.metrics)}")
        return {"task": aux.metrics["task_loss"], "guidance": aux.metrics["guide_loss"]}

    slopes = jax.jacrev(parts)(variables["params"])
    return {
        name: jnp.sqrt(sum(jnp.sum(jnp.square(leaf)) for leaf in jax.tree.leaves(slope)))
        for name, slope in slopes.items()
    }


def batch_first(activations: Activations, b: int) -> Activations:
    """Brings the examples to the first axis, and leaves out what does not hold one per example.

    Args:
      activations: name -> array.
      b: number of examples.

    Returns:
      Arrays `[b, ...]`: as they are where the first axis has length b, with the axis of length b
      exchanged with the first where there is one such axis; others are left out.

    Example:
      >>> found = batch_first({"time_first": jnp.ones((7, 4, 3)), "scalar": jnp.ones(())}, 4)
      >>> dict(jax.tree.map(jnp.shape, found))
      {'time_first': (4, 7, 3)}
    """
    found = OrderedDict()
    for name, x in activations.items():
        axes = [axis for axis, size in enumerate(x.shape) if size == b]
        if axes[:1] == [0]:
            found[name] = x
        elif len(axes) == 1:
            found[name] = jnp.swapaxes(x, 0, axes[0])
    return found


def _examples(batch: Batch) -> int:
    return jax.tree.leaves(batch.examples)[0].shape[0]


def _pairs(target: list[str], guide: list[str], mapping: MapLike) -> list[tuple[str, str]]:
    if not target or not guide:
        raise ValueError(f"nothing to compare: target has layers {target}, guide {guide}")
    if isinstance(mapping, Mapping):
        for theirs, ours in mapping.items():
            for side, name, known in (("guide", theirs, guide), ("target", ours, target)):
                if name not in known:
                    raise ValueError(
                        f"mapping names layer {name!r} of the {side}; captured were "
                        f"{', '.join(known)}"
                    )
        return [(ours, theirs) for theirs, ours in mapping.items()]
    if isinstance(mapping, str):
        mapping = layer_map(len(target), len(guide), mapping)
    if len(mapping) != len(guide):
        raise ValueError(
            f"mapping has {len(mapping)} indices for {len(guide)} layers of the guide: "
            f"{', '.join(guide)}"
        )
    if not all(0 <= index < len(target) for index in mapping):
        raise ValueError(
            f"mapping={tuple(mapping)} must be indices below {len(target)}, the layers of the "
            f"target: {', '.join(target)}"
        )
    return [(target[index], name) for index, name in zip(mapping, guide, strict=True)]


def _round_half_even(a: int, b: int) -> int:
    """a / b rounded as Python does, without leaving the integers."""
    whole, rest = divmod(2 * a + b, 2 * b)
    return whole - 1 if rest == 0 and whole % 2 else whole
