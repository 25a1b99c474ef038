"""The Planetoid format of citation graphs, read without trusting its pickles.

Eight files: features and one-hot labels of the labelled (`x`, `y`), of the test (`tx`, `ty`) and of
all nodes but the test nodes (`allx`, `ally`), lists of neighbours (`graph`), and the numbers of the
test nodes (`test.index`), in whose order `tx` and `ty` are.
"""

import functools
import io
import pickle
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np

from trove_jax.core import DataUnavailable

Arrays = dict[str, np.ndarray]

_VALIDATION = 500
_DTYPES = {"f4": np.float32, "f8": np.float64, "i4": np.int32, "i8": np.int64}


class _Rows(NamedTuple):
    starts: np.ndarray
    columns: np.ndarray
    values: np.ndarray
    width: int


def convert_planetoid(files: Mapping[str, bytes], *, name: str) -> Arrays:
    """Puts the eight files of a citation graph together.

    Nodes that only `graph` names (CiteSeer has 15) get no features and the label -1. Links are made
    undirected, each is kept once, self-loops are left out. Validation nodes are the 500 that follow
    the labelled ones.

    Args:
      files: contents by file name, such as `ind.cora.allx`.
      name: `cora`, `citeseer` or `pubmed`.

    Returns:
      `x_indptr`, `x_indices`, `x_data`, `x_shape` (compressed rows, columns ascending), `y`,
      `edges` (each with the smaller index first, sorted), `train_idx`, `val_idx`, `test_idx`.

    Raises:
      DataUnavailable: a file is damaged, asks for what no such file needs, or does not fit the
        others.

    Reference: Yang, Cohen and Salakhutdinov, Revisiting semi-supervised learning with graph
    embeddings, ICML 2016.
    """
    try:
        return _put_together(files, name)
    except DataUnavailable:
        raise
    except Exception as error:  # What a damaged pickle gives may be anything.
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        raise DataUnavailable(f"the files of {name} are damaged ({reason})") from error


def _put_together(files: Mapping[str, bytes], name: str) -> Arrays:
    read = functools.partial(_read, files, name)
    known, tested = _rows(read("allx"), name, "allx"), _rows(read("tx"), name, "tx")
    known_labels = _labels(read("ally"), name, "ally")
    tested_labels = _labels(read("ty"), name, "ty")
    labelled, n_train = _rows(read("x"), name, "x"), len(_labels(read("y"), name, "y"))
    graph = read("graph")
    try:
        places = np.array(files[f"ind.{name}.test.index"].split(), np.int64)
    except ValueError as error:
        raise DataUnavailable(f"ind.{name}.test.index holds more than numbers") from error
    first = len(known.starts) - 1
    if (
        len(labelled.starts) - 1 != n_train
        or len(known_labels) != first
        or len(tested.starts) - 1 != len(places)
        or len(tested_labels) != len(places)
        or len(np.unique(places)) != len(places)
        or (places.size and places.min() < first)
        # A few numbers are left out; a huge one would ask for as many nodes.
        or places.max(initial=0) >= 2 * (first + len(places))
        or known.width != tested.width
    ):
        raise DataUnavailable(f"the files of {name} do not fit each other; take them all anew")
    nodes = max(first, int(places.max(initial=-1)) + 1)
    counts = np.zeros(nodes, np.int64)
    counts[:first] = np.diff(known.starts)
    counts[places] = np.diff(tested.starts)
    rows = np.concatenate(
        [
            np.repeat(np.arange(first), np.diff(known.starts)),
            np.repeat(places, np.diff(tested.starts)),
        ]
    )
    columns = np.concatenate([known.columns, tested.columns])
    values = np.concatenate([known.values, tested.values])
    order = np.lexsort((columns, rows))
    labels = np.full(nodes, -1, np.int8)
    labels[:first], labels[places] = known_labels, tested_labels
    is_binary = bool(((values == 0) | (values == 1)).all())
    return {
        "x_indptr": np.concatenate([[0], np.cumsum(counts)]).astype(np.int32),
        "x_indices": columns[order].astype(np.int16),
        "x_data": values[order].astype(np.uint8 if is_binary else np.float32),
        "x_shape": np.array([nodes, known.width], np.int32),
        "y": labels,
        "edges": _links(graph, nodes, name),
        "train_idx": np.arange(n_train, dtype=np.int32),
        "val_idx": np.arange(n_train, n_train + _VALIDATION, dtype=np.int32),
        "test_idx": np.sort(places).astype(np.int32),
    }


CONVERT: dict[str, Callable[[Mapping[str, bytes]], Arrays]] = {
    name: functools.partial(convert_planetoid, name=name) for name in ("cora", "citeseer", "pubmed")
}


def _read(files: Mapping[str, bytes], name: str, part: str) -> Any:
    file = f"ind.{name}.{part}"
    try:
        found = _GraphUnpickler(io.BytesIO(files[file]), encoding="latin1").load()
    except _Refused as error:
        raise DataUnavailable(f"{file} is refused: {error}") from error
    except Exception as error:  # A damaged pickle may raise anything.
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        raise DataUnavailable(f"{file} is damaged ({reason})") from error
    return found.value if isinstance(found, _Array) else found


def _rows(found: Any, name: str, part: str) -> _Rows:
    state = getattr(found, "state", {}) if isinstance(found, _Matrix) else {}
    starts, columns, values = (
        array.value if isinstance(array := state.get(key), _Array) else None
        for key in ("indptr", "indices", "data")
    )
    shape = state.get("_shape", ())
    if (
        starts is None
        or columns is None
        or values is None
        or len(shape) != 2
        or len(starts) != shape[0] + 1
        or starts[0] != 0
        or (np.diff(starts) < 0).any()
        or not (starts[-1] == len(columns) == len(values))
        or (columns.size and not 0 <= columns.min() <= columns.max() < shape[1])
    ):
        raise DataUnavailable(f"ind.{name}.{part} holds no matrix of compressed rows")
    return _Rows(starts, columns, values, int(shape[1]))


def _labels(found: Any, name: str, part: str) -> np.ndarray:
    if not isinstance(found, np.ndarray) or found.ndim != 2 or not found.shape[1]:
        raise DataUnavailable(f"ind.{name}.{part} holds no table of one-hot labels")
    return np.where(found.any(axis=1), found.argmax(axis=1), -1).astype(np.int8)


def _links(graph: Any, nodes: int, name: str) -> np.ndarray:
    lists = graph.items() if isinstance(graph, dict) else ()
    pairs = [(node, other) for node, others in lists for other in others]
    if not pairs or not all(type(index) is int for pair in pairs for index in pair):
        raise DataUnavailable(f"ind.{name}.graph holds no lists of neighbours")
    edges = np.sort(np.array(pairs, np.int64), axis=1)
    if edges.min() < 0 or edges.max() >= nodes:
        raise DataUnavailable(f"ind.{name}.graph names a node that is not one of the {nodes}")
    return np.unique(edges[edges[:, 0] != edges[:, 1]], axis=0).astype(np.int32)


class _Refused(Exception):
    """The pickle asks for something that no Planetoid file needs."""


class _Stand:
    """A stand-in for a name in a pickle: without attributes that a pickle could set."""

    __slots__ = ()

    def __setstate__(self, state: Any) -> None:
        raise _Refused("its pickle changes a thing that it may only name")


class _ArrayClass(_Stand):
    __slots__ = ()


class _Dtype:
    __slots__ = ("code",)

    def __init__(self, code: Any = None, *_: Any) -> None:
        if code not in _DTYPES:
            raise _Refused(f"its pickle holds an array of dtype {code!r}")
        self.code = code

    def __setstate__(self, state: Any) -> None:
        if state[1] not in ("<", "="):
            raise _Refused("its pickle holds an array that is not little-endian")


class _Array:
    __slots__ = ("value",)

    def __init__(self) -> None:
        self.value: np.ndarray | None = None

    def __setstate__(self, state: Any) -> None:
        version, shape, dtype, fortran, raw = state
        if version != 1 or not isinstance(dtype, _Dtype):
            raise _Refused("its pickle holds an array of another version")
        # Python 2 wrote bytes as a string of its own, which is read as latin1.
        raw = raw.encode("latin1") if isinstance(raw, str) else raw
        order = "F" if fortran else "C"
        little = np.dtype(_DTYPES[dtype.code]).newbyteorder("<")
        self.value = np.frombuffer(raw, little).reshape(shape, order=order)


class _MakeArray(_Stand):
    __slots__ = ()

    def __call__(self, subtype: Any = None, *_: Any) -> _Array:
        if not isinstance(subtype, _ArrayClass):
            raise _Refused("its pickle makes an array of an unknown class")
        return _Array()


class _Matrix:
    """Stands for scipy's compressed rows: keeps the state that they are rebuilt from."""

    __slots__ = ("state",)

    def __init__(self, *_: Any) -> None:
        self.state: dict[str, Any] = {}

    def __setstate__(self, state: Any) -> None:
        if not isinstance(state, dict):
            raise _Refused("its pickle holds a matrix without a dictionary")
        self.state = state


class _Lists(dict):
    """Stands for a defaultdict of lists."""

    __slots__ = ()

    def __init__(self, *_: Any) -> None:
        super().__init__()

    def __setstate__(self, state: Any) -> None:
        raise _Refused("its pickle changes a dictionary's attributes")


_ADMITTED: dict[tuple[str, str], Any] = {
    ("numpy", "ndarray"): _ArrayClass(),
    ("numpy", "dtype"): _Dtype,
    ("numpy.core.multiarray", "_reconstruct"): _MakeArray(),
    ("numpy._core.multiarray", "_reconstruct"): _MakeArray(),
    ("scipy.sparse.csr", "csr_matrix"): _Matrix,
    ("collections", "defaultdict"): _Lists,
    ("__builtin__", "list"): list,
    ("builtins", "list"): list,
}


class _GraphUnpickler(pickle.Unpickler):
    """Builds lists, dictionaries, numbers, plain arrays and compressed rows; refuses the rest."""

    def find_class(self, module_name: str, global_name: str, /) -> Any:
        stand_in = _ADMITTED.get((module_name, global_name))
        if stand_in is None:
            raise _Refused(f"its pickle asks for {module_name}.{global_name}")
        return stand_in
