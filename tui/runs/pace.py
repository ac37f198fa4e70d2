"""How often the app looks at the logs: often beside a run, hardly ever while nothing goes on."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from tui.runs.directory_watch import DirectoryWatch

if TYPE_CHECKING:
    from textual.timer import Timer

    from tui.app import CifarApp

POLL_SECONDS = 0.2
CALM_POLLS = 2
"""So many times as long while nothing trains, waits or is paused, and while a run trains on this
machine's processor: what is painted is taken from it, and a thread of it that waits makes the
others wait."""
REST_SECONDS = 2.0
"""While nothing goes on and the kernel would tell of any change: this is for what it misses."""
GATHER_SECONDS = 0.1
"""From the first word of the kernel to the look: what belongs together has come by then."""
STIR_SECONDS = 3.0
"""Rest begins so long after the last key and the last change."""


class Pace:
    """Looks at the logs from one timer, and sooner when the kernel tells of a change.

    Args:
        app: whose runs these are.
        look: looks at them.
    """

    def __init__(self, app: CifarApp, look: Callable[[], None]) -> None:
        self._app, self._look = app, look
        self._timer: Timer | None = None
        self._stirred = time.monotonic()
        self._watch = DirectoryWatch(self._told)
        self.seconds = 0.0
        """Between two looks; 0 before ``begin``."""

    def begin(self) -> None:
        """Look from now on."""
        self._set(POLL_SECONDS * self._app.terminal.polls)
        self._choose()

    def end(self) -> None:
        """Watch nothing any more; the timer ends with the app."""
        self._watch.off()

    def looked(self, *, found: bool) -> None:
        """After each look: choose again."""
        if found:
            self._stirred = time.monotonic()
        if self._timer is not None:
            self._choose()

    def stir(self) -> None:
        """A key was pressed, or something has changed: no rest for now."""
        self._stirred = time.monotonic()
        if self.seconds > self._awake():
            self._set(self._awake())

    def _awake(self) -> float:
        calm = not self._app.goes_on or self._app.shares_processor
        return POLL_SECONDS * self._app.terminal.polls * (CALM_POLLS if calm else 1)

    def _choose(self) -> None:
        seconds = self._awake()
        if self._app.goes_on:
            self._watch.off()  # the run would tell at each of its steps
        elif time.monotonic() - self._stirred >= STIR_SECONDS:
            store = self._app.store
            if not store.loading and self._watch.on(store.runs_dir, store.followers):
                seconds = REST_SECONDS * self._app.terminal.polls
        if seconds != self.seconds:
            self._set(seconds)

    def _set(self, seconds: float) -> None:
        if self._timer is not None:
            self._timer.stop()
        self.seconds = seconds
        self._timer = self._app.set_interval(seconds, self._look)

    def _told(self, runs: set[str]) -> None:
        self._app.call_later(self._heard, runs)  # in the app's turn, not in the loop's

    def _heard(self, runs: set[str]) -> None:
        self._app.store.look_at(runs)
        rested = self.seconds > self._awake()
        self.stir()
        if rested:
            self._app.set_timer(GATHER_SECONDS, self._look)
