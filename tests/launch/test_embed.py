"""`python -m launch.embed`: the embedding, what Ctrl-C leaves, and what is refused."""

import json
import pathlib
import subprocess
import sys

import jax
import numpy as np
import pytest

from trove_jax import graphs

ROOT = pathlib.Path(__file__).resolve().parents[2]
N, DIM = 60, 10
RNG = np.random.default_rng(0)
EDGES, WEIGHT = RNG.integers(0, N - 2, (200, 2)), RNG.uniform(0.5, 2.0, 200).round(3)

# Runs the program for one list of arguments after another: jax is imported and compiles once. After
# "stop" comes a run that gets Ctrl-C when it has saved its first block.
DRIVER = """
import contextlib, io, json, os, pathlib, signal, sys
from absl import flags
from absl.testing import flagsaver
from launch import embed
from trove_jax.core.errors import TroveError

save, folder = embed._save_block, pathlib.Path(sys.argv[2])

def save_and_stop(*arguments):
    save(*arguments)
    os.kill(os.getpid(), signal.SIGINT)

flags.FLAGS(["embed"])
for arguments in json.loads(sys.argv[1]):
    embed._save_block = save_and_stop if arguments[0] == "stop" else save
    code, error, said = 0, "", io.StringIO()
    with flagsaver.flagsaver(), contextlib.redirect_stderr(said):
        flags.FLAGS(["embed", *(a for a in arguments if a.startswith("--"))])
        try:
            with contextlib.redirect_stdout(said):
                embed.main([])
        except TroveError as found:
            code, error = found.exit_code, str(found)
    files = sorted(path.name for path in folder.glob("**/*") if path.is_file())
    print(json.dumps({"code": code, "error": error, "said": said.getvalue(), "files": files}))
"""


def launch(*arguments: str):
    return subprocess.run(
        [sys.executable, "-W", "error", *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """All runs: what was wanted, and what came of them."""
    folder = tmp_path_factory.mktemp("embed")
    np.savetxt(folder / "graph.txt", EDGES, fmt="%d", header="two columns")
    rows = [f"n{u} n{v} {w}\n" for (u, v), w in zip(EDGES, WEIGHT, strict=True)]
    (folder / "names.txt").write_text("".join(rows))
    (folder / "bad.txt").write_text("0 1\n1 -2\n")
    (folder / "wide.txt").write_text("0 1 3\n")
    (folder / "far.txt").write_text("0 2147483646\n")
    (folder / "empty.txt").write_text("")
    (folder / "taken.npy").write_text("")
    good, fresh = f"--edges={folder}/graph.txt", f"--out={folder}/new.npy"
    command = [good, f"--out={folder}/vectors.npy", f"--dim={DIM}", "--columns=5"]
    command += [f"--nodes={N}", "--weights=1,0,2", "--seed=3"]
    named = [
        f"--edges={folder}/names.txt", f"--out={folder}/new/vectors.npy", f"--dim={DIM}",
        "--ids=names", "--weighted", "--directed", "--normalize", "--nostandardize",
        "--projection=gaussian", "--matrix=adj",
    ]  # fmt: skip
    refused = [
        ([fresh], "--edges=FILE is missing"),
        ([good], "--out=FILE.npy is missing"),
        ([f"--edges={folder}/none", fresh], "is not there"),
        ([f"--edges={folder}", fresh], "is no file"),
        ([good, f"--out={folder}/x.txt"], "is no file name that ends in .npy"),
        ([good, f"--out={folder}/bad.txt/x.npy"], "cannot be written"),
        ([good, fresh, "--weights=1,x"], "--weights=1,x: numbers joined by commas are wanted"),
        ([good, fresh, "--weights=0,0"], "not all of them 0"),
        ([good, fresh, "--beta=nan"], "--beta=nan is not a finite number"),
        ([good, fresh, "--normalize", "--columns=4"], "leave --columns out"),
        ([good, fresh, f"--dim={N}"], f"--dim={N} is more than the"),
        ([good, fresh, "--nodes=5"], "n_node=5"),
        ([good, fresh, "--weighted"], "line 2 is"),
        ([f"--edges={folder}/bad.txt", fresh], "line 2 has node '-2'"),
        ([f"--edges={folder}/wide.txt", fresh], "use --weighted"),
        ([f"--edges={folder}/far.txt", fresh], "2147483647 nodes need about"),
        ([f"--edges={folder}/empty.txt", fresh], "has no edges"),
        ([good, f"--out={folder}/taken.npy", "--dim=2"], "is already there; remove it"),
        ([*command, "--seed=4"], "made with other settings (seed); remove it"),
    ]
    cases = [["stop", *command], [*command, "--seed=4"], command, named]
    cases += [arguments for arguments, _ in refused]
    result = launch("-c", DRIVER, json.dumps(cases), str(folder))
    assert result.returncode == 0, result.stderr
    ends = [json.loads(line) for line in result.stdout.splitlines()]
    return folder, command, refused, ends


def test_it_is_what_the_library_computes(runs):
    folder, _, _, (_, _, finished, *_) = runs
    out = folder / "vectors.npy"
    assert finished["said"].splitlines()[-1] == f"{out}: {N} x {DIM}, float32"
    topology = graphs.topology.from_edges(EDGES, N)
    with pytest.warns(UserWarning, match="nodes have no edge"):
        wanted = graphs.fastrp(topology, jax.random.key(3), DIM, weights=(1.0, 0.0, 2.0), beta=-0.6)
    found = np.load(out)
    assert found.dtype == np.float32
    assert found.flags.c_contiguous
    # Programs of other widths may add in another order.
    np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-5)
    record = json.loads(out.with_suffix(".json").read_text())
    assert record["settings"]["nodes"] == N
    assert record["edges"] == 200
    assert record["isolated"] == N - len(np.unique(EDGES))
    assert 2**26 < record["peak_memory_bytes"] < 2**33


def test_ctrl_c_keeps_finished_blocks_and_nothing_half_written(runs):
    folder, _, _, (stopped, other, finished, *_) = runs
    assert stopped["code"] == 75
    assert stopped["error"] == (
        f"1 of 2 blocks are kept in {folder}/vectors.npy.parts, and the same command continues"
    )
    assert {".lock", "columns_000000.npy", "config.json"} < set(stopped["files"])
    assert not [name for name in stopped["files"] if "vectors" in name or "tmp" in name]
    assert other["code"] == 2
    assert "belongs to another run (seed is 3 there and 4 here); remove it" in other["error"]
    assert "columns 0 to" not in finished["said"]
    assert "columns 5 to 10 of 10" in finished["said"]
    assert not [name for name in finished["files"] if "columns" in name or "tmp" in name]


def test_what_is_finished_is_left_alone(runs):
    folder, command, _, _ = runs
    before = (folder / "vectors.npy").stat().st_mtime_ns
    result = launch("-m", "launch.embed", *command)
    assert (result.returncode, result.stderr) == (0, "")
    assert result.stdout == f"{folder}/vectors.npy is finished\n"
    assert (folder / "vectors.npy").stat().st_mtime_ns == before


def test_names_weights_and_normalised_rows(runs):
    folder, _, _, (_, _, _, named, *_) = runs
    out = folder / "new" / "vectors.npy"
    assert named["code"] == 0, named
    names = out.with_suffix(".names.txt").read_text().split()
    number = {name: row for row, name in enumerate(names)}
    ends = np.array([[number[f"n{u}"], number[f"n{v}"]] for u, v in EDGES])
    topology = graphs.topology.from_edges(ends, len(names), undirected=False, edge_weight=WEIGHT)
    isolated = int(np.sum(np.asarray(topology.in_degree()) == 0))
    assert isolated
    assert f"{isolated} of {len(names)} nodes have no edge that comes in" in named["said"]
    with pytest.warns(UserWarning, match="no edge"):
        wanted = graphs.fastrp(
            topology, jax.random.key(0), DIM, weights=(0.0, 0.0, 1.0, 8.0), beta=-0.6,
            normalise_rows=True, standardise=False, projection="gaussian", matrix="adj",
        )  # fmt: skip
    np.testing.assert_allclose(np.load(out), wanted, rtol=1e-4, atol=1e-5)


def test_refusals_are_one_line_with_exit_code_2_and_leave_nothing(runs):
    _, _, refused, ends = runs
    for (arguments, message), end in zip(refused, ends[4:], strict=True):
        assert end["code"] == 2, (arguments, end)
        assert message in end["error"]
        assert "\n" not in end["error"]
        assert end["files"] == ends[3]["files"]


def test_a_refusal_on_the_command_line_is_no_traceback(tmp_path):
    result = launch("-m", "launch.embed", f"--edges={tmp_path}/none", f"--out={tmp_path}/a.npy")
    assert result.returncode == 2
    assert result.stderr == f"error: --edges={tmp_path}/none is not there\n"
