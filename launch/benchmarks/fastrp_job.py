"""FastRP as a job on a large graph: its peak memory, and its time beside a plain scipy program.

A text file with 10 million undirected edges between a million nodes, whose degrees follow a power
law; 128 columns, weights 0, 0, 1 and 8. Both programs read the file and write the embedding, each
in a process of its own. The plain one reads with `np.loadtxt`, and computes as `fastrp.by_scipy`.
Peak memory is what the kernel counts as resident at most, of the whole process.
"""

import json
import pathlib
import subprocess
import sys
import tempfile
import time

import numpy as np

from launch.benchmarks.timing import Row, Timings

_ROOT = pathlib.Path(__file__).parents[2]
_GOAL_GIB = 8.0


def measure(quick: bool = False) -> list[Row]:
    """Runs both jobs in turn."""
    n, m = (2_000, 20_000) if quick else (1_000_000, 10_000_000)
    repeats = 1 if quick else 3
    seconds: dict[str, list[float]] = {"ours": [], "scipy": []}
    peaks: dict[str, list[float]] = {"ours": [], "scipy": []}
    with tempfile.TemporaryDirectory() as folder:
        edges = pathlib.Path(folder, "edges.txt")
        _write_power_law(edges, n, m)
        for repeat in range(repeats):
            out = pathlib.Path(folder, f"embedding_{repeat}.npy")
            ours = ["launch.embed", f"--edges={edges}", f"--out={out}", "--beta=-0.5"]
            plain = ["launch.benchmarks.fastrp_job", str(edges), str(out.with_suffix(".plain"))]
            for name, arguments in (("ours", ours), ("scipy", plain)):
                began = time.perf_counter()
                subprocess.run(
                    [sys.executable, "-m", *arguments], cwd=_ROOT, check=True, capture_output=True
                )
                seconds[name].append(time.perf_counter() - began)
            for name, file in (("ours", ".json"), ("scipy", ".plain.json")):
                record = json.loads(out.with_suffix(file).read_text())
                peaks[name].append(record["peak_memory_bytes"] / 2**30)
            for file in out.parent.glob(f"{out.stem}.*"):
                file.unlink()
    found = Timings(seconds)
    size = f"{n} nodes, {m} undirected edges, width 128"
    return [
        Row(
            "peak memory of launch.embed, GiB",
            max(peaks["ours"]),
            _GOAL_GIB,
            detail=f"{size}; the plain scipy program {max(peaks['scipy']):.2f}",
        ),
        Row(
            "launch.embed / plain scipy program",
            found.ratio("ours", to="scipy"),
            detail=f"from text to .npy: {found.median('ours'):.0f} and "
            f"{found.median('scipy'):.0f} s",
        ),
    ]


def _write_power_law(path: pathlib.Path, n: int, m: int) -> None:
    """Both ends drawn with probabilities that fall as rank^(-1/2); ranks are shuffled."""
    rng = np.random.default_rng(0)
    names = rng.permutation(n)
    with path.open("w") as file:
        file.write(f"{n - 1} 0\n")  # so that the number of nodes is known
        for first in range(1, m, 2**18):
            # The inverse of the distribution function of rank^(-1/2) is a square.
            ranks = np.floor(n * rng.random((min(2**18, m - first), 2)) ** 2).astype(np.int64)
            ends = names[np.minimum(ranks, n - 1)].ravel().tolist()
            file.write("%d %d\n" * (len(ends) // 2) % tuple(ends))


def plain(edges: pathlib.Path, out: pathlib.Path) -> None:
    """The whole job with NumPy and scipy.

    Args:
      edges: text, a line `u v` for every undirected edge.
      out: file for the embedding; a .json with the peak memory comes beside it.
    """
    from scipy import sparse

    from launch.benchmarks.fastrp import by_scipy
    from launch.embed import peak_memory

    table = np.loadtxt(edges, dtype=np.int32)
    n = int(table.max()) + 1
    u, v = table[:, 0], table[:, 1]
    matrix = sparse.coo_array((np.ones(len(u), np.float32), (u, v)), shape=(n, n)).tocsr()
    matrix = sparse.csr_matrix(matrix + matrix.T)
    embedding = by_scipy(matrix, np.random.RandomState(0))
    with out.open("wb") as file:
        np.save(file, embedding)
    out.with_suffix(".plain.json").write_text(json.dumps({"peak_memory_bytes": peak_memory()}))


if __name__ == "__main__":
    plain(*map(pathlib.Path, sys.argv[1:]))
