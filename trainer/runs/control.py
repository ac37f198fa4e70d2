"""Commands to a training run: flags in this process, or the control file from any other.

Torch-free. The control file is append only, one JSON object a line, readable and writable by its
owner alone. Blank lines and lines that are none of ours are skipped.
"""

from __future__ import annotations

import errno
import os
import threading
import time
from typing import TYPE_CHECKING, Literal

import msgspec

from trainer.errors import RunError
from trainer.runs.rundir import RunDir

if TYPE_CHECKING:
    from trainer.runs.runlog import RunLog

Command = Literal["stop", "pause", "resume", "checkpoint"]
POLL_SECONDS = 0.1
FOLDER_SECONDS = 1.0
"""Between two looks for a folder without a control file."""
LOOKS = 2
"""So many in a row must find it deleted."""
SEND_FLAGS = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK


class _Line(msgspec.Struct):
    command: Command


def send(run: RunDir, command: Command) -> None:
    """Ask the process that trains the run to stop, pause, go on or save a checkpoint.

    Raises:
        RunError: the run's folder cannot be written.
    """
    try:
        handle = os.open(run.control, SEND_FLAGS, 0o600)
        try:
            # a blank line first: what another could write only in part ends there
            line = b"\n" + msgspec.json.encode(_Line(command)) + b"\n"
            if os.write(handle, line) < len(line):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        finally:
            os.close(handle)
    except OSError as error:
        raise RunError(f"cannot send {command} to run {run.id}: {error.strerror}") from None


class Control:
    """What a run has been asked to do. The engine looks at it at every step and batch."""

    def __init__(self, run: RunDir | None = None) -> None:
        self._run = run
        self._offset = 0
        self._polled = 0.0
        self._stop = threading.Event()
        self._pause = threading.Event()
        self._checkpoint = threading.Event()
        self._log: RunLog | None = None
        self._looked = 0.0
        self._not_found = 0
        self.deleted = False
        """Whether the run's folder was deleted while it trained: nobody can ask for anything."""

    def watch(self, log: RunLog) -> None:
        """Notice from now on when the folder of the run is deleted that this is the log of."""
        self._log = log

    def request(self, command: Command) -> None:
        """Set a flag; callable from any thread and from signal handlers."""
        if command == "stop":
            self._stop.set()
        elif command == "pause":
            self._pause.set()
        elif command == "resume":
            self._pause.clear()
        else:
            self._checkpoint.set()

    def poll(self, *, now: bool = False) -> None:
        """Take over commands from the control file, at most ten times a second."""
        if self._run is None or (not now and time.monotonic() - self._polled < POLL_SECONDS):
            return
        self._polled = time.monotonic()
        try:
            size = self._run.control.stat().st_size
            self._not_found = 0
            if size < self._offset:  # cleared and begun anew
                self._offset = 0
            if size == self._offset:
                return
            with self._run.control.open("rb") as file:
                file.seek(self._offset)
                data = file.read()
        except FileNotFoundError:
            self._look_for_folder(self._polled)
            return
        except OSError:
            return
        whole = data.rfind(b"\n") + 1
        self._offset += whole
        for line in data[:whole].splitlines():
            try:
                self.request(msgspec.json.decode(line, type=_Line).command)
            except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
                continue

    def _look_for_folder(self, now: float) -> None:
        """The control file is not there, nor the folder perhaps."""
        if self._log is None or now - self._looked < FOLDER_SECONDS:
            return
        self._looked = now
        self._not_found = self._not_found + 1 if self._log.deleted else 0
        self.deleted = self.deleted or self._not_found >= LOOKS

    def stopping(self) -> bool:
        """Whether to end the run at the next step."""
        self.poll()
        return self._stop.is_set()

    def paused(self) -> bool:
        """Whether to wait."""
        self.poll()
        return self._pause.is_set() and not (self._stop.is_set() or self.deleted)

    def take_checkpoint_request(self) -> bool:
        """Whether a checkpoint was asked for since the last call."""
        if self._checkpoint.is_set():
            self._checkpoint.clear()
            return True
        return False

    def wait(self, seconds: float) -> None:
        """Sleep while paused; a stop from this process ends it at once."""
        self._stop.wait(seconds)


def clear(run: RunDir) -> None:
    """Forget commands of an earlier attempt; the caller holds the run's lock."""
    run.control.unlink(missing_ok=True)
