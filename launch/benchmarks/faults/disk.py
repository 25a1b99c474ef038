"""Disks that are full, read-only or in the way.

    python -m launch.benchmarks.faults.disk

A full disk is a small tmpfs where this process may mount one; elsewhere, and in addition, a limit
on the size of files (RLIMIT_FSIZE), which fails in the same calls. Permission bits do not bind
root, so that a read-only directory is a read-only mount, or where nothing can be mounted a folder
without the right to write.
"""

import contextlib
import os
import pathlib
import resource
import shutil
import subprocess
from collections.abc import Iterator

from launch.benchmarks.faults.damage import newest_step
from launch.benchmarks.faults.outcome import Bench, Outcome, Tally, try_faults
from launch.benchmarks.faults.tiny import LAST_STAGE, tiny_run
from launch.program import run_program


def main(_: list[str]) -> None:
    """Tries all of them."""
    try_faults(FAULTS)


def fill_disk(bench: Bench) -> Outcome:
    """Goes on where the disk has no room for the next checkpoint; then where it has."""
    run = bench.copy()
    place = bench.new()
    # Room for what is there and for half of the checkpoint that is to come.
    size = _pages(run) + _pages(newest_step(run)) // 2
    with mounted(place, "tmpfs", f"size={size}") as done:
        tally = Tally(f"disk full during a save ({done or 'nothing can be mounted'})", bench.wanted)
        if done:
            shutil.copytree(run, place, dirs_exist_ok=True)
            tally.run("full", lambda: tiny_run(place), refuse="No space left on device")
            tally.run("still full", lambda: tiny_run(place), refuse="No space left on device")
            after = shutil.copytree(place, bench.new())
            tally.run("with room", lambda: tiny_run(after))
    return tally.outcome()


def _pages(folder: pathlib.Path) -> int:
    """Bytes that the files of a folder take up in a tmpfs."""
    sizes = [path.stat().st_size for path in folder.rglob("*") if path.is_file()]
    page = resource.getpagesize()
    return sum(-(-size // page) * page for size in sizes)


def limit_files(bench: Bench) -> Outcome:
    """Goes on where no file may grow beyond a size, one size after the other."""
    tally = Tally("files that cannot grow (RLIMIT_FSIZE)", bench.wanted)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    for limit in (0, 100, 1000, 3000)[:: bench.every]:
        run = bench.copy()
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
        try:
            tally.run(f"{limit} bytes", lambda run=run: tiny_run(run), refuse="File too large")
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        tally.run("with room", lambda run=run: tiny_run(run))
    return tally.outcome()


def forbid_writing(bench: Bench) -> Outcome:
    """Starts, and goes on, in a directory that cannot be written; then in one that can."""
    run = bench.copy()
    with read_only(run) as how:
        tally = Tally(f"a read-only directory ({how})", bench.wanted)
        tally.run("going on", lambda: tiny_run(run), refuse="cannot write to")
        tally.run("new", lambda: tiny_run(run / "new"), refuse="cannot write to")
    tally.run("writable again", lambda: tiny_run(run))
    return tally.outcome()


def stand_in_the_way(bench: Bench) -> Outcome:
    """Files where folders should be."""
    tally = Tally("a file in place of a folder", bench.wanted)
    run, stage = bench.copy(), pathlib.Path("checkpoints") / LAST_STAGE
    shutil.rmtree(run / stage)
    (run / stage).write_text("")
    tally.run("stage", lambda: tiny_run(run), refuse="could not save step")
    (run / stage).unlink()
    tally.run("removed", lambda: tiny_run(run))
    place = bench.new()
    place.write_text("")
    tally.run("directory", lambda: tiny_run(place), refuse="cannot write to")
    return tally.outcome()


@contextlib.contextmanager
def mounted(place: pathlib.Path, kind: str, options: str) -> Iterator[str]:
    """Mounts a file system at a new folder; gives what it is, or "" where that is not allowed."""
    place.mkdir(exist_ok=True)
    command = ["mount", "-t", kind, "-o", options, "none", str(place)]
    done = shutil.which("mount") and not subprocess.run(command, capture_output=True).returncode
    try:
        yield f"{kind}" if done else ""
    finally:
        if done:
            subprocess.run(["umount", str(place)], check=True, capture_output=True)


@contextlib.contextmanager
def read_only(folder: pathlib.Path) -> Iterator[str]:
    """Makes a folder that cannot be written; gives how."""
    if os.geteuid():
        modes = {path: path.stat().st_mode for path in (folder, *folder.rglob("*"))}
        for path in modes:
            path.chmod(0o555)
        try:
            yield "permission bits"
        finally:
            for path, mode in modes.items():
                path.chmod(mode)
        return
    bind = ["mount", "--bind", "-o", "ro", str(folder), str(folder)]
    subprocess.run(bind, check=True, capture_output=True)
    try:
        yield "read-only mount"
    finally:
        subprocess.run(["umount", str(folder)], check=True, capture_output=True)


FAULTS = (fill_disk, limit_files, forbid_writing, stand_in_the_way)

if __name__ == "__main__":
    run_program(main)
