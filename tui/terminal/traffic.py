"""Bytes to the terminal: counted where they are written, and whether the link is through with them.

Three signs say that it is not: the write itself blocks (a serial line, a stopped terminal); the
link's known rate; and a question, sent behind what was drawn, that the terminal has not answered.
The last one sees through SSH and the kernel, which take a megabyte long before the link does.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable

from tui import formatting
from tui.terminal.settings import TerminalSettings

WINDOW_SECONDS = 10.0
PATIENCE_SECONDS = 20.0
"""A question that old was lost, as in a multiplexer whose terminal went."""
SLOW_SECONDS = 0.25
"""A link that takes longer to answer gets one picture at a time."""
QUESTION = "\x1b[6n"
"""Where is the cursor? All terminals answer, in their order with all else that they are sent."""


class Traffic:
    """Written by the threads of input and output, read by the app's.

    Args:
        rate: bytes a second that the link carries; ``None``: no limit.
        clock: seconds, monotonic.
    """

    def __init__(
        self, rate: float | None = None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.total = 0
        self.writing = False
        """Whether the terminal is being written to right now."""
        self.seconds: float | None = None
        """From the last question to its answer; ``None`` before the first."""
        self._rate = rate
        self._clock = clock
        self._began = clock()
        self._recent: deque[tuple[float, int]] = deque()
        self._through = 0.0
        self._asked: float | None = None
        self._asked_at = -1

    def add(self, count: int) -> None:
        """So many bytes were written."""
        now = self._clock()
        self.total += count
        self._recent.append((now, count))
        while now - self._recent[0][0] > WINDOW_SECONDS:
            self._recent.popleft()
        if self._rate:
            self._through = max(self._through, now) + count / self._rate

    def per_second(self) -> float:
        """Bytes a second over the last ten seconds."""
        now = self._clock()
        recent = sum(count for when, count in list(self._recent) if now - when <= WINDOW_SECONDS)
        return recent / max(1.0, min(WINDOW_SECONDS, now - self._began))

    def behind(self) -> float:
        """Seconds until what was written is through the link; 0 where the link has no limit."""
        return max(0.0, self._through - self._clock()) if self._rate else 0.0

    @property
    def waiting(self) -> bool:
        """Whether a question is on its way; not before a terminal has answered the first one."""
        asked = self._asked
        if asked is None or self.seconds is None:
            return False
        return self._clock() - asked < PATIENCE_SECONDS

    @property
    def busy(self) -> bool:
        """Whether the terminal has not yet taken what it was sent."""
        return self.writing or self.waiting or self.behind() > 0

    @property
    def slow(self) -> bool:
        """Whether one picture must be through before the next is drawn."""
        return self.seconds is not None and self.seconds > SLOW_SECONDS

    def ask(self) -> str:
        """The question to send now; empty when nothing was sent since the last one."""
        unanswered = self._asked is not None and self.seconds is None
        if self.total == self._asked_at or unanswered:  # a terminal that answers no question
            return ""
        self._asked, self._asked_at = self._clock(), self.total + len(QUESTION)
        return QUESTION

    def answered(self) -> None:
        """The terminal has come to the question."""
        asked, self._asked = self._asked, None
        if asked is not None:
            self.seconds = self._clock() - asked


def describe(traffic: Traffic, settings: TerminalSettings) -> str:
    """What went to the terminal and how, in a line; empty where nothing did."""
    if not traffic.total:
        return ""
    words = [
        f"to the terminal {formatting.compact(traffic.per_second())}B/s",
        f"{formatting.compact(traffic.total)}B since the start",
    ]
    if traffic.seconds is not None:
        words.append(f"it answers in {1000 * traffic.seconds:.0f} ms")
    if settings.ascii:
        words.append("ASCII")
    if settings.low_bandwidth or settings.remote:
        words.append("low bandwidth" if settings.low_bandwidth else "SSH: slower charts")
    return ", ".join(words)
