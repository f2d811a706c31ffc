"""Errors that a user can mend: one line with the key, its value and the way out."""


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
        super().__init__(f"{key}={value}: {problem}")


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
