"""The first line of every main screen: program, tabs, state of the trainer. No clock."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from textual import events
from textual.content import Content
from textual.widget import Widget

if TYPE_CHECKING:
    from tui.app import CifarApp

TABS = (
    ("runs", "1", "Runs"),
    ("dashboard", "2", "Dashboard"),
    ("layers", "3", "Layers"),
    ("mistakes", "4", "Mistakes"),
    ("compare", "5", "Compare"),
)
PROGRAM = " cifar-tui "
NARROW = 100


class HeaderLine(Widget):
    """One line; its tabs are clickable."""

    DEFAULT_CSS = """
    HeaderLine {
        dock: top;
        height: 1;
        background: $panel;
        color: $foreground;
    }
    """

    def __init__(self) -> None:
        super().__init__()
        self._spans: list[tuple[int, int, str]] = []
        self._shown: tuple[object, ...] = ()

    def refresh_state(self) -> None:
        """Repaint if what it tells has changed."""
        if self._shown != self._facts():
            self.refresh()

    def _facts(self) -> tuple[object, ...]:
        app = cast("CifarApp", self.app)
        return (getattr(self.screen, "TAB", ""), app.worker_line(), app.worker_failed)

    def render(self) -> Content:
        """Tabs to the left, the trainer's state to the right, cut where there is no room."""
        self._shown = self._facts()
        tab, right, failed = self._shown
        width = self.size.width
        # where it is narrow the trainer's state is worth more than the program's name
        line = Content.styled(PROGRAM if width >= NARROW else "", "bold $primary")
        self._spans.clear()
        for name, key, title in TABS:
            start = line.cell_length
            if name == tab:
                line += Content.styled(f" {key} {title} ", "bold $background on $primary")
            else:
                line += Content.assemble((f" {key} ", "$secondary"), f"{title} ")
            self._spans.append((start, line.cell_length, name))
        room = width - line.cell_length - 2
        if room < 1:
            return line.truncate(width)
        state = Content(str(right)).truncate(room, ellipsis=True)
        gap = room - state.cell_length + 1
        return line + " " * gap + state.stylize("$error" if failed else "$secondary")

    def on_click(self, event: events.Click) -> None:
        """A click on a tab shows its screen."""
        for start, end, name in self._spans:
            if start <= event.x < end:
                self.app.call_later(self.app.run_action, f"app.show('{name}')")
