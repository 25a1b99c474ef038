"""Lists the experiments: number, title, presets with their data, and the last verdict.

python -m launch.list [--runs=runs]
"""

import collections
import json
import pathlib

from absl import flags

from launch.lookup import PRESETS, experiment_names, load_experiment
from launch.program import run_program

_RUNS = flags.DEFINE_string("runs", "runs", "Folder in which to look for finished runs.")
_DATA_DIR = flags.DEFINE_string("data_dir", None, "Folder of data sets (default: TROVE_DATA_DIR).")


def main(_: list[str]) -> None:
    """Prints one line per experiment."""
    verdicts = _last_verdicts(pathlib.Path(_RUNS.value))
    experiments = [(name, load_experiment(name)) for name in experiment_names()]
    for name, experiment in sorted(experiments, key=lambda pair: pair[1].SYSTEM.number):
        presets = " ".join(
            f"{preset}{'' if _has_data(experiment, preset) else ' (no data)'}" for preset in PRESETS
        )
        verdict = verdicts.get(name, "not run here")
        print(
            f"{experiment.SYSTEM.number:02d}  {name}  {experiment.SYSTEM.title}  "
            f"[{presets}]  {verdict}"
        )


def _has_data(experiment, preset: str) -> bool:
    from trove_jax import data

    names = experiment.data_sets(experiment.get_config(preset))
    return all(data.find(data.describe(name), data_dir=_DATA_DIR.value) for name in names)


def _last_verdicts(runs: pathlib.Path) -> dict[str, str]:
    """What the newest finished run of each experiment found: `laptop 2026-05-01: 3 supported`."""
    newest: dict[str, tuple[str, str]] = {}
    for path in runs.glob("**/evidence.json"):
        try:
            record = json.loads(path.read_text())
            counts = collections.Counter(claim["verdict"] for claim in record["claims"])
            name, preset, started = record["experiment"], record["preset"], record["started"]
        except (OSError, ValueError, KeyError, TypeError):
            continue
        found = ", ".join(f"{number} {verdict}" for verdict, number in counts.items())
        line = f"{preset} {started[:10]}: {found}"
        newest[name] = max(newest.get(name, ("", "")), (started, line))
    return {name: line for name, (_, line) in newest.items()}


if __name__ == "__main__":
    run_program(main)
