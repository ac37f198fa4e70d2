"""The fold of a long log, kept beside it: what it came to need not be read again.

Its trainer keeps it, and who reads a log without one.

It is true of one beginning of one file: so many bytes, these at both ends, folded by this very
code; of the whole file at its time of change only. What was added since is folded on. Anything
else, and any damage, means that the log is folded as ever. It can be deleted, and like the log it
is only numbers and names: nothing in it is run. Torch-free.
"""

from __future__ import annotations

import hashlib
import os
import sys
from collections import deque
from functools import cache
from pathlib import Path
from typing import Any

import msgspec

from trainer import events
from trainer.events import LayerStats, Whole
from trainer.files.regular_file import open_regular
from trainer.files.whole_file import whole_file
from trainer.runs import points, runstate, steps
from trainer.runs.rundir import RunDir
from trainer.runs.runstate import LAYER_STATS_KEPT, LONG_BYTES, EpochRow, RunState
from trainer.runs.steps import Steps

END_BYTES = 1 << 16
SUM_BYTES = 16


class Folded(msgspec.Struct, frozen=True, kw_only=True):
    """A state and what it is the fold of."""

    code: bytes
    """Of the fold: another version may fold otherwise."""
    log: bytes
    size: Whole
    """Bytes of the log that were folded, whole lines."""
    changed: int
    """When the log had last been changed, nanoseconds."""
    damaged: Whole
    best: Whole | EpochRow | None
    """The epoch, where the row itself is among the state's."""
    state: RunState


def _best(state: RunState) -> int | EpochRow | None:
    best = state.best
    return best.epoch if best is not None and state._rows.get(best.epoch) is best else best


class Loaded(msgspec.Struct, frozen=True):
    """What ``load`` has found."""

    state: RunState
    inode: int
    size: int
    """Bytes of the log that were folded."""
    mark: bytes
    """The last of them."""
    damaged: int


def save(run: RunDir, state: RunState, *, size: int, damaged: int) -> bool:
    """Keep what the first ``size`` bytes of a log come to; whether it is kept.

    A full disk, or a folder that cannot be written, is no harm.
    """
    try:
        with open_regular(run.log) as file:
            identity, end = _identity(file.fileno(), size)
            changed = os.fstat(file.fileno()).st_mtime_ns
        if state.seq < 0 or not end.endswith(b"\n"):
            return False
        found = Folded(
            code=_code(),
            log=identity,
            size=size,
            changed=changed,
            damaged=damaged,
            best=_best(state),
            state=msgspec.structs.replace(state, best=None, _rows={}),
        )
        data = msgspec.msgpack.encode(found, enc_hook=_plain)
        with whole_file(run.folded, synced=False) as file:
            file.write(_sum(data) + data)
    except (OSError, msgspec.MsgspecError, OverflowError):
        return False
    return True


def load(run: RunDir) -> Loaded | None:
    """What was kept of the log, if that still begins so; ``None``: it has to be folded."""
    try:
        with open_regular(run.log) as file:
            stat = os.fstat(file.fileno())
            if stat.st_size < LONG_BYTES:
                return None
            with open_regular(run.folded) as kept:
                if os.fstat(kept.fileno()).st_size > stat.st_size:
                    return None
                total, data = kept.read(SUM_BYTES), kept.read()
            if total != _sum(data):
                return None
            found = _decoder().decode(data)
            identity, end = _identity(file.fileno(), found.size)
    except (OSError, msgspec.MsgspecError, ValueError, RecursionError):
        return None
    if (found.code, found.log) != (_code(), identity) or found.size > stat.st_size:
        return None
    if found.size == stat.st_size and found.changed != stat.st_mtime_ns:
        return None
    state = found.state
    state._rows = {row.epoch: row for row in state.epochs}
    if len(state._rows) < len(state.epochs):
        return None
    best = found.best
    state.best = state._rows.get(best) if isinstance(best, int) else best
    return Loaded(state, stat.st_ino, found.size, end, found.damaged)


def _sum(data: bytes) -> bytes:
    return hashlib.blake2b(data, digest_size=SUM_BYTES).digest()


def _identity(fd: int, size: int) -> tuple[bytes, bytes]:
    """Both ends of a log's first ``size`` bytes in one number, and their end."""
    end = os.pread(fd, min(END_BYTES, size), max(0, size - END_BYTES))
    digest = hashlib.blake2b(f"{size}\n".encode(), digest_size=16)
    digest.update(os.pread(fd, min(END_BYTES, size), 0))
    digest.update(end)
    return digest.digest(), end


@cache
def _code() -> bytes:
    """Of the code that folds and of the machine's order of bytes."""
    digest = hashlib.blake2b(sys.byteorder.encode(), digest_size=16)
    for module in (events, points, runstate, steps, sys.modules[__name__]):
        digest.update(Path(str(module.__file__)).read_bytes())
    return digest.digest()


def _plain(value: Any) -> Any:
    """Of what msgspec does not know."""
    if isinstance(value, Steps):
        return value.dump()
    if isinstance(value, deque):
        return list(value)
    raise NotImplementedError(type(value).__name__)


def _special(kind: Any, value: Any) -> Any:
    """The other way; a ``ValueError`` is damage."""
    if kind is Steps:
        stretch, *columns = msgspec.convert(
            value, tuple[Whole, bytes, bytes, bytes, bytes, bytes, bytes]
        )
        return Steps.restored(stretch, *columns)
    if kind == deque[LayerStats]:
        return deque(msgspec.convert(value, list[LayerStats]), maxlen=LAYER_STATS_KEPT)
    raise NotImplementedError(str(kind))


@cache
def _decoder() -> msgspec.msgpack.Decoder[Folded]:
    return msgspec.msgpack.Decoder(Folded, dec_hook=_special)
