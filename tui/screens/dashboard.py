"""One run: its progress, its epochs, its curves beside those of the marked runs, its device."""

from __future__ import annotations

from textual.app import ComposeResult
from textual.containers import Horizontal
from textual.widgets import Static

from tui.screens.charts import ChartScreen, is_active
from tui.store import Changes
from tui.widgets import run_header
from tui.widgets.curve_chart import CurveChart, Plan
from tui.widgets.device_panel import DevicePanel
from tui.widgets.epoch_table import EpochTable
from tui.widgets.lines import Lines


class DashboardScreen(ChartScreen):
    """The chosen run, live or as it was: both are the same fold."""

    TAB = "dashboard"
    CSS_PATH = "dashboard.tcss"
    CHARTS = ("loss", "accuracy", "lr")

    def body(self) -> ComposeResult:
        """Header lines, table and device, charts."""
        yield Lines(id="head")
        yield Static("", id="empty", markup=False)
        with Horizontal(id="middle"):
            yield EpochTable(id="epochs")
            yield DevicePanel(id="device")
        with Horizontal(id="charts"):
            for name in self.CHARTS:
                yield CurveChart(id=name)

    def on_mount(self) -> None:
        """The learning rate has a chart of its own only when it is enlarged."""
        self.query_one("#lr").display = False
        self.query_one("#empty").display = False
        self.query_one(EpochTable).focus()

    def action_focus_chart(self) -> None:
        """As in all chart screens; the learning rate shows only by itself."""
        super().action_focus_chart()
        if self.enlarged is None:
            self.query_one("#lr").display = False
        self.draw_charts(now=True)

    def show(self, changes: Changes) -> None:
        """Repaint what changed of the chosen run and of the marked ones."""
        if not self.is_mounted:
            return
        run = self.store.current
        self._show_empty(run is None)
        if run is None:
            return
        colours = self.cifar.colours()
        stopping = run.run.id in self.cifar.runs.stopping
        lines = [
            run_header.title(run, colours, self.cifar.run_colour(run.run.id), stopping=stopping),
            *run_header.progress(run, colours, self.size.width),
            run_header.news(run, colours),
        ]
        self.query_one("#head", Lines).set_lines(lines)
        self.query_one(EpochTable).show(run.state)
        progress = run.state.progress
        memory = progress.memory if progress is not None else None
        self.query_one(DevicePanel).show(active=is_active(run), own=memory)
        self.draw_charts()

    def _show_empty(self, empty: bool) -> None:
        self.query_one("#empty").display = empty
        for name in ("#head", "#middle", "#charts"):
            self.query_one(name).display = not empty
        if empty:
            words = "No run yet: press s to start one, n to choose what, 1 for the list of runs."
            self.query_one("#empty", Static).update(words)

    def plans(self) -> dict[str, Plan]:
        """Loss, accuracy, learning rate."""
        return {
            "loss": self.plan("loss", "loss", ("train", "test"), raw=True),
            "accuracy": self.plan("accuracy", "accuracy", ("train", "test"), raw=True),
            "lr": self.plan("learning rate", "lr", ("train",), raw=False),
        }
