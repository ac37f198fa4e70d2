"""Paths as people type them. Torch-free."""

from __future__ import annotations

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


def is_file(path: Path) -> bool:
    """Whether there is a file.

    Raises:
        ConfigError: that cannot be told: no permission, or no possible name.
    """
    try:
        return path.is_file()
    except (OSError, ValueError) as error:
        raise ConfigError(_cannot(path, error)) from None


def is_dir(path: Path) -> bool:
    """Whether there is a directory.

    Raises:
        ConfigError: that cannot be told: no permission, or no possible name.
    """
    try:
        return path.is_dir()
    except (OSError, ValueError) as error:
        raise ConfigError(_cannot(path, error)) from None


def _cannot(path: Path, error: OSError | ValueError) -> str:
    reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return f"{reason}: {path}"
