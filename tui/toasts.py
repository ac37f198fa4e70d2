"""Messages in the corner: the last of each kind, three at a time."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from textual.notifications import Notification
from textual.screen import ModalScreen
from textual.widgets._toast import Toast, ToastHolder

if TYPE_CHECKING:
    from textual.app import App

AT_ONCE = 3
"""More would cover the list."""
ERROR_SECONDS = 10.0
SECONDS = 5.0
UNTIL_CLOSED = 1e9
"""Seconds that an error has which a dialog may cover."""


@dataclass
class Message(Notification):
    """A notification that knows what it replaces."""

    kind: str = ""
    """The next of the same kind takes its place; without one a message replaces itself alone."""


def make_room(app: App[None], new: Notification) -> None:
    """Take away what a new message replaces, and what there is no room for beside it.

    Errors stay longest, of others the latest; beside three errors there is room for one of those.
    """
    shown = list(app._notifications)
    kept = [one for one in shown if _kind(one) != _kind(new)]
    while len(kept) >= AT_ONCE:
        others = [one for one in kept if one.severity != "error"]
        if not others and new.severity != "error":
            break
        kept.remove((others or kept)[0])
    gone = [one for one in shown if one not in kept]
    for one in gone:
        app._unnotify(one, refresh=False)
    for screen in app.screen_stack if gone else ():
        for toast in screen.query(Toast):
            if toast._notification in gone and isinstance(toast.parent, ToastHolder):
                toast.parent.remove()  # with its holder, which Textual would leave


def wait(app: App[None], new: Notification) -> None:
    """An error that a dialog may cover stays until that has closed, and then as long as any."""
    if new.severity == "error" and _covered(app):
        new.timeout = UNTIL_CLOSED


def seen(app: App[None]) -> None:
    """A screen lies on top again: the time of errors that have waited for it begins."""
    if _covered(app):
        return
    for one in app._notifications:
        if one.timeout == UNTIL_CLOSED:
            one.timeout, one.raised_at = ERROR_SECONDS, time.time()


def _covered(app: App[None]) -> bool:
    """Whether a dialog lies over the corner; screens that fill the terminal leave it in view."""
    top = app.screen_stack[-1] if app.screen_stack else None  # none while the app closes
    return isinstance(top, ModalScreen) and not getattr(top, "FILLS", False)


def _kind(message: Notification) -> str:
    return getattr(message, "kind", "") or message.message
