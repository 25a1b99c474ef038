"""Splits that keep the share of every class."""

from typing import Any

import jax
import numpy as np

PyTree = Any


def stratified_split(labels: np.ndarray, *, size: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Draws `size` examples so that each class keeps its share, and returns both parts.

    Class c with n_c of n examples gives floor(size n_c / n); the examples still missing come one
    each from the classes with the largest remainders (the earlier class where they are equal).

    Args:
      labels: class of each example, integers, `[n]`.
      size: how many to draw, 0 <= size <= n.
      seed: fixes the draw. NumPy's RandomState is used because its stream is frozen: the same
        seed gives the same split with every version of NumPy.

    Returns:
      Indices of the rest and of the drawn part, both in drawn order, int64.

    Raises:
      ValueError: `labels` is not a vector of integers, or `size` is out of range.

    Example:
      >>> rest, held = stratified_split(np.array([0, 0, 0, 1, 1, 1]), size=2, seed=0)
      >>> len(rest), sorted(np.array([0, 0, 0, 1, 1, 1])[held].tolist())
      (4, [0, 1])
    """
    labels = np.asarray(labels)
    if labels.ndim != 1 or labels.dtype.kind not in "iu":
        raise ValueError(f"labels is {labels.dtype} {list(labels.shape)}, expected integers [n]")
    if not 0 <= size <= len(labels):
        raise ValueError(f"size={size} is not between 0 and the {len(labels)} examples")
    order = np.random.RandomState(seed).permutation(len(labels))
    _, classes, counts = np.unique(labels, return_inverse=True, return_counts=True)
    quota, remainder = np.divmod(size * counts.astype(np.int64), max(len(labels), 1))
    quota[np.argsort(-remainder, kind="stable")[: size - quota.sum()]] += 1
    drawn = np.zeros(len(labels), bool)
    for c, count in enumerate(quota):
        drawn[order[classes[order] == c][:count]] = True
    return order[~drawn[order]], order[drawn[order]]


def holdout(
    examples: PyTree, *, fraction: float, seed: int, label: str = "label"
) -> tuple[PyTree, PyTree]:
    """Takes a stratified part of the training examples away for validation.

    Models and hyper-parameters are chosen on this part; test data chooses nothing.

    Args:
      examples: mapping of arrays `[n, ...]`, one of them the labels.
      fraction: share of the examples to hold out, strictly between 0 and 1.
      seed: fixes the draw.
      label: the key of the labels, integers `[n]`.

    Returns:
      The rest (train on it) and the part held out, as NumPy arrays or whatever the leaves were.

    Raises:
      ValueError: `fraction` is out of range, or holds nothing out, or holds everything out.
    """
    if not 0.0 < fraction < 1.0:
        raise ValueError(f"fraction={fraction} is not strictly between 0 and 1")
    labels = np.asarray(examples[label])
    size = round(fraction * len(labels))
    if not 0 < size < len(labels):
        raise ValueError(f"fraction={fraction} of {len(labels)} examples leaves one part empty")
    rest, held = stratified_split(labels, size=size, seed=seed)
    return (
        jax.tree.map(lambda leaf: leaf[rest], examples),
        jax.tree.map(lambda leaf: leaf[held], examples),
    )
