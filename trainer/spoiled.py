"""What a CUDA error leaves of the process in which it was raised. Torch-free.

After one (an assertion on the device, an illegal access) every later call fails in the process, and
after a failed capture torch may still believe that it captures. The destructor of a pinned tensor
that was copied to is such a call, and in it an error ends the process (``std::terminate``,
torch 2.11): what a run needed is kept then, not freed, until the process has ended.
"""

from __future__ import annotations

import os
import sys
from contextlib import suppress
from typing import NoReturn

from model.errors import message

KINDS = ("AcceleratorError", "CaptureFailed")
"""Exceptions that are known by name: torch is not loaded here, and not every torch has them."""
WORDS = ("CUDA error", "CUDA driver error", "cuDNN error", "Triton Error [CUDA]")
"""Of messages, in which others may have put the exception itself."""

_kept: list[object] = []


def spoils(error: BaseException) -> bool:
    """Whether nothing can be trained on a GPU by the process in which this was raised.

    A needless yes costs the seconds in which torch is loaded.
    """
    seen: set[int] = set()
    found: BaseException | None = error
    while found is not None and id(found) not in seen:
        seen.add(id(found))
        if type(found).__name__ in KINDS or any(word in message(found) for word in WORDS):
            return True
        # also where it is not to be shown: a user reads of the cause in words of ours
        found = found.__cause__ or found.__context__
    return False


def keep_if_spoiled(error: BaseException, *needed: object) -> None:
    """Never free what a run ``needed``, nor the frames of its error, if that spoils the process."""
    if spoils(error):
        _kept.extend((error, *needed))


def spoiled() -> bool:
    """Whether anything is kept: the process should end, by ``end``."""
    return bool(_kept)


def end(code: int) -> NoReturn:
    """End the process. The interpreter's own end would free what is kept."""
    if spoiled():
        leave(code)
    sys.exit(code)


def leave(code: int) -> None:
    """End the process at once: its own end may wait for ranks that are gone, or free too much."""
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):
            stream.flush()
    os._exit(code)
