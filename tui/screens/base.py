"""What the main screens have in common: the header line, and repainting when events came."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from textual.screen import Screen

from tui.store import Changes, Store

if TYPE_CHECKING:
    from tui.app import CifarApp


class StoreScreen(Screen[None]):
    """A screen that shows the store. Only the visible one is told about changes."""

    @property
    def cifar(self) -> CifarApp:
        """The app, typed."""
        return cast("CifarApp", self.app)

    @property
    def store(self) -> Store:
        """The runs."""
        return self.cifar.store

    def on_screen_resume(self) -> None:
        """Show what came while another screen was visible."""
        self.show(Changes(listing=True, runs=set(self.store.followers)))

    def show(self, changes: Changes) -> None:
        """Repaint what these changes touch; called on the UI thread, about four times a second."""
        raise NotImplementedError
