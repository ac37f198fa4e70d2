"""The heap of a process that trains on a CPU: what a step frees is kept for the next. Torch-free.

glibc maps large blocks anew each time and gives them back when they are freed, and the kernel
clears their pages at first touch: hundreds of megabytes in each step. Elsewhere than on glibc
nothing happens here.
"""

from __future__ import annotations

import ctypes
import mmap
import sys
from contextlib import suppress
from pathlib import Path

M_TRIM_THRESHOLD, M_MMAP_MAX, M_ARENA_MAX = -1, -4, -8
"""Parameters of mallopt(3) in glibc."""
HUGE_BYTES = 7 << 28
"""Of the heap's address space, for huge pages: what it grows beyond has small ones. Less than what
is kept when it is free, 2 GiB."""


def share_one_arena() -> None:
    """Let all threads to come allocate in one arena; call it before the first thread starts.

    An arena of a thread's own is made of pieces of 64 MiB, given back as soon as they are empty:
    a step of ``fast`` then touches 50,000 new pages, and takes a third longer.
    """
    _set({M_ARENA_MAX: 1})


def keep_freed_memory() -> None:
    """Keep what tensors free for the next ones, from now on, in huge pages where there are some."""
    _set({M_MMAP_MAX: 0, M_TRIM_THRESHOLD: 2**31 - 1})
    with suppress(OSError, ValueError, AttributeError):  # it is training that takes a bit longer
        _ask_for_huge_pages()


def _ask_for_huge_pages() -> None:
    """Have the heap's memory in pages of 2 MiB where the kernel gives them on request.

    What is asked for is the address space that the heap has: it is made larger first, which takes
    no memory. Where address space counts nothing is done.

    Raises:
        OSError, ValueError, AttributeError: this system has another heap, or does not tell of it.
    """
    if sys.platform != "linux" or not _space_is_free():
        return
    libc = ctypes.CDLL(None)
    libc.gnu_get_libc_version  # noqa: B018  # others keep no heap as is told here
    libc.malloc.argtypes, libc.malloc.restype = [ctypes.c_size_t], ctypes.c_void_p
    libc.free.argtypes, libc.free.restype = [ctypes.c_void_p], None
    libc.madvise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
    libc.free(libc.malloc(HUGE_BYTES))
    for line in Path("/proc/self/maps").read_text().splitlines():
        if line.endswith("[heap]"):
            start, end = (int(at, 16) for at in line.split()[0].split("-"))
            libc.madvise(start, end - start, mmap.MADV_HUGEPAGE)


def _space_is_free() -> bool:
    """Whether address space that is not used is taken from nobody."""
    import resource

    limits = (resource.RLIMIT_AS, resource.RLIMIT_DATA)
    unlimited = all(resource.getrlimit(kind)[0] == resource.RLIM_INFINITY for kind in limits)
    return unlimited and Path("/proc/sys/vm/overcommit_memory").read_text().strip() != "2"


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
