"""The time that an epoch takes to train, without pauses. Torch-free."""

from __future__ import annotations

import time
from collections.abc import Callable


class EpochClock:
    """Runs while an epoch is trained; pauses count at any time.

    Args:
        now: tells the seconds.
    """

    def __init__(self, now: Callable[[], float] = time.monotonic) -> None:
        self._now = now
        self._earlier = 0.0
        self._began: float | None = None
        self._paused_at: float | None = None
        self._paused_before = 0.0
        self.paused_total = 0.0
        """Seconds of all pauses that are over, also of those outside epochs."""

    def begin(self, earlier: float) -> None:
        """An epoch begins, or goes on after so many seconds in earlier attempts."""
        self._earlier, self._began = earlier, self._now()
        self._paused_before = self.paused_total

    def end(self) -> None:
        """It is trained: what follows is not its time."""
        self._began = None

    @property
    def seconds(self) -> float | None:
        """Of the epoch so far, with earlier attempts; ``None`` while none is trained."""
        if self._began is None:
            return None
        now = self._now() if self._paused_at is None else self._paused_at
        return self._earlier + now - self._began - (self.paused_total - self._paused_before)

    def pause(self) -> None:
        """The time stands still."""
        self._paused_at = self._now()

    def resume(self) -> float:
        """It goes on; the seconds of the pause."""
        assert self._paused_at is not None
        seconds = self._now() - self._paused_at
        self._paused_at = None
        self.paused_total += seconds
        return seconds
