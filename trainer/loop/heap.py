"""The heap of a process that trains on a CPU: what a step frees is kept for the next. Torch-free.

glibc maps large blocks anew each time and gives them back when they are freed, and the kernel
clears their pages at first touch: hundreds of megabytes in each step. Elsewhere than on glibc
nothing happens here.
"""

from __future__ import annotations

import ctypes

M_TRIM_THRESHOLD, M_MMAP_MAX, M_ARENA_MAX = -1, -4, -8
"""Parameters of mallopt(3) in glibc."""


def share_one_arena() -> None:
    """Let all threads to come allocate in one arena; call it before the first thread starts.

    An arena of a thread's own is made of pieces of 64 MiB, given back as soon as they are empty:
    a step of ``fast`` then touches 50,000 new pages, and takes a third longer.
    """
    _set({M_ARENA_MAX: 1})


def keep_freed_memory() -> None:
    """Keep what tensors free for the next ones, from now on."""
    _set({M_MMAP_MAX: 0, M_TRIM_THRESHOLD: 2**31 - 1})


def give_memory_back() -> None:
    """Hand what was kept to the system again."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)


def _set(options: dict[int, int]) -> None:
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        for option, value in options.items():
            mallopt(option, value)
