"""A Slurm job array as a text: one task per program of a sweep; the scheduler does the rest."""

import shlex
from collections.abc import Sequence

from trove_jax.core.errors import Interrupted

_NOTICE_SECONDS = 120


def array_script(
    command: Sequence[str], *, tasks: Sequence[int], name: str, folder: str, logs: str
) -> str:
    """The text of an sbatch file.

    A task that is stopped, by its time limit or for a job of higher priority, saves, ends with the
    exit code of an interrupted run and is put back into the queue, where it continues.

    Args:
      command: the program and its arguments; `--task=N` is added.
      tasks: numbers of the tasks, in increasing order.
      name: of the job.
      folder: in which the command was given.
      logs: folder for what the tasks print; it must exist when they start.

    Returns:
      The text.

    Raises:
      ValueError: no tasks, or a name or folder with a line break.
    """
    if not tasks:
        raise ValueError("tasks is empty: nothing is left to run")
    for text in (name, folder, logs):
        if "\n" in text or "\r" in text:
            raise ValueError(f"{text!r} has a line break; use a folder and a name without")
    line = f'{shlex.join(command)} --task="$SLURM_ARRAY_TASK_ID"'
    return f"""#!/bin/bash
#SBATCH --job-name={shlex.quote(name)}
#SBATCH --array={_ranges(tasks)}
#SBATCH --ntasks=1
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --signal=TERM@{_NOTICE_SECONDS}
#SBATCH --output={shlex.quote(f"{logs}/%a.txt")}

cd {shlex.quote(folder)} || exit 1
code=0
srun --ntasks=1 {line} || code=$?
if [ "$code" -eq {Interrupted.exit_code} ]; then
    # Saved and stopped: the same task goes on when it is its turn again.
    scontrol requeue "${{SLURM_ARRAY_JOB_ID}}_${{SLURM_ARRAY_TASK_ID}}"
fi
exit "$code"
"""


def _ranges(tasks: Sequence[int]) -> str:
    """0,1,2,5 as `0-2,5`."""
    parts: list[list[int]] = []
    for task in tasks:
        if parts and task == parts[-1][1] + 1:
            parts[-1][1] = task
        else:
            parts.append([task, task])
    return ",".join(str(a) if a == b else f"{a}-{b}" for a, b in parts)
