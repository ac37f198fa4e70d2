"""The app: screens, keys, and the one timer that polls the store."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from textual.app import App
from textual.binding import Binding
from textual.screen import Screen

from tui.screens.base import StoreScreen
from tui.store import Store

POLL_SECONDS = 0.25


def _screen(module: str, name: str) -> Any:
    """A screen's class, imported when it is first shown: the first paint must not wait for it."""

    def make() -> Screen[None]:
        from importlib import import_module

        screen: Screen[None] = getattr(import_module(f"tui.screens.{module}"), name)()
        return screen

    return make


class CifarApp(App[None]):
    """Train CIFAR-10 classifiers and watch them."""

    TITLE = "cifar-tui"
    ENABLE_COMMAND_PALETTE = True
    SCREENS = {
        "runs": _screen("runs", "RunsScreen"),
        "dashboard": _screen("dashboard", "DashboardScreen"),
        "layers": _screen("layers", "LayersScreen"),
        "mistakes": _screen("mistakes", "MistakesScreen"),
        "compare": _screen("compare", "CompareScreen"),
    }
    BINDINGS = [
        Binding("1", "show('runs')", "Runs", id="screen.runs"),
        Binding("2", "show('dashboard')", "Dashboard", id="screen.dashboard"),
        Binding("3", "show('layers')", "Layers", id="screen.layers"),
        Binding("4", "show('mistakes')", "Mistakes", id="screen.mistakes"),
        Binding("5", "show('compare')", "Compare", id="screen.compare"),
    ]

    def __init__(
        self, runs_dir: Path, *, data: str | None = None, device: str | None = None
    ) -> None:
        super().__init__()
        self.store = Store(runs_dir)
        self.data = data
        self.device = device

    def on_mount(self) -> None:
        """Show the runs at once; the first poll follows the first paint."""
        self.push_screen("runs")
        self.set_interval(POLL_SECONDS, self.poll)

    def poll(self) -> None:
        """Fold what is new and let the visible screen repaint it."""
        changes = self.store.poll()
        if changes and isinstance(self.screen, StoreScreen):
            self.screen.show(changes)

    def action_show(self, name: str) -> None:
        """Switch to a main screen."""
        self.switch_screen(name)
