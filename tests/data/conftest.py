"""A web server on loopback that can misbehave, and small sets in the published formats."""

import dataclasses
import hashlib
import http.server
import pathlib
import struct
import threading

import numpy as np
import pytest

from trove_jax.data.catalogue import describe
from trove_jax.data.source import DataSet, RemoteFile


@dataclasses.dataclass
class Served:
    """One file of the server, and how it is served."""

    body: bytes
    cut_at: int | None = None
    honours_range: bool = True
    delay: float = 0.0


class FileServer(http.server.ThreadingHTTPServer):
    """Serves `files` by path and remembers what was asked for."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.files: dict[str, Served] = {}
        self.requests: list[tuple[str, str | None]] = []
        self.stopped = threading.Event()
        self.url = f"http://127.0.0.1:{self.server_address[1]}"

    def handle_error(self, request, client_address) -> None:
        """A client that leaves early is what some tests want."""


class _Handler(http.server.BaseHTTPRequestHandler):
    server: FileServer

    def do_GET(self) -> None:
        asked = self.headers.get("Range")
        self.server.requests.append((self.path, asked))
        served = self.server.files.get(self.path)
        if served is None:
            self.send_error(404)
            return
        if served.delay:
            self.server.stopped.wait(served.delay)
        start = 0
        if asked and served.honours_range:
            start = int(asked.removeprefix("bytes=").rstrip("-"))
            if start >= len(served.body):
                self.send_error(416)
                return
            self.send_response(206)
            last = len(served.body) - 1
            self.send_header("Content-Range", f"bytes {start}-{last}/{len(served.body)}")
        else:
            self.send_response(200)
        self.send_header("Content-Length", str(len(served.body) - start))
        self.end_headers()
        self.wfile.write(served.body[start : served.cut_at])

    def log_message(self, format, *args) -> None:
        """Tests are quiet."""


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setenv("no_proxy", "*")
    with FileServer() as running:
        thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield running
        running.stopped.set()
        running.shutdown()
        thread.join()


@pytest.fixture
def cache(tmp_path, monkeypatch) -> pathlib.Path:
    """An empty cache, and no folder of data sets."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    monkeypatch.delenv("TROVE_DATA_DIR", raising=False)
    return tmp_path / "xdg" / "trove_jax"


def idx_bytes(array: np.ndarray) -> bytes:
    """An IDX file, written from its definition."""
    return (
        bytes([0, 0, 8, array.ndim])
        + struct.pack(f">{array.ndim}I", *array.shape)
        + array.tobytes()
    )


def small_arrays(seed: int = 0, *, train: int = 20, test: int = 10, image=(28, 28)):
    rng = np.random.default_rng(seed)
    return {
        "x_train": rng.integers(0, 256, (train, *image)).astype(np.uint8),
        "y_train": (np.arange(train) % 10).astype(np.uint8),
        "x_test": rng.integers(0, 256, (test, *image)).astype(np.uint8),
        "y_test": (np.arange(test) % 10).astype(np.uint8),
    }


def remote(url: str, name: str, body: bytes) -> RemoteFile:
    return RemoteFile(name, (f"{url}/{name}",), hashlib.sha256(body).hexdigest(), len(body))


def small_mnist(arrays, **changes) -> DataSet:
    """The catalogue's MNIST with the sizes of `arrays`."""
    shapes = {name: array.shape for name, array in arrays.items()}
    counts = tuple(np.bincount(arrays["y_train"], minlength=10).tolist())
    return dataclasses.replace(
        describe("mnist"), shapes=shapes, class_counts=counts, downloads=(), **changes
    )


class Samples:
    """The makers above, for tests: conftest cannot be imported under importlib mode."""

    served = Served
    idx_bytes = staticmethod(idx_bytes)
    arrays = staticmethod(small_arrays)
    remote = staticmethod(remote)
    mnist = staticmethod(small_mnist)

    @staticmethod
    def idx_files(arrays) -> dict[str, bytes]:
        names = ("train-images-idx3", "train-labels-idx1", "t10k-images-idx3", "t10k-labels-idx1")
        keys = ("x_train", "y_train", "x_test", "y_test")
        return {
            f"{name}-ubyte": idx_bytes(arrays[key]) for name, key in zip(names, keys, strict=True)
        }

    @staticmethod
    def cifar_batch(images: np.ndarray, labels: np.ndarray) -> bytes:
        """A batch as Python 2 pickled it for publication, opcode by opcode (protocol 2)."""

        def short(text: bytes) -> bytes:
            return b"U" + bytes([len(text)]) + text

        def integer(value: int) -> bytes:
            return b"J" + struct.pack("<i", value)

        raw = np.ascontiguousarray(images.transpose(0, 3, 1, 2)).tobytes()
        names = [short(b"thing_s_%06d.png" % i) for i in range(len(labels))]
        dtype = (
            b"cnumpy\ndtype\n"
            + short(b"u1")
            + b"K\x00K\x01\x87R(K\x03"
            + short(b"|")
            + b"NNN"
            + integer(-1) * 2
            + b"K\x00tb"
        )
        array = (
            b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85"
            + short(b"b")
            + b"\x87R(K\x01"
            + integer(len(labels))
            + integer(3072)
            + b"\x86"
            + dtype
            + b"\x89T"
            + struct.pack("<i", len(raw))
            + raw
            + b"tb"
        )
        return (
            b"\x80\x02}q\x01("
            + short(b"batch_label")
            + short(b"training batch 1 of 5")
            + short(b"labels")
            + b"]q\x02("
            + b"".join(integer(int(label)) for label in labels)
            + b"e"
            + short(b"data")
            + array
            + short(b"filenames")
            + b"]q\x03("
            + b"".join(names)
            + b"eu."
        )


@pytest.fixture
def samples() -> type[Samples]:
    return Samples
