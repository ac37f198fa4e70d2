"""The last line of every screen: the keys that work now, out of the bindings."""

from __future__ import annotations

from textual import events
from textual.content import Content
from textual.widget import Widget

from tui.commands import Entry, entries

KEPT = ("run.stop", "run.pause", "app.help", "app.quit")
"""These stand at the end and are never the ones that found no room."""


class KeyLine(Widget):
    """Keys and their meaning; as many as there is room for, ``?`` shows all."""

    DEFAULT_CSS = """
    KeyLine {
        dock: bottom;
        height: 1;
        background: $panel;
        color: $secondary;
    }
    """

    def __init__(self) -> None:
        super().__init__()
        self._spans: list[tuple[int, int, Entry]] = []

    def on_mount(self) -> None:
        """Follow what the focused widget and the state of the runs allow."""
        self.screen.bindings_updated_signal.subscribe(self, lambda _: self.refresh())

    def render(self) -> Content:
        """Key, meaning, key, meaning."""
        width = self.size.width
        offers = getattr(self.app, "offers", lambda binding: True)
        shown = [
            entry
            for entry in entries(self.screen)
            if entry.binding.show and entry.enabled and offers(entry.binding.id)
        ]
        shown.sort(key=lambda entry: entry.binding.id in KEPT)
        last = sum(len(e.key) + len(e.title) + 3 for e in shown if e.binding.id in KEPT)
        line = Content("")
        self._spans.clear()
        for entry in shown:
            keep = entry.binding.id in KEPT
            part = Content.assemble(
                (f" {entry.key}", "bold $primary"), (f" {entry.title} ", "$foreground")
            )
            if line.cell_length + part.cell_length > width - (0 if keep else last):
                continue
            start = line.cell_length
            line += part
            self._spans.append((start, line.cell_length, entry))
        return line

    def on_click(self, event: events.Click) -> None:
        """A click does what the key does."""
        for start, end, entry in self._spans:
            if start <= event.x < end:
                self.app.call_later(entry.run)
