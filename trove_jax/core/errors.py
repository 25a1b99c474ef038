"""Errors that end a run with one clear line and an exit code of their own.

Wrong arguments of library functions raise `ValueError`. The errors here are about a run: its
command line, its data, its directory, its numbers. The launcher prints the message, without a
traceback, and exits with `exit_code` (the values follow sysexits.h where it has one).
"""


class TroveError(Exception):
    """A run cannot go on; the message is written for the person who started it."""

    exit_code = 1


class UsageError(TroveError):
    """The command line asks for something that does not exist."""

    exit_code = 2


class RunMismatch(TroveError):
    """The run directory or its checkpoints belong to another configuration, or are in use."""

    exit_code = 2


class NonFiniteLoss(TroveError):
    """The loss became NaN or infinite."""

    exit_code = 65


class DataUnavailable(TroveError):
    """A data set is not here, damaged, or could not be fetched."""

    exit_code = 66


class CheckpointError(TroveError):
    """No intact checkpoint could be written or read."""

    exit_code = 74


class Interrupted(TroveError):
    """Stopped by Ctrl-C or SIGTERM after a save; the same command continues."""

    exit_code = 75
