"""All faults that need no random moment, on a run of a second; prints what came of each.

python -m launch.benchmarks.faults.all
"""

from launch.benchmarks.faults import damage, disk, moments
from launch.benchmarks.faults.outcome import try_faults
from launch.program import run_program


def main(_: list[str]) -> None:
    """Tries them, most harmless first."""
    try_faults((*damage.FAULTS, *disk.FAULTS, *moments.FAULTS))


if __name__ == "__main__":
    run_program(main)
