"""Alerts in the app: the terminal's bell, its notifications, and a message in the corner."""

from __future__ import annotations

from typing import TYPE_CHECKING

from trainer.lifecycle import calls
from trainer.lifecycle.alerts import ENDED, Alert, AlertSettings, Watcher
from tui import formatting
from tui.run_words import run_name

if TYPE_CHECKING:
    from trainer.runs.follower import Follower
    from trainer.runs.runstate import RunState, Status
    from tui.app import CifarApp
    from tui.runs.store import Changes

CALLS_AT_ONCE = 3


class Caller:
    """Watches the runs that train, and calls the user for what was chosen."""

    def __init__(self, app: CifarApp, settings: AlertSettings) -> None:
        self._app = app
        self._settings = settings
        self._watchers: dict[str, Watcher] = {}

    def polled(self, changes: Changes) -> None:
        """The store has news."""
        self._tell_ends(changes)
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
            name = run_name(follower)
            for alert in found:
                if alert.kind in self._settings.when:
                    told.append(f"{name}: {alert.text}")
                    self._show(run, name, alert)
        if told:
            self._app.run_worker(
                lambda: self._call(told[:CALLS_AT_ONCE]),
                thread=True,
                group="call",
                description="call the user",
            )

    def _tell_ends(self, changes: Changes) -> None:
        """How runs ended; of those that crashed or failed together one message."""
        crashed: list[Follower] = []
        failed: list[Follower] = []
        for run, (_, now) in changes.transitions.items():
            follower = self._app.store.get(run)
            if follower is None or now not in ENDED:
                continue
            if now == "crashed":
                crashed.append(follower)
                continue
            if now == "failed":
                failed.append(follower)
                continue
            ended = follower.state.ended
            bad = ended is not None and bool(ended.error)
            line = f"{run_name(follower)} {_how(follower.state, now)}"
            self._app.tell(line, severity="error" if bad else "information", kind=_end(follower))
        if len(crashed) > 1:
            line = f"{len(crashed)} runs crashed: their trainer ended without a word"
            self._app.tell(line, severity="error", kind=_end(*crashed))
        elif crashed:
            self._app.tell(_crash(crashed[0]), severity="error", kind=_end(*crashed))
        if failed:
            name = run_name(failed[0]) if len(failed) == 1 else f"{len(failed)} runs"
            reasons = " · ".join(dict.fromkeys(_reason(run.state) for run in failed))
            line = f"{name} failed: {formatting.clean(reasons, 300)}"
            self._app.tell(line, severity="error", kind=_end(*failed))

    def _show(self, run: str, name: str, alert: Alert) -> None:
        """In the corner; how a run ended is told there in any case."""
        if alert.kind != "end":
            severity = "information" if alert.kind == "best" else "warning"
            text = formatting.clean(alert.text, 300)
            self._app.tell(f"{name}: {text}", severity=severity, kind=f"{alert.kind} {run}")

    def _call(self, texts: list[str]) -> None:
        """On a thread: tmux may have to be asked."""
        settings = self._settings
        written = calls.sequence(texts, bell=settings.bell, notify=settings.notify)
        self._app.call_from_thread(self._app.write_to_terminal, written)


def _end(*runs: Follower) -> str:
    """What such a message replaces: that of the same runs, not of others of the same name."""
    return " ".join(["end", *(run.run.id for run in runs)])


def _crash(run: Follower) -> str:
    """How a run ended whose log does not tell."""
    if run.lost:
        return f"{run_name(run)}: {run.lost}"
    line = f"{run_name(run)} crashed, its trainer ended without a word"
    return f"{line}: r goes on from its checkpoint" if run.run.has_checkpoint("last") else line


def _how(state: RunState, now: Status) -> str:
    """How a run ended that told of its end and did not fail."""
    if now == "completed":
        best = formatting.percent(state.best.test_accuracy) if state.best else ""
        return f"is done{': best test accuracy ' + best if best else ''}"
    reason = state.ended.error if state.ended else ""
    if reason:  # it could not go on
        return f"stays stopped: {formatting.clean(reason, 300)}"
    epochs = state.epochs_trained
    return f"stopped after {epochs} epoch{'s' * (epochs != 1)}"


def _reason(state: RunState) -> str:
    """Why a run failed."""
    reason = state.ended.error if state.ended else ""
    return formatting.clean(reason or "no reason given", 300)
