"""Stopping a run without losing it: Ctrl-C and SIGTERM ask, the training loop obeys."""

import contextlib
import signal
import threading
from collections.abc import Iterator

_asked = threading.Event()


def stop_requested() -> bool:
    """Whether the person or the machine asked this process to stop."""
    return _asked.is_set()


@contextlib.contextmanager
def catch_signals() -> Iterator[None]:
    """Turns SIGINT and SIGTERM into a request that the training loop answers with a save.

    A second signal acts at once, for whom the end of the chunk is too far away.
    """
    signals = (signal.SIGINT, signal.SIGTERM)
    before = {number: signal.getsignal(number) for number in signals}

    def ask(number, frame):
        del frame
        _asked.set()
        signal.signal(number, before[number])

    _asked.clear()
    for number in signals:
        signal.signal(number, ask)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        _asked.clear()
