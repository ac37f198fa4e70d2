"""The further part of a very long log, read by a second process meanwhile. Torch-free.

The other process hands over by columns what it has decoded: folding that takes a tenth of the time
of reading it. It is only a shortcut: wherever the pieces cease, the log is read on as ever.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
import weakref
from pathlib import Path
from typing import IO

import msgspec

from trainer.files.regular_file import open_regular
from trainer.processes import child_environment
from trainer.runs import pieces
from trainer.runs.pieces import SIZE_BYTES, Piece

OWN_SHARE = 0.4
"""Of the log: who folds also draws, but with a quarter it waits for the other process in vain."""
LINE_BYTES = 1 << 16
"""In so many bytes a line ends, else there is no second process."""
PATIENCE_SECONDS = 0.1
"""When it was waited so long in all, the other process is no help: others need the processor."""
MOMENT_SECONDS = 0.001


class Ahead:
    """A process that reads a log's end, from the beginning of a line on.

    Raises:
        OSError: it cannot be started.
    """

    def __init__(self, log: Path, *, inode: int, begin: int, end: int) -> None:
        self.inode = inode
        self.begin = begin
        """Bytes of the log before the first piece."""
        self.over = False
        """Whether there will be no more pieces."""
        self._size = end
        self._decoder = msgspec.msgpack.Decoder(Piece)
        self._waited = 0.0
        self._at = 0
        # no pipe: it would be full long before anybody looks
        self._out: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115  # closed in close()
        try:
            self._process = subprocess.Popen(
                # -P: a folder named trainer in the working directory must not be run instead
                (sys.executable, "-P", "-m", pieces.__name__, log, *map(str, (inode, begin, end))),
                stdin=subprocess.DEVNULL,
                stdout=self._out,
                stderr=subprocess.DEVNULL,
                env=child_environment(),
            )
        except OSError:
            self._out.close()
            raise
        self._end = weakref.finalize(self, _end, self._process, self._out)

    def next(self) -> Piece | None:
        """The next piece; ``None``: it is not there yet, after a moment, or ``over``."""
        ended = self._process.poll() is not None
        data = self._message()
        if data is None:
            self.over = ended or self._waited > PATIENCE_SECONDS
            if not self.over:
                began = time.monotonic()
                time.sleep(MOMENT_SECONDS)
                self._waited += time.monotonic() - began
            return None
        try:
            piece = self._decoder.decode(data)
        except msgspec.DecodeError:
            self.over = True
            return None
        self.over = piece.end >= self._size
        return piece

    def _message(self) -> bytes | None:
        """The next one, if it was written whole."""
        out = self._out.fileno()
        size = int.from_bytes(os.pread(out, SIZE_BYTES, self._at), "little")
        data = os.pread(out, size, self._at + SIZE_BYTES)
        if not size or len(data) < size:
            return None
        self._at += SIZE_BYTES + size
        return data

    def close(self) -> None:
        """End the process."""
        self.over = True
        self._end()


def _end(process: subprocess.Popen[bytes], out: IO[bytes]) -> None:
    process.kill()
    process.wait()
    out.close()


def start(log: Path, *, offset: int) -> Ahead | None:
    """Have the log read from about the middle of what follows, if there is a core for it."""
    if (os.cpu_count() or 1) < 2:
        return None
    try:
        with open_regular(log) as file:
            stat = os.fstat(file.fileno())
            begin = offset + int(OWN_SHARE * (stat.st_size - offset))
            line = os.pread(file.fileno(), LINE_BYTES, begin).find(b"\n") + 1
            if not line:
                return None
        return Ahead(log, inode=stat.st_ino, begin=begin + line, end=stat.st_size)
    except OSError:
        return None
