"""Lists of edges in files: text with a line per edge, or NumPy arrays, checked as they are read.

Text is taken in blocks of 16 MiB, each with a handful of array operations; only a block with a
fault is gone through line by line, to name the line.
"""

import dataclasses
import gzip
import hashlib
import io
import os
import pathlib
import re
import warnings
import zlib
from collections.abc import Callable, Iterator
from typing import Any, Literal, NoReturn, get_args

import numpy as np

Ids = Literal["numbers", "names"]
Progress = Callable[[int, int], None]

# Node numbers and their count fit int32.
LARGEST_NODE = np.iinfo(np.int32).max - 1

_BLOCK = 2**24
_COMMENT = re.compile(rb"(?m)^[ \t]*[#%].*$")
_WHOLE = re.compile(rb"\d+")
_NUMBER = re.compile(rb"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")
_SPACE, _DIGITS, _SIGNS = b" \t\r\n", b"0123456789", b".eE+-"


@dataclasses.dataclass(frozen=True)
class EdgeFile:
    """What a file of edges holds.

    Attributes:
      edges: rows (sender, receiver) in the order of the file, `[m, 2]` int32.
      weight: of each edge, finite and at least 0, `[m]` float32; None where none were asked for.
      n_node: number of nodes.
      names: of the nodes, in the order in which they first come; None where nodes have numbers.
      sha256: of the file.
    """

    edges: np.ndarray
    weight: np.ndarray | None
    n_node: int
    names: tuple[str, ...] | None
    sha256: str


def read_edges(
    path: str | os.PathLike,
    *,
    weighted: bool = False,
    ids: Ids = "numbers",
    n_node: int | None = None,
    progress: Progress | None = None,
) -> EdgeFile:
    """Reads a list of edges.

    Text has a line `u v`, or `u v w` with weights, for every edge, apart by blanks or tabs; empty
    lines, and those that begin with # or %, are passed over; `.gz` is unpacked. A `.npy` holds
    integers `[m, 2]`, or numbers `[m, 3]` with weights; a `.npz` holds `edges` `[m, 2]` (or that
    array alone under any name) and `weight` `[m]`.

    Args:
      path: the file.
      weighted: whether it has weights.
      ids: `"numbers"`: nodes are numbered from 0, and the highest number sets how many there are;
        `"names"`: any words, numbered in the order in which they come (text only).
      n_node: number of nodes, where it is more than the highest number and 1.
      progress: called with the bytes read and those there are, a block at a time.

    Returns:
      The edges.

    Raises:
      OSError: the file cannot be opened.
      ValueError: a line or row that is no edge, by its number; a node number that is not a whole
        number from 0 to 2^31 - 3, or not below `n_node`; a weight that is negative or not finite;
        no edge at all; a damaged file; an unknown option.

    Example:
      >>> import tempfile
      >>> with tempfile.TemporaryDirectory() as folder:
      ...     path = pathlib.Path(folder, "friends.txt")
      ...     _ = path.write_text("# who knows whom\\nann bob 0.5\\nbob cid 2\\n")
      ...     found = read_edges(path, weighted=True, ids="names")
      >>> print(found.edges.tolist(), found.weight, found.names)
      [[0, 1], [1, 2]] [0.5 2. ] ('ann', 'bob', 'cid')
    """
    path = pathlib.Path(path)
    if ids not in get_args(Ids):
        raise ValueError(f"ids={ids!r} is unknown; use one of {get_args(Ids)}")
    with path.open("rb") as file:
        sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    names = None
    if path.suffix in (".npy", ".npz"):
        if ids == "names":
            raise ValueError(f"{path} is an array of numbers; ids='names' is for text")
        edges, weight = _from_arrays(path, weighted)
    else:
        reader = _Names(weighted) if ids == "names" else _Numbers(weighted)
        edges, weight = _from_text(path, reader, progress)
        names = reader.names()
    if not len(edges):
        raise ValueError(f"{path} has no edges")
    found = int(edges.max()) + 1
    if n_node is not None and n_node < found:
        raise ValueError(f"{path} has node {found - 1}, and n_node={n_node}")
    return EdgeFile(edges, weight, n_node or found, names, sha256)


def _from_text(
    path: pathlib.Path, reader: "_Numbers | _Names", progress: Progress | None
) -> tuple[np.ndarray, np.ndarray | None]:
    edges, weights, line = [np.zeros((0, 2), np.int32)], [np.zeros(0, np.float32)], 1
    for block in _blocks(path, progress):
        if b"#" in block or b"%" in block:
            block = _COMMENT.sub(b"", block)
        found = reader.read(block)
        if found is None:
            _refuse_line(path, block, line, reader)
        edges.append(found[0])
        weights.append(found[1])
        line += block.count(b"\n")
    return np.concatenate(edges), np.concatenate(weights) if reader.weighted else None


def _blocks(path: pathlib.Path, progress: Progress | None) -> Iterator[bytes]:
    """Pieces of whole lines."""
    size = path.stat().st_size
    with path.open("rb") as raw:
        file: Any = gzip.GzipFile(fileobj=raw) if path.suffix == ".gz" else raw
        rest = b""
        while True:
            try:
                piece = file.read(_BLOCK)
            except (EOFError, zlib.error, gzip.BadGzipFile) as error:
                raise ValueError(f"{path} is damaged: {error}") from error
            if progress is not None:
                progress(raw.tell(), size)
            end = piece.rfind(b"\n") + 1
            # A piece without an end is no list of edges; it is passed on to be refused.
            if not end or not piece:
                if rest or piece:
                    yield rest + piece
                if not piece:
                    return
                rest = b""
                continue
            yield rest + piece[:end]
            rest = piece[end:]


class _Numbers:
    """Reads lines whose nodes are numbers."""

    wanted = f"a whole number from 0 to {LARGEST_NODE}"

    def __init__(self, weighted: bool):
        self.weighted = weighted
        self._per_line = 3 if weighted else 2
        self._admitted = _SPACE + _DIGITS + (_SIGNS if weighted else b"")

    def names(self) -> None:
        """Nodes have none."""

    def is_node(self, word: bytes) -> bool:
        """Whether a word is a number of a node."""
        return bool(_WHOLE.fullmatch(word)) and int(word) <= LARGEST_NODE

    def read(self, block: bytes) -> tuple[np.ndarray, np.ndarray] | None:
        """Edges and weights of a block, None if there is a fault in it."""
        if block.translate(None, self._admitted):
            return None
        firsts = _words(block, self._per_line)
        if firsts is None:
            return None
        if not firsts.size:
            return np.zeros((0, 2), np.int32), np.zeros(0, np.float32)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("error")
                dtype = np.float64 if self.weighted else np.int64
                numbers = np.fromstring(block.decode(), dtype, sep=" ")
        except (DeprecationWarning, ValueError):
            return None
        if numbers.size != firsts.size:
            return None
        table = numbers.reshape(-1, self._per_line)
        nodes = table[:, :2]
        if not 0 <= nodes.min() <= nodes.max() <= LARGEST_NODE:
            return None
        if not self.weighted:
            return nodes.astype(np.int32), np.zeros(0, np.float32)
        signs = np.flatnonzero(np.isin(np.frombuffer(block, np.uint8), list(_SIGNS)))
        if np.any((np.searchsorted(firsts, signs, "right") - 1) % 3 != 2):
            return None
        weight = _float32(table[:, 2])
        return (nodes.astype(np.int32), weight) if _are_weights(weight).all() else None


class _Names:
    """Reads lines whose nodes are words, and numbers the words."""

    wanted = "a word"

    def __init__(self, weighted: bool):
        self.weighted = weighted
        self._per_line = 3 if weighted else 2
        self._numbers: dict[bytes, int] = {}

    def names(self) -> tuple[str, ...]:
        """Names of the nodes, in the order of their numbers."""
        return tuple(word.decode() for word in self._numbers)

    def is_node(self, word: bytes) -> bool:
        """Whether a word can name a node: it must be UTF-8."""
        try:
            word.decode()
        except UnicodeDecodeError:
            return False
        return True

    def read(self, block: bytes) -> tuple[np.ndarray, np.ndarray] | None:
        """As `_Numbers.read`."""
        words = block.split()
        firsts = _words(block, self._per_line)
        if firsts is None or firsts.size != len(words) or not self.is_node(block):
            return None
        given = words[2::3] if self.weighted else []
        if self.weighted:
            del words[2::3]
        numbers = self._numbers
        ends = [numbers.setdefault(word, len(numbers)) for word in words]
        nodes = np.array(ends, np.int32).reshape(-1, 2)
        if not given:
            return nodes, np.zeros(0, np.float32)
        if not all(map(_NUMBER.fullmatch, given)):
            return None
        weight = _float32(np.array(given, "S").astype(np.float64))
        return (nodes, weight) if _are_weights(weight).all() else None


def _words(block: bytes, per_line: int) -> np.ndarray | None:
    """Where words begin; None unless every line has `per_line` of them or none."""
    is_space = np.frombuffer(block, np.uint8) <= ord(" ")
    begins = ~is_space
    begins[1:] &= is_space[:-1]
    firsts = np.flatnonzero(begins)
    ends = np.flatnonzero(np.frombuffer(block, np.uint8) == ord("\n"))
    counts = np.diff(np.searchsorted(firsts, np.append(ends, len(block))), prepend=0)
    return firsts if np.all((counts == per_line) | (counts == 0)) else None


def _float32(values: np.ndarray) -> np.ndarray:
    """The values; infinite where they are too large, which is refused later."""
    with np.errstate(over="ignore"):
        return values.astype(np.float32)


def _are_weights(values: np.ndarray) -> np.ndarray:
    return (values >= 0) & np.isfinite(values)


def _refuse_line(
    path: pathlib.Path, block: bytes, first: int, reader: "_Numbers | _Names"
) -> NoReturn:
    form = "u v w" if reader.weighted else "u v"
    for number, line in enumerate(io.BytesIO(block), first):
        words = line.split()
        where = f"{path}, line {number}"
        if words and len(words) != (3 if reader.weighted else 2):
            hint = "; there seem to be weights: say so" if len(words) == 3 else ""
            raise ValueError(f"{where} is {_shown(line)}; {form!r} is wanted{hint}")
        for word in words[:2]:
            if not reader.is_node(word):
                raise ValueError(f"{where} has node {_shown(word)}; {reader.wanted} is wanted")
        for word in words[2:]:
            value = float(word) if _NUMBER.fullmatch(word) else np.nan
            if not _are_weights(_float32(np.array(value))):
                raise ValueError(
                    f"{where} has weight {_shown(word)}; a finite number of at least 0 is wanted"
                )
    raise ValueError(f"{path} has a line, from line {first} on, that is no edge {form!r}")


def _shown(text: bytes) -> str:
    text = text.strip()
    return repr(text[:60].decode(errors="replace") + ("..." if len(text) > 60 else ""))


def _from_arrays(path: pathlib.Path, weighted: bool) -> tuple[np.ndarray, np.ndarray | None]:
    try:
        weight = None
        if path.suffix == ".npz":
            # Given a path, `np.load` leaves a damaged file open.
            with open(path, "rb") as opened, np.load(opened, allow_pickle=False) as file:
                name = "edges" if "edges" in file or len(file.files) != 1 else file.files[0]
                edges = file[name]
                weight = file["weight"] if weighted else None
        else:
            with open(path, "rb") as opened:
                if opened.read(2) == b"PK":
                    raise ValueError("it is an archive of arrays; call it .npz")
            edges = np.lib.format.open_memmap(path, mode="r")
            if weighted and edges.ndim == 2 and edges.shape[1] == 3:
                edges, weight = edges[:, :2], edges[:, 2]
    except Exception as error:  # A damaged file may raise anything.
        reason = " ".join(str(error).split()) or type(error).__name__
        raise ValueError(f"{path} cannot be read: {reason}") from error
    if edges.ndim != 2 or edges.shape[1] != 2 or (weighted and weight is None):
        wanted = "[m, 3] (u, v, weight)" if weighted else "[m, 2]"
        raise ValueError(f"{path} has edges of shape {list(edges.shape)}; {wanted} is wanted")
    if not (np.issubdtype(edges.dtype, np.integer) or (weighted and edges.dtype.kind == "f")):
        raise ValueError(f"{path} has edges of dtype {edges.dtype}; integers are wanted")
    is_node = (edges >= 0) & (edges <= LARGEST_NODE) & (edges == np.trunc(edges))
    if not is_node.all():
        row, end = np.argwhere(~is_node)[0]
        raise ValueError(
            f"{path}, row {row} has node {edges[row, end]}; {_Numbers.wanted} is wanted"
        )
    if weight is not None:
        weight = np.asarray(weight)
        if weight.shape != (len(edges),) or weight.dtype.kind not in "fiu":
            raise ValueError(
                f"{path} has weights of shape {list(weight.shape)} and dtype {weight.dtype}; "
                f"[{len(edges)}] numbers are wanted"
            )
        weight = _float32(weight)
        broken = np.flatnonzero(~_are_weights(weight))
        if broken.size:
            raise ValueError(
                f"{path}, row {broken[0]} has weight {weight[broken[0]]}; a finite number of at "
                "least 0 is wanted"
            )
    return np.asarray(edges).astype(np.int32), weight
