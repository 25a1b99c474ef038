"""Damages what a stopped run left on the disk, and lets it go on.

python -m launch.benchmarks.faults.damage
"""

import pathlib
import shutil
from collections.abc import Callable

from launch.benchmarks.faults.outcome import Bench, Outcome, Tally, try_faults
from launch.benchmarks.faults.tiny import LAST_STAGE, SAVE_EVERY, tiny_run
from launch.program import run_program


def main(_: list[str]) -> None:
    """Tries all of them."""
    try_faults(FAULTS)


def newest_step(run: pathlib.Path, stage: str = LAST_STAGE) -> pathlib.Path:
    """The newest step folder of a stage."""
    steps = [path for path in (run / "checkpoints" / stage).iterdir() if path.name.isdigit()]
    return max(steps, key=lambda path: int(path.name))


def flip_bits(bench: Bench) -> Outcome:
    """Flips one bit in the middle of each file of the newest step."""
    return _each_file(bench, "a bit flipped in each file of a checkpoint", _flip)


def cut_files(bench: Bench) -> Outcome:
    """Cuts each file of the newest step to half of its length."""
    return _each_file(bench, "each file of a checkpoint cut", _cut)


def remove_files(bench: Bench) -> Outcome:
    """Removes each file of the newest step."""
    return _each_file(bench, "each file of a checkpoint missing", pathlib.Path.unlink)


def _flip(file: pathlib.Path) -> None:
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 4
    file.write_bytes(content)


def _cut(file: pathlib.Path) -> None:
    content = file.read_bytes()
    file.write_bytes(content[: len(content) // 2])


def _each_file(bench: Bench, name: str, damage: Callable[[pathlib.Path], None]) -> Outcome:
    tally = Tally(name, bench.wanted)
    pattern = newest_step(bench.copy())
    files = sorted(
        path.relative_to(pattern)
        for path in pattern.rglob("*")
        if path.is_file() and path.stat().st_size
    )
    for file in files[:: bench.every]:
        run = bench.copy()
        damage(newest_step(run) / file)
        # A bit of the identity or of a shape makes a manifest that belongs to another run.
        refuse = "use another directory" if file.name == "manifest.json" else None
        tally.run(str(file), lambda run=run: tiny_run(run), refuse=refuse)
    return tally.outcome()


def misplace_steps(bench: Bench) -> Outcome:
    """Empty step folders, steps under another number, and saves that were not finished."""
    tally = Tally("empty, renamed and unfinished step folders", bench.wanted)

    def empty(step: pathlib.Path) -> None:
        step.with_name("9999").mkdir()

    def rename(step: pathlib.Path) -> None:
        step.rename(step.with_name(str(int(step.name) + 1)))

    def unfinished(step: pathlib.Path) -> None:
        shutil.copytree(step, step.with_name(f"{int(step.name) + SAVE_EVERY}.unfinished"))

    def replaced(step: pathlib.Path) -> None:
        shutil.rmtree(step)
        step.write_text("a file in place of the folder")

    for change in (empty, rename, unfinished, replaced):
        run = bench.copy()
        change(newest_step(run))
        tally.run(change.__name__, lambda run=run: tiny_run(run))
    return tally.outcome()


def damage_every_step(bench: Bench) -> Outcome:
    """Damages all steps of a stage: it says so, and what to do; done, the run goes on."""
    tally = Tally("every step of a stage damaged", bench.wanted)
    run = bench.copy()
    for manifest in (run / "checkpoints" / LAST_STAGE).glob("*/manifest.json"):
        _cut(manifest)
    tally.run("first", lambda: tiny_run(run), refuse="Delete the folder")
    shutil.rmtree(run / "checkpoints" / LAST_STAGE)
    tally.run("after the cure", lambda: tiny_run(run))
    return tally.outcome()


def damage_other_files(bench: Bench) -> Outcome:
    """Damages the configuration, the metrics and the time spent."""
    tally = Tally("configuration, metrics or clock file damaged", bench.wanted)
    names = ("config.json", "metrics.jsonl", "checkpoints/time_spent.json")
    cases = [(name, damage) for name in names for damage in (_flip, _cut, pathlib.Path.unlink)]
    for name, damage in cases[:: min(bench.every, 2)]:
        run = bench.copy()
        damage(run / name)
        refuse = "use another --workdir" if name == "config.json" else None
        tally.run(f"{damage.__name__} {name}", lambda run=run: tiny_run(run), refuse=refuse)
    return tally.outcome()


def mix_configurations(bench: Bench) -> Outcome:
    """Lays the checkpoints of another configuration into the folder of a run."""
    tally = Tally("a checkpoint of another configuration", bench.wanted)
    run, other = bench.copy(), bench.new()
    tiny_run(other, name="other")
    shutil.rmtree(run / "checkpoints")
    shutil.copytree(other / "checkpoints", run / "checkpoints")
    tally.run("another run", lambda: tiny_run(run), refuse="written by another configuration")
    tally.run("another folder", lambda: tiny_run(other), refuse="belongs to another run")
    # The stage of one network in place of the stage of two, under the right configuration.
    run = bench.copy()
    shutil.rmtree(run / "checkpoints" / LAST_STAGE)
    shutil.copytree(run / "checkpoints" / "one", run / "checkpoints" / LAST_STAGE)
    tally.run("other shapes", lambda: tiny_run(run), refuse="use another directory")
    return tally.outcome()


FAULTS = (
    flip_bits,
    cut_files,
    remove_files,
    misplace_steps,
    damage_every_step,
    damage_other_files,
    mix_configurations,
)

if __name__ == "__main__":
    run_program(main)
