"""Graphs: what the files say is what comes out, and pickles are never trusted."""

import functools
import pickle

import numpy as np
import pytest
import scipy.sparse

from trove_jax import data
from trove_jax.core import DataUnavailable
from trove_jax.data.graph_formats import convert_planetoid
from trove_jax.data.graph_sets import GRAPH_SETS, LINK_GRAPHS, UNDIRECTED
from trove_jax.data.npz import write_npz


def array_bytes(array) -> bytes:
    """The opcodes by which NumPy under Python 2 pickled an array, protocol 2."""
    code = {"float32": b"f4", "int32": b"i4"}[array.dtype.name]
    made = b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(K\x00tU\x01btR"
    dtype = b"cnumpy\ndtype\n(U\x02" + code + b"K\x00K\x01tR"
    dtype += b"(K\x03U\x01<NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
    sizes = b"(" + b"".join(integer(size) for size in array.shape) + b"t"
    raw = array.tobytes()
    text = b"T" + len(raw).to_bytes(4, "little") + raw
    return made + b"(K\x01" + sizes + dtype + b"\x89" + text + b"tb"


def integer(value) -> bytes:
    return b"J" + int(value).to_bytes(4, "little")


def matrix_bytes(matrix) -> bytes:
    """The same of scipy's compressed rows."""
    state = b"}("
    for key, dtype in (("indptr", np.int32), ("indices", np.int32), ("data", np.float32)):
        state += b"U" + bytes([len(key)]) + key.encode()
        state += array_bytes(getattr(matrix, key).astype(dtype))
    state += b"U\x06_shape(" + b"".join(integer(size) for size in matrix.shape) + b"tu"
    return b"\x80\x02cscipy.sparse.csr\ncsr_matrix\n)\x81" + state + b"b."


def one_hot(labels) -> bytes:
    return b"\x80\x02" + array_bytes(np.eye(3, dtype=np.int32)[labels]) + b"."


@functools.cache
def planetoid():
    """Twelve nodes: two labelled, 8 not for test, 3 for test in another order, and one missing."""
    rng = np.random.default_rng(0)
    features = scipy.sparse.csr_matrix((rng.random((11, 5)) < 0.5).astype(np.float32))
    labels = rng.integers(0, 3, 11)
    graph = {0: [1, 1, 2], 1: [0], 2: [2], 9: [0, 11], 11: [9]}
    files = {
        "x": matrix_bytes(features[:2]),
        "y": one_hot(labels[:2]),
        "allx": matrix_bytes(features[:8]),
        "ally": one_hot(labels[:8]),
        "tx": matrix_bytes(features[8:]),
        "ty": one_hot(labels[8:]),
        "graph": pickle.dumps(graph, 2),
        "test.index": b"11\n8\n9\n",
    }
    return features.toarray(), labels, {f"ind.cora.{part}": body for part, body in files.items()}


def test_planetoid_files_become_rows_links_and_parts():
    features, labels, files = planetoid()
    found = convert_planetoid(files, name="cora")
    place = np.array([*range(8), 11, 8, 9])
    rows = (found["x_data"], found["x_indices"].astype(np.int32), found["x_indptr"])
    matrix = scipy.sparse.csr_matrix(rows, shape=tuple(found["x_shape"]))
    expected = np.zeros((12, 5))
    expected[place] = features
    np.testing.assert_array_equal(matrix.toarray(), expected)
    assert matrix.has_sorted_indices
    expected_labels = np.full(12, -1)
    expected_labels[place] = labels
    np.testing.assert_array_equal(found["y"], expected_labels)
    assert found["y"][10] == -1
    assert found["edges"].tolist() == [[0, 1], [0, 2], [0, 9], [9, 11]]
    assert found["train_idx"].tolist() == [0, 1]
    assert found["val_idx"][[0, -1]].tolist() == [2, 501]
    assert found["test_idx"].tolist() == [8, 9, 11]


@pytest.mark.parametrize(
    ("part", "body", "message"),
    [
        ("graph", b"cos\nsystem\n(S'true'\ntR.", "asks for os.system"),
        ("x", matrix_bytes(scipy.sparse.csr_matrix(np.eye(3))), "do not fit each other"),
        ("allx", b"\x80\x02cscipy.sparse.csr\ncsr_matrix\n)\x81.", "no matrix of compressed rows"),
        ("allx", b"\x80\x02cnumpy\ndtype\n(U\x01OK\x00K\x01tR.", "dtype 'O'"),
        ("allx", b"", "is damaged"),
        ("ally", b"\x80\x02K\x01.", "no table of one-hot labels"),
        ("ally", one_hot([0, 1]), "do not fit each other"),
        ("graph", pickle.dumps({0: [99]}, 2), "names a node that is not one of the 12"),
        ("graph", pickle.dumps({0: ["a"]}, 2), "no lists of neighbours"),
        ("graph", pickle.dumps([1, 2], 2), "no lists of neighbours"),
        ("test.index", b"11\nx\n", "more than numbers"),
        ("test.index", b"11\n11\n9\n", "do not fit each other"),
    ],
)
def test_a_bad_planetoid_file_is_named(part, body, message):
    _, _, files = planetoid()
    changed = {**files, f"ind.cora.{part}": body}
    with pytest.raises(DataUnavailable, match=rf"(?s)cora.*{message}"):
        convert_planetoid(changed, name="cora")


def stored_graph(folder, **changes):
    """A file with the sizes of texas and contents of its own."""
    shapes = data.describe("texas").shapes
    rng = np.random.default_rng(1)
    counts = rng.multinomial(shapes["x_data"][0], np.full(183, 1 / 183))
    arrays = {
        "x_indptr": np.concatenate([[0], np.cumsum(counts)]).astype(np.int32),
        "x_indices": rng.integers(0, 1703, shapes["x_data"][0]).astype(np.int16),
        "x_data": np.ones(shapes["x_data"], np.uint8),
        "x_shape": np.array([183, 1703], np.int32),
        "y": rng.integers(0, 5, 183).astype(np.int8),
        "edges": rng.integers(0, 183, (325, 2)).astype(np.int32),
        "split": rng.integers(0, 3, (10, 183)).astype(np.int8),
    }
    write_npz(folder / "texas.npz", {**arrays, **changes})
    return arrays


def test_a_graph_of_ones_own(tmp_path):
    arrays = stored_graph(tmp_path)
    found = data.load_graph("texas", split=3, data_dir=tmp_path)
    assert found.directed
    assert found.n_node == 183
    assert found.class_count == 5
    for code, part in enumerate(("train", "validation", "test")):
        expected = np.flatnonzero(arrays["split"][3] == code)
        np.testing.assert_array_equal(getattr(found, part), expected)
    assert found.features is not None
    rows = (np.ones(15266), arrays["x_indices"].astype(np.int32), arrays["x_indptr"])
    matrix = scipy.sparse.csr_matrix(rows, shape=(183, 1703))
    np.testing.assert_array_equal(found.features.dense(), matrix.toarray())
    normalised = found.features.row_normalised()
    expected = matrix.toarray() / matrix.toarray().sum(axis=1, keepdims=True)
    np.testing.assert_allclose(normalised.dense(), expected, rtol=1e-5)  # Float32 sums.
    graph = found.graph()
    np.testing.assert_array_equal(graph.senders, arrays["edges"][:, 0])
    assert (int(graph.n_node[0]), int(graph.n_edge[0])) == (183, 325)


def test_an_edge_out_of_range_is_refused(tmp_path):
    stored_graph(tmp_path, edges=np.full((325, 2), 183, np.int32))
    with pytest.raises(DataUnavailable, match="names node 183"):
        data.load_graph("texas", data_dir=tmp_path)


def test_another_dtype_is_refused(tmp_path):
    stored_graph(tmp_path, y=np.zeros(183, np.int64))
    with pytest.raises(DataUnavailable, match=r"'y' is int64 \[183\], expected int8 \[183\]"):
        data.load_graph("texas", data_dir=tmp_path)


def test_names_and_splits_that_do_not_exist(tmp_path):
    with pytest.raises(ValueError, match="not a single graph; those are cora"):
        data.load_graph("tu_mutag")
    with pytest.raises(ValueError, match="no set of many graphs; those are tu_mutag"):
        data.load_graphs("cora")
    with pytest.raises(ValueError, match=r"split=10 of texas does not exist; it has 10: 0 to 9"):
        data.load_graph("texas", split=10)
    with pytest.raises(ValueError, match="name='usa' is unknown; known are usair"):
        data.load_link_graph("usa")


def test_a_row_without_features_stays_empty():
    features = data.SparseFeatures(
        np.array([0, 0, 2]), np.array([1, 1]), np.array([1.0, 2.0], np.float32), (2, 3)
    )
    assert features.dense().tolist() == [[0, 0, 0], [0, 3, 0]]
    assert features.row_normalised().dense().tolist() == [[0, 0, 0], [0, 1, 0]]


@pytest.mark.parametrize("name", [graph.name for graph in GRAPH_SETS if "y" in graph.shapes])
def test_the_real_files_load(data_dir, name):
    if "num_nodes" in data.describe(name).shapes:
        found = data.load_graphs(name, data_dir=data_dir)
        assert len(found.graphs) == len(found.labels)
        first = found.graphs[0]
        pairs = np.stack([first.senders, first.receivers])
        assert np.array_equal(np.unique(pairs, axis=1), np.unique(pairs[::-1], axis=1))
        return
    found = data.load_graph(name, data_dir=data_dir)
    assert found.labels.shape == (found.n_node,)
    if found.train is not None:
        parts = [found.train, found.validation, found.test]
        together = np.concatenate(parts)
        assert len(np.unique(together)) == len(together)
    if name in UNDIRECTED:
        assert (found.edges[:, 0] < found.edges[:, 1]).all()


def test_citation_graphs_have_twenty_training_nodes_a_class(data_dir):
    found = data.load_graph("citeseer", data_dir=data_dir)
    assert np.bincount(found.labels[found.train]).tolist() == [20] * 6
    assert found.features is not None
    unlabelled = np.flatnonzero(found.labels == -1)
    assert len(unlabelled) == 15
    assert not np.diff(found.features.starts)[unlabelled].any()
    graph = found.graph()
    assert int(graph.n_edge[0]) == 2 * len(found.edges)


def test_graphs_with_time_and_graphs_for_links(data_dir):
    found = data.load_graph("bitcoin_alpha", data_dir=data_dir)
    assert found.rating is not None
    assert found.time is not None
    assert (np.diff(found.time) >= 0).all()
    found = data.load_link_graph("usair", data_dir=data_dir)
    assert (found.n_node, len(found.edges)) == LINK_GRAPHS["usair"]
    assert not found.directed
