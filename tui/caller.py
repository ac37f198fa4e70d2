"""Alerts in the app: the terminal's bell, its notifications, and a message in the corner."""

from __future__ import annotations

from typing import TYPE_CHECKING

from trainer import calls
from trainer.alerts import ENDED, Alert, AlertSettings, Watcher
from tui import formatting

if TYPE_CHECKING:
    from tui.app import CifarApp
    from tui.store import Changes

CALLS_AT_ONCE = 3


class Caller:
    """Watches the runs that train, and calls the user for what was chosen."""

    def __init__(self, app: CifarApp, settings: AlertSettings) -> None:
        self._app = app
        self._settings = settings
        self._watchers: dict[str, Watcher] = {}

    def polled(self, changes: Changes) -> None:
        """The store has news."""
        told: list[str] = []
        for run in sorted(changes.runs):
            follower = self._app.store.get(run)
            ended = follower is None or follower.status in ENDED
            if follower is None or (ended and run not in self._watchers) or follower.behind():
                continue
            if follower.state.seq < 0:  # a folder that is being made, copied or removed
                continue
            watcher = self._watchers.setdefault(run, Watcher())
            found = watcher.look(follower.state, follower.status, follower.stalled)
            if ended:
                del self._watchers[run]
            name = formatting.clean(follower.name, 40)
            for alert in found:
                if alert.kind in self._settings.when:
                    told.append(f"{name}: {alert.text}")
                    self._show(name, alert)
        if told:
            self._app.run_worker(
                lambda: self._call(told[:CALLS_AT_ONCE]),
                thread=True,
                group="call",
                description="call the user",
            )

    def _show(self, name: str, alert: Alert) -> None:
        """In the corner; how a run ended is told there in any case."""
        if alert.kind != "end":
            severity = "information" if alert.kind == "best" else "warning"
            text = formatting.clean(alert.text, 300)
            self._app.tell(f"{name}: {text}", severity=severity)

    def _call(self, texts: list[str]) -> None:
        """On a thread: tmux may have to be asked."""
        settings = self._settings
        written = calls.sequence(texts, bell=settings.bell, notify=settings.notify)
        self._app.call_from_thread(self._app.write_to_terminal, written)
