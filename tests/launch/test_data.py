"""`python -m launch.data`, as a person runs it."""

import http.server
import os
import pathlib
import subprocess
import sys
import threading

import numpy as np
import pytest

from trove_jax.data.npz import write_npz

ROOT = pathlib.Path(__file__).resolve().parents[2]


@pytest.fixture
def launch(tmp_path):
    """Runs the launcher with an empty cache and no folder of data sets."""
    environment = {**os.environ, "XDG_CACHE_HOME": str(tmp_path / "xdg"), "no_proxy": "*"}
    environment.pop("TROVE_DATA_DIR", None)

    def run(*arguments):
        return subprocess.run(
            [sys.executable, "-W", "error", "-m", "launch.data", *arguments],
            cwd=ROOT,
            env=environment,
            capture_output=True,
            text=True,
            timeout=120,
        )

    return run


def test_list_is_an_aligned_table(launch):
    result = launch("--list")
    assert result.returncode == 0, result.stderr
    assert result.stderr == ""
    lines = result.stdout.splitlines()
    heading, rows = lines[0], lines[1:12]
    assert heading.split() == ["name", "here", "from", "train", "test", "licence", "what"]
    assert [row.split()[0] for row in rows] == [
        "digits", "mnist_5k", "mnist", "fashion_mnist", "cifar10", "cifar10_20k", "cifar100",
        "svhn", "imagenet", "places365", "textures",
    ]  # fmt: skip
    for row in rows:
        for column in ("here", "from", "licence", "what"):
            place = heading.index(column)
            assert row[place - 1] == " "
            assert row[place] != " "
    assert [row.split()[1] for row in rows] == ["yes", "yes"] + 9 * ["no"]
    assert "scikit-learn" in rows[0]
    assert "download, 11.6 MB" in rows[2]
    assert "--prepare=cifar10`" in result.stdout
    assert "\x1b" not in result.stdout


def test_list_finds_the_real_sets(launch, data_dir):
    result = launch(f"--data_dir={data_dir}")
    assert result.returncode == 0, result.stderr
    rows = {line.split()[0]: line for line in result.stdout.splitlines()[1:12]}
    for name in ("mnist", "fashion_mnist", "cifar10_20k"):
        assert rows[name].split()[1:4] == ["yes", "data", "directory"]
    assert f"data directory: {data_dir}" in result.stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--prepare=mnst"], "unknown data set 'mnst'; did you mean 'mnist'?"),
        (["--from=x"], "--from and --mirror need --prepare=NAME"),
        (["--prepare=mnist", "--mirror=ftp://x"], "--mirror=ftp://x does not begin with http"),
        (["mnist"], "unexpected argument 'mnist'"),
    ],
)
def test_usage_errors_are_one_line_and_exit_2(launch, arguments, message):
    result = launch(*arguments)
    assert result.returncode == 2
    assert result.stdout == ""
    assert result.stderr.startswith(f"error: {message}")
    assert result.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--list", "--data_dir=/nonexistent"], "data_dir=/nonexistent is not a folder"),
        (["--prepare=imagenet"], "imagenet is used as it is: get ILSVRC2012"),
        (["--prepare=mnist", "--from=/nonexistent"], "/nonexistent does not exist"),
    ],
)
def test_unavailable_data_is_one_line_and_exit_66(launch, arguments, message):
    result = launch(*arguments)
    assert result.returncode == 66
    assert result.stderr.startswith(f"error: {message}")
    assert result.stderr.count("\n") == 1


def test_a_mirror_without_the_file_is_named(launch, tmp_path):
    class Quiet(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *arguments):
            super().__init__(*arguments, directory=str(tmp_path))

        def log_message(self, format, *args) -> None:
            """Tests are quiet."""

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Quiet) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        mirror = f"http://127.0.0.1:{server.server_address[1]}/mnist"
        result = launch("--prepare=mnist", f"--mirror={mirror}")
        server.shutdown()
        thread.join()
    assert result.returncode == 66
    assert f"{mirror}/train-images-idx3-ubyte.gz: HTTP 404" in result.stderr
    assert result.stderr.count("\n") == 1


def test_prepare_converts_stores_and_is_idempotent(launch, tmp_path):
    rng = np.random.default_rng(0)
    arrays = {
        "x_train": np.broadcast_to(rng.integers(0, 256, (1, 32, 32, 3)), (20_000, 32, 32, 3)),
        "y_train": np.arange(20_000) % 10,
        "x_test": np.broadcast_to(rng.integers(0, 256, (1, 32, 32, 3)), (4_000, 32, 32, 3)),
        "y_test": np.arange(4_000) % 10,
    }
    given = tmp_path / "given.npz"
    write_npz(given, {name: array.astype(np.uint8) for name, array in arrays.items()})
    command = ["--prepare=cifar10_20k", f"--from={given}", f"--data_dir={tmp_path / 'sets'}"]
    first = launch(*command)
    assert first.returncode == 0, first.stderr
    target = tmp_path / "sets" / "cifar10_20k.npz"
    assert first.stdout.startswith(f"cifar10_20k: converted from {given}: {target}\nsha256 of its")
    second = launch(*command)
    assert second.stdout.startswith(f"cifar10_20k: already here and intact: {target}")
    assert second.stdout.splitlines()[1] == first.stdout.splitlines()[1]


def test_importing_the_data_room_stays_light():
    code = (
        "import sys, trove_jax.data; heavy = {'sklearn', 'mlxtend', 'matplotlib', 'PIL', 'rich', "
        "'pandas', 'scipy.stats'}; print(sorted(heavy & set(sys.modules)))"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=120
    )
    assert result.stdout == "[]\n", result.stdout + result.stderr
