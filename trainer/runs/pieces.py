"""Reads the further part of a very long log for another process, see ``ahead.py``. Torch-free.

    python -m trainer.runs.pieces LOG INODE BEGIN END

Writes the pieces to its standard output, each behind its size. Whatever is not as it should be
ends it: who waits for the pieces reads on alone.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import msgspec

from trainer import events
from trainer.events import Envelope, Whole
from trainer.files.regular_file import open_regular
from trainer.runs.points import Points, gathered

PIECE_BYTES = 1 << 17
"""Smaller ones stay in the processor's cache, and are not worth an answer each."""
MARK_BYTES = 256
SIZE_BYTES = 8
POLITE = 10
"""Niceness: who trains beside it goes first."""


class Piece(msgspec.Struct, frozen=True):
    """What some whole lines of a log hold; the first piece begins at BEGIN."""

    end: Whole
    """Bytes of the log until here: where the next one begins."""
    mark: bytes
    """The last bytes of these lines."""
    parts: Sequence[Points | Sequence[Envelope]]


def pieces(log: Path, inode: int, begin: int, end: int) -> Iterator[Piece]:
    """The pieces of this very file, up to the first damage or to a line longer than a piece."""
    with open_regular(log) as file:
        if os.fstat(file.fileno()).st_ino != inode:
            return
        while begin < end:
            data = os.pread(file.fileno(), PIECE_BYTES, begin)
            lines = data[: data.rfind(b"\n") + 1]
            found = events.decode_lines(lines)
            if not found:
                return
            begin += len(lines)
            parts = [many if points is None else points for points, many in gathered(found)]
            yield Piece(begin, lines[-MARK_BYTES:], parts)


def main() -> None:
    """Write them."""
    os.nice(POLITE)
    encode = msgspec.msgpack.Encoder().encode
    for piece in pieces(Path(sys.argv[1]), *map(int, sys.argv[2:])):
        data = encode(piece)
        sys.stdout.buffer.write(len(data).to_bytes(SIZE_BYTES, "little") + data)
        sys.stdout.buffer.flush()


if __name__ == "__main__":
    main()
