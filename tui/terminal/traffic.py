"""Bytes to the terminal: counted where they are written, and when they are through a slow link."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable

WINDOW_SECONDS = 10.0


class Traffic:
    """Written by the output's thread, read by the app's.

    Args:
        rate: bytes a second that the link carries; ``None``: no limit.
        clock: seconds, monotonic.
    """

    def __init__(
        self, rate: float | None = None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.total = 0
        self._rate = rate
        self._clock = clock
        self._began = clock()
        self._recent: deque[tuple[float, int]] = deque()
        self._through = 0.0

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
