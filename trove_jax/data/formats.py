"""The formats in which image sets are published, read into uint8 arrays."""

import io
import math
import pickle
import struct
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from trove_jax.core import DataUnavailable

IDX_FILES = (
    "train-images-idx3-ubyte",
    "train-labels-idx1-ubyte",
    "t10k-images-idx3-ubyte",
    "t10k-labels-idx1-ubyte",
)
CIFAR10_FILES = (*(f"data_batch_{i}" for i in range(1, 6)), "test_batch")
CIFAR100_FILES = ("train.bin", "test.bin")
SVHN_FILES = ("train_32x32.mat", "test_32x32.mat")

_IDX_UINT8, _IDX_RANK = 0x08, 8
_SIDE = 32
_PIXELS = 3 * _SIDE * _SIDE


def read_idx(contents: bytes, *, name: str) -> np.ndarray:
    """Reads an IDX file of unsigned bytes: two zeros, type, rank, sizes (big endian), data.

    Args:
      contents: the bytes of the file, not compressed.
      name: what errors call the file.

    Returns:
      The array, uint8, in the shape that the file states.

    Raises:
      DataUnavailable: no IDX file, another type than unsigned bytes, too short or too long.

    Example:
      >>> read_idx(bytes([0, 0, 8, 1, 0, 0, 0, 3, 7, 8, 9]), name="labels")
      array([7, 8, 9], dtype=uint8)

    Reference: LeCun, Cortes, Burges, the MNIST database (file formats).
    """
    if len(contents) < 4 or contents[:2] != b"\0\0":
        raise DataUnavailable(f"{name} is not an IDX file: it does not begin with two zero bytes")
    kind, rank = contents[2], contents[3]
    if kind != _IDX_UINT8:
        raise DataUnavailable(f"{name} has IDX type 0x{kind:02x}, expected unsigned bytes (0x08)")
    start = 4 + 4 * rank
    if len(contents) < start:
        raise DataUnavailable(f"{name} is cut: its header needs {start} bytes")
    shape = struct.unpack(f">{rank}I", contents[4:start])
    if len(contents) - start != math.prod(shape):
        raise DataUnavailable(
            f"{name} states the shape {list(shape)} but holds {len(contents) - start} values"
        )
    if rank > _IDX_RANK:
        raise DataUnavailable(f"{name} states {rank} axes, expected at most {_IDX_RANK}")
    return np.frombuffer(contents, np.uint8, offset=start).reshape(shape)


def convert_idx(files: Mapping[str, bytes]) -> dict[str, np.ndarray]:
    """The four IDX files of MNIST and Fashion-MNIST as `x_train`, `y_train`, `x_test`, `y_test`."""
    names = ("x_train", "y_train", "x_test", "y_test")
    return {
        name: read_idx(files[file], name=file) for name, file in zip(names, IDX_FILES, strict=True)
    }


def read_cifar_batch(contents: bytes, *, name: str) -> tuple[np.ndarray, np.ndarray]:
    """Reads one batch of the Python version of CIFAR-10, without trusting its pickle.

    The file is a pickled dictionary. The unpickler used here knows dictionaries, lists, strings,
    numbers and uint8 arrays, which it builds itself: no name in the file is looked up or called.

    Args:
      contents: the bytes of the file.
      name: what errors call the file.

    Returns:
      Images, uint8 `[n, 32, 32, 3]`, and labels, uint8 `[n]`.

    Raises:
      DataUnavailable: the pickle asks for anything else, is damaged, or holds other arrays.

    Reference: Krizhevsky, Learning multiple layers of features from tiny images, 2009.
    """
    try:
        batch = _ArrayUnpickler(io.BytesIO(contents), encoding="bytes").load()
    except _Refused as error:
        raise DataUnavailable(f"{name} is refused: {error}") from error
    except Exception as error:  # A damaged pickle may raise anything.
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        raise DataUnavailable(f"{name} is damaged or no CIFAR batch ({reason})") from error
    if not isinstance(batch, dict):
        raise DataUnavailable(f"{name} holds a {type(batch).__name__}, expected a dictionary")
    batch = {key.decode() if isinstance(key, bytes) else key: v for key, v in batch.items()}
    images, labels = batch.get("data"), batch.get("labels")
    images = images.value if isinstance(images, _PickledArray) else None
    if images is None or images.ndim != 2 or images.shape[1] != 3 * 32 * 32:
        raise DataUnavailable(f"{name} holds no uint8 array 'data' of shape [n, 3072]")
    if not (
        isinstance(labels, list)
        and len(labels) == len(images)
        and all(type(label) is int and 0 <= label < 256 for label in labels)
    ):
        raise DataUnavailable(f"{name} holds no list 'labels' with one class for each image")
    images = images.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
    return np.ascontiguousarray(images), np.array(labels, np.uint8)


def convert_cifar10(files: Mapping[str, bytes]) -> dict[str, np.ndarray]:
    """The six batches of CIFAR-10 as `x_train`, `y_train`, `x_test`, `y_test`, in their order."""
    batches = [read_cifar_batch(files[name], name=name) for name in CIFAR10_FILES]
    return {
        "x_train": np.concatenate([images for images, _ in batches[:-1]]),
        "y_train": np.concatenate([labels for _, labels in batches[:-1]]),
        "x_test": batches[-1][0],
        "y_test": batches[-1][1],
    }


def read_cifar100(contents: bytes, *, name: str) -> tuple[np.ndarray, np.ndarray]:
    """Reads a file of the binary version of CIFAR-100: superclass, class, red, green, blue.

    Args:
      contents: the bytes of the file.
      name: what errors call the file.

    Returns:
      Images, uint8 `[n, 32, 32, 3]`, and classes from 0 to 99 (not superclasses), uint8 `[n]`.

    Raises:
      DataUnavailable: the file is empty, cut, or holds a class that there is not.

    Reference: Krizhevsky, Learning multiple layers of features from tiny images, 2009.
    """
    record = 2 + _PIXELS
    if not contents or len(contents) % record:
        raise DataUnavailable(
            f"{name} has {len(contents)} bytes, expected a multiple of {record}: it is cut, or no "
            "binary file of CIFAR-100"
        )
    table = np.frombuffer(contents, np.uint8).reshape(-1, record)
    if table[:, 0].max() >= 20 or table[:, 1].max() >= 100:
        raise DataUnavailable(
            f"{name} holds the superclass {table[:, 0].max()} and the class {table[:, 1].max()}, "
            "expected at most 19 and 99: it is no binary file of CIFAR-100"
        )
    images = table[:, 2:].reshape(-1, 3, _SIDE, _SIDE).transpose(0, 2, 3, 1)
    return np.ascontiguousarray(images), table[:, 1].copy()


def convert_cifar100(files: Mapping[str, bytes]) -> dict[str, np.ndarray]:
    """The two files of CIFAR-100 as `x_train`, `y_train`, `x_test`, `y_test`, in their order."""
    return _parts(read_cifar100, files, CIFAR100_FILES)


def read_svhn(contents: bytes, *, name: str) -> tuple[np.ndarray, np.ndarray]:
    """Reads a Matlab file of cropped house numbers.

    Args:
      contents: the bytes of the file.
      name: what errors call the file.

    Returns:
      Images, uint8 `[n, 32, 32, 3]`, and digits from 0 to 9, uint8 `[n]` (the file has 10 for 0).

    Raises:
      DataUnavailable: the file is damaged or holds other arrays.

    Reference: Netzer et al., Reading digits in natural images with unsupervised feature learning,
    2011 (format 2).
    """
    from scipy import io as scipy_io

    try:
        found = scipy_io.loadmat(io.BytesIO(contents), variable_names=("X", "y"))
    except Exception as error:  # A damaged file may raise anything.
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        raise DataUnavailable(f"{name} is damaged or no Matlab file ({reason})") from error
    images, digits = (found.get(key, np.zeros(0)) for key in ("X", "y"))
    n = images.shape[-1]
    if images.dtype != np.uint8 or images.shape != (_SIDE, _SIDE, 3, n) or not n:
        raise DataUnavailable(
            f"{name} holds X {images.dtype} {list(images.shape)}, expected uint8 [32, 32, 3, n]"
        )
    if digits.shape != (n, 1) or digits.min() < 1 or digits.max() > 10:
        raise DataUnavailable(
            f"{name} holds y {list(digits.shape)}, expected [{n}, 1] with values from 1 to 10"
        )
    return np.ascontiguousarray(images.transpose(3, 0, 1, 2)), (digits[:, 0] % 10).astype(np.uint8)


def convert_svhn(files: Mapping[str, bytes]) -> dict[str, np.ndarray]:
    """The two files of SVHN as `x_train`, `y_train`, `x_test`, `y_test`, in their order."""
    return _parts(read_svhn, files, SVHN_FILES)


def _parts(
    read: Callable[..., tuple[np.ndarray, np.ndarray]],
    files: Mapping[str, bytes],
    names: tuple[str, str],
) -> dict[str, np.ndarray]:
    arrays = {}
    for part, name in zip(("train", "test"), names, strict=True):
        arrays[f"x_{part}"], arrays[f"y_{part}"] = read(files[name], name=name)
    return arrays


class _Refused(Exception):
    """The pickle asks for something that no CIFAR file needs."""


class _Inert:
    """A stand-in for a name in a pickle: without attributes that a pickle could set."""

    __slots__ = ()

    def __setstate__(self, state: Any) -> None:
        raise _Refused("its pickle changes a thing that it may only name")


class _ArrayMarker(_Inert):
    """Stands for the class numpy.ndarray, which the pickle passes on but may not call."""

    __slots__ = ()


class _PickledDtype:
    """Stands for numpy.dtype("u1"), the only dtype admitted."""

    __slots__ = ()

    def __setstate__(self, state: Any) -> None:
        """The state of an unsigned byte says nothing: it has no order and no fields."""


class _PickledArray:
    """An array as a pickle describes it: made empty, then given its shape and its bytes."""

    __slots__ = ("value",)

    def __init__(self) -> None:
        self.value: np.ndarray | None = None

    def __setstate__(self, state: Any) -> None:
        version, shape, dtype, fortran, raw = state
        if version != 1 or not isinstance(dtype, _PickledDtype) or not isinstance(raw, bytes):
            raise _Refused("its pickle holds an array that is not of plain uint8")
        order = "F" if fortran else "C"
        self.value = np.frombuffer(raw, np.uint8).reshape(shape, order=order)


class _MakeDtype(_Inert):
    __slots__ = ()

    def __call__(self, code: Any = None, *_: Any) -> _PickledDtype:
        if code not in ("u1", b"u1"):
            raise _Refused(f"its pickle holds an array of dtype {code!r}, not uint8")
        return _PickledDtype()


class _MakeArray(_Inert):
    __slots__ = ()

    def __call__(self, subtype: Any = None, *_: Any) -> _PickledArray:
        if not isinstance(subtype, _ArrayMarker):
            raise _Refused("its pickle makes an array of an unknown class")
        return _PickledArray()


class _EncodeLatin1(_Inert):
    """How Python 3 writes bytes in the old protocols: text, to be encoded as latin1."""

    __slots__ = ()

    def __call__(self, text: Any = None, encoding: Any = None) -> bytes:
        if not isinstance(text, str) or encoding not in ("latin1", b"latin1"):
            raise _Refused(f"its pickle asks for the encoding {encoding!r}")
        return text.encode("latin1")


_ADMITTED = {
    ("numpy", "ndarray"): _ArrayMarker,
    ("numpy", "dtype"): _MakeDtype,
    ("numpy.core.multiarray", "_reconstruct"): _MakeArray,
    ("numpy._core.multiarray", "_reconstruct"): _MakeArray,
    ("_codecs", "encode"): _EncodeLatin1,
}


class _ArrayUnpickler(pickle.Unpickler):
    """Builds dictionaries, lists, strings, numbers and uint8 arrays, and refuses the rest."""

    def find_class(self, module_name: str, global_name: str, /) -> Any:
        stand_in = _ADMITTED.get((module_name, global_name))
        if stand_in is None:
            raise _Refused(
                f"its pickle asks for {module_name}.{global_name}, which no CIFAR file needs"
            )
        return stand_in()
