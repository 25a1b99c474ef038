"""Masks over parameters, and the optimiser rule that keeps masked entries where they are.

A mask is a tree with the structure of the parameters. Its leaf is a boolean array of the
parameter's shape where the parameter may be pruned (True: the entry lives), and `None` where it
may not (biases, batch-norm scales). `None` has no array behind it: it costs no memory traffic, is
never counted in a density, and stays `None` when masks are stacked over seeds or rounds.
"""

import difflib
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import optax

PyTree = Any
Prunable = Callable[[str, jax.Array], bool]
State = TypeVar("State")


def is_kernel(path: str, leaf: jax.Array) -> bool:
    """Says whether a parameter is the kernel of a dense or convolution layer.

    True for leaves called `kernel` with two axes or more; so biases, embeddings and the scales and
    offsets of normalisation layers are never pruned.

    Args:
      path: names from the root of the tree to the leaf, joined by `/`, such as `Dense_0/kernel`.
      leaf: the parameter, any shape.

    Returns:
      Whether the leaf may be pruned.

    Example:
      >>> is_kernel("Dense_0/kernel", jnp.ones((2, 3))), is_kernel("Dense_0/bias", jnp.ones(3))
      (True, False)
    """
    return path.rsplit("/", 1)[-1] == "kernel" and leaf.ndim >= 2


def named_leaves(tree: PyTree) -> dict[str, Any]:
    """Lists the leaves of a tree by name; `None` counts as a leaf.

    Args:
      tree: any pytree.

    Returns:
      `{path: leaf}` in flattening order, the path joined by `/`.

    Example:
      >>> named_leaves({"a": {"kernel": 1, "bias": None}})
      {'a/bias': None, 'a/kernel': 1}
    """
    flat, _ = jax.tree_util.tree_flatten_with_path(tree, is_leaf=lambda leaf: leaf is None)
    return {jax.tree_util.keystr(path, simple=True, separator="/"): leaf for path, leaf in flat}


def ones_mask(params: PyTree, prunable: Prunable | None = None) -> PyTree:
    """Makes the mask of a dense network: every prunable entry lives.

    Args:
      params: parameters, a pytree of arrays of any shape.
      prunable: `(path, leaf) -> bool`; None: `is_kernel`.

    Returns:
      Tree like `params`: boolean ones of the leaf's shape where prunable, `None` elsewhere.

    Raises:
      ValueError: the predicate selects nothing, or a leaf that is not real floating-point.

    Example:
      >>> ones_mask({"kernel": jnp.zeros((1, 2)), "bias": jnp.zeros(2)})
      {'bias': None, 'kernel': Array([[ True,  True]], dtype=bool)}
    """
    chosen = is_kernel if prunable is None else prunable
    leaves = named_leaves(params)
    mask = []
    for path, leaf in leaves.items():
        if leaf is None or not chosen(path, leaf):
            mask.append(None)
            continue
        _require_floating(path, leaf)
        mask.append(jnp.ones(leaf.shape, bool))
    if all(leaf is None for leaf in mask):
        raise ValueError(
            f"prunable selects none of the {len(leaves)} leaves ({_some(leaves)}); "
            "want a predicate (path, leaf) -> bool that is true for at least one"
        )
    structure = jax.tree.structure(params, is_leaf=lambda leaf: leaf is None)
    return jax.tree.unflatten(structure, mask)


def apply_mask(params: PyTree, mask: PyTree) -> PyTree:
    """Sets the pruned entries of the parameters to exactly zero.

    m * W, where a pruned entry may hold anything: NaN reaches neither the value nor the gradient.

    Args:
      params: parameters, a pytree of arrays of any shape.
      mask: mask tree of `params`.

    Returns:
      Tree like `params`, same dtypes.

    Raises:
      ValueError: the mask's tree, a shape or a dtype does not fit (the leaf is named).

    Example:
      >>> print(apply_mask({"kernel": jnp.ones((1, 2))}, {"kernel": jnp.array([[True, False]])}))
      {'kernel': Array([[1., 0.]], dtype=float32)}
    """
    check_mask(params, mask)
    return _where(mask, params)


def density(mask: PyTree) -> jax.Array:
    """Measures the share of prunable entries that live.

    sum m / sum 1, over the leaves that are not `None`.

    Args:
      mask: mask tree. A tree stacked over seeds gives the share over all seeds; `jax.vmap` it for
        one number per seed.

    Returns:
      Scalar in [0, 1], float32. The count is exact below 2^31 entries.

    Raises:
      ValueError: the tree has no prunable leaf.

    Example:
      >>> print(density({"kernel": jnp.array([[True, False]]), "bias": None}))
      0.5
    """
    leaves = jax.tree.leaves(mask)
    size = sum(leaf.size for leaf in leaves)
    if not size:
        raise ValueError("mask has no prunable entry; make it with ones_mask(params)")
    alive = sum(jnp.sum(leaf, dtype=jnp.int32) for leaf in leaves)
    return jnp.asarray(alive, jnp.float32) / size


def layer_densities(mask: PyTree) -> dict[str, jax.Array]:
    """Measures the share of living entries of each prunable leaf.

    Args:
      mask: mask tree, as for `density`.

    Returns:
      `{path: scalar float32}` over the leaves that are not `None`.

    Example:
      >>> print(layer_densities({"Dense_0": {"kernel": jnp.array([[True, False]]), "bias": None}}))
      {'Dense_0/kernel': Array(0.5, dtype=float32)}
    """
    return {path: density(leaf) for path, leaf in named_leaves(mask).items() if leaf is not None}


def emptied_layers(mask: PyTree) -> tuple[str, ...]:
    """Names the layers of which nothing is left, through which no signal passes.

    Global ranking can do that at extreme sparsity.

    Args:
      mask: mask tree of concrete arrays; in a stacked tree a layer counts when it is empty in
        every seed (inside `jit` or per seed, compare `layer_densities` with 0 instead).

    Returns:
      Paths of the prunable leaves without a living entry.

    Example:
      >>> emptied_layers({"a": {"kernel": jnp.zeros((1, 2), bool)}, "b": jnp.ones(1, bool)})
      ('a/kernel',)
    """
    return tuple(path for path, share in layer_densities(mask).items() if not share)


def check_mask(params: PyTree, mask: PyTree) -> None:
    """Refuses a mask that does not belong to these parameters.

    Args:
      params: parameters, a pytree of arrays of any shape.
      mask: mask tree.

    Raises:
      ValueError: another tree, another shape, a mask that is not boolean, a masked leaf that is
        not real floating-point; the leaf is named.

    Example:
      >>> params = {"kernel": jnp.ones((1, 2))}
      >>> check_mask(params, {"kernel": jnp.ones((2, 1), bool)})  # doctest: +ELLIPSIS
      Traceback (most recent call last):
      ...
      ValueError: mask leaf 'kernel' has shape (2, 1), its parameter (1, 2); make the mask ...
    """
    leaves, masks = named_leaves(params), named_leaves(mask)
    for path in masks:
        if path not in leaves:
            near = difflib.get_close_matches(path, leaves, n=1)
            hint = f", the nearest is {near[0]!r}" if near else ""
            raise ValueError(
                f"mask leaf {path!r} is not among the parameters ({_some(leaves)}){hint}; "
                "make the mask with ones_mask(params)"
            )
    for path, leaf in leaves.items():
        if path not in masks:
            raise ValueError(
                f"mask has no leaf for the parameter {path!r} (it has {_some(masks)}); "
                "make it with ones_mask(params), which holds None for what is not pruned"
            )
        if masks[path] is None:
            continue
        if jnp.shape(masks[path]) != jnp.shape(leaf):
            raise ValueError(
                f"mask leaf {path!r} has shape {jnp.shape(masks[path])}, its parameter "
                f"{jnp.shape(leaf)}; make the mask with ones_mask(params), or vmap over the "
                "leading axis if both are stacked"
            )
        if jnp.result_type(masks[path]) != jnp.bool_:
            raise ValueError(
                f"mask leaf {path!r} has dtype {jnp.result_type(masks[path])}, want bool; "
                "convert it with .astype(bool)"
            )
        _require_floating(path, leaf)
    if _structure(params) != _structure(mask):
        raise ValueError(
            f"mask has the structure {_structure(mask)}, its parameters {_structure(params)}; make "
            "the mask with ones_mask(params)"
        )


class MaskedState(NamedTuple):
    """State of `masked`.

    Attributes:
      mask: mask tree of the parameters.
      inner_state: state of the inner rule.
    """

    mask: PyTree
    inner_state: optax.OptState


def masked(
    inner: optax.GradientTransformation,
    mask: PyTree | None = None,
    *,
    prunable: Prunable | None = None,
) -> optax.GradientTransformationExtraArgs:
    """Trains only the living entries of the parameters.

    u = m * inner(m * g, m * W)

    Gradients and parameters are masked before the inner rule and its updates after it, so that
    neither momentum, nor weight decay, nor Adam's epsilon moves a pruned entry: its update is
    exactly 0, and norms that the inner rule takes (clipping, trust ratios) see the sparse network
    only. Start from `apply_mask(params, mask)` and the pruned entries stay exactly 0.

    The mask is read from the state, never from the closure: put another one there with `set_mask`
    and the compiled step goes on without compiling again.

    Args:
      inner: any optax rule. Wrap the whole chain, weight decay included.
      mask: mask tree of the parameters; None: all prunable entries live.
      prunable: `(path, leaf) -> bool` for `mask=None`; None: `is_kernel`.

    Returns:
      A transformation with state `MaskedState`; it hands extra arguments on to `inner`.

    Raises:
      ValueError: `mask` and `prunable` together; on `init`, a mask that does not fit the
        parameters (the leaf is named) or a predicate that selects nothing.

    Example:
      >>> rule = optax.chain(optax.add_decayed_weights(1e-4), optax.sgd(0.1, momentum=0.9))
      >>> tx = masked(rule, {"kernel": jnp.array([[True, False]])})
      >>> params = {"kernel": jnp.array([[1.0, 0.0]])}
      >>> updates, state = tx.update({"kernel": jnp.ones((1, 2))}, tx.init(params), params)
      >>> print(bool(updates["kernel"][0, 0] < 0), updates["kernel"][0, 1])
      True 0.0

    Reference: Frankle et al., Stabilizing the Lottery Ticket Hypothesis, 2019 (section 2:
    A^{a->b}(m * W, u), training with pruned entries held at zero).
    """
    if mask is not None and prunable is not None:
        raise ValueError("got both mask and prunable; give prunable only when mask is None")
    inner = optax.with_extra_args_support(inner)

    def init(params: optax.Params) -> MaskedState:
        start = ones_mask(params, prunable) if mask is None else mask
        check_mask(params, start)
        return MaskedState(_copy(start), inner.init(params))

    def update(updates, state, params=None, **extra_args):
        grads = _where(state.mask, updates)
        weights = None if params is None else _where(state.mask, params)
        updates, inner_state = inner.update(grads, state.inner_state, weights, **extra_args)
        return _where(state.mask, updates), MaskedState(state.mask, inner_state)

    return optax.GradientTransformationExtraArgs(init, update)


def set_mask(state: State, mask: PyTree) -> State:
    """Puts another mask into an optimiser state.

    The rest of the state stays: an entry that comes back to life finds its old moments. For fresh
    moments take the state from `init` again.

    Args:
      state: a `MaskedState`, or any pytree that holds one (the state of a chain, a train state).
      mask: mask tree with the leaves and shapes of the old one; both may be stacked over seeds.

    Returns:
      The same state with the new mask.

    Raises:
      ValueError: no `MaskedState` inside; a leaf or shape differs from the old mask's.

    Example:
      >>> state = masked(optax.sgd(0.1)).init({"kernel": jnp.ones((1, 2))})
      >>> print(density(set_mask(state, {"kernel": jnp.array([[True, False]])}).mask))
      0.5
    """
    found = _masked_states(state)
    if not found:
        raise ValueError(
            f"state of type {type(state).__name__} holds no MaskedState; wrap the optimiser: "
            "transforms.masked(optimiser)"
        )
    for old in found:
        _check_same(old.mask, mask)
    return jax.tree.map(
        lambda node: node._replace(mask=_copy(mask)) if isinstance(node, MaskedState) else node,
        state,
        is_leaf=lambda node: isinstance(node, MaskedState),
    )


def get_mask(state: PyTree) -> PyTree:
    """Reads the mask out of an optimiser state.

    Args:
      state: a `MaskedState`, or any pytree that holds exactly one.

    Returns:
      The mask tree.

    Raises:
      ValueError: no `MaskedState` inside, or several.

    Example:
      >>> get_mask((masked(optax.sgd(0.1)).init({"kernel": jnp.ones((1, 1))}),))
      {'kernel': Array([[ True]], dtype=bool)}
    """
    found = _masked_states(state)
    if len(found) != 1:
        raise ValueError(
            f"state holds {len(found)} MaskedState, want exactly one; wrap the whole optimiser "
            "once: transforms.masked(optimiser)"
        )
    return found[0].mask


def _masked_states(state: PyTree) -> list[MaskedState]:
    nodes = jax.tree.leaves(state, is_leaf=lambda node: isinstance(node, MaskedState))
    return [node for node in nodes if isinstance(node, MaskedState)]


def _copy(mask: PyTree) -> PyTree:
    # A train loop that donates its state would otherwise delete the caller's own mask.
    return jax.tree.map(jnp.array, mask)


def _where(mask: PyTree, tree: PyTree) -> PyTree:
    return jax.tree.map(
        lambda m, x: x if m is None else jnp.where(m, x, jnp.zeros((), x.dtype)),
        mask,
        tree,
        is_leaf=lambda leaf: leaf is None,
    )


def _check_same(old: PyTree, new: PyTree) -> None:
    olds, news = named_leaves(old), named_leaves(new)
    for path in {**olds, **news}:
        if path not in olds or path not in news or (olds[path] is None) != (news[path] is None):
            raise ValueError(
                f"mask leaf {path!r} is in only one of the old and the new mask; masks of one "
                "state prune the same leaves: derive the new one from the old one"
            )
        if news[path] is None:
            continue
        if news[path].shape != olds[path].shape or news[path].dtype != jnp.bool_:
            raise ValueError(
                f"new mask leaf {path!r} is {news[path].dtype}{list(news[path].shape)}, want "
                f"bool{list(olds[path].shape)}: another one would compile the step again"
            )


def _require_floating(path: str, leaf: jax.Array) -> None:
    if not jnp.issubdtype(jnp.result_type(leaf), jnp.floating):
        raise ValueError(
            f"prunable leaf {path!r} has dtype {jnp.result_type(leaf)}, want real floating-point; "
            "leave it out with prunable=(path, leaf) -> bool"
        )


def _structure(tree: PyTree) -> Any:
    return jax.tree.structure(tree, is_leaf=lambda leaf: leaf is None)


def _some(names: Iterable[str]) -> str:
    names = list(names)
    return ", ".join(names[:4]) + (", ..." if len(names) > 4 else "")
