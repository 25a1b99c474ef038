"""Many processes, one program: who speaks, what all agree on, and how bytes get from one to all.

Every process runs the same program on its own devices. Process 0 alone prints, reads checkpoints
and writes; what only it knows it shares, a fault of its own included, so that no other process is
left waiting. With one process nothing here communicates.
"""

import json
from collections.abc import Callable

import jax
import numpy as np

from trove_jax.core.errors import TroveError


def is_speaker() -> bool:
    """Whether this process prints and writes: process 0."""
    return jax.process_index() == 0


def share(make: Callable[[], bytes]) -> bytes:
    """The bytes that process 0 makes, in every process.

    Args:
      make: called in process 0 only.

    Returns:
      What it returned there.

    Raises:
      TroveError: `make` raised one; every process raises it.
    """
    if jax.process_count() == 1:
        return make()
    failure: TroveError | None = None
    message = b""
    if is_speaker():
        try:
            message = b"\0" + make()
        except TroveError as error:
            failure = error
            message = b"\1" + json.dumps([str(error), error.exit_code]).encode()
    message = _broadcast(message)
    if failure is not None:
        raise failure
    if message[:1] == b"\1":
        text, code = json.loads(message[1:])
        error = TroveError(text)
        error.exit_code = code
        raise error
    return message[1:]


def agree(number: int, flag: bool) -> tuple[int, bool]:
    """Process 0's number, and whether any process raises the flag.

    Clocks and signals differ between processes, and a loop that they decide about must not.
    """
    if jax.process_count() == 1:
        return number, flag
    from jax.experimental import multihost_utils

    found = multihost_utils.process_allgather(np.array([number, flag], np.int32))
    return int(found[0, 0]), bool(found[:, 1].any())


def whole(leaf: jax.Array) -> np.ndarray:
    """An array as NumPy, also where other processes hold parts of it; all must ask for it."""
    if not isinstance(leaf, jax.Array) or leaf.is_fully_addressable or leaf.is_fully_replicated:
        return np.asarray(leaf)
    from jax.experimental import multihost_utils

    return np.asarray(multihost_utils.process_allgather(leaf, tiled=True))


def _broadcast(message: bytes) -> bytes:
    from jax.experimental import multihost_utils

    size = int(multihost_utils.broadcast_one_to_all(np.int32(len(message))))
    sent = np.zeros(size, np.uint8)
    if is_speaker():
        sent[:] = np.frombuffer(message, np.uint8)
    return np.asarray(multihost_utils.broadcast_one_to_all(sent)).astype(np.uint8).tobytes()
