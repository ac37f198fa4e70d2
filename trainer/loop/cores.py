"""Two runs on the same cores: the later one lets the other compute. Torch-free.

Where the threads of an operation have nothing to do, OpenMP keeps them turning for some
milliseconds: alone that is a fifth more images/s, but two runs on the same cores then wait for each
other's idle threads, and train at an eighth of their speed each. It is enough that one of them lets
its threads sleep at once; how long they turn is read when torch is loaded, and never again.
"""

from __future__ import annotations

import fcntl
import os
import platform
import sys
from contextlib import suppress
from pathlib import Path

import platformdirs

TURNS = "1000"
"""Of a thread without work before it sleeps; OpenMP's own are 300,000."""

_held: int | None = None


def give_way() -> None:
    """Before torch is loaded: have threads sleep soon if another process trains on the CPU now.

    What the user has set stays.
    """
    if {"GOMP_SPINCOUNT", "OMP_WAIT_POLICY"} & os.environ.keys() or "torch" in sys.modules:
        return
    if _others():
        os.environ["GOMP_SPINCOUNT"] = TURNS


def take() -> None:
    """This process trains on the CPU from now on."""
    global _held
    if _held is None:
        with suppress(OSError):
            _held = _open()
            fcntl.flock(_held, fcntl.LOCK_SH | fcntl.LOCK_NB)  # not while another one looks


def leave() -> None:
    """It does no more."""
    global _held
    if _held is not None:
        os.close(_held)
        _held = None


def _others() -> bool:
    with suppress(OSError):
        handle = _open()
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        finally:
            os.close(handle)
    return False


def _open() -> int:
    """The file that all of this user's processes on this host lock; never inherited."""
    folder = platformdirs.user_cache_path("cifar-tui")
    folder.mkdir(parents=True, exist_ok=True)
    host = platform.node().replace("/", "_")
    path: Path = folder / f"training-{host}.lock"
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
