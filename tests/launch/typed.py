"""Many commands as they are typed, in one process that has imported what all of them import.

    python -m tests.launch.typed FOLDER < commands.json

Every command is a list: a module of `launch`, and its arguments. It runs in a process forked off
before jax was used, as `python -m` would run it; FOLDER gets what it printed. The exit codes are
printed as a list.
"""

import json
import os
import pathlib
import runpy
import sys


def main() -> None:
    import absl.app  # noqa: F401
    import jax  # noqa: F401
    import ml_collections  # noqa: F401
    import optax  # noqa: F401

    folder = pathlib.Path(sys.argv[1])
    codes = []
    for number, (module, *arguments) in enumerate(json.load(sys.stdin)):
        child = os.fork()
        if not child:
            run(module, arguments, folder / str(number))
        codes.append(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
    print(json.dumps(codes))


def run(module: str, arguments: list[str], folder: pathlib.Path) -> None:
    """Becomes the command, and ends this process as it ends."""
    folder.mkdir()
    for descriptor, name in ((1, "out"), (2, "err")):
        os.dup2(os.open(folder / name, os.O_WRONLY | os.O_CREAT), descriptor)
    code = 0
    sys.argv = [module, *arguments]
    try:
        runpy.run_module(f"launch.{module}", run_name="__main__", alter_sys=True)
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:
        sys.excepthook(*sys.exc_info())
        code = 1
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


if __name__ == "__main__":
    main()
