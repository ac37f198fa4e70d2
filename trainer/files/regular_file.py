"""Reading what lies in folders of others. Torch-free."""

from __future__ import annotations

import errno
import os
from io import FileIO
from pathlib import Path
from stat import S_ISDIR, S_ISREG


def open_regular(path: Path) -> FileIO:
    """Open a file for reading; a pipe or a device in a folder of others must not hang the reader.

    Raises:
        OSError: it cannot be opened, or is no file.
    """
    handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    if not S_ISREG(os.fstat(handle).st_mode):
        is_folder = S_ISDIR(os.fstat(handle).st_mode)
        os.close(handle)
        raise OSError(errno.EISDIR if is_folder else errno.EINVAL, "it is no file")
    return FileIO(handle, "rb")
