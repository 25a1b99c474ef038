"""Graphs with features, labels and splits, as NumPy arrays; and sets of many graphs."""

import dataclasses
import os
from typing import Any

import jraph
import numpy as np

from trove_jax.core import DataUnavailable
from trove_jax.data.catalogue import DATA_SETS, describe
from trove_jax.data.graph_sets import LINK_GRAPHS, UNDIRECTED
from trove_jax.data.source import Arrays, contents_sha256, load_arrays

_PARTS = ("train", "validation", "test")


@dataclasses.dataclass(frozen=True, eq=False)
class SparseFeatures:
    """Features of nodes as compressed rows.

    Attributes:
      starts: row i is at `starts[i]` to `starts[i + 1]`, `[n + 1]` int32.
      columns: column of each stored entry, `[e]` int32.
      values: `[e]` float32.
      shape: `(n, d)`.
    """

    starts: np.ndarray
    columns: np.ndarray
    values: np.ndarray
    shape: tuple[int, int]

    def rows(self) -> np.ndarray:
        """Row of each stored entry, `[e]`."""
        return np.repeat(np.arange(self.shape[0]), np.diff(self.starts))

    def dense(self) -> np.ndarray:
        """The matrix with its zeros, `[n, d]` float32; entries in one place are added."""
        found = np.zeros(self.shape, np.float32)
        np.add.at(found, (self.rows(), self.columns), self.values)
        return found

    def row_normalised(self) -> "SparseFeatures":
        """The same with rows that sum to 1; a row that sums to 0 stays as it is.

        Example:
          >>> x = SparseFeatures(np.array([0, 2]), np.array([0, 2]), np.array([1.0, 3.0]), (1, 3))
          >>> print(x.row_normalised().dense())
          [[0.25 0.   0.75]]
        """
        rows = self.rows()
        sums = np.bincount(rows, self.values, self.shape[0])
        values = self.values / np.where(sums == 0, 1.0, sums)[rows]
        return dataclasses.replace(self, values=values.astype(np.float32))


@dataclasses.dataclass(frozen=True, eq=False)
class GraphData:
    """One graph, as published.

    Attributes:
      name: of the data set.
      edges: (sender, receiver) rows, `[m, 2]` int32; of an undirected graph each link once, the
        smaller index first.
      directed: whether the direction of edges means something.
      features: of the nodes, or None.
      labels: class of each node, `[n]` int32, -1 for none.
      n_node: number of nodes, n.
      class_count: number of classes, k; 0 without classes.
      train: indices of the training nodes, int32, in the stored order; None without a split.
      validation: the same for validation.
      test: the same for test.
      splits: `[splits, n]` int8 with 0 train, 1 validation, 2 test where there are several, and
        `train`, `validation`, `test` are the one that was asked for; else None.
      time: when each edge came, `[m]` int64, or None.
      rating: of each edge, `[m]` int8, or None.
      sha256: digest of the arrays of the set.
    """

    name: str
    edges: np.ndarray
    directed: bool
    features: SparseFeatures | None
    labels: np.ndarray
    n_node: int
    class_count: int
    train: np.ndarray | None
    validation: np.ndarray | None
    test: np.ndarray | None
    splits: np.ndarray | None
    time: np.ndarray | None
    rating: np.ndarray | None
    sha256: str

    def graph(self) -> jraph.GraphsTuple:
        """The edges as jraph has them, both directions of a link that has none; no features."""
        edges = self.edges
        if not self.directed:
            others = edges[edges[:, 0] != edges[:, 1]]
            edges = np.concatenate([edges, others[:, ::-1]])
        return _graphs_tuple(self.n_node, edges)


@dataclasses.dataclass(frozen=True, eq=False)
class GraphCollection:
    """Many small undirected graphs.

    Attributes:
      name: of the data set.
      graphs: each link in both directions. `nodes` is a dictionary of `[n]` int32 arrays
        (`label`, or `atomic_num`, `charge`, `num_h`, `aromatic`); `edges` is None or a dictionary
        with `bond_type`.
      labels: class of each graph, `[g]` int32, or its value, `[g]` float32.
      class_count: number of classes; 0 for values.
      fold: the fold in which each graph is tested, `[g]` int32, -1 for none; None without folds.
      sha256: digest of the arrays of the set.
    """

    name: str
    graphs: tuple[jraph.GraphsTuple, ...]
    labels: np.ndarray
    class_count: int
    fold: np.ndarray | None
    sha256: str


def load_graph(
    name: str, *, split: int = 0, data_dir: str | os.PathLike | None = None
) -> GraphData:
    """Loads one graph.

    Args:
      name: `cora`, `citeseer`, `pubmed`, `cora_directed`, `citeseer_directed`, `texas`,
        `wisconsin`, `cornell`, `cornell_fixed`, `chameleon`, `squirrel`, `chameleon_filtered`,
        `squirrel_filtered`, `actor`, `bitcoin_alpha` or `uci_messages`.
      split: which of the published splits, where there are several.
      data_dir: a folder of data sets, in place of the one that TROVE_DATA_DIR names.

    Returns:
      The graph.

    Raises:
      ValueError: no such set, not a single graph, or `split` out of range.
      DataUnavailable: the set is not here or damaged; says what to do.
    """
    data_set = describe(name)
    if "edges" not in data_set.shapes or "num_nodes" in data_set.shapes:
        known = [
            key
            for key, each in DATA_SETS.items()
            if "edges" in each.shapes and "num_nodes" not in each.shapes
        ]
        raise ValueError(f"name={name!r} is not a single graph; those are {', '.join(known)}")
    count = data_set.shapes["split"][0] if "split" in data_set.shapes else 1
    if not 0 <= split < count:
        raise ValueError(
            f"split={split} of {name} does not exist; it has {count}: 0 to {count - 1}"
        )
    arrays, _ = load_arrays(data_set, data_dir=data_dir)
    return _graph_data(name, arrays, split, len(data_set.class_names))


def load_link_graph(name: str, *, data_dir: str | os.PathLike | None = None) -> GraphData:
    """Loads one of the eight undirected graphs that SEAL is measured on, without features.

    Args:
      name: `usair`, `ns`, `pb`, `yeast`, `celegans`, `power`, `router` or `ecoli`.
      data_dir: as `load_graph`.

    Returns:
      The graph; its digest is of all eight.

    Raises:
      ValueError: no such graph.
      DataUnavailable: as `load_graph`.

    Reference: Zhang and Chen, Link Prediction Based on Graph Neural Networks, NeurIPS 2018.
    """
    if name not in LINK_GRAPHS:
        raise ValueError(f"name={name!r} is unknown; known are {', '.join(LINK_GRAPHS)}")
    arrays, _ = load_arrays(describe("seal_link_prediction"), data_dir=data_dir)
    found = {
        "edges": arrays[f"{name}_edges"],
        "node_id": np.arange(int(arrays[f"{name}_num_nodes"])),
    }
    data = _graph_data(name, found, 0, 0)
    return dataclasses.replace(data, directed=False, sha256=contents_sha256(arrays))


def load_graphs(name: str, *, data_dir: str | os.PathLike | None = None) -> GraphCollection:
    """Loads a set of many graphs.

    Args:
      name: `tu_mutag`, `tu_proteins`, `tu_nci1`, `tu_imdb_binary`, `tu_enzymes`, `mol_esol`,
        `mol_lipophilicity` or `mol_aqsoldb`.
      data_dir: as `load_graph`.

    Returns:
      The graphs, as NumPy arrays.

    Raises:
      ValueError: no such set.
      DataUnavailable: as `load_graph`.
    """
    data_set = describe(name)
    if "num_nodes" not in data_set.shapes:
        known = [key for key, each in DATA_SETS.items() if "num_nodes" in each.shapes]
        raise ValueError(f"name={name!r} is no set of many graphs; those are {', '.join(known)}")
    arrays, _ = load_arrays(data_set, data_dir=data_dir)
    nodes = {
        key.removeprefix("node_"): arrays[key].astype(np.int32)
        for key in ("node_label", "atomic_num", "charge", "num_h", "aromatic")
        if key in arrays
    }
    node_ends, edge_ends = np.cumsum(arrays["num_nodes"]), np.cumsum(arrays["num_edges"])
    _check_edges(arrays["edges"], int(node_ends[-1]), name)
    graphs = []
    for node_end, edge_end, n, m in zip(
        node_ends, edge_ends, arrays["num_nodes"], arrays["num_edges"], strict=True
    ):
        own = slice(node_end - n, node_end)
        links = arrays["edges"][edge_end - m : edge_end] - (node_end - n)
        _check_edges(links, int(n), name)
        bonds = arrays["bond_type"][edge_end - m : edge_end] if "bond_type" in arrays else None
        back = links[:, 0] != links[:, 1]
        graphs.append(
            _graphs_tuple(int(n), np.concatenate([links, links[back][:, ::-1]]))._replace(
                nodes={key: values[own] for key, values in nodes.items()},
                edges=None
                if bonds is None
                else {"bond_type": np.concatenate([bonds, bonds[back]]).astype(np.int32)},
            )
        )
    classes = len(data_set.class_names)
    return GraphCollection(
        name=name,
        graphs=tuple(graphs),
        labels=arrays["y"].astype(np.int32 if classes else np.float32),
        class_count=classes,
        fold=arrays["fold"].astype(np.int32) if "fold" in arrays else None,
        sha256=contents_sha256(arrays),
    )


def _graph_data(name: str, arrays: Arrays, split: int, classes: int) -> GraphData:
    n_node = len(arrays["y"] if "y" in arrays else arrays["node_id"])
    _check_edges(arrays["edges"], n_node, name)
    parts: dict[str, np.ndarray | None] = dict.fromkeys(_PARTS)
    if "split" in arrays:
        chosen = arrays["split"][split]
        parts = {
            part: np.flatnonzero(chosen == code).astype(np.int32)
            for code, part in enumerate(_PARTS)
        }
    elif "train_idx" in arrays:
        stored = ("train_idx", "val_idx", "test_idx")
        parts = {part: arrays[key] for part, key in zip(_PARTS, stored, strict=True)}
    features = None
    if "x_indptr" in arrays:
        features = SparseFeatures(
            arrays["x_indptr"],
            arrays["x_indices"].astype(np.int32),
            arrays["x_data"].astype(np.float32),
            (int(arrays["x_shape"][0]), int(arrays["x_shape"][1])),
        )
    return GraphData(
        name=name,
        edges=arrays["edges"],
        directed=name not in UNDIRECTED,
        features=features,
        labels=arrays["y"].astype(np.int32) if "y" in arrays else np.full(n_node, -1, np.int32),
        n_node=n_node,
        class_count=classes,
        train=parts["train"],
        validation=parts["validation"],
        test=parts["test"],
        splits=arrays.get("split"),
        time=arrays.get("time"),
        rating=arrays.get("rating"),
        sha256=contents_sha256(arrays),
    )


def _check_edges(edges: np.ndarray, nodes: int, name: str) -> None:
    if edges.size and not 0 <= edges.min() <= edges.max() < nodes:
        raise DataUnavailable(
            f"{name} is damaged: an edge names node {edges.max()}, or a negative one, of {nodes}"
        )


def _graphs_tuple(n_node: int, edges: np.ndarray) -> jraph.GraphsTuple:
    senders, receivers = edges[:, 0].astype(np.int32), edges[:, 1].astype(np.int32)
    counts: Any = np.array([[n_node], [len(edges)]], np.int32)
    ends: Any = (senders, receivers)
    return jraph.GraphsTuple(
        nodes=None,
        edges=None,
        senders=ends[0],
        receivers=ends[1],
        globals=None,
        n_node=counts[0],
        n_edge=counts[1],
    )
