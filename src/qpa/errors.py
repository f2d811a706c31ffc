"""Errors that a user can mend: one line with the key, its value and the way out."""

import os

OURS = "QPA_RAISES"  # in the environment: not the user but a command of ours, here or in a parent process, has set Hydra's variable
TRACEBACKS = os.environ.get("HYDRA_FULL_ERROR") == "1" and OURS not in os.environ  # the user wants them


class UserError(Exception):
    """Something the user gave cannot work; its text is one complete line."""


class ConfigError(UserError):
    """A config value that cannot work.

    Args:
        key: the dotted config key, e.g. ``circuit.qubits``.
        value: the value as given.
        problem: what is wrong with it, and what would work.
    """

    def __init__(self, key: str, value: object, problem: str) -> None:
        super().__init__(" ".join(f"{key}={value}: {problem}".splitlines()))  # a value may be anything


class NonFiniteLossError(UserError):
    """The loss or a gradient became infinite or NaN; training stopped, with the last good checkpoint named."""


class ExportError(UserError):
    """What was written for others is not what was trained; it must not be taken for it."""


class LostProcessError(UserError):
    """Another process of the same run is gone; this one cannot go on alone."""


class JobFailedError(UserError):
    """A job of a sweep failed; its own words are in the text."""


class UsageError(UserError):
    """The command line itself is malformed."""


MENDABLE = (UserError, OSError)


def line(error: Exception) -> str:
    """An error in one line; one that nobody foresaw with its type."""
    if isinstance(error, OSError) and error.filename:
        return f"{error.filename}: {error.strerror}"
    words = " ".join(str(error).split())
    return words if isinstance(error, MENDABLE) else f"{type(error).__name__}: {words}"
