"""Pretext tasks on the nodes of a graph: what an embedding is asked beside its labels.

`pretext_targets` makes the targets of a task once, on the host, from the graph, the features and
the labels that are known; `pretext_loss` is the loss of a linear head on an embedding of the nodes,
and runs inside a compiled step. The tasks are listed in `PRETEXT_TASKS`.
"""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from trove_jax import kernels
from trove_jax.graphs.topology import Topology
from trove_jax.kernels.numbers import compute_dtype
from trove_jax.losses.classification import cross_entropy
from trove_jax.losses.graph_targets import MAKERS
from trove_jax.losses.prototypes import corrected_labels, find_prototypes

Head = Mapping[str, jax.Array]


class PretextTargets(NamedTuple):
    """What a pretext task asks for.

    Attributes:
      arrays: targets by name, arguments of the compiled step.
      width: outputs of the head.
      keep_edges: edges that stay in the input, `[e]` bool in the topology's order, or None: all.
      hide_nodes: nodes whose features are zeroed in the input, `[n]` bool, or None: no node.
    """

    arrays: dict[str, Any]
    width: int
    keep_edges: np.ndarray | None = None
    hide_nodes: np.ndarray | None = None


def pretext_targets(
    task: str,
    topology: Topology,
    features: Any,
    labels: np.ndarray,
    *,
    classes: int,
    rng: np.random.Generator,
    guesses: np.ndarray | None = None,
    **options: Any,
) -> PretextTargets:
    """Makes the targets of a pretext task on the host.

    Args:
      task: a name of `PRETEXT_TASKS`.
      topology: symmetric, without self-loops, `n` nodes; its weights are not read.
      features: `[n, d]`, a NumPy array or a SciPy sparse matrix.
      labels: `[n]` integers, -1 for every node whose label may not be seen, validation and test
        included.
      classes: number of classes, k.
      rng: draws what a task leaves to chance.
      guesses: labels of all nodes, `[n]`, from label propagation or iterative classification;
        wanted by `context_label` and `corrected_label`, whose known nodes keep their `labels`.
      **options: of the task: `fraction` (edge_mask, attribute_mask), `components`
        (attribute_mask), `sources` (pairwise_distance), `clusters` (distance_to_clusters).

    Returns:
      The targets.

    Raises:
      ValueError: an unknown task; shapes that do not fit; a label out of range; guesses that are
        missing; a graph that is not symmetric or has self-loops.

    Example:
      >>> from trove_jax import graphs
      >>> path = graphs.topology.from_edges([[0, 1], [1, 2]], 4)
      >>> known = np.array([0, -1, -1, -1])
      >>> found = pretext_targets("distance_to_labelled", path, np.eye(4), known, classes=1,
      ...                         rng=np.random.default_rng(0))
      >>> print(found.arrays["values"].ravel())
      [1.  1.  0.5 0. ]

    Reference: Jin et al., Self-supervised Learning on Graphs: Deep Insights and New Direction,
    2020, arXiv 2006.10141 (sections 3 and 5).
    """
    if task not in PRETEXT_TASKS:
        raise ValueError(f"task={task!r} is unknown; use one of {', '.join(PRETEXT_TASKS)}")
    labels = np.asarray(labels)
    n = topology.n_node
    if labels.shape != (n,) or features.shape[0] != n:
        raise ValueError(
            f"labels have shape {labels.shape} and features {features.shape}; want [n] and [n, d] "
            f"for n={n} nodes"
        )
    if labels.max(initial=-1) >= classes or labels.min(initial=0) < -1:
        raise ValueError(
            f"labels go from {labels.min()} to {labels.max()}; want -1 to {classes - 1}"
        )
    if guesses is not None:
        guesses = np.asarray(guesses)
        if guesses.shape != (n,) or guesses.min(initial=0) < 0 or guesses.max(initial=0) >= classes:
            raise ValueError(f"guesses of shape {guesses.shape}; want [n] from 0 to {classes - 1}")
        guesses = np.where(labels >= 0, labels, guesses).astype(np.int32)
    arrays, width, more = MAKERS[task](
        topology, features, labels, classes=classes, rng=rng, guesses=guesses, **options
    )
    return PretextTargets(arrays, width, **more)


def pretext_loss(
    task: str,
    head: Head,
    h: jax.Array,
    targets: Mapping[str, Any],
    key: jax.Array,
    *,
    pairs: int = 0,
    dropout: float = 0.5,
    alpha: float = 1.0,
    sample: int = 1000,
    candidates: int = 320,
    prototypes: int = 8,
) -> jax.Array:
    """The loss of a linear head on an embedding.

    With z = h W + b for nodes and z = |h_i - h_j| W + b for pairs, the cross-entropy of z for tasks
    of classes, the mean of (z - y)^2 for tasks of values, and the mean of (softmax(z) - y)^2 for
    the two label contexts. `corrected_label` adds alpha times the same with y made of labels that
    prototypes corrected, on a random sample of the nodes without a label.

    Args:
      task: a name of `PRETEXT_TASKS`.
      head: `kernel` W `[d, width]` and `bias` b `[width]`, of `pretext_head`.
      h: embedding of the nodes, `[n, d]` floating-point.
      targets: `arrays` of `pretext_targets`.
      key: random key of this step.
      pairs: pairs drawn, with replacement: per class of `pairwise_distance` (4,000 in the paper),
        or in all of `pairwise_similarity` (5,000); 0: all that there are.
      dropout: of the embedding before the head of the label contexts.
      alpha: weight of the corrected part.
      sample: nodes that are corrected in a step; at most those without a label.
      candidates: as in `find_prototypes`.
      prototypes: as in `find_prototypes`.

    Returns:
      Scalar, float32 at least.

    Raises:
      ValueError: an unknown task; a head that does not fit.

    Example:
      >>> head = {"kernel": jnp.zeros((2, 3)), "bias": jnp.zeros(3)}
      >>> targets = {"labels": jnp.array([0, 2])}
      >>> loss = pretext_loss("node_property", head, jnp.ones((2, 2)), targets, jax.random.key(0))
      >>> print(f"{loss:.3f}")  # log 3
      1.099

    Reference: Jin et al., 2020, arXiv 2006.10141 (equations 3 to 15).
    """
    if task not in PRETEXT_TASKS:
        raise ValueError(f"task={task!r} is unknown; use one of {', '.join(PRETEXT_TASKS)}")
    if head["kernel"].shape != (h.shape[-1], *head["bias"].shape):
        raise ValueError(
            f"head has shapes {head['kernel'].shape} and {head['bias'].shape}; want [d, width] and "
            f"[width] for d={h.shape[-1]}"
        )
    h = h.astype(compute_dtype(h))
    if task == "node_property":
        return cross_entropy(_linear(head, h), targets["labels"])
    if task in ("edge_mask", "pairwise_distance", "pairwise_similarity"):
        left, right, wanted = _drawn_pairs(targets, key, pairs)
        outputs = _linear(head, jnp.abs(h[left] - h[right]))
        if task == "pairwise_similarity":
            return jnp.mean(jnp.square(outputs[:, 0] - wanted))
        return cross_entropy(outputs, wanted)
    if task in ("attribute_mask", "distance_to_clusters", "distance_to_labelled"):
        nodes = targets["nodes"]
        return jnp.mean(jnp.square(_linear(head, h[nodes]) - targets["values"][nodes]))
    drop_key, sample_key, candidate_key = jax.random.split(key, 3)
    guessed = jax.nn.softmax(_linear(head, kernels.dropout(drop_key, h, dropout)))
    loss = _context_loss(guessed, targets["values"], targets["nodes"])
    if task == "context_label":
        return loss
    unlabelled = targets["nodes"]
    size = min(sample, unlabelled.shape[0])
    nodes = jax.random.permutation(sample_key, unlabelled)[:size]
    found = find_prototypes(
        h,
        targets["guesses"],
        candidate_key,
        classes=guessed.shape[1],
        candidates=candidates,
        prototypes=prototypes,
    )
    labels = corrected_labels(h, found, targets["guesses"], nodes)
    context = label_context(targets["two_hop"], targets["paths"], labels, guessed.shape[1])
    return loss + alpha * _context_loss(guessed, context, nodes)


def pretext_head(key: jax.Array, features: int, width: int) -> dict[str, jax.Array]:
    """Draws a linear head: Glorot's uniform law for `kernel` `[features, width]`, `bias` 0.

    Args:
      key: random key.
      features: width of the embedding, d.
      width: outputs, `PretextTargets.width`.

    Example:
      >>> pretext_head(jax.random.key(0), 16, 3)["kernel"].shape
      (16, 3)
    """
    kernel = jax.nn.initializers.glorot_uniform()(key, (features, width), jnp.float32)
    return {"kernel": kernel, "bias": jnp.zeros(width, jnp.float32)}


def label_context(pattern: Any, paths: jax.Array, labels: jax.Array, classes: int) -> jax.Array:
    """Distribution of labels among the nodes within two hops.

    y_v = (sum over neighbours of onehot + sum over the nodes that A^2 reaches of onehot) / total

    A neighbour that closes a triangle counts twice, as published. A node that reaches nothing has
    1/k everywhere (the published form is 0/0).

    Args:
      pattern: `kernels.SparsePattern` of A + (A^2 > 0) off the diagonal.
      paths: 1 or 2 for each of its entries, `[e]`.
      labels: of all nodes, `[n]`.
      classes: number of classes, k.

    Returns:
      `[n, k]` float32; rows sum to 1.

    Example:
      >>> from trove_jax import kernels
      >>> pattern, _ = kernels.sparse_pattern([0, 0, 1], [1, 2, 0], (3, 3))
      >>> paths = jnp.array([3.0, 1.0, 1.0])
      >>> print(label_context(pattern, paths, jnp.array([0, 0, 1]), 2))
      [[0.75 0.25]
       [1.   0.  ]
       [0.5  0.5 ]]

    Reference: Jin et al., 2020, arXiv 2006.10141 (equation 13).
    """
    one_hot = jax.nn.one_hot(labels, classes, dtype=jnp.float32)
    counts = kernels.sparse_product(pattern, paths, one_hot)
    total = counts.sum(axis=1, keepdims=True)
    return jnp.where(total > 0, counts / jnp.maximum(total, 1), 1.0 / classes)


def _linear(head, h):
    return h @ head["kernel"] + head["bias"][None]


def _context_loss(guessed, wanted, nodes):
    return jnp.mean(jnp.square(guessed[nodes] - wanted[nodes]))


def _drawn_pairs(targets, key, pairs):
    """All pairs, or so many of each group: groups stand one behind the other."""
    left, right, wanted = targets["left"], targets["right"], targets["wanted"]
    if not pairs:
        return left, right, wanted
    starts = targets["starts"]
    sizes = jnp.diff(starts)
    share = jax.random.uniform(key, (sizes.shape[0], pairs))
    # An empty group has no pair; the pair that it would read belongs to another, and is right too.
    offset = jnp.floor(share * sizes[:, None].astype(share.dtype)).astype(starts.dtype)
    index = jnp.minimum(starts[:-1, None] + offset, left.shape[0] - 1).ravel()
    return left[index], right[index], wanted[index]


PRETEXT_TASKS: Mapping[str, str] = MappingProxyType(
    {
        "attribute_mask": "features of nodes whose features are hidden",
        "context_label": "distribution of labels within two hops",
        "corrected_label": "the same, also with labels that prototypes corrected",
        "distance_to_clusters": "1 / hops to the centre of each cluster",
        "distance_to_labelled": "mean of 1 / hops to the labelled nodes of each class",
        "edge_mask": "whether a pair is a link that was taken out",
        "node_property": "class of the degree",
        "pairwise_distance": "hops between two nodes: 1, 2, 3 or more",
        "pairwise_similarity": "cosine of two nodes' features",
    }
)
