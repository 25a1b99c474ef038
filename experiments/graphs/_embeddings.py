"""How good an embedding is: labels of few nodes, a linear classifier, F1 on the others.

A tenth of the labelled nodes and as many for validation choose the settings of every method. They
are set aside: the runs that are compared train on a tenth of all labels from the rest, at random,
and are tested on what is left.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import trove_jax

COSTS = (0.1, 1.0)  # C of the logistic regression, chosen with the other settings
_SHARE = 0.1
_POWER_ITERATIONS, _OVERSAMPLING = 3, 10


class Part(NamedTuple):
    """Nodes to train a classifier on and nodes to measure it on."""

    train: np.ndarray
    test: np.ndarray


class Splits(NamedTuple):
    """The nodes that choose settings, and a part for every seed, which shares no node with them."""

    tuning: Part
    parts: tuple[Part, ...]


def split_labels(labels: np.ndarray, seeds: int) -> Splits:
    """Draws the nodes; those without a label, -1, are in no part."""
    random = np.random.RandomState(48)
    nodes = random.permutation(np.flatnonzero(labels >= 0))
    size = int(_SHARE * len(nodes))
    parts = []
    for seed in range(seeds):
        rest = np.random.RandomState(seed).permutation(nodes[2 * size :])
        parts.append(Part(rest[:size], rest[size:]))
    return Splits(Part(nodes[:size], nodes[size : 2 * size]), tuple(parts))


def f1_scores(x: np.ndarray, labels: np.ndarray, part: Part, cost: float) -> dict[str, float]:
    """Macro and micro F1 in percent of logistic regression, one class against the rest."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.metrics import f1_score
    from sklearn.multiclass import OneVsRestClassifier

    found = OneVsRestClassifier(LogisticRegression(C=cost, max_iter=2000))
    found.fit(x[part.train], labels[part.train])
    answers = found.predict(x[part.test])
    return {
        f"{kind}_f1": 100.0
        * float(f1_score(labels[part.test], answers, average=kind, zero_division=0.0))
        for kind in ("macro", "micro")
    }


class Choice(NamedTuple):
    """Settings with the best macro F1 on validation nodes.

    Attributes:
      settings: what was chosen.
      cost: C of the classifier.
      macro_f1: on the validation nodes.
      tried: how many pairs of settings and C were compared.
    """

    settings: Any
    cost: float
    macro_f1: float
    tried: int


def choose(
    embed: Callable[[Any], np.ndarray], trials: Iterable[Any], labels: np.ndarray, part: Part
) -> Choice:
    """Tries settings, and keeps the first of the best."""
    found = []
    for settings in trials:
        x = embed(settings)
        for cost in COSTS:
            found.append((f1_scores(x, labels, part, cost)["macro_f1"], settings, cost))
    best = max(found, key=lambda each: each[0])
    return Choice(best[1], best[2], best[0], len(found))


def score(
    xs: Iterable[np.ndarray], labels: np.ndarray, parts: Iterable[Part], cost: float
) -> dict[str, list[float]]:
    """The scores of one embedding per seed, each on its part."""
    rows: list[Mapping[str, float]] = [
        f1_scores(x, labels, part, cost) for x, part in zip(xs, parts, strict=True)
    ]
    return {name: [row[name] for row in rows] for name in rows[0]}


def standardised(x: np.ndarray) -> np.ndarray:
    """Columns of mean 0 and standard deviation 1; a constant one becomes 0."""
    from sklearn.preprocessing import scale

    return scale(np.asarray(x, np.float64))


def similarity_svd(
    topology: Any, width: int, weights: tuple[float, ...], beta: float
) -> tuple[np.ndarray, np.ndarray]:
    """The leading left singular vectors and values of FastRP's similarity, which is never built.

    Args:
      topology: as for `graphs.fastrp`.
      width: how many.
      weights: of the powers, as for `graphs.fastrp`.
      beta: of the degrees, as for `graphs.fastrp`.

    Returns:
      `[n, width]` and `[width]`.

    Reference: Halko, Martinsson and Tropp, Finding Structure with Randomness, SIAM Review 2011
    (algorithms 4.4 and 5.1).
    """
    columns = min(width + _OVERSAMPLING, topology.n_node)
    alphas = jnp.asarray(weights, jnp.float32)
    left, values = _svd(topology, alphas, jnp.float32(beta), columns)
    return np.asarray(left[:, :width]), np.asarray(values[:width])


def _svd_of(topology, alphas, beta, columns):
    def product(x):
        return trove_jax.graphs.similarity_product(topology, x, weights=alphas, beta=beta)

    def transposed(y):
        return jax.vjp(product, jnp.zeros_like(y))[1](y)[0]

    start = jax.random.normal(jax.random.key(48), (topology.n_node, columns))
    basis, _ = jnp.linalg.qr(product(start))
    for _ in range(_POWER_ITERATIONS):
        basis, _ = jnp.linalg.qr(transposed(basis))
        basis, _ = jnp.linalg.qr(product(basis))
    inner, values, _ = jnp.linalg.svd(transposed(basis).T, full_matrices=False)
    return basis @ inner, values


_svd = jax.jit(_svd_of, static_argnums=3)
