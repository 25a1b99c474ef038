"""What a run was computed with: versions, devices and the revision of the code."""

import importlib.metadata
import pathlib
import platform
import subprocess
from typing import Any

_PACKAGES = ("jax", "jaxlib", "flax", "optax", "numpy", "scipy")


def environment(*, devices: str = "") -> dict[str, Any]:
    """Versions of what a run is computed with.

    Args:
      devices: in words, such as "2 x cpu".

    Returns:
      trove_jax, python, the platform, packages (those installed), devices, and git: revision and
      whether files differ from it, or None outside a checkout of this project.
    """
    import trove_jax

    versions = {}
    for package in _PACKAGES:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return {
        "trove_jax": trove_jax.__version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "packages": versions,
        "devices": devices,
        "git": git_state(pathlib.Path(trove_jax.__file__).parents[1]),
    }


def git_state(folder: pathlib.Path) -> dict[str, Any] | None:
    """Revision and dirtiness of the checkout whose top is `folder`; None when it is not one."""

    def git(*arguments: str) -> str:
        return subprocess.run(
            ["git", "-C", str(folder), *arguments],
            check=True,
            capture_output=True,
            text=True,
            timeout=20,
        ).stdout.strip()

    try:
        # A package installed inside somebody else's checkout must not borrow their revision.
        if pathlib.Path(git("rev-parse", "--show-toplevel")).resolve() != folder.resolve():
            return None
        return {"revision": git("rev-parse", "HEAD"), "dirty": bool(git("status", "--porcelain"))}
    except (OSError, subprocess.SubprocessError):
        return None
