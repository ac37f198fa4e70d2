"""Errors that end in one clear line for the user."""

from __future__ import annotations

from model.errors import message
from trainer.foreign import printable

LONGEST = 2000
"""Characters of a message: parts of it may come from files of others."""


def first_line(error: BaseException) -> str:
    """The first line of an error's message, or its kind where it has none."""
    return (message(error).splitlines() or [type(error).__name__])[0]


class UserError(Exception):
    """Bad input. The message is one line that says what is wrong and what to do."""

    def __init__(self, message: str) -> None:
        # names of files and keys end up in messages: they must not drive the terminal
        super().__init__(printable(message[:LONGEST]))


class ConfigError(UserError):
    """A wrong option, preset or TOML file."""


class DataError(UserError):
    """A data set that is missing, damaged or of a wrong shape."""


class RunError(UserError):
    """A run's folder that cannot be made, found or read."""


class DeviceError(UserError):
    """A device or precision that this machine does not have."""
