"""Alerts of a run that trains in this process, on the terminal that watches it."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from contextlib import suppress
from typing import IO

from trainer.cli.output import clean, warn
from trainer.events import Envelope
from trainer.lifecycle import calls
from trainer.lifecycle.alerts import AlertSettings, Watcher
from trainer.runs.runstate import RunState
from trainer.runs.stall import Pulse


class Caller:
    """Folds the run's events, and calls the user for what was chosen."""

    def __init__(self, settings: AlertSettings) -> None:
        self._settings = settings
        self._state = RunState()
        self._pulse = Pulse(settings.stall_steps)
        self._watcher = Watcher()

    def fold(self, envelopes: Sequence[Envelope]) -> None:
        """Take note of what happened before."""
        self._state.apply_all(envelopes)

    def look(self, envelopes: Sequence[Envelope]) -> None:
        """Fold what is new; the clock may have news too."""
        self._state.apply_all(envelopes)
        stalled = self._pulse.look(self._state)
        found = self._watcher.look(self._state, self._state.status(locked=True), stalled)
        chosen = [alert for alert in found if alert.kind in self._settings.when]
        name = clean(self._state.name, 40)
        for alert in chosen:
            if alert.kind == "stall":
                warn(f"{name}: {alert.text}")
        self._call([f"{name}: {alert.text}" for alert in chosen])

    def _call(self, texts: list[str]) -> None:
        stream = _terminal()
        if stream is None or not texts:
            return
        settings = self._settings
        written = calls.sequence(texts, bell=settings.bell, notify=settings.notify)
        with suppress(OSError, ValueError):
            stream.write(written)
            stream.flush()


def _terminal() -> IO[str] | None:
    """Standard error when that is the terminal, else standard output; ``None`` when neither is."""
    for stream in (sys.stderr, sys.stdout):
        with suppress(OSError, ValueError):
            if stream.isatty():
                return stream
    return None
