"""What a terminal shows that is too small for anything else."""

from __future__ import annotations

from textual import events
from textual.app import ComposeResult
from textual.screen import Screen
from textual.widgets import Static

MIN_WIDTH = 60
MIN_HEIGHT = 18


class TooSmall(Screen[None]):
    """One line; goes away by itself when there is room again."""

    DEFAULT_CSS = """
    TooSmall { align: center middle; }
    TooSmall Static { width: 100%; text-align: center; }
    """

    def compose(self) -> ComposeResult:
        """The line."""
        yield Static(
            f"cifar-tui needs {MIN_WIDTH}×{MIN_HEIGHT}: make the terminal larger (q quits)",  # noqa: RUF001
            markup=False,
        )

    def on_resize(self, event: events.Resize) -> None:
        """Is there room again?"""
        self._leave_if_roomy()

    def on_screen_resume(self) -> None:
        """A dialog above it may have hidden the change of size."""
        self._leave_if_roomy()

    def _leave_if_roomy(self) -> None:
        size = self.app.size
        if size.width >= MIN_WIDTH and size.height >= MIN_HEIGHT and self.is_active:
            self.dismiss()
