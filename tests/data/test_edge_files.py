"""Reading lists of edges, against np.loadtxt and by what is refused."""

import gc
import gzip
import hashlib
import io
import pathlib
import re
import warnings

import numpy as np
import pytest

from trove_jax import data
from trove_jax.data import edge_files


@pytest.fixture
def file(tmp_path):
    """Writes a file of the given name and contents."""

    def write(content: str | bytes, name: str = "graph.txt") -> pathlib.Path:
        path = tmp_path / name
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        return path

    return write


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("name", ["graph.txt", "graph.txt.gz"])
def test_text_equals_loadtxt_however_it_is_cut(file, monkeypatch, weighted, name):
    rng = np.random.default_rng(0)
    lines = ["# a comment", "", "% another"]
    for u, v in rng.integers(0, 50, (200, 2)):
        gap = rng.choice([" ", "\t", "   "])
        lines.append(f"{u}{gap}{v}" + (f"{gap}{rng.exponential():.3e}" if weighted else ""))
        lines += [["", "  \r", " # 1 2 3 4", "#"][rng.integers(4)]] * rng.integers(2)
    text = "\n".join(lines)  # without an end of the last line
    content = gzip.compress(text.encode()) if name.endswith("gz") else text.encode()
    path = file(content, name)
    monkeypatch.setattr(edge_files, "_BLOCK", 97)
    seen = []
    found = data.read_edges(path, weighted=weighted, progress=lambda *at: seen.append(at))
    wanted = np.loadtxt(io.StringIO(text), comments=["#", "%"])
    np.testing.assert_array_equal(found.edges, wanted[:, :2])
    assert found.edges.dtype == np.int32
    if weighted:
        np.testing.assert_array_equal(found.weight, wanted[:, 2].astype(np.float32))
    else:
        assert found.weight is None
    assert (found.n_node, found.names) == (int(wanted[:, :2].max()) + 1, None)
    assert found.sha256 == hashlib.sha256(content).hexdigest()
    assert seen[-1] == (len(content), len(content))


def test_names_are_numbered_as_they_come(file, monkeypatch):
    monkeypatch.setattr(edge_files, "_BLOCK", 16)
    path = file("zoë 7 1\n7 -x .5\n-x zoë 2e0\n# no\n9999999999999 7 0")
    found = data.read_edges(path, ids="names", weighted=True)
    assert found.names == ("zoë", "7", "-x", "9999999999999")
    assert found.edges.tolist() == [[0, 1], [1, 2], [2, 0], [3, 1]]
    assert found.weight is not None
    assert found.weight.tolist() == [1.0, 0.5, 2.0, 0.0]
    assert found.n_node == 4


def test_arrays_and_more_nodes_than_edges_name(tmp_path):
    edges, weight = np.array([[0, 3], [2, 1]], np.uint16), np.array([0.5, 0.0])
    np.save(tmp_path / "a.npy", edges)
    np.save(tmp_path / "w.npy", np.column_stack([edges, weight]))
    np.savez(tmp_path / "a.npz", links=edges)
    np.savez(tmp_path / "w.npz", edges=edges, weight=weight, other=edges)
    for name in ("a.npy", "a.npz", "w.npy", "w.npz"):
        found = data.read_edges(tmp_path / name, weighted=name[0] == "w", n_node=9)
        np.testing.assert_array_equal(found.edges, edges)
        assert found.n_node == 9
        if name[0] == "w":
            np.testing.assert_array_equal(found.weight, weight)


@pytest.mark.parametrize(
    ("line", "options", "message"),
    [
        ("3", {}, "line 4 is '3'; 'u v' is wanted"),
        ("3 4 5", {}, "line 4 is '3 4 5'; 'u v' is wanted; there seem to be weights"),
        ("3 4", {"weighted": True}, "line 4 is '3 4'; 'u v w' is wanted"),
        ("1 2\n3 4 5 6", {}, "line 5 is '3 4 5 6'"),
        ("3,4", {}, "line 4 is '3,4'"),
        ("3 -4", {}, "line 4 has node '-4'; a whole number from 0 to 2147483646 is wanted"),
        ("3 4.0", {}, "node '4.0'"),
        ("3 4.0 1", {"weighted": True}, "node '4.0'"),
        ("3 1e3 1", {"weighted": True}, "node '1e3'"),
        ("ann bob", {}, "node 'ann'"),
        ("3 2147483647", {}, "node '2147483647'"),
        ("3 99999999999999999999999", {}, "node '99999999999999999999999'"),
        ("3 4 -1", {"weighted": True}, "weight '-1'; a finite number of at least 0 is wanted"),
        ("3 4 nan", {"weighted": True}, "weight 'nan'"),
        ("3 4 1e39", {"weighted": True}, "weight '1e39'"),
        ("3 4 1-2", {"weighted": True}, "weight '1-2'"),
        ("3 4 1_0", {"weighted": True}, "weight '1_0'"),
        ("a b -1", {"weighted": True, "ids": "names"}, "weight '-1'"),
        ("a b x", {"weighted": True, "ids": "names"}, "weight 'x'"),
        ("3 4", {"n_node": 4}, "has node 4, and n_node=4"),
    ],
)
def test_a_bad_line_is_named(file, line, options, message):
    good = "1 2 1\n" if options.get("weighted") else "1 2\n"
    path = file(f"# first\n{good}\n{line}\n{good}")
    with pytest.raises(ValueError, match=re.escape(message)) as error:
        data.read_edges(path, **options)
    assert str(error.value).startswith(str(path))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("content", "name", "message"),
    [
        (b"", "e.txt", "has no edges"),
        (b"# nothing\n\n", "e.txt", "has no edges"),
        (b"1 2\n\x00\xff\x07 \x01\n", "e.txt", "line 2"),
        (b"1 2\n1 \x0b3\n", "e.txt", "line"),
        (b"no gzip", "e.gz", "is damaged"),
        (gzip.compress(b"1 2\n" * 1000, mtime=0)[:-12], "e.gz", "is damaged"),
        (b"no array", "e.npy", "cannot be read"),
        (b"no array", "e.npz", "cannot be read"),
        (b"PK\3\4, then no archive", "e.npz", "cannot be read"),
        (b"PK\3\4, then no archive", "e.npy", "call it .npz"),
    ],
)
def test_other_files_are_refused_and_closed(file, content, name, message):
    path = file(content, name)
    with warnings.catch_warnings(record=True) as left_open:
        warnings.simplefilter("always", ResourceWarning)
        with pytest.raises(ValueError, match=message):
            data.read_edges(path)
        gc.collect()
    assert not left_open


@pytest.mark.parametrize(
    ("array", "weighted", "message"),
    [
        (np.zeros((3, 3), int), False, r"shape \[3, 3\]; \[m, 2\] is wanted"),
        (np.zeros((3, 2), int), True, r"\[m, 3\] \(u, v, weight\) is wanted"),
        (np.zeros((3, 2)), False, "dtype float64; integers"),
        (np.array([[0, 1], [2, -1]]), False, "row 1 has node -1"),
        (np.array([[0, 2**31]]), False, "row 0 has node 2147483648"),
        (np.array([[0, 1, 1.0], [0.5, 1, 1.0]]), True, "row 1 has node 0.5"),
        (np.array([[0, 1, 1.0], [0, 1, np.inf]]), True, "row 1 has weight inf"),
        (np.array([[None, None]]), False, "cannot be read"),
    ],
)
def test_bad_arrays_are_refused(tmp_path, array, weighted, message):
    np.save(tmp_path / "e.npy", array)
    with pytest.raises(ValueError, match=message):
        data.read_edges(tmp_path / "e.npy", weighted=weighted)


def test_unknown_options_and_missing_files(file, tmp_path):
    with pytest.raises(ValueError, match="ids='words' is unknown"):
        data.read_edges(file("1 2"), ids="words")  # pyright: ignore[reportArgumentType]
    with pytest.raises(FileNotFoundError):
        data.read_edges(tmp_path / "nowhere.txt")
