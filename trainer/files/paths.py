"""Paths as people type them. Torch-free."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from trainer.errors import ConfigError


def expanded(path: str | Path) -> Path:
    """A path with ``~`` and ``~name`` replaced by a home directory.

    Raises:
        ConfigError: nobody has that name, or the path is no text.
    """
    try:
        str(path).encode()
    except UnicodeEncodeError:
        shown = str(path).encode(errors="replace").decode()
        raise ConfigError(f"the path {shown} is not UTF-8: rename it") from None
    try:
        return Path(path).expanduser()
    except RuntimeError:
        raise ConfigError(f"there is no home directory for {path}: write the whole path") from None


def absolute(path: str | Path) -> Path:
    """As ``expanded``, and from the root on: a net's code may change the working directory.

    Raises:
        ConfigError: nobody has that name, the path is no text, or the working directory is gone.
    """
    found = expanded(path)
    try:
        return found.absolute()
    except OSError:
        line = "the working directory is gone: change to another, or write whole paths"
        raise ConfigError(line) from None


def check_working_directory() -> None:
    """Before torch is loaded, which ends the process where there is none.

    Raises:
        ConfigError: it is gone.
    """
    try:
        Path.cwd()
    except OSError:
        raise ConfigError("the working directory is gone: change to another") from None


def home(path: str) -> Path:
    """As ``expanded``, but a path in the home of nobody stays as it is."""
    try:
        return Path(path).expanduser()
    except RuntimeError:
        return Path(path)


def is_file(path: Path) -> bool:
    """Whether there is a file.

    Raises:
        ConfigError: that cannot be told: no permission, or no possible name.
    """
    return _look(path, Path.is_file)


def is_dir(path: Path) -> bool:
    """Whether there is a directory.

    Raises:
        ConfigError: that cannot be told: no permission, or no possible name.
    """
    return _look(path, Path.is_dir)


def _look(path: Path, is_one: Callable[[Path], bool]) -> bool:
    try:
        return is_one(path)
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise ConfigError(f"{reason}: {path}") from None
