"""Iterative classification: labels of neighbours as features, guessed again and again."""

from typing import Any

import numpy as np

from trove_jax.graphs.topology import Topology


def iterative_classification(
    topology: Topology,
    features: Any,
    labels: np.ndarray,
    *,
    classes: int,
    rounds: int = 10,
) -> np.ndarray:
    """Classifies nodes by their features and by how many neighbours have which label.

    A first logistic regression on [x_i > 0] guesses all labels. Then, up to `rounds` times, one on
    [x_i > 0, counts of the labels of i's neighbours] is fitted to the nodes with labels and guesses
    the others anew, until no guess changes.

    Args:
      topology: neighbours without self-loops, `n` nodes, on the host; weights are not read.
      features: `[n, d]`, a NumPy array or a SciPy sparse matrix.
      labels: `[n]` integers, -1 where the label is not known: only these are guessed.
      classes: number of classes, k.
      rounds: most rounds.

    Returns:
      Probabilities, `[n, k]` float32; one-hot for the known ones. A class that no known node has
      gets 0.

    Raises:
      ValueError: shapes that do not fit; labels out of range; fewer than two classes among them.

    Example:
      >>> from trove_jax import graphs
      >>> topology = graphs.topology.from_edges([[0, 2], [1, 3]], 4)
      >>> x = np.array([[1, 0], [0, 1], [1, 0], [0, 1]])
      >>> found = iterative_classification(topology, x, np.array([0, 1, -1, -1]), classes=2)
      >>> print(found.argmax(axis=1))
      [0 1 0 1]

    Reference: Sen et al., Collective Classification in Network Data, AI Magazine 2008.
    """
    from scipy import sparse
    from sklearn.linear_model import LogisticRegression

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
    known = np.flatnonzero(labels >= 0)
    if len(np.unique(labels[known])) < 2:
        raise ValueError("labels have fewer than two classes; one cannot tell classes apart by one")
    words: Any = sparse.csr_matrix(features, dtype=np.float64)
    words.data = (words.data > 0).astype(np.float64)
    adjacency = sparse.csr_matrix(
        (np.ones(topology.n_edge), (topology.receivers, topology.senders)), shape=(n, n)
    )
    eye = np.eye(classes)
    inputs: Any = words
    current = np.full(n, -1)
    probabilities = np.zeros((n, classes))
    for _ in range(rounds + 1):
        model = LogisticRegression(max_iter=500)
        model.fit(inputs[known], labels[known])
        probabilities[:] = 0.0
        probabilities[:, model.classes_] = model.predict_proba(inputs)
        probabilities[known] = eye[labels[known]]
        new = probabilities.argmax(axis=1)
        if np.array_equal(new, current):
            break
        current = new
        # Only guesses and known labels are counted, never a label that was withheld.
        inputs = sparse.hstack([words, adjacency @ eye[current]], format="csr")
    return probabilities.astype(np.float32)
