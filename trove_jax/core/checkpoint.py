"""Checkpoints that say when they are damaged.

Orbax stores the arrays; a manifest in the same step folder holds a digest of every leaf, taken
before writing. A step is verified when it is read: one that does not match is set aside and the
newest intact one is used. A step folder appears under its name only when it is complete.

    <directory>/<step>/arrays/         orbax
                       history.npz     the records up to this step
                       manifest.json   identity; dtype, shape and SHA-256 of every leaf; SHA-256
                                       of every file
"""

import concurrent.futures
import errno
import hashlib
import io
import json
import logging
import math
import os
import pathlib
import shutil
from typing import Any, NamedTuple

import jax
import numpy as np

from trove_jax.core.errors import CheckpointError, RunMismatch
from trove_jax.core.files import write_durably
from trove_jax.core.history import History, Moment
from trove_jax.core.processes import is_speaker, share
from trove_jax.core.pytrees import array_digest, from_host, is_key, leaf_names, to_host
from trove_jax.core.task import PyTree

_log = logging.getLogger(__name__)
_MANIFEST = "manifest.json"
_PAGE = 4096  # what a file takes on a disk is a multiple of it


class Restored(NamedTuple):
    """What a checkpoint gives back.

    Attributes:
      step: steps done.
      state: the saved state, as host arrays in the structure that was asked for.
      history: the records up to `step`.
    """

    step: int
    state: PyTree
    history: History


class Checkpoints:
    """The checkpoints of one training run, in a folder of their own.

    Args:
      directory: where the step folders are.
      identity: says which run they belong to (a digest of its configuration); a checkpoint with
        another identity is refused.
      keep: how many of the newest steps stay.
    """

    def __init__(self, directory: str | os.PathLike, *, identity: str, keep: int = 2):
        if keep < 1:
            raise ValueError(f"keep={keep} would delete every checkpoint; use at least 1")
        self.directory = pathlib.Path(directory).absolute()
        self._identity = identity
        self._keep = keep

    def steps(self) -> list[int]:
        """Steps that have a folder, oldest first."""
        if not self.directory.is_dir():
            return []
        return sorted(int(p.name) for p in self.directory.iterdir() if p.name.isdigit())

    def save(self, step: int, state: PyTree, history: History) -> None:
        """Writes a step; it is there whole or not at all. Process 0 alone writes.

        Raises:
          CheckpointError: the disk is full or refuses.
        """
        host = to_host(state)
        if not is_speaker():
            return
        try:
            self._save(step, host, history)
        except (OSError, ValueError) as error:
            raise CheckpointError(
                f"could not save step {step} in {self.directory}: {error}; earlier steps are intact"
            ) from error

    def _save(self, step, host, history):
        unfinished = self.directory / f"{step}.unfinished"
        shutil.rmtree(unfinished, ignore_errors=True)
        unfinished.mkdir(parents=True)
        leaves = jax.tree.leaves(host)
        _check_room(unfinished, leaves)
        manifest = {
            "identity": self._identity,
            "step": step,
            "leaves": {
                name: {
                    "dtype": leaf.dtype.name,
                    "shape": list(leaf.shape),
                    "sha256": array_digest(leaf),
                }
                for name, leaf in zip(leaf_names(host), leaves, strict=True)
            },
        }
        _orbax().save(unfinished / "arrays", _by_position(leaves))
        write_durably(unfinished / "history.npz", _pack(history))
        manifest["files"] = _file_digests(unfinished)
        write_durably(unfinished / _MANIFEST, json.dumps(manifest, indent=1).encode())
        final = self.directory / str(step)
        shutil.rmtree(final, ignore_errors=True)
        unfinished.rename(final)
        for old in self.steps()[: -self._keep]:
            shutil.rmtree(self.directory / str(old), ignore_errors=True)

    def restore(self, like: PyTree) -> Restored | None:
        """Reads the newest intact step, setting damaged ones aside.

        Process 0 reads, and sends what it found to the others: the folder need not be shared.

        Args:
          like: a pytree with the structure, shapes and dtypes that are wanted; arrays or
            `jax.ShapeDtypeStruct`.

        Returns:
          What was saved, or None where nothing was.

        Raises:
          RunMismatch: a step belongs to another configuration, or to other shapes or dtypes.
          CheckpointError: there are steps, and all are damaged.
        """
        if jax.process_count() == 1:
            return self._newest(like)
        return _received(share(lambda: _sent(self._newest(like))), like)

    def _newest(self, like: PyTree) -> Restored | None:
        steps = self.steps()
        for step in reversed(steps):
            try:
                return self._read(step, like)
            except _Damaged as damage:
                aside = self._set_aside(step)
                _log.warning(
                    "checkpoint of step %d is damaged (%s): set aside as %s", step, damage, aside
                )
        if steps:
            raise CheckpointError(
                f"every checkpoint in {self.directory} is damaged; they are kept as *.damaged. "
                "Delete the folder to train this part again from its start"
            )
        return None

    def _read(self, step, like) -> Restored:
        folder = self.directory / str(step)
        try:
            manifest = json.loads((folder / _MANIFEST).read_bytes())
            identity, leaves = manifest["identity"], manifest["leaves"]
            recorded, files = manifest["step"], manifest["files"]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise _Damaged(f"manifest: {type(error).__name__}") from error
        if identity != self._identity:
            raise RunMismatch(
                f"{folder} was written by another configuration; use another directory"
            )
        if recorded != step:
            raise _Damaged(f"it says it is step {recorded}")
        _check_same(leaves, like, folder)
        # Files first: orbax leaves a broken event loop behind when it meets a damaged one.
        found = _file_digests(folder)
        for name, digest in files.items():
            if found.get(name) != digest:
                raise _Damaged(f"{'changed' if name in found else 'missing'} file {name}")
        try:
            arrays = _orbax().restore(folder / "arrays")
            history = _unpack((folder / "history.npz").read_bytes())
        except Exception as error:  # orbax and tensorstore raise types of many kinds
            raise _Damaged(f"unreadable: {type(error).__name__}") from error
        host = []
        for position, (name, leaf) in enumerate(leaves.items()):
            nothing = np.zeros(leaf["shape"], leaf["dtype"]) if 0 in leaf["shape"] else None
            host.append(np.asarray(arrays.get(str(position), nothing)))
            if array_digest(host[-1]) != leaf["sha256"]:
                raise _Damaged(f"digest of {name}")
        state = jax.tree.unflatten(jax.tree.structure(like), host)
        return Restored(step, from_host(state, like), history)

    def _set_aside(self, step: int) -> str:
        for number in range(1, 1000):
            aside = self.directory / f"{step}.damaged-{number}"
            if not aside.exists():
                (self.directory / str(step)).rename(aside)
                return aside.name
        raise CheckpointError(f"{self.directory} holds too many damaged copies of step {step}")


class SaveCheckpoints:
    """A hook that saves every so many steps and at the end.

    The writing of one step overlaps with the training of the next ones; the last step is on the
    disk when the hook returns. `close` waits for what is still being written.

    Args:
      checkpoints: where to.
      every: steps between two saves.
      before: the records of an earlier part of the same run.
    """

    def __init__(self, checkpoints: Checkpoints, *, every: int, before: History | None = None):
        if every < 1:
            raise ValueError(f"every={every} steps is no interval; use at least 1")
        self.every = every
        self._checkpoints = checkpoints
        self._history = before or History.join([])
        self._writer = concurrent.futures.ThreadPoolExecutor(1)
        self._writing: concurrent.futures.Future | None = None

    def __call__(self, moment: Moment) -> None:
        """Saves the state, with all records so far.

        Raises:
          CheckpointError: this step, where it is the last, or the one before could not be saved.
        """
        self._wait()
        self._history = History.join([self._history, moment.new])
        # A copy: on a CPU the host sees the very memory that the next chunk writes over.
        state = jax.tree.map(np.array, to_host(moment.state()))
        if is_speaker():
            self._writing = self._writer.submit(
                self._checkpoints.save, moment.step, state, self._history
            )
        if moment.final:
            self._wait()

    def close(self) -> None:
        """Waits for the step that is being written, and lets the writing thread go.

        Raises:
          CheckpointError: that step could not be saved.
        """
        try:
            self._wait()
        finally:
            self._writer.shutdown()

    def _wait(self) -> None:
        writing, self._writing = self._writing, None
        if writing is not None:
            writing.result()


class _Damaged(Exception):
    """This step cannot be trusted."""


def _check_room(folder: pathlib.Path, leaves: list[np.ndarray]) -> None:
    """Refuses before orbax does: it leaves a broken event loop behind when a disk is full."""
    wanted = sum(-(-leaf.nbytes // _PAGE) * _PAGE + 2 * _PAGE for leaf in leaves)
    if shutil.disk_usage(folder).free < wanted:
        raise OSError(errno.ENOSPC, f"{os.strerror(errno.ENOSPC)}: {wanted} bytes are wanted")


def _orbax():
    import orbax.checkpoint as ocp

    logging.getLogger("absl").setLevel(logging.ERROR)
    # It would wait for the other processes, of which none writes.
    alone = ocp.options.MultiprocessingOptions(
        primary_host=0,
        active_processes={0} if jax.process_count() > 1 else None,
        barrier_sync_key_prefix="trove_jax",
    )
    # Compression would make weights 7 % smaller, for a third of the time of a save.
    handler = ocp.PyTreeCheckpointHandler(
        use_ocdbt=False, use_compression=False, multiprocessing_options=alone
    )
    return ocp.Checkpointer(handler, multiprocessing_options=alone)


def _file_digests(folder: pathlib.Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != _MANIFEST
    }


def _by_position(leaves):
    # Orbax refuses arrays without an element; the manifest has all there is to know of them.
    return {str(position): leaf for position, leaf in enumerate(leaves) if leaf.size}


def _check_same(leaves, like, folder):
    wanted = {
        name: (leaf.dtype.name, list(leaf.shape))
        for name, leaf in zip(leaf_names(like), _host_shapes(like), strict=True)
    }
    found = {name: (leaf["dtype"], leaf["shape"]) for name, leaf in leaves.items()}
    if wanted != found:
        name = next(n for n in [*wanted, *found] if wanted.get(n) != found.get(n))
        raise RunMismatch(
            f"{folder} holds {name} as {found.get(name, 'nothing')}, but this run has "
            f"{wanted.get(name, 'nothing')}; use another directory"
        )


def _host_shapes(like) -> list[jax.ShapeDtypeStruct]:
    """Shapes and dtypes of the leaves on the host, where random keys are their words."""
    return jax.tree.leaves(
        jax.eval_shape(
            lambda tree: jax.tree.map(lambda x: jax.random.key_data(x) if is_key(x) else x, tree),
            like,
        )
    )


def _sent(found: Restored | None) -> bytes:
    """A checkpoint for the other processes, which know its shapes; nothing where none was."""
    if found is None:
        return b""
    leaves = b"".join(leaf.tobytes() for leaf in jax.tree.leaves(to_host(found.state)))
    return found.step.to_bytes(8, "big") + leaves + _pack(found.history)


def _received(message: bytes, like: PyTree) -> Restored | None:
    if not message:
        return None
    host, start = [], 8
    for shape in _host_shapes(like):
        count = math.prod(shape.shape)
        leaf = np.frombuffer(message, shape.dtype, count, start) if count else np.zeros(0)
        host.append(leaf.astype(shape.dtype).reshape(shape.shape))
        start += count * shape.dtype.itemsize
    state = from_host(jax.tree.unflatten(jax.tree.structure(like), host), like)
    return Restored(int.from_bytes(message[:8], "big"), state, _unpack(message[start:]))


def _pack(history: History) -> bytes:
    buffer = io.BytesIO()
    metrics: dict[str, Any] = {f"metric {k}": v for k, v in history.metrics.items()}
    np.savez(buffer, steps=history.steps, **metrics)
    return buffer.getvalue()


def _unpack(records: bytes) -> History:
    with np.load(io.BytesIO(records), allow_pickle=False) as arrays:
        metrics = {k.removeprefix("metric "): arrays[k] for k in arrays.files if k != "steps"}
        return History(arrays["steps"], metrics)
