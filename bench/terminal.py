"""A program in a pseudo-terminal, watched from outside: its screen, its bytes, its processor time.

What counts is what reached the terminal. The screen is kept by pyte, so that a key counts as
answered when a cell has changed and not when some bytes came.
"""

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
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path

import pyte

COLUMNS, LINES = 160, 50
SILENCE = 0.012
"""Seconds without a byte that end a burst."""
LONGEST_BURST = 0.2
# private sequences that pyte does not know and would print
_UNKNOWN = re.compile(rb"\x1b\[[<>=][0-9;]*[a-zA-Z]|\x1b\[\?[0-9;]*\$p|\x1b[P_].*?\x1b\\")
_TICKS = os.sysconf("SC_CLK_TCK")
_PAGE = os.sysconf("SC_PAGE_SIZE")


class Terminal:
    """Starts a command; ``pump`` reads what it writes."""

    def __init__(self, command: Sequence[str]) -> None:
        self.screen = pyte.Screen(COLUMNS, LINES)
        self._stream = pyte.ByteStream(self.screen)
        self.written = 0
        self.began = self.seen = time.perf_counter()
        self.pid, self._fd = pty.fork()
        if self.pid == 0:
            os.environ.update(TERM="xterm-256color", COLORTERM="truecolor")
            # as it is installed: compiled, by the first start at the latest
            os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
            os.execvp(command[0], list(command))
        fcntl.ioctl(self._fd, termios.TIOCSWINSZ, struct.pack("HHHH", LINES, COLUMNS, 0, 0))

    @property
    def age(self) -> float:
        """Seconds from the command to what ``pump`` waited for."""
        return self.seen - self.began

    def text(self) -> str:
        """All lines of the screen."""
        return "\n".join(self.screen.display)

    def shows(self, pattern: str) -> bool:
        """Whether a regular expression is somewhere on the screen."""
        return re.search(pattern, self.text()) is not None

    def pump(self, seconds: float, until: Callable[[], bool] | None = None) -> bool:
        """Read for so long, or until something holds; whether it does.

        ``seen`` is then when the bytes arrived that made it hold: pyte takes milliseconds over a
        screen, so a burst is read whole and stamped, and only then parsed.
        """
        end = time.perf_counter() + seconds
        while (left := end - time.perf_counter()) > 0:
            if not select.select([self._fd], [], [], min(left, 0.05))[0]:
                continue
            burst = self._burst()
            if not burst:
                return False
            held = False
            for arrived, data in burst:
                self.written += len(data)
                self._stream.feed(_UNKNOWN.sub(b"", data))
                if not held and until is not None and until():
                    self.seen, held = arrived, True
            if held:
                return True
        return False

    def _burst(self) -> list[tuple[float, bytes]]:
        """What comes until the program is silent, each piece with the time of its arrival."""
        found: list[tuple[float, bytes]] = []
        began = time.perf_counter()
        while time.perf_counter() - began < LONGEST_BURST:
            if not select.select([self._fd], [], [], SILENCE if found else 0)[0]:
                break
            try:
                data = os.read(self._fd, 1 << 16)
            except OSError:
                break
            found.append((time.perf_counter(), data))
        return found

    def swallow(self, seconds: float) -> None:
        """Read and count, but keep no screen: costs next to nothing."""
        end = time.perf_counter() + seconds
        while (left := end - time.perf_counter()) > 0:
            if select.select([self._fd], [], [], min(left, 0.25))[0]:
                try:
                    self.written += len(os.read(self._fd, 1 << 16))
                except OSError:
                    return

    def press(self, key: str) -> None:
        """Send a key."""
        os.write(self._fd, key.encode())

    def answer(self, key: str, patience: float = 3.0) -> float | None:
        """Milliseconds from a key to a changed screen; ``None`` without an answer."""
        before = self.text()
        sent = time.perf_counter()
        self.press(key)
        if self.pump(patience, lambda: self.text() != before):
            return 1000 * (self.seen - sent)
        return None

    def is_bold(self, words: str) -> bool:
        """Whether words in the first line are bold: the tab that is shown is."""
        line = self.screen.buffer[0]
        at = "".join(line[x].data for x in range(COLUMNS)).find(words)
        return at >= 0 and line[at].bold

    def switch(self, key: str, tab: str, patience: float = 3.0) -> float | None:
        """Milliseconds from a key to the screen that it asks for: also where things move."""
        sent = time.perf_counter()
        self.press(key)
        if self.pump(patience, lambda: self.is_bold(tab)):
            return 1000 * (self.seen - sent)
        return None

    def processor(self) -> float:
        """Seconds of processor time of the program, without its children."""
        fields = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / _TICKS

    def resident(self) -> float:
        """MiB in memory of the program and all that it has started."""
        return sum(_resident(pid) for pid in _tree(self.pid)) * _PAGE / 2**20

    def quit(self) -> None:
        """Leave with ``q``; killed when it does not go within ten seconds."""
        try:
            self.press("q")
            for _ in range(100):
                self.swallow(0.1)
                if os.waitpid(self.pid, os.WNOHANG)[0]:
                    return
            os.kill(self.pid, signal.SIGKILL)
            os.waitpid(self.pid, 0)
        except (OSError, ChildProcessError):
            pass
        finally:
            os.close(self._fd)


def _tree(pid: int) -> Iterator[int]:
    """A process and all under it."""
    yield pid
    with suppress(OSError):
        for task in Path(f"/proc/{pid}/task").iterdir():
            for child in (task / "children").read_text().split():
                yield from _tree(int(child))


def _resident(pid: int) -> int:
    """Pages in memory; 0 of a process that is gone."""
    try:
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    except OSError:
        return 0
