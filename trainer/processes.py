"""Processes of this program: what they inherit, and whom their standard output belongs to."""

from __future__ import annotations

import os
import sys
import threading
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import psutil


def child_environment() -> dict[str, str]:
    """This process's environment with our packages' folder first in ``PYTHONPATH``."""
    root = str(Path(__file__).resolve().parent.parent)
    paths = [root, *os.environ.get("PYTHONPATH", "").split(os.pathsep)]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(p for p in paths if p)}


def lives(process: psutil.Process) -> bool:
    """Whether it has not ended: the same process, not another one that was given its number."""
    import psutil

    try:
        return process.is_running() and bool(process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False
    except psutil.Error:  # it may not be asked, so it is there
        return True


def adopt_children() -> None:
    """Wait for what an earlier image of this process has started: it would stay as zombies.

    To be called before this image starts anything.
    """
    import psutil

    for child in psutil.Process().children():
        threading.Thread(target=_wait, args=(child.pid,), name="adopted", daemon=True).start()


def _wait(child: int) -> None:
    with suppress(ChildProcessError):
        os.waitpid(child, 0)


def keep_output() -> int:
    """Take standard output for messages to the parent alone; what a net prints goes nowhere.

    A pipe that nobody reads any more would end the net's ``print`` with an error, and one that
    nobody reads now would block it.

    Returns:
        The descriptor to write messages to; children do not inherit it.
    """
    kept = os.dup(1)
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 1)
    os.close(null)
    if hasattr(sys.stdout, "reconfigure"):
        sys.stdout.reconfigure(errors="replace")
    return kept
