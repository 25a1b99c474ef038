"""Lists the data sets, and fetches and converts one.

    python -m launch.data --list
    python -m launch.data --prepare=cifar10
    python -m launch.data --prepare=mnist --from=FOLDER_OR_ARCHIVE --data_dir=DIR

A transfer that was cut is continued by the same command; a set that is here is left alone.
"""

import sys
import time

from absl import flags

from launch.program import run_program
from trove_jax.core import Interrupted, UsageError
from trove_jax.data import catalogue, source
from trove_jax.data.preparation import prepare

_LIST = flags.DEFINE_bool("list", False, "Print every data set, and whether it is here.")
_PREPARE = flags.DEFINE_string("prepare", None, "Fetch and convert this data set.")
_FROM = flags.DEFINE_string(
    "from", None, "Convert the original files in this folder or archive instead of downloading."
)
_MIRROR = flags.DEFINE_string(
    "mirror", None, "URL of a folder that serves the published files; digests are still checked."
)
_DATA_DIR = flags.DEFINE_string(
    "data_dir", None, "Folder of data sets (default: TROVE_DATA_DIR for reading)."
)

_HEADINGS = ("name", "here", "from", "train", "test", "licence", "what")


class _Progress:
    """Says how far a download is: a line that moves on a terminal, else one every ten seconds."""

    def __init__(self, stream) -> None:
        self._stream, self._moves = stream, stream.isatty()
        self._started: dict[str, tuple[float, int]] = {}
        self._shown = time.monotonic()

    def __call__(self, name: str, done: int, total: int | None) -> None:
        now = time.monotonic()
        since, first = self._started.setdefault(name, (now, done))
        finished = done == total
        if now - self._shown < (0.1 if self._moves else 10.0) and not finished:
            return
        self._shown = now
        rate = (done - first) / max(now - since, 1e-3) / 1e6
        share = f"{done / total:4.0%} of {_megabytes(total)}" if total else _megabytes(done)
        text = f"{name}: {share}, {rate:.1f} MB/s"
        end = "\n" if finished or not self._moves else ""
        self._stream.write(("\r\033[K" if self._moves else "") + text + end)
        self._stream.flush()


def _megabytes(size: int) -> str:
    return f"{size / 1e6:.1f} MB"


def _row(data_set: source.DataSet, data_dir: str | None) -> tuple[str, ...]:
    location = source.find(data_set, data_dir=data_dir)
    if location is not None:
        here, origin = "yes", location.description
        if location.kind != "bundled":
            origin = "data directory" if location.kind == "data_dir" else "cache"
    else:
        here = "no"
        if data_set.bundled is not None:
            origin = f"pip install {data_set.bundled.distribution}"
        elif data_set.downloads:
            origin = f"download, {_megabytes(sum(file.size for file in data_set.downloads))}"
        else:
            origin = "your own folder" if data_set.is_folder else "your own file"
    sizes = ["", ""]
    if not data_set.is_folder:
        sizes = [_size(data_set, part) for part in ("train", "test")]
    return data_set.name, here, origin, *sizes, data_set.licence, data_set.title


def _size(data_set: source.DataSet, part: str) -> str:
    for key in (f"y_{part}", f"{part}_idx"):
        if key in data_set.shapes:
            return f"{data_set.shapes[key][0]:,}"
    return ""


def _print_list(data_dir: str | None) -> None:
    rows = [_row(data_set, data_dir) for data_set in catalogue.DATA_SETS.values()]
    if sys.stdout.isatty():
        from rich.console import Console
        from rich.table import Table

        table = Table(box=None, pad_edge=False)
        for heading in _HEADINGS:
            table.add_column(heading, justify="right" if heading in ("train", "test") else "left")
        for row in rows:
            table.add_row(*row, style=None if row[1] == "yes" else "dim")
        Console().print(table)
    else:
        widths = [max(map(len, column)) for column in zip(_HEADINGS, *rows, strict=True)]
        for row in (_HEADINGS, *rows):
            cells = [
                cell.rjust(width) if heading in ("train", "test") else cell.ljust(width)
                for heading, cell, width in zip(_HEADINGS, row, widths, strict=True)
            ]
            print("  ".join(cells).rstrip())
    print(
        f"\ndata directory: {source.data_folder(data_dir) or 'none (--data_dir, TROVE_DATA_DIR)'}"
    )
    print(f"cache: {source.cache_dir()}")
    for name, here, *_ in rows:
        data_set = catalogue.DATA_SETS[name]
        if here == "no":
            print(f"{name}: {source.how_to_get(data_set)}")


def _print_prepared(name: str) -> None:
    try:
        data_set = catalogue.describe(name)
    except ValueError as error:
        raise UsageError(str(error)) from error
    prepared = prepare(
        data_set,
        origin=_FROM.value,
        data_dir=_DATA_DIR.value,
        mirror=_MIRROR.value,
        progress=_Progress(sys.stderr),
    )
    print(f"{name}: {prepared.action}: {prepared.path}")
    print(f"sha256 of its arrays: {prepared.sha256}")
    if remark := data_set.editions.get(prepared.sha256):
        print(f"remark: {remark}")


def main(_: list[str]) -> None:
    """Does what the flags say; without any, lists."""
    if _PREPARE.value is None and (_FROM.value or _MIRROR.value):
        raise UsageError("--from and --mirror need --prepare=NAME")
    if _MIRROR.value and not _MIRROR.value.startswith(("http://", "https://")):
        raise UsageError(f"--mirror={_MIRROR.value} does not begin with http:// or https://")
    if _PREPARE.value is not None:
        try:
            _print_prepared(_PREPARE.value)
        except KeyboardInterrupt:
            raise Interrupted("stopped; the same command continues") from None
    if _LIST.value or _PREPARE.value is None:
        _print_list(_DATA_DIR.value)


if __name__ == "__main__":
    run_program(main)
