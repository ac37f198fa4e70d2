"""A program in a pseudo-terminal, watched from outside: its screen, its bytes, its processor time.

What counts is what reached the terminal: a key counts as answered when a cell of its screen has
changed and not when some bytes came. The tests of the whole drive the app through the same one.
"""

from __future__ import annotations

import math
import os
import re
import select
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress

import psutil

from bench.command import NoFigureError
from tests.terminal import Pty

COLUMNS, LINES = 160, 50
SILENCE = 0.012
"""Seconds without a byte that end a burst."""
LONGEST_BURST = 0.2


class Terminal(Pty):
    """Starts a command; ``pump`` reads what it writes, and says when it came."""

    def __init__(
        self,
        command: Sequence[str],
        columns: int = COLUMNS,
        lines: int = LINES,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self.began = time.perf_counter()
        self.seen = math.nan
        """When what ``pump`` waited for arrived."""
        self._arrived = math.nan
        # as it is installed: compiled, by the first start at the latest
        without = ("PYTHONDONTWRITEBYTECODE",)
        super().__init__(command, environment, columns=columns, lines=lines, without=without)

    @property
    def age(self) -> float:
        """Seconds from the command to what ``pump`` waited for."""
        return self.seen - self.began

    def shows(self, pattern: str) -> bool:
        """Whether a regular expression is somewhere on the screen."""
        return re.search(pattern, self.text()) is not None

    def alive(self) -> bool:
        """Whether the program has not ended; stopped, it lives."""
        return self.status() is None

    def check(self) -> None:
        """Go on only while the program lives.

        Raises:
            NoFigureError: it has ended; with how it did and its last screen.
        """
        if (code := self.status()) is not None:
            how = f"by signal {-code}" if code < 0 else f"with {code}"
            while burst := self._burst():
                self._feed(burst)
            raise self.failed(f"the program ended {how}")

    def failed(self, what: str) -> NoFigureError:
        """An error with what the screen shows."""
        lines = [line.rstrip() for line in self.screen.display]
        return NoFigureError(
            "\n".join([f"{what}; its screen:", *(f"  | {line}" for line in lines if line)])
        )

    def pump(self, seconds: float, until: Callable[[], bool] | None = None) -> bool:
        """Read for so long, or until something holds; whether it does.

        ``seen`` is then when the bytes arrived that made it hold: pyte takes milliseconds over a
        screen, so a burst is read whole and stamped, and only then parsed.

        Raises:
            NoFigureError: the program has ended.
        """
        end = time.perf_counter() + seconds
        while (left := end - time.perf_counter()) > 0:
            if not select.select([self.fd], [], [], min(left, 0.05))[0]:
                self.check()
                continue
            burst = self._burst()
            if not burst:
                time.sleep(0.05)  # the terminal was left: the program ends now
                self.check()
                continue
            if self._feed(burst, until):
                return True
        return False

    def require(self, seconds: float, until: Callable[[], bool], what: str) -> None:
        """As ``pump``, of what must come: without it there is nothing to measure.

        Raises:
            NoFigureError: it has not come, or the program has ended.
        """
        if until():  # it came together with what was waited for before
            self.seen = self._arrived
        elif not self.pump(seconds, until):
            raise self.failed(f"{what}: not seen in {seconds:.0f} s")

    def _feed(
        self, burst: list[tuple[float, bytes]], until: Callable[[], bool] | None = None
    ) -> bool:
        """Put a burst on the screen; whether something held on the way."""
        held = False
        for arrived, data in burst:
            self._arrived = arrived
            self.feed(data)
            if not held and until is not None and until():
                self.seen, held = arrived, True
        return held

    def _burst(self) -> list[tuple[float, bytes]]:
        """What comes until the program is silent, each piece with the time of its arrival."""
        found: list[tuple[float, bytes]] = []
        began = time.perf_counter()
        while time.perf_counter() - began < LONGEST_BURST:
            if not select.select([self.fd], [], [], SILENCE if found else 0)[0]:
                break
            try:
                data = os.read(self.fd, 1 << 16)
            except OSError:
                break
            found.append((time.perf_counter(), data))
        return found

    def swallow(self, seconds: float) -> None:
        """Read and count, but keep no screen: costs next to nothing.

        Raises:
            NoFigureError: the program has ended.
        """
        end = time.perf_counter() + seconds
        while (left := end - time.perf_counter()) > 0:
            if select.select([self.fd], [], [], min(left, 0.25))[0]:
                try:
                    self.written += len(os.read(self.fd, 1 << 16))
                except OSError:
                    time.sleep(0.05)  # the terminal was left: the program ends now
            self.check()

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
        at = "".join(line[x].data for x in range(self.screen.columns)).find(words)
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
        self.check()
        return processor_time(self.pid)

    def resident(self) -> float:
        """MiB in memory of the program and all that it has started."""
        self.check()
        program = psutil.Process(self.pid)
        return sum(map(_resident, (program, *program.children(recursive=True)))) / 2**20

    def quit(self) -> None:
        """Leave with ``q``; killed when it does not go within ten seconds."""
        try:
            if self.alive():
                with suppress(OSError, NoFigureError):
                    self.press("q")
                    self.swallow(10)
        finally:
            self.kill()


def processor_time(pid: int) -> float:
    """Seconds of processor time of a process until now, without its children; 0 when it is gone."""
    try:
        times = psutil.Process(pid).cpu_times()
    except psutil.NoSuchProcess:
        return 0.0
    return times.user + times.system


def _resident(process: psutil.Process) -> int:
    """Bytes in memory; 0 of a process that has ended."""
    try:
        return process.memory_info().rss
    except psutil.NoSuchProcess:
        return 0
