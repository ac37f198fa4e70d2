"""Whose code a run's net is: one that others may have put there is not run unasked. Torch-free."""

from __future__ import annotations

import os
import stat
from contextlib import suppress
from pathlib import Path

from trainer.config import RunConfig
from trainer.errors import ConfigError
from trainer.files.paths import expanded
from trainer.runs.rundir import RunDir


def check_origin(run: RunDir, config: RunConfig) -> None:
    """A net that came along with a run is not run, whoever asks for it.

    Args:
        run: of which it is the net; its folder may be a link into the folder of others.
        config: of the run.

    Raises:
        ConfigError: the net lies among runs.
    """
    file = net_file(config)
    beside = (run.path.parent.resolve(), run.path.resolve().parent)
    if file is not None and any(file.is_relative_to(folder) for folder in beside):
        raise ConfigError(
            f"the net {config.model.name} lies among the runs, where others' files may be: "
            "copy it elsewhere if you trust it, and start a new run"
        )


def check_owner(config: RunConfig) -> None:
    """A net that the log of a run names, not the user, is not run if others can change it.

    Raises:
        ConfigError: its file is another user's, or root's and everybody's to write.
    """
    file = net_file(config)
    if file is None:
        return
    with suppress(OSError):  # what is not there cannot be run, which is told elsewhere
        found = file.stat()
        roots = found.st_uid == 0 and not found.st_mode & stat.S_IWOTH
        if not (roots or found.st_uid == os.getuid()):
            raise ConfigError(
                f"other users can change the net {config.model.name}, and it would be run: if you "
                "trust it, give --trust-net with cifar-tui train --resume, or inspect"
            )


def net_file(config: RunConfig) -> Path | None:
    """The file of a net of the user's own, without links; ``None`` for a built-in one."""
    from model import user_file

    if not user_file.is_file(config.model.name):
        return None
    return expanded(config.model.name.rpartition(":")[0]).resolve()
