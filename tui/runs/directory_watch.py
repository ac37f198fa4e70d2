"""Hear from the kernel of changes in the runs directory, instead of looking. Torch-free.

A look at the logs takes a millisecond of the processor, several where the caches have gone cold, a
few times a second for as long as the app is open. inotify tells of every write on this machine, and
of none by another one on a shared file system: there, and wherever else it cannot be had, the app
looks as often as ever.
"""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from asyncinotify import Inotify

OURS = frozenset(
    ("bcachefs", "btrfs", "ext2", "ext3", "ext4", "f2fs", "jfs", "overlay", "tmpfs", "xfs", "zfs")
)
"""File systems that only this machine writes to."""
AT_ONCE = 200
"""Folders that one call begins to watch, in some 7 ms: a key may come."""
MOST = 4096
"""Folders that are watched at most: the kernel keeps a kilobyte for each, and has a limit."""


class DirectoryWatch:
    """Watches a directory and its runs' folders, on the running event loop.

    Args:
        heard: called with the names of the folders that changed, none for the directory itself;
            the loop calls it.
    """

    def __init__(self, heard: Callable[[set[str]], None]) -> None:
        self._heard = heard
        self._inotify: Inotify | None = None
        self._runs: set[str] = set()
        self._left: list[str] = []
        """Of these, those that are not watched yet."""
        self._in_vain: set[str] | None = None
        """Runs that could not be watched; of others it is tried again."""

    def on(self, directory: Path, runs: Iterable[str]) -> bool:
        """Whether every change of these is told from now on; what was before has to be looked at.

        The first call, and one with other runs, begins to watch: it gives ``False``, as do the next
        ones as long as there are more.
        """
        wanted = set(runs)
        if self._inotify is not None and wanted == self._runs and not self._left:
            return True
        if wanted != self._in_vain and os.path.isdir(directory):  # noqa: PTH112  # never raises
            if self._inotify is None or wanted != self._runs:
                self.off()
                self._in_vain, self._runs, self._left = None, wanted, sorted(wanted)
            if not self._begin(directory):
                self.off()
                self._in_vain = wanted
        return False

    def off(self) -> None:
        """Watch nothing."""
        if self._inotify is not None:
            with suppress(ValueError, OSError, RuntimeError):
                asyncio.get_running_loop().remove_reader(self._inotify.fd)
            self._inotify.close()
            self._inotify = None
        self._runs, self._left = set(), []

    def _begin(self, directory: Path) -> bool:
        """Watch the directory and the next of its runs; whether that can be done."""
        if sys.platform != "linux" or len(self._runs) > MOST:
            return False
        from asyncinotify import Inotify, Mask

        gone = Mask.DELETE_SELF | Mask.MOVE_SELF
        listing = Mask.CREATE | Mask.DELETE | Mask.MOVED_FROM | Mask.MOVED_TO | Mask.ATTRIB
        try:
            device = directory.stat().st_dev
            if self._inotify is None:
                if file_system(directory) not in OURS:
                    return False
                self._inotify = Inotify(sync_timeout=0)
                self._inotify.add_watch(directory, listing | gone | Mask.ONLYDIR)
                asyncio.get_running_loop().add_reader(self._inotify.fd, self._read)
            now, self._left = self._left[:AT_ONCE], self._left[AT_ONCE:]
            for run in now:
                if (directory / run).stat().st_dev != device:
                    return False  # a link to, or a mount of, another file system
                self._inotify.add_watch(
                    directory / run, listing | Mask.MODIFY | gone | Mask.ONLYDIR
                )
        except (OSError, NotImplementedError):
            return False
        return True

    def _read(self) -> None:
        """Take what the kernel tells; the loop calls it when there is something."""
        from asyncinotify import Mask

        names: set[str] = set()
        inotify = self._inotify
        if inotify is None:
            return
        while (event := inotify.sync_get()) is not None:
            watch = event.watch
            if watch is None or event.mask & (
                Mask.Q_OVERFLOW | Mask.UNMOUNT | Mask.DELETE_SELF | Mask.MOVE_SELF | Mask.IGNORED
            ):
                self.off()  # more than was told, or nothing will be told any more: look
                break
            if watch.path.name in self._runs:
                names.add(watch.path.name)
        self._heard(names)


def prepare() -> None:
    """Import what watching needs, which takes tens of milliseconds; on any thread."""
    import psutil  # noqa: F401

    if sys.platform == "linux":
        import asyncinotify  # noqa: F401


def file_system(path: Path) -> str:
    """The type of the file system that a path is on, as Linux names it; empty: not known."""
    import psutil

    found, longest = "", -1
    there = path.resolve()
    # of two on the same place the later one is seen
    for partition in psutil.disk_partitions(all=True):
        mounted = Path(partition.mountpoint)
        if there.is_relative_to(mounted) and len(mounted.parts) >= longest:
            found, longest = partition.fstype, len(mounted.parts)
    return found
