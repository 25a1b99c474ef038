"""Embeds the nodes of a graph that stands in a file, by FastRP.

    python -m launch.embed --edges=graph.txt --out=embedding.npy
    python -m launch.embed --edges=graph.txt.gz --out=embedding.npy --weighted --ids=names --dim=256

Leaves float32 [n, dim] in OUT, its settings beside it in OUT with .json and, with --ids=names, the
names of the rows in OUT with .names.txt. Columns are computed in blocks, which are kept as they are
finished: after Ctrl-C the same command continues. In front of a finished OUT it does nothing.
"""

import contextlib
import hashlib
import json
import math
import os
import pathlib
import shutil
import sys
import time
import warnings
from collections.abc import Iterator
from typing import Any

import numpy as np
from absl import flags

from launch.program import run_program
from trove_jax.core.errors import Interrupted, RunMismatch, TroveError, UsageError
from trove_jax.core.stopping import catch_signals, stop_requested

_EDGES = flags.DEFINE_string("edges", None, "File of edges: text (also .gz), .npy or .npz.")
_OUT = flags.DEFINE_string("out", None, "File for the embedding, .npy.")
_DIM = flags.DEFINE_integer("dim", 128, "Columns of the embedding.", 1)
_WEIGHTS = flags.DEFINE_list("weights", ["0", "0", "1", "8"], "Weight of each power, from 1 on.")
_BETA = flags.DEFINE_float("beta", -0.6, "Power of the degrees; below 0: hubs count less.")
_MATRIX = flags.DEFINE_enum("matrix", "trans", ["trans", "adj"], "D^-1 A or A.")
_PROJECTION = flags.DEFINE_enum(
    "projection", "sparse", ["sparse", "gaussian", "rademacher"], "Kind of random projection."
)
_SEED = flags.DEFINE_integer("seed", 0, "Of the projection.", 0, 2**32 - 1)
_DIRECTED = flags.DEFINE_bool("directed", False, "Edges go from u to v and not back.")
_WEIGHTED = flags.DEFINE_bool("weighted", False, "Edges have weights.")
_IDS = flags.DEFINE_enum(
    "ids", "numbers", ["numbers", "names"], "Whether nodes are numbered from 0, or are any words."
)
_NODES = flags.DEFINE_integer("nodes", None, "How many (default: the highest number and 1).", 1)
_NORMALIZE = flags.DEFINE_bool(
    "normalize", False, "Give each row of each power length 1; takes all columns in one block."
)
_STANDARDIZE = flags.DEFINE_bool(
    "standardize", True, "Give each column mean 0 and standard deviation 1 in the end."
)
_COLUMNS = flags.DEFINE_integer("columns", 64, "Columns in a block.", 1)

_ROWS = 2**16


def main(_: list[str]) -> None:
    """Checks what is asked for, and embeds, continues or does nothing."""
    options, source, out = _options(), _source(), _out()
    try:
        with catch_signals():
            _run(options, source, out)
    except OSError as error:
        raise TroveError(f"{error.filename or out}: {error.strerror or error}") from error
    except KeyboardInterrupt:
        raise Interrupted("nothing is half-written; the same command continues") from None


def _run(options: dict[str, Any], source: pathlib.Path, out: pathlib.Path) -> None:
    began, say = time.monotonic(), _Progress(sys.stderr)
    found = _read(source, say)
    settings = {**options, "nodes": found.n_node, "edges_sha256": found.sha256}
    _check_size(settings, source, out)
    if _is_finished(out, settings):
        print(f"{out} is finished")
        return
    isolated = _isolated(found, settings)
    record = {"edges": len(found.edges), "isolated": isolated}
    if isolated:
        say(f"{isolated} of {found.n_node} nodes have no edge that comes in", now=True)
    with _parts(out, settings) as parts:
        _embed(found, settings, parts, say)
        _write(out, settings, parts, record, found.names, began)
    shutil.rmtree(_parts_folder(out))
    print(f"{out}: {settings['nodes']} x {settings['dim']}, float32")


def _options() -> dict[str, Any]:
    """The settings that the flags give, checked."""
    try:
        weights = [float(weight) for weight in _WEIGHTS.value]
    except ValueError:
        weights = []
    if not any(weights) or not all(map(math.isfinite, weights)):
        raise UsageError(
            f"--weights={','.join(_WEIGHTS.value)}: numbers joined by commas are wanted, one for "
            "each power from 1 on, and not all of them 0"
        )
    if not math.isfinite(_BETA.value):
        raise UsageError(f"--beta={_BETA.value} is not a finite number")
    if _NORMALIZE.value and flags.FLAGS["columns"].present and _COLUMNS.value < _DIM.value:
        raise UsageError(
            f"--columns={_COLUMNS.value} with --normalize: the length of a row is known only when "
            f"all {_DIM.value} columns are there; leave --columns out"
        )
    return {
        "dim": _DIM.value,
        "weights": weights,
        "beta": _BETA.value,
        "matrix": _MATRIX.value,
        "projection": _PROJECTION.value,
        "seed": _SEED.value,
        "directed": _DIRECTED.value,
        "weighted": _WEIGHTED.value,
        "ids": _IDS.value,
        "normalize": _NORMALIZE.value,
        "standardize": _STANDARDIZE.value,
        "columns": _DIM.value if _NORMALIZE.value else min(_COLUMNS.value, _DIM.value),
    }


def _source() -> pathlib.Path:
    if not _EDGES.value:
        raise UsageError("--edges=FILE is missing")
    source = pathlib.Path(_EDGES.value)
    if not source.is_file():
        raise UsageError(f"--edges={source} is {'no file' if source.exists() else 'not there'}")
    return source


def _out() -> pathlib.Path:
    """Where the embedding goes, in a folder that can be written."""
    if not _OUT.value:
        raise UsageError("--out=FILE.npy is missing")
    out = pathlib.Path(_OUT.value).absolute()
    if out.suffix != ".npy" or out.is_dir():
        raise UsageError(f"--out={_OUT.value} is no file name that ends in .npy")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        trial = out.with_name(f".{out.name}.{os.getpid()}.tmp")
        trial.touch()
        trial.unlink()
    except OSError as error:
        raise UsageError(f"--out={_OUT.value} cannot be written: {error.strerror}") from error
    return out


def _read(source: pathlib.Path, say: "_Progress") -> Any:
    from trove_jax import data

    def progress(done: int, size: int) -> None:
        if stop_requested():
            raise KeyboardInterrupt
        say(f"reading {source.name}: {done / 1e6:.0f} of {size / 1e6:.0f} MB")

    try:
        return data.read_edges(
            source,
            weighted=_WEIGHTED.value,
            ids="names" if _IDS.value == "names" else "numbers",
            n_node=_NODES.value,
            progress=progress,
        )
    except OSError as error:
        raise UsageError(f"{source} cannot be read: {error.strerror or error}") from error
    except ValueError as error:
        hint = "; use --weighted" if str(error).endswith("weights: say so") else ""
        raise UsageError(f"{error}{hint}") from error


def _check_size(settings: dict[str, Any], source: pathlib.Path, out: pathlib.Path) -> None:
    """Refuses more columns than nodes, and what cannot fit the memory or the disk."""
    n, dim, columns = settings["nodes"], settings["dim"], settings["columns"]
    if dim > n:
        raise UsageError(f"--dim={dim} is more than the {n} nodes of {source}")
    dense = 0 if settings["projection"] == "sparse" else 2 * dim
    needed = 4 * n * (4 * columns + dense)
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if needed > total:
        raise UsageError(
            f"{n} nodes need about {needed / 2**30:.0f} GiB, and this machine has "
            f"{total / 2**30:.0f}; fewer --columns need less, and --ids=names gives numbers only "
            "to nodes that have edges"
        )
    size, free = 2 * 4 * n * dim, shutil.disk_usage(out.parent).free  # blocks, then the whole
    if size > free:
        raise UsageError(
            f"{out.parent} has {free / 2**30:.1f} GiB free; {size / 2**30:.1f} are wanted"
        )


def _isolated(found: Any, settings: dict[str, Any]) -> int:
    """Number of nodes that nothing comes in at."""
    is_reached = np.zeros(found.n_node, bool)
    is_reached[found.edges[:, 1]] = True
    if not settings["directed"]:
        is_reached[found.edges[:, 0]] = True
    return int(np.sum(~is_reached))


def _is_finished(out: pathlib.Path, settings: dict[str, Any]) -> bool:
    """Whether the embedding is there; refuses to write over another one."""
    record = out.with_suffix(".json")
    if out.exists() and record.exists():
        try:
            found = json.loads(record.read_text())["settings"]
        except (ValueError, KeyError, TypeError):
            found = {}
        if found == settings:
            shutil.rmtree(_parts_folder(out), ignore_errors=True)
            return True
        other = [key for key in settings if found.get(key) != settings[key]]
        raise RunMismatch(
            f"{out} was made with other settings ({', '.join(other)}); remove it, or choose "
            "another --out"
        )
    if out.exists() and not _parts_folder(out).exists():
        raise RunMismatch(f"{out} is already there; remove it, or choose another --out")
    return False


def _parts_folder(out: pathlib.Path) -> pathlib.Path:
    return out.with_name(f"{out.name}.parts")


@contextlib.contextmanager
def _parts(out: pathlib.Path, settings: dict[str, Any]) -> Iterator[pathlib.Path]:
    """The folder of finished blocks, for this process alone."""
    from trove_jax import core

    folder = _parts_folder(out)
    directory = core.RunDirectory(folder, settings, cure="remove it, or choose another --out")
    try:
        yield folder
    finally:
        directory.close()


def _embed(found: Any, settings: dict[str, Any], parts: pathlib.Path, say: "_Progress") -> None:
    """Computes the blocks that are not there yet."""
    starts = range(0, settings["dim"], settings["columns"])
    missing = [start for start in starts if not _block_file(parts, start).exists()]
    if not missing:
        return
    import jax

    from trove_jax import graphs

    say(f"sorting {len(found.edges)} edges of {found.n_node} nodes", now=True)
    try:
        topology = graphs.topology.from_edges(
            found.edges, found.n_node, undirected=not _DIRECTED.value, edge_weight=found.weight
        )
    except ValueError as error:
        raise UsageError(str(error)) from error
    topology = jax.device_put(topology)
    columns_of = _projection(settings)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".* have no edge that comes in")
        for start in missing:
            if stop_requested():
                raise Interrupted(
                    f"{len(starts) - len(missing) + missing.index(start)} of "
                    f"{len(starts)} blocks are kept in {parts}, and the same command continues"
                )
            width = min(settings["columns"], settings["dim"] - start)
            say(f"columns {start} to {start + width} of {settings['dim']}", now=True)
            block = graphs.fastrp(
                topology,
                jax.random.key(0),
                width,
                weights=settings["weights"],
                beta=settings["beta"],
                matrix=settings["matrix"],
                normalise_rows=settings["normalize"],
                standardise=settings["standardize"],
                init=columns_of(start, width),
            )
            _save_block(_block_file(parts, start), np.asarray(block))


def _projection(settings: dict[str, Any]):
    """A function that gives some columns of the projection, which is drawn once."""
    import jax

    from trove_jax import graphs
    from trove_jax.graphs.random_projection import SparseRows, usual_density

    key, n, dim = jax.random.key(settings["seed"]), settings["nodes"], settings["dim"]
    if settings["projection"] == "sparse":
        rows = graphs.very_sparse_projection(key, n, dim, density=usual_density(n))
        dense = jax.jit(SparseRows.dense, static_argnums=1)
        return lambda start, width: dense(rows, width, start)
    whole = np.asarray(graphs.random_projection(key, n, dim, kind=settings["projection"]))
    return lambda start, width: jax.device_put(whole[:, start : start + width])


def _block_file(parts: pathlib.Path, start: int) -> pathlib.Path:
    return parts / f"columns_{start:06d}.npy"


def _save_block(path: pathlib.Path, block: np.ndarray) -> None:
    with _written_whole(path) as file:
        np.save(file, block)


@contextlib.contextmanager
def _written_whole(path: pathlib.Path) -> Iterator[Any]:
    """A file that gets its name when all of it is on the disk."""
    unfinished = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with unfinished.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)


def _write(
    out: pathlib.Path,
    settings: dict[str, Any],
    parts: pathlib.Path,
    record: dict[str, Any],
    names: tuple[str, ...] | None,
    began: float,
) -> None:
    """Puts the blocks side by side, a slab of rows at a time, and says how they were made."""
    from trove_jax import core, evidence

    n, dim = settings["nodes"], settings["dim"]
    blocks = [
        np.load(_block_file(parts, start), mmap_mode="r")
        for start in range(0, dim, settings["columns"])
    ]
    digest = hashlib.sha256()
    with _written_whole(out) as file:
        header = {"descr": "<f4", "fortran_order": False, "shape": (n, dim)}
        np.lib.format.write_array_header_1_0(file, header)
        for first in range(0, n, _ROWS):
            slab = np.concatenate([block[first : first + _ROWS] for block in blocks], axis=1)
            file.write(slab.data)
            digest.update(slab.data)
    if names is not None:
        with _written_whole(out.with_suffix(".names.txt")) as file:
            file.writelines(f"{name}\n".encode() for name in names)
    content = {
        "settings": settings,
        **record,
        "embedding_sha256": digest.hexdigest(),
        "seconds": round(time.monotonic() - began, 1),
        "peak_memory_bytes": peak_memory(),
        "environment": evidence.environment(devices=""),
    }
    core.write_durably(out.with_suffix(".json"), json.dumps(content, indent=1).encode())


def peak_memory() -> int | None:
    """The most memory that this process had resident; None where the system does not say.

    `resource.getrusage` would also count the process that started this one.
    """
    try:
        status = pathlib.Path("/proc/self/status").read_text()
    except OSError:
        return None
    lines = [line for line in status.splitlines() if line.startswith("VmHWM:")]
    return int(lines[0].split()[1]) * 1024 if lines else None


class _Progress:
    """Says what is being done: a line that changes on a terminal, else one every ten seconds."""

    def __init__(self, stream):
        self._stream, self._moves = stream, stream.isatty()
        self._began = self._shown = time.monotonic()

    def __call__(self, text: str, *, now: bool = False) -> None:
        """Shows a line, `now` or if it is time to."""
        moment = time.monotonic()
        if not now and moment - self._shown < (0.1 if self._moves else 10.0):
            return
        self._shown = moment
        start, end = ("\r\033[K", "\n" if now else "") if self._moves else ("", "\n")
        self._stream.write(f"{start}[{moment - self._began:4.0f} s] {text}{end}")
        self._stream.flush()


if __name__ == "__main__":
    run_program(main)
