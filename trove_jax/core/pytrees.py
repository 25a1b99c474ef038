"""Pytrees by name: paths of leaves, digests, plain-array forms for storage."""

import hashlib
import json
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from trove_jax.core.processes import whole
from trove_jax.core.task import PyTree


def leaf_names(tree: PyTree) -> list[str]:
    """Names the leaves of a pytree in order, as `params/Dense_0/kernel`."""
    paths, _ = jax.tree_util.tree_flatten_with_path(tree)
    return [jax.tree_util.keystr(path, simple=True, separator="/") for path, _ in paths]


def array_digest(array: np.ndarray) -> str:
    """SHA-256 of an array's dtype, shape and bytes; a scalar counts as an array of one."""
    array = np.ascontiguousarray(array)
    digest = hashlib.sha256(f"{array.dtype.name}{array.shape}".encode())
    digest.update(memoryview(array.reshape(-1).view(np.uint8)))  # pyright: ignore[reportArgumentType]
    return digest.hexdigest()


def json_digest(value: Any) -> str:
    """SHA-256 of a JSON value, whatever the order of its keys."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def to_host(tree: PyTree) -> PyTree:
    """Brings a pytree to the host as NumPy arrays; typed random keys become their key data.

    Arrays that lie on many processes come whole; all processes must ask for them.
    """
    return jax.tree.map(
        lambda leaf: whole(jax.random.key_data(leaf) if is_key(leaf) else leaf), tree
    )


def from_host(host: PyTree, like: PyTree) -> PyTree:
    """Undoes `to_host`; `like` says which leaves are typed random keys."""
    return jax.tree.map(
        lambda leaf, model: (
            jax.random.wrap_key_data(leaf, impl=_implementation(model)) if is_key(model) else leaf
        ),
        host,
        like,
    )


def _implementation(model: Any) -> str:
    """Name of the generator behind typed keys, also where there is only a shape and a dtype."""
    for name in ("threefry2x32", "rbg", "unsafe_rbg"):
        if jax.random.key(0, impl=name).dtype == model.dtype:
            return name
    raise ValueError(f"keys of dtype {model.dtype} cannot be stored; use a generator of jax.random")


def is_key(leaf: Any) -> bool:
    """Whether a leaf is an array of typed random keys."""
    return hasattr(leaf, "dtype") and jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)
