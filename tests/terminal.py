"""A program in a pseudo-terminal and the screen it paints: for tests of the whole, and measured."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import select
import signal
import struct
import termios
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress

import pyte

# sequences that pyte does not know and would print
_UNKNOWN = re.compile(
    rb"\x1b\[[<>=][0-9;]*[a-zA-Z]|\x1b\[\?[0-9;]*\$p|\x1b[P_\]].*?(?:\x1b\\|\x07)"
)


class Pty:
    """Runs a command; who reads what it writes feeds the screen with it.

    Args:
        command: program and arguments.
        env: added to the environment.
        columns, lines: size of the terminal.
        without: variables that are taken out of the environment.
    """

    def __init__(
        self,
        command: Sequence[str],
        env: Mapping[str, str] | None = None,
        *,
        columns: int = 120,
        lines: int = 40,
        without: Sequence[str] = (),
    ) -> None:
        self.screen = pyte.Screen(columns, lines)
        self.written = 0
        """Bytes that were read."""
        self._stream = pyte.ByteStream(self.screen)
        self._ended: int | None = None
        self.pid, self.fd = pty.fork()
        if self.pid == 0:
            os.environ.update({"TERM": "xterm-256color", "COLORTERM": "truecolor", **(env or {})})
            for name in without:
                os.environ.pop(name, None)
            os.execvp(command[0], list(command))
        fcntl.ioctl(self.fd, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))

    def text(self) -> str:
        """The screen as lines."""
        return "\n".join(self.screen.display)

    def press(self, keys: str) -> None:
        """Send characters as if typed."""
        os.write(self.fd, keys.encode())

    def feed(self, data: bytes) -> None:
        """Put what was read on the screen."""
        self.written += len(data)
        self._stream.feed(_UNKNOWN.sub(b"", data))

    def status(self) -> int | None:
        """The exit status, once the program has ended."""
        if self._ended is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            self._ended = os.waitstatus_to_exitcode(status) if pid else None
        return self._ended

    def kill(self) -> None:
        """Kill the program and close the terminal."""
        if self.status() is None:
            os.kill(self.pid, signal.SIGKILL)
            os.waitpid(self.pid, 0)
            self._ended = -signal.SIGKILL
        with suppress(OSError):
            os.close(self.fd)


class Terminal(Pty):
    """Reads by ``pump`` and keeps all of it."""

    def __init__(
        self,
        command: Sequence[str],
        env: Mapping[str, str] | None = None,
        *,
        columns: int = 120,
        lines: int = 40,
    ) -> None:
        self.raw = bytearray()
        """All that was written since it was last cleared."""
        super().__init__(command, env, columns=columns, lines=lines)

    def pump(self, seconds: float = 0.1) -> None:
        """Feed the screen with what comes within so many seconds."""
        if not select.select([self.fd], [], [], seconds)[0]:
            return
        try:
            data = os.read(self.fd, 1 << 16)
        except OSError:  # the program has closed its side
            time.sleep(seconds)
            return
        self.raw += data
        self.feed(data)

    def wait(self, what: str, condition: Callable[[], object], seconds: float) -> float:
        """Feed the screen until the condition holds; the seconds that took.

        Raises:
            AssertionError: it did not hold in time; the message has the screen.
        """
        began = time.monotonic()
        while not condition():
            if time.monotonic() - began > seconds:
                raise AssertionError(f"no {what} within {seconds:.0f} s:\n{self.text()}")
            self.pump()
        return time.monotonic() - began

    def settle(self, quiet: float = 0.3, limit: float = 5.0) -> None:
        """Feed the screen until nothing more comes: the last key has been dealt with."""
        end = time.monotonic() + limit
        before = -1
        while before != self.written and time.monotonic() < end:
            before = self.written
            self.pump(quiet)
