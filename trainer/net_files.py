"""Whether a net of the user's own file is the one that a run has trained. Torch-free.

The files' SHA-256 lie in the run's folder; whatever is another byte in them is a change. Runs of
earlier versions have none, and are not compared.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

import msgspec

from trainer.config import RunConfig
from trainer.errors import ConfigError, RunError
from trainer.origin import net_file
from trainer.regular_file import open_regular
from trainer.rundir import RunDir
from trainer.whole_file import whole_file

RECORD_BYTES = 1 << 20


class NetFiles(msgspec.Struct, frozen=True):
    """SHA-256 of a net's files, in hexadecimal."""

    net: str
    """Of the file that the configuration names."""
    beside: dict[str, str] = {}
    """Of what it imports from its own folder, by path from there; known once it was built."""


def digest(config: RunConfig) -> str:
    """SHA-256 of the net's file; empty for a built-in net, and where the file cannot be read."""
    file = net_file(config)
    return "" if file is None else _digest(file)


def keep(run: RunDir, config: RunConfig, net: str, beside: Iterable[Path] = ()) -> None:
    """Put down which files the run is queued with, or begins to train.

    Args:
        run: its folder.
        config: of the run.
        net: as ``digest`` gave it before the net was built: who edits it meanwhile changes it.
        beside: what the net has imported from its own folder.

    Raises:
        OSError: the folder cannot be written.
    """
    file = net_file(config)
    if file is None or not net:
        return
    found = {str(path.relative_to(file.parent)): _digest(path) for path in beside}
    with whole_file(run.net) as record:
        record.write(msgspec.json.encode(NetFiles(net, found)))


def changed(run: RunDir, config: RunConfig) -> str:
    """The first file that is another one than was put down; empty where there is none.

    Raises:
        RunError: what was put down cannot be read.
    """
    file = net_file(config)
    if file is None or (kept := _kept(run)) is None:
        return ""
    if _digest(file) != kept.net:
        return str(file)
    for name, found in kept.beside.items():
        path = file.parent / name
        # the record may be that of others: no other files are read
        beside = path.is_relative_to(file.parent) and ".." not in path.parts
        if not beside or _digest(path) != found:
            return str(path)
    return ""


def check(run: RunDir, config: RunConfig) -> None:
    """A net that is not the one that was trained has none of the run's figures.

    Raises:
        ConfigError: one of its files was changed since, or is gone.
        RunError: as ``changed``.
    """
    if file := changed(run, config):
        how = "changed" if os.path.exists(file) else "removed"  # noqa: PTH110
        raise ConfigError(
            f"{file} was {how} since run {run.id} trained it: put it back as it was, or train "
            "a new run"
        )


def _kept(run: RunDir) -> NetFiles | None:
    try:
        with open_regular(run.net) as record:
            return msgspec.json.decode(record.read(RECORD_BYTES), type=NetFiles)
    except FileNotFoundError:
        return None
    except (OSError, msgspec.DecodeError):
        raise RunError(
            f"{run.net} cannot be read, and tells whether the net's files were changed: without "
            "the file they are not compared"
        ) from None


def _digest(path: Path) -> str:
    with suppress(OSError, ValueError), open_regular(path) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
    return ""
