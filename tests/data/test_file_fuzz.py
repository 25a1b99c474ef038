"""Files of data that are cut, changed or made up end in one line, and nothing in them is run."""

import gzip
import io
import os
import pickle
import struct
import tarfile
import zipfile
import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from scipy import io as scipy_io

from trove_jax import data
from trove_jax.core import DataUnavailable
from trove_jax.data import archive
from trove_jax.data.formats import read_cifar100, read_cifar_batch, read_idx, read_svhn
from trove_jax.data.graph_formats import convert_planetoid
from trove_jax.data.npz import read_npz

FEW = settings(max_examples=60, deadline=None, derandomize=True, database=None)
RNG = np.random.default_rng(0)
TABLE = RNG.integers(0, 256, (6, 4)).astype(np.uint8)


def saved(write, *arguments, **options) -> bytes:
    buffer = io.BytesIO()
    write(buffer, *arguments, **options)
    return buffer.getvalue()


def zipped(files, compression=zipfile.ZIP_DEFLATED) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", compression) as file:
        for name, body in files.items():
            file.writestr(zipfile.ZipInfo(name), body)
    return buffer.getvalue()


def tarred(files, mode) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode=mode) as file:
        for name, body in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(body)
            file.addfile(member, io.BytesIO(body))
    return buffer.getvalue()


def picture(kind) -> bytes:
    pixels = RNG.integers(0, 256, (9, 7, 3)).astype(np.uint8)
    return saved(lambda file: Image.fromarray(pixels).save(file, kind))


def npy(array) -> bytes:
    return saved(np.save, array)


FILES = {"one": b"first" * 40, "two": b"second"}
EDGES = RNG.integers(0, 9, (20, 2))
PLAIN = {
    "idx": bytes([0, 0, 8, 2, 0, 0, 0, 6, 0, 0, 0, 4]) + TABLE.tobytes(),
    "cifar10": pickle.dumps(
        {b"data": np.zeros((2, 3072), np.uint8), b"labels": [1, 2]}, protocol=2
    ),
    "cifar100": bytes(3074 * 2),
    "svhn": saved(
        scipy_io.savemat, {"X": np.zeros((32, 32, 3, 2), np.uint8), "y": np.array([[1], [10]])}
    ),
    "npz": zipped({"x.npy": npy(TABLE)}, zipfile.ZIP_STORED),
    "npz_deflated": zipped({"x.npy": npy(TABLE)}),
    "zip": zipped(FILES),
    "zip_lzma": zipped(FILES, zipfile.ZIP_LZMA),
    "tar": tarred(FILES, "w"),
    "tar_gz": tarred(FILES, "w:gz"),
    "tar_xz": tarred(FILES, "w:xz"),
    "edges_txt": b"# friends\n" + b"".join(b"%d %d\n" % (u, v) for u, v in EDGES),
    "edges_gz": gzip.compress(b"".join(b"%d %d\n" % (u, v) for u, v in EDGES), mtime=0),
    "edges_npy": npy(EDGES),
    "edges_npz": zipped({"edges.npy": npy(EDGES)}),
    "png": picture("PNG"),
    "jpg": picture("JPEG"),
}
ENDINGS = {"edges_txt": "txt", "edges_gz": "gz", "edges_npy": "npy", "edges_npz": "npz"}


def read(kind: str, content: bytes, folder):
    """Reads a file of a kind as the library does, and gives arrays or files."""
    path = folder / f"file.{ENDINGS.get(kind, kind)}"
    path.write_bytes(content)
    if kind == "idx":
        return read_idx(content, name="labels")
    if kind == "cifar10":
        return read_cifar_batch(content, name="data_batch_1")[1]
    if kind == "cifar100":
        return read_cifar100(content, name="train.bin")[1]
    if kind == "svhn":
        return read_svhn(content, name="train_32x32.mat")[1]
    if kind.startswith("npz"):
        return read_npz(path, shapes={"x": TABLE.shape})["x"]
    if kind.startswith(("zip", "tar")):
        return archive.read_originals(path, tuple(FILES))
    if kind.startswith("edges"):
        return data.read_edges(path).edges
    (folder / "train" / "class").mkdir(parents=True, exist_ok=True)
    path.replace(folder / "train" / "class" / f"a.{kind}")
    images = data.ImageFolder(folder, "train", size=8, threads=1)
    images._pool = Here()  # a pool of threads for every example would be slow
    return images[[0]]["image"]


def attempt(kind: str, content: bytes, folder):
    """What is read, or the error; of another type than the two it ends the test."""
    try:
        return read(kind, content, folder), None
    except (DataUnavailable, ValueError) as error:
        return None, error


class Here:
    map = staticmethod(map)


@st.composite
def changes(draw, whole: bytes) -> bytes:
    """A file that was cut, or of which some bytes were changed, dropped, doubled or made up."""
    content = bytearray(whole)
    for _ in range(draw(st.integers(1, 3))):
        at = draw(st.integers(0, max(len(content) - 1, 0)))
        kind = draw(st.sampled_from(["cut", "flip", "set", "drop", "double", "insert"]))
        if kind == "cut":
            del content[at:]
        elif kind == "flip" and content:
            content[at] ^= 1 << draw(st.integers(0, 7))
        elif kind == "set":
            content[at : at + 4] = draw(st.sampled_from([bytes(4), b"\xff" * 4, b"\x7f\xff"]))
        elif kind == "drop":
            del content[at : at + draw(st.integers(1, 40))]
        elif kind == "double":
            content[at:at] = content[at : at + 40]
        else:
            content[at:at] = draw(st.binary(max_size=8))
    return bytes(content)


@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::DeprecationWarning")
@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize("kind", PLAIN)
def test_a_changed_file_is_read_or_refused_in_one_line(kind, tmp_path):
    whole = PLAIN[kind]
    assert read(kind, whole, tmp_path) is not None

    @FEW
    @given(changes(whole))
    def check(content):
        found, error = attempt(kind, content, tmp_path)
        if error is not None:
            assert str(error)
            assert "\n" not in str(error)
            assert type(error) is (ValueError if kind.startswith("edges") else DataUnavailable)
        elif kind.startswith("npz"):  # checksums: what is read is what was written
            np.testing.assert_array_equal(found, TABLE)
        elif kind.startswith("zip"):
            assert found == FILES

    check()


class Calls:
    """Pickles as a call of any function: the usual attack."""

    def __init__(self, function, *arguments):
        self.call = (function, arguments)

    def __reduce__(self):
        return self.call


def test_nothing_in_a_file_is_run(tmp_path):
    mark = tmp_path / "mark"
    attack = Calls(open, str(mark), "w")
    evil = np.array([attack], dtype=object)
    pickled = saved(np.save, evil, allow_pickle=True)
    bare = pickle.dumps(attack)
    planetoid = {
        f"ind.cora.{part}": bare
        for part in ("x", "y", "tx", "ty", "allx", "ally", "graph", "test.index")
    }
    for kind in PLAIN:
        for content in (pickled, bare, zipped({"x.npy": pickled, "edges.npy": pickled})):
            if kind.startswith("zip") and content.startswith(b"PK"):
                continue  # an archive without the wanted files
            with pytest.raises((DataUnavailable, ValueError)):
                read(kind, content, tmp_path)
    with pytest.raises(DataUnavailable, match=r"ind\.cora\.allx is refused"):
        convert_planetoid(planetoid, name="cora")
    assert not mark.exists()
    pickle.loads(bare).close()
    assert mark.exists(), "the attack must be a real one"


@pytest.mark.parametrize(
    ("kind", "content"),
    [
        # Each of these ended in a traceback once.
        ("idx", bytes([0, 0, 8, 70]) + struct.pack(">70I", *[1] * 70) + b"x"),
        ("edges_npy", PLAIN["edges_npz"]),
        ("edges_npz", PLAIN["edges_npy"]),
        ("npz", zipped({"x.npy": npy(TABLE).replace(b"}", b"{")})),
        ("edges_npy", npy(EDGES).replace(b"}", b"{")),
    ],
)
def test_traps(kind, content, tmp_path):
    with pytest.raises((DataUnavailable, ValueError)) as caught:
        read(kind, content, tmp_path)
    assert type(caught.value) is (ValueError if kind.startswith("edges") else DataUnavailable)
    assert "\n" not in str(caught.value)


def test_planetoid_pickles_of_anything_are_refused():
    for value in (None, 1, [1], {1: 2}, "x", {b"a": [1]}):
        files = {
            f"ind.cora.{part}": pickle.dumps(value, protocol=2)
            for part in ("x", "y", "tx", "ty", "allx", "ally", "graph")
        } | {"ind.cora.test.index": b"99999999999999999\n"}
        with pytest.raises(DataUnavailable) as caught:
            convert_planetoid(files, name="cora")
        assert "\n" not in str(caught.value)


def test_what_expands_without_end_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(archive, "_MAX_BYTES", 10_000)
    bomb = gzip.compress(bytes(10_001), mtime=0)
    for name, content in {
        "one.gz": bomb,
        "a.zip": zipped({"one.gz": bomb}),
        "b.zip": zipped({"one": bytes(10_001)}),
        "c.tar": tarred({"one": bytes(10_001)}, "w:gz"),
    }.items():
        folder = tmp_path / name.replace(".", "_")
        folder.mkdir()
        (folder / name).write_bytes(content)
        path = folder if name == "one.gz" else folder / name
        with pytest.raises(DataUnavailable, match=r"is refused: .*(10000|10001) bytes"):
            archive.read_originals(path, ("one",))
        assert os.listdir(folder) == [name]


def test_a_picture_that_claims_to_be_huge_is_refused(tmp_path):
    content = bytearray(PLAIN["png"])
    content[16:24] = struct.pack(">II", 1 << 20, 1 << 20)
    content[29:33] = struct.pack(">I", zlib.crc32(content[12:29]))
    with pytest.raises(DataUnavailable, match="cannot decode"):
        read("png", bytes(content), tmp_path)
