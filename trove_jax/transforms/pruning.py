"""Which weights to prune: those of smallest magnitude, and random ones as a control."""

import difflib
import math
from collections.abc import Callable, Mapping
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from trove_jax.transforms.masking import Prunable, check_mask, named_leaves, ones_mask
from trove_jax.transforms.selection import magnitude_keys, select_smallest

PyTree = Any
Rate = float | jax.Array
Rates = Mapping[str, Rate] | Callable[[str], Rate]

_SCOPES = ("global", "layerwise")
_COUNTS = ("round", "open_lth")
_MODES = ("layerwise", "global", "even")


def magnitude_mask(
    params: PyTree,
    mask: PyTree | None,
    rate: Rate,
    *,
    scope: Literal["global", "layerwise"] = "global",
    rates: Rates | None = None,
    prunable: Prunable | None = None,
    count: Literal["round", "open_lth"] = "round",
) -> PyTree:
    """Prunes the living weights of smallest magnitude.

    With n living entries ranked together, exactly round(rate * n) of them with the smallest |w|
    are pruned. Ties are broken by position (leaves in flattening order, then flattened index).
    Pruned entries never come back, whatever their value. `rate = 1 - density` from the dense mask
    prunes to a density in one shot.

    `rate * n` is rounded to nearest, halves up. A Python number counts to 32 binary digits and a
    half is recognised within that error, so 0.7 of 5 is 3.5 and prunes 4; an array counts with the
    digits of its dtype. Static shapes throughout: jit it, vmap it over seeds, trace the rate.

    Args:
      params: trained parameters of one network (vmap over seeds), a pytree; prunable leaves
        float32, float16 or bfloat16.
      mask: mask tree of `params`; None: everything that `prunable` selects lives.
      rate: share of the living entries to prune, in (0, 1). The paper uses 0.2 per round.
      scope: `"global"` ranks all leaves together, `"layerwise"` each leaf alone.
      rates: other rates for some leaves, with `scope="layerwise"`: `{path prefix: rate}` (the
        longest prefix wins, other leaves use `rate`) or `path -> rate`. The original LeNet has
        `{"output": 0.1}`.
      prunable: `(path, leaf) -> bool`: of the leaves with a mask, those to rank now; the others
        keep their mask. None: all of them (`is_kernel` when `mask` is None).
      count: `"open_lth"` repeats that code's convention: q = ceil(rate * living), all
        |w| <= sorted(|w|)[q] are pruned, so q + 1 entries and all their ties, and with the global
        scope `living` counts leaves outside `prunable` too.

    Returns:
      Mask tree of the shapes of `params`. Whether a global ranking removed a whole layer:
      `emptied_layers`.

    Raises:
      ValueError: an unknown option; a rate outside (0, 1); a mask that does not fit; a predicate
        that selects nothing; a `rates` prefix that matches nothing; a leaf that would be emptied
        by a layer-wise rate; NaN among the living weights. What is traced is not checked: there a
        NaN ranks above infinity, hence is pruned last, and a leaf may empty.

    Example:
      >>> params = {"kernel": jnp.array([[3.0, -1.0], [2.0, -4.0]])}
      >>> print(magnitude_mask(params, None, 0.5)["kernel"])
      [[ True False]
       [False  True]]

    Reference: Frankle & Carbin, The Lottery Ticket Hypothesis, ICLR 2019 (section 1, iterative
    pruning; layer-wise and global ranking in section 2 and 4); Frankle et al., Stabilizing the
    Lottery Ticket Hypothesis, 2019 (Algorithm 1).
    """
    _require_option("scope", scope, _SCOPES)
    _require_option("count", count, _COUNTS)
    if rates is not None and scope != "layerwise":
        raise ValueError(f"rates needs scope='layerwise', got scope={scope!r}")
    if mask is None:
        mask = ones_mask(params, prunable)
    check_mask(params, mask)

    weights, masks = named_leaves(params), named_leaves(mask)
    masked_paths = [path for path, leaf in masks.items() if leaf is not None]
    ranked = [path for path in masked_paths if prunable is None or prunable(path, weights[path])]
    if not ranked:
        raise ValueError(
            f"nothing to rank: prunable selects none of the {len(masked_paths)} leaves that have "
            "a mask; want at least one"
        )
    leaf_rates = _leaf_rates(ranked, rate, rates)
    for path in ranked:
        _require_no_nan(path, weights[path], masks[path])

    open_lth = count == "open_lth"
    alive = [jnp.sum(masks[path], dtype=jnp.int32) for path in ranked]
    sizes = [masks[path].size for path in ranked]
    if scope == "global":
        groups, names, shares = [0] * len(ranked), ["all ranked leaves together"], leaf_rates[:1]
        alive, sizes = [sum(alive[1:], alive[0])], [sum(sizes)]
    else:
        groups, names, shares = list(range(len(ranked))), ranked, leaf_rates
    base = alive
    if open_lth and scope == "global":
        others = [masks[path] for path in masked_paths if path not in ranked]
        base = [sum((jnp.sum(other, dtype=jnp.int32) for other in others), alive[0])]
    drop = [_share_of(n, share, up=open_lth) for n, share in zip(base, shares, strict=True)]
    if open_lth:
        drop = [k + 1 for k in drop]
    for name, size, n, k, share in zip(names, sizes, alive, drop, shares, strict=True):
        _require_rest(name, size, n, k, share)

    pruned = select_smallest(
        [magnitude_keys(jax.lax.stop_gradient(weights[path])) for path in ranked],
        [masks[path].reshape(-1) for path in ranked],
        jnp.stack(drop),
        groups=groups,
        whole_ties=open_lth,
    )
    for path, gone in zip(ranked, pruned, strict=True):
        masks[path] = masks[path] & ~gone.reshape(masks[path].shape)
    return _like(mask, masks)


def random_mask(
    key: jax.Array, like: PyTree, *, mode: Literal["layerwise", "global", "even"] = "layerwise"
) -> PyTree:
    """Draws a random mask with as many living entries as another one.

    Args:
      key: random key.
      like: mask tree whose living entries are counted; `None` leaves stay `None`.
      mode: what is kept of `like`. `"layerwise"`: the count of every leaf (each leaf's mask is
        permuted); `"global"`: the total count (all entries are permuted together); `"even"`: the
        total count, spread so that every leaf has the same density to within one entry.

    Returns:
      Mask tree of the shapes of `like`; its counts are exact. All placements are equally likely,
      up to ties among 31-bit random numbers.

    Raises:
      ValueError: an unknown mode, a mask without prunable leaf.

    Example:
      >>> like = {"kernel": jnp.array([[True, True, False, False]]), "bias": None}
      >>> print(random_mask(jax.random.key(0), like)["kernel"].sum())
      2

    Reference: Frankle et al., Stabilizing the Lottery Ticket Hypothesis, 2019 (section 3, random
    pruning with the layer-wise proportions of the winning ticket).
    """
    _require_option("mode", mode, _MODES)
    masks = named_leaves(like)
    paths = [path for path, leaf in masks.items() if leaf is not None]
    if not paths:
        raise ValueError("like has no prunable leaf; make it with ones_mask(params)")
    bits = [
        jax.random.bits(jax.random.fold_in(key, index), (masks[path].size,), jnp.uint32) >> 1
        for index, path in enumerate(paths)
    ]
    alive = jnp.stack([jnp.sum(masks[path], dtype=jnp.int32) for path in paths])
    groups = list(range(len(paths)))
    if mode == "global":
        groups = [0] * len(paths)
        alive = jnp.sum(alive, keepdims=True)
    elif mode == "even":
        # Rounding the running total, not each leaf, keeps the sum of the counts exact.
        sizes = np.cumsum([masks[path].size for path in paths])
        total = jnp.sum(alive)
        until = [_share_of(total, int(size) / max(int(sizes[-1]), 1)) for size in sizes[:-1]]
        alive = jnp.diff(jnp.stack([jnp.int32(0), *until, total]))
    chosen = select_smallest(bits, [jnp.ones(b.shape, bool) for b in bits], alive, groups=groups)
    for path, lives in zip(paths, chosen, strict=True):
        masks[path] = lives.reshape(masks[path].shape)
    return _like(like, masks)


def _share_of(n: jax.Array, rate: Rate, *, up: bool = False) -> jax.Array:
    """round(rate * n), halves up, or ceil(rate * n); exact in integers.

    float32 cannot hold the product for millions of entries, so the rate is taken as a multiple of
    2^-32 and the 64-bit product is put together from 16-bit halves. What lies within the error
    of the rate, n * 2^-33, of a half (of an integer, when rounding up) counts as that half.
    """
    if _is_static(rate):
        fixed = jnp.uint32(min(math.floor(float(rate) * 2**32 + 0.5), 2**32 - 1))
    else:
        fixed = (jnp.asarray(rate) * jnp.asarray(2**32, jnp.result_type(rate))).astype(jnp.uint32)
    m = n.astype(jnp.uint32)
    low_half, sixteen = jnp.uint32(0xFFFF), jnp.uint32(16)
    a1, a0, b1, b0 = m >> sixteen, m & low_half, fixed >> sixteen, fixed & low_half
    low = a0 * b0
    middle = a1 * b0 + (low >> sixteen)
    middle_low = (middle & low_half) + a0 * b1
    high = a1 * b1 + (middle >> sixteen) + (middle_low >> sixteen)
    low = (middle_low << sixteen) | (low & low_half)
    error = (m + jnp.uint32(1)) >> jnp.uint32(1)
    offset = jnp.uint32(2**32 - 1) - error if up else jnp.uint32(2**31) + error
    carry = (low + offset < low).astype(jnp.uint32)
    return (high + carry).astype(jnp.int32)


def _leaf_rates(paths: list[str], rate: Rate, rates: Rates | None) -> list[Rate]:
    _require_rate("rate", rate)
    if rates is None:
        return [rate] * len(paths)
    if callable(rates):
        chosen = [rates(path) for path in paths]
    else:
        for prefix in rates:
            if not any(_is_under(path, prefix) for path in paths):
                near = difflib.get_close_matches(prefix, paths, n=1, cutoff=0.3)
                raise ValueError(
                    f"rates names {prefix!r}, which no ranked leaf begins with"
                    + (f"; the nearest is {near[0]!r}" if near else "")
                )
        chosen = []
        for path in paths:
            prefixes = [prefix for prefix in rates if _is_under(path, prefix)]
            chosen.append(rates[max(prefixes, key=len)] if prefixes else rate)
    for path, value in zip(paths, chosen, strict=True):
        _require_rate(f"rates for {path!r}", value)
    return chosen


def _is_under(path: str, prefix: str) -> bool:
    return path == prefix or path.startswith(prefix.rstrip("/") + "/")


def _is_static(value: Any) -> bool:
    try:
        float(value)
    except jax.errors.ConcretizationTypeError:
        return False
    return True


def _like(tree: PyTree, leaves: Mapping[str, Any]) -> PyTree:
    structure = jax.tree.structure(tree, is_leaf=lambda leaf: leaf is None)
    return jax.tree.unflatten(structure, list(leaves.values()))


def _require_option(name: str, value: str, options: tuple[str, ...]) -> None:
    if value not in options:
        near = difflib.get_close_matches(str(value), options, n=1, cutoff=0.3)
        raise ValueError(
            f"{name}={value!r} is unknown; want one of {', '.join(map(repr, options))}"
            + (f" (did you mean {near[0]!r}?)" if near else "")
        )


def _require_rate(name: str, rate: Rate) -> None:
    if np.ndim(rate) != 0:
        raise ValueError(f"{name} has shape {np.shape(rate)}, want a scalar; vmap over the axis")
    if not _is_static(rate):
        if not jnp.issubdtype(jnp.result_type(rate), jnp.floating):
            raise ValueError(f"{name} has dtype {jnp.result_type(rate)}, want floating-point")
    elif not 0.0 < float(rate) < 1.0:
        raise ValueError(
            f"{name}={float(rate):g} is outside (0, 1); it is the share to prune: for a target "
            "density d give 1 - d"
        )


def _require_no_nan(path: str, weight: jax.Array, mask: jax.Array) -> None:
    wrong = jnp.sum(jnp.isnan(weight) & mask)
    if _is_static(wrong) and wrong:
        raise ValueError(
            f"{path!r} has {int(wrong)} NaN among its living weights, which cannot be ranked; "
            "the training run diverged: lower its learning rate"
        )


def _require_rest(name: str, size: int, alive: jax.Array, drop: jax.Array, rate: Rate) -> None:
    """Refuses to prune everything, as far as it can be known before tracing."""
    if not _is_static(rate):
        return
    if _is_static(alive) and _is_static(drop):
        n, k = int(alive), int(drop)
    else:
        n, k = size, math.floor(float(rate) * size + 0.5)
    if k >= n:
        raise ValueError(
            f"rate={float(rate):g} would prune {k} of the {n} living entries of {name!r} and leave "
            "none; lower it, or leave the leaf out with prunable="
        )
