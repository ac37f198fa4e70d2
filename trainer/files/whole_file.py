"""Files that are whole or not there. Torch-free."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO


@contextmanager
def whole_file(path: Path, *, synced: bool = True) -> Iterator[BinaryIO]:
    """A file to write that takes the place of ``path`` at the end, or leaves that as it was.

    Its folder is made where it is missing. Nothing is written through links: the folder may be a
    run of others, who could have put one in the way of any name.

    Args:
        path: the file.
        synced: whether it is on disk, and not only in the system's cache, before it is there.

    Raises:
        OSError: the disk is full, the folder cannot be written, or is a link.
    """
    path.parent.mkdir(exist_ok=True)
    if path.parent.is_symlink():
        raise OSError(errno.ELOOP, "its folder is a link to another place", str(path.parent))
    # a number alone is not enough: containers with one folder in common number processes alike;
    # and not behind the file's own name, which may be as long as a name can be
    partial = path.with_name(f".{os.getpid()}-{os.urandom(4).hex()}.partial")
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    handle = os.open(partial, flags, 0o666)
    try:
        with os.fdopen(handle, "wb") as file:
            yield file
            file.flush()
            if synced:
                os.fsync(file.fileno())
        partial.replace(path)
    finally:
        with suppress(OSError):
            partial.unlink(missing_ok=True)
