"""The run log: written by one process, read by any number. Torch-free.

Append only, one whole line a write. A full disk is survived: events wait in memory, and a small
reserve that was written beforehand is given up so that the notice of it still fits. A second one
is kept for the end: how a run ended is in its log even when the disk stays full.
"""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from io import FileIO
from pathlib import Path
from typing import NamedTuple

import msgspec

from trainer import events
from trainer.errors import RunError
from trainer.events import Envelope, Event
from trainer.files.disk import Disk
from trainer.files.regular_file import open_regular
from trainer.runs.rundir import RunDir

SYNCED = (
    events.RunQueued,
    events.RunStarted,
    events.EvalEnded,
    events.CheckpointSaved,
    events.RunEnded,
)
RESERVE_BYTES = 32 * 1024
LAST_RESERVE_BYTES = 8 * 1024
PENDING_LIMIT = 100_000
RETRY_SECONDS = 1.0
MARK_BYTES = 256
LINE_BYTES = 4 << 20
"""No event of ours is longer: a thousand classes' confusion matrix is half of it."""

WRITE_FLAGS = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK

Listener = Callable[[Envelope], None]


class Stamp(NamedTuple):
    """When an event happened."""

    attempt: int
    time: float
    elapsed: float


class RunLog:
    """Writer. Stamps and appends events; the caller holds the run's lock.

    Opening repairs a torn last line and goes on with the sequence of an earlier attempt. Events
    come from any thread. They are written on a thread of the log's own: ``emit`` waits for an
    ordinary disk, and goes on without a slow one.

    Raises:
        RunError: the log cannot be opened for writing.
    """

    def __init__(self, run: RunDir, listener: Listener | None = None) -> None:
        self._run = run
        self._listener = listener
        self._began = time.monotonic()
        self._disk = Disk("log")
        self._pending: list[bytes] = []
        self._untold: list[Envelope] = []
        self._full_since: float | None = None
        self._left_out = 0
        """Events of progress that were not kept while the disk took none."""
        self._retry_at = 0.0
        self._last = Stamp(0, 0.0, 0.0)
        try:
            self._fd = os.open(run.log, WRITE_FLAGS, 0o644)
            last, self._size = _continue_from(self._fd)
            self._has_name = os.fstat(self._fd).st_nlink > 0
        except OSError as error:
            raise RunError(f"cannot write {run.log}: {error.strerror}") from None
        self.attempt, self._seq = 0, 0
        if last is not None:
            self.attempt, self._seq = last.attempt, last.seq + 1
            # until another begins, what is told is told of this attempt: its time goes on
            self._last = Stamp(last.attempt, last.time, last.elapsed)
            self._began -= last.elapsed
        self._make_reserve()
        _occupy(self._run.last_reserve, LAST_RESERVE_BYTES)

    @property
    def run(self) -> RunDir:
        """Whose log it is."""
        return self._run

    @property
    def waiting(self) -> int:
        """Events that are not on disk yet because the disk is full or slow."""
        return len(self._pending) + self._disk.waiting

    @property
    def deleted(self) -> bool:
        """Whether the run's folder was deleted, and this log with it."""
        # some file systems count no file's names
        return self._has_name and self._run.deleted(self._fd)

    def begin_attempt(self) -> None:
        """Count an attempt: called once before training starts."""
        self.attempt += 1
        self._began = time.monotonic()

    def emit(self, event: Event) -> None:
        """Stamp an event, put it on disk, then tell the listener, on the log's thread."""
        if isinstance(event, events.Progress) and self._disk.waiting > PENDING_LIMIT:
            # the disk has hung for hours: only what matters is kept in memory
            self._left_out += 1
            return
        self._disk.do(partial(self._store, event, self._stamp()))

    def close(self) -> None:
        """Write what waits, give the reserve back and close. Safe to call twice."""
        if self._fd >= 0:
            self._disk.do(self._finish)
        self._disk.close()

    def _stamp(self) -> Stamp:
        return Stamp(self.attempt, time.time(), round(time.monotonic() - self._began, 4))

    def _store(self, event: Event, stamp: Stamp) -> None:
        if self._full_since is not None:  # first what waits, so that RunEnded stays the last
            self._flush(force=isinstance(event, SYNCED))
        self._append(event, stamp)
        self._flush(force=isinstance(event, SYNCED))
        if isinstance(event, SYNCED) and not self._pending:
            with suppress(OSError):
                os.fsync(self._fd)
        self._tell()

    def _finish(self) -> None:
        with suppress(OSError):
            self._run.reserve.unlink(missing_ok=True)
        self._flush(force=True)
        with suppress(OSError):
            if self._pending:
                self._write_the_most()
        with suppress(OSError):
            self._run.reserve.unlink(missing_ok=True)  # a flush that went well has made one anew
            self._run.last_reserve.unlink(missing_ok=True)
        with suppress(OSError):
            os.fsync(self._fd)
        os.close(self._fd)
        self._fd = -1
        self._tell()

    def _append(self, event: Event, stamp: Stamp) -> None:
        """Line an event up for the disk and for the listener."""
        last = self._last
        # events of several threads: time of training never goes back within an attempt
        elapsed = max(stamp.elapsed, last.elapsed if last.attempt == stamp.attempt else 0.0)
        envelope = Envelope(
            v=events.VERSION,
            run=self._run.id,
            attempt=stamp.attempt,
            seq=self._seq,
            time=stamp.time,
            elapsed=elapsed,
            event=event,  # type: ignore[arg-type]  # every Event is a member of the union
        )
        self._seq += 1
        self._last = stamp._replace(elapsed=elapsed)
        self._pending.append(events.encode(envelope))
        self._untold.append(envelope)

    def _tell(self) -> None:
        """Give the listener every envelope in the order of the log."""
        untold, self._untold = self._untold, []
        if self._listener is not None:
            for envelope in untold:
                self._listener(envelope)

    def _make_reserve(self) -> bool:
        return _occupy(self._run.reserve, RESERVE_BYTES)

    def _write_the_most(self) -> None:
        """The end on a full disk: what fits without the progress, then how the run ended for sure.

        What comes after that, a command that could not be started, is written if it fits. Readers
        see by the sequence numbers that something is missing.
        """
        lines = self._pending
        ends = [i for i, line in enumerate(lines) if b'"kind":"RunEnded"' in line]
        at = ends[-1] if ends else len(lines) - 1
        self._write([x for x in lines[:at] if b'"kind":"Progress"' not in x])
        self._run.last_reserve.unlink(missing_ok=True)
        self._write(lines[at : at + 1])
        self._write(lines[at + 1 :])

    def _write(self, lines: list[bytes]) -> None:
        """Of these lines, in place of those that wait, what fits."""
        self._pending = lines
        with suppress(OSError):
            self._write_pending()

    def _flush(self, *, force: bool) -> None:
        if not force and self._full_since is not None and time.monotonic() < self._retry_at:
            self._bound_pending()
            return
        try:
            self._write_pending()
        except OSError as error:
            self._disk_failed(error)
            return
        if self._full_since is not None:
            self._recover(self._full_since)

    def _recover(self, since: float) -> None:
        """Written again; but without room for a new reserve the disk still counts as full."""
        if not self._make_reserve():
            self._retry_at = time.monotonic() + RETRY_SECONDS
            return
        self._full_since = None
        waited, left_out = time.monotonic() - since, self._left_out
        self._left_out = 0
        rest = (
            f"{left_out:,} points of progress are not in the log"
            if left_out
            else "the log is complete"
        )
        self._append(
            events.Notice(
                level="info",
                code=events.DISK_WRITABLE,
                message=f"the disk takes data again after {waited:.0f} s; {rest}",
            ),
            self._stamp(),
        )
        self._flush(force=True)

    def _write_pending(self) -> None:
        """Write whole lines; on a partial write cut back to the last whole one."""
        while self._pending:
            data = b"".join(self._pending[:256])
            self._size = self._end()
            written = 0
            try:
                while written < len(data):  # after a part of it the system tells why not all
                    written += os.pwrite(self._fd, data[written:], self._size + written)
            except OSError:
                whole = data.rfind(b"\n", 0, written) + 1
                os.ftruncate(self._fd, self._size + whole)
                self._size += whole
                del self._pending[: data.count(b"\n", 0, whole)]
                raise
            self._size += written
            del self._pending[:256]

    def _end(self) -> int:
        """Where to write: behind all that is there, even what only a broken lock lets others write;
        nothing in a log is overwritten.
        """
        end = os.fstat(self._fd).st_size
        if end and end != self._size and os.pread(self._fd, 1, end - 1) != b"\n":
            end += os.pwrite(self._fd, b"\n", end)
        return end

    def _disk_failed(self, error: OSError) -> None:
        self._retry_at = time.monotonic() + RETRY_SECONDS
        if self._full_since is not None:
            return
        self._full_since = time.monotonic()
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        cure = "free some space" if full else "it is tried again and again"
        if error.errno == errno.EFBIG:
            cure = "its size is limited (ulimit -f)"
        self._append(
            events.Notice(
                level="error",
                code=events.DISK_FULL if full else events.DISK_ERROR,
                message=f"the log cannot be written ({error.strerror}): training goes on, "
                f"events wait in memory; {cure}",
            ),
            self._stamp(),
        )
        with suppress(OSError):
            self._run.reserve.unlink(missing_ok=True)
            self._write_pending()

    def _bound_pending(self) -> None:
        """Weeks on a full disk must not eat the memory: thin out progress, keep the rest."""
        if len(self._pending) > PENDING_LIMIT:
            older, newer = self._pending[: PENDING_LIMIT // 2], self._pending[PENDING_LIMIT // 2 :]
            kept = [x for x in older if b'"kind":"Progress"' not in x]
            self._left_out += len(older) - len(kept)
            self._pending = kept + newer


def _occupy(path: Path, size: int) -> bool:
    """Keep room on the disk; whether there was any."""
    try:
        # random: a file system that compresses would not keep room for zeros
        path.write_bytes(os.urandom(size))
    except OSError:
        with suppress(OSError):
            path.unlink(missing_ok=True)
        return False
    return True


def _continue_from(fd: int) -> tuple[Envelope | None, int]:
    """The last envelope and the size of an existing log; a torn tail is cut off."""
    size = os.fstat(fd).st_size
    end = size
    if size and os.pread(fd, 1, size - 1) != b"\n":
        end = _last_newline(fd, size) + 1
        os.ftruncate(fd, end)
    at = end
    while at > 0:
        start = _last_newline(fd, at - 1) + 1
        if at - start > LINE_BYTES:
            at = start
            continue
        try:
            return events.decode(os.pread(fd, at - start, start)), end
        except msgspec.DecodeError:
            at = start
    return None, end


def _last_newline(fd: int, end: int) -> int:
    """Offset of the last newline before ``end``, or -1."""
    while end > 0:
        start = max(0, end - 65536)
        found = os.pread(fd, end - start, start).rfind(b"\n")
        if found >= 0:
            return start + found
        end = start
    return -1


def file_of(log: Path) -> tuple[int, int] | None:
    """Inode and size of a log: which one it is, and how far; ``None`` when there is none."""
    try:
        stat = log.stat()
    except OSError:
        return None
    return stat.st_ino, stat.st_size


class Tail(msgspec.Struct):
    """Reader: gives the new envelopes at each call, whatever happens to the file."""

    path: Path
    damaged: int = 0
    """Lines skipped: no JSON, or of a kind that this version does not know."""
    restarted: bool = False
    """Set by a read that found the file cut or replaced: forget everything and fold anew."""
    offset: int = 0
    """Bytes of the file that were read."""
    problem: str = ""
    """Why the file cannot be read; empty when it can."""
    gone: bool = False
    """Whether that is because there is none."""
    replaced: int = -1
    """Bytes of a file that took the place of the one that was read before; -1: none has."""
    _skipping: bool = False
    """In a line that is too long to be one of ours."""
    _inode: int = 0
    _rest: bytes = b""
    _mark: bytes = b""
    """The last bytes read: when they are others now, the file was edited."""

    def read(self, limit: int = 8 << 20) -> list[Envelope]:
        """New envelopes in at most ``limit`` bytes; call again while ``behind`` holds."""
        self.restarted = False
        try:
            with open_regular(self.path) as file:
                stat = os.fstat(file.fileno())
                self.problem, self.gone = "", False
                if (stat.st_ino, stat.st_size) == (self._inode, self.offset):
                    return []
                if self._inode and not self._goes_on(file, stat):
                    self.offset, self._rest, self._mark, self.damaged = 0, b"", b"", 0
                    self.restarted, self._skipping = True, False
                    self.replaced = stat.st_size if stat.st_ino != self._inode else -1
                self._inode = stat.st_ino
                file.seek(self.offset)
                data = file.read(limit)
        except OSError as error:
            self.problem = error.strerror or str(error)
            self.gone = isinstance(error, FileNotFoundError)
            return []
        self.offset += len(data)
        self._mark = (self._mark + data[-MARK_BYTES:])[-MARK_BYTES:]
        data = self._without_endless_lines(data)
        whole = self._rest + data
        end = whole.rfind(b"\n") + 1
        whole, self._rest = whole[:end], whole[end:]
        found = events.decode_lines(whole)
        return list(self._decode(whole.split(b"\n"))) if found is None else found

    def go_on(self, *, inode: int, size: int, end: bytes, damaged: int) -> None:
        """So many bytes of this file are known, whole lines that end so: read what follows."""
        self._inode, self.offset, self._mark = inode, size, end[-MARK_BYTES:]
        self._rest, self._skipping, self.damaged = b"", False, damaged

    def _without_endless_lines(self, data: bytes) -> bytes:
        """A line longer than any of ours is counted as damaged and never kept in memory."""
        if self._skipping:
            at = data.find(b"\n") + 1
            if not at:
                return b""
            self._skipping, data = False, data[at:]
        if len(self._rest) + len(data) > LINE_BYTES and b"\n" not in data[: LINE_BYTES + 1]:
            self.damaged += 1
            self._rest, at = b"", data.find(b"\n") + 1
            self._skipping = not at
            return self._without_endless_lines(data[at:]) if at else b""
        last = data.rfind(b"\n") + 1
        if len(data) - last > LINE_BYTES:
            self.damaged += 1
            self._skipping = True
            return data[:last]
        return data

    def _goes_on(self, file: FileIO, stat: os.stat_result) -> bool:
        """Whether the file is the one read before, with something added."""
        if stat.st_ino != self._inode or stat.st_size < self.offset:
            return False
        file.seek(self.offset - len(self._mark))
        return file.read(len(self._mark)) == self._mark

    def behind(self) -> bool:
        """Whether the file has more than was read; of one that cannot be read nothing is left."""
        try:
            return not self.problem and self.path.stat().st_size > self.offset
        except OSError:
            return False

    def _decode(self, lines: list[bytes]) -> Iterator[Envelope]:
        decode = events.decode
        for line in lines:
            try:
                yield decode(line)
            except msgspec.DecodeError:
                self.damaged += bool(line.strip())
