"""Links held out for training, validation and test of link prediction, with pairs that are none."""

import dataclasses

import numpy as np


@dataclasses.dataclass(frozen=True, eq=False)
class LinkSplit:
    """Undirected links in three parts, and pairs of nodes that are not linked.

    Attributes:
      train: links that messages may pass, `[m, 2]` int32, the smaller index first.
      validation: held-out links, `[m, 2]`.
      test: held-out links, `[m, 2]`.
      validation_negatives: distinct pairs that are no link of any part, `[m, 2]`.
      test_negatives: the same, none of them a validation negative, `[m, 2]`.
      dropped: how many rows were left out as self-loops or repetitions of a link.
    """

    train: np.ndarray
    validation: np.ndarray
    test: np.ndarray
    validation_negatives: np.ndarray
    test_negatives: np.ndarray
    dropped: int


def split_links(
    edges: np.ndarray,
    n_node: int,
    *,
    validation: float = 0.1,
    test: float = 0.2,
    negatives: float = 1.0,
    seed: int,
) -> LinkSplit:
    """Splits undirected links at random.

    Self-loops and repetitions, in either direction, are left out first; `dropped` counts them.

    Args:
      edges: links, `[m, 2]` integers, in any direction.
      n_node: number of nodes, n.
      validation: share of the links that is held out for validation; numbers are rounded down.
      test: share that is held out for test.
      negatives: pairs that are no link, for each held-out link.
      seed: fixes the draw. NumPy's RandomState is used because its stream is frozen.

    Returns:
      The parts. One seed gives one split with every version of NumPy; splits of one graph have the
      same sizes.

    Raises:
      ValueError: `edges` is no table of two columns of integers, an index is out of range, the
        shares are negative or leave no training link, or the graph has too few pairs without a
        link for the negatives.

    Example:
      >>> parts = split_links(np.array([[0, 1], [1, 2], [2, 3], [3, 0]]), 5, test=0.25, seed=0)
      >>> len(parts.train), len(parts.validation), len(parts.test), len(parts.test_negatives)
      (3, 0, 1, 1)
    """
    edges = np.asarray(edges)
    if edges.ndim != 2 or edges.shape[1] != 2 or edges.dtype.kind not in "iu":
        raise ValueError(f"edges is {edges.dtype} {list(edges.shape)}, expected integers [m, 2]")
    if edges.size and not 0 <= edges.min() <= edges.max() < n_node:
        raise ValueError(f"edges names node {edges.max()} or a negative one; n_node={n_node}")
    if not (validation >= 0 and test >= 0 and validation + test < 1):
        raise ValueError(
            f"validation={validation} and test={test} leave no links to train; they must not be "
            "negative, and less than 1 together"
        )
    if not 0 <= negatives < np.inf:
        raise ValueError(f"negatives={negatives} is negative or not finite")
    links = np.sort(edges.astype(np.int64), axis=1)
    links = np.unique(links[links[:, 0] != links[:, 1]], axis=0)
    random = np.random.RandomState(seed)
    order = random.permutation(len(links))
    n_validation, n_test = int(validation * len(links)), int(test * len(links))
    held, tested = order[:n_validation], order[n_validation : n_validation + n_test]
    rest = np.sort(order[n_validation + n_test :])
    counts = int(negatives * n_validation), int(negatives * n_test)
    pairs = _non_links(links, n_node, sum(counts), random)
    rows = links.astype(np.int32)
    return LinkSplit(
        rows[rest],
        rows[held],
        rows[tested],
        pairs[: counts[0]],
        pairs[counts[0] :],
        dropped=len(edges) - len(links),
    )


def _non_links(
    links: np.ndarray, n_node: int, count: int, random: np.random.RandomState
) -> np.ndarray:
    """Distinct pairs, the smaller index first, in the order in which they were drawn."""
    free = n_node * (n_node - 1) // 2 - len(links)
    if count > free:
        raise ValueError(f"{count} negatives are wanted, but only {free} pairs have no link")
    taken = links[:, 0] * n_node + links[:, 1]
    if 2 * count > free:
        first, second = np.triu_indices(n_node, 1)
        found = np.setdiff1d(first * n_node + second, taken)
        found = found[random.permutation(len(found))[:count]]
    else:
        found = np.zeros(0, np.int64)
        while len(found) < count:
            drawn = np.sort(random.randint(0, n_node, (2 * count, 2)), axis=1)
            codes = drawn[drawn[:, 0] < drawn[:, 1]] @ np.array([n_node, 1])
            found = np.concatenate([found, codes[~np.isin(codes, taken)]])
            _, places = np.unique(found, return_index=True)
            found = found[np.sort(places)]
        found = found[:count]
    return np.stack([found // n_node, found % n_node], axis=1).astype(np.int32)
