"""One run: its progress, its epochs, its curves beside those of the marked runs, its device."""

from __future__ import annotations

from rich.cells import cell_len
from rich.text import Text
from textual.app import ComposeResult
from textual.containers import Horizontal
from textual.widgets import Static

from trainer.runs.follower import Follower
from tui import formatting
from tui.run_words import name_of
from tui.runs.store import Changes
from tui.screens.charts import ChartScreen
from tui.widgets.curve_chart import CurveChart
from tui.widgets.device_panel import DevicePanel
from tui.widgets.epoch_table import EpochTable
from tui.widgets.lines import Lines
from tui.widgets.progress_line import ProgressLine
from tui.widgets.run_header import RunHeader

NOTHING = "No run yet: press s to start one, n to choose what, 1 for the list of runs."


class DashboardScreen(ChartScreen):
    """The chosen run, live or as it was: both are the same fold."""

    CSS_PATH = "dashboard.tcss"
    AUTO_FOCUS = "EpochTable"
    CHARTS = (
        ("loss", "loss", ("train", "test")),
        ("accuracy", "accuracy", ("train", "test")),
        ("lr", "lr", ("train",)),
    )
    VIEWS = (("loss", "accuracy"), ("loss",), ("accuracy",), ("lr",))
    RAW = True

    def body(self) -> ComposeResult:
        """Header lines, table and device, legend, charts."""
        yield Static(NOTHING, id="empty", markup=False)
        yield RunHeader(id="title")
        yield ProgressLine(id="progress")
        with Horizontal(id="middle"):
            yield EpochTable(id="epochs")
            yield DevicePanel(id="device")
        yield Lines(id="legend")
        with Horizontal(id="charts"):
            for name, _, _ in self.CHARTS:
                yield CurveChart(id=name)

    def ready(self) -> None:
        """The learning rate has a chart of its own only when it is enlarged."""
        self.show_view()
        self.query_one(EpochTable).focus()

    def on_resize(self) -> None:
        """Other words may fit; the charts see to themselves."""
        self.call_after_refresh(self.show, Changes())

    def show(self, changes: Changes) -> None:
        """Repaint what changed of the chosen run and of the marked ones."""
        if not self.stands:
            return
        run = self.store.current
        if run is not None and not changes.news:
            self._show_progress(run)
            self.draw_charts_when_due()
            return
        if self.has_class("-no-run") != (run is None):
            self.set_class(run is None, "-no-run")
            self.call_after_refresh(self.keep_focus)
        if run is None:
            return
        app, colours = self.cifar, self.cifar.colours()
        colour, mark = app.run_colour(run.run.id), self.glyph(run)
        self.query_one(RunHeader).show(run, colours, colour, mark, asked=app.runs.asked(run))
        self.query_one(EpochTable).show(run.state)
        self._show_progress(run)
        self._show_legend()
        self.draw_charts()

    def _show_progress(self, run: Follower) -> None:
        """What moves within an epoch: several times a second, beside the training."""
        self.query_one(ProgressLine).show(run, self.cifar.colours(), self.app.size.width)
        self.query_one(DevicePanel).show(run)

    def _show_legend(self) -> None:
        """Which run has which colour, when there are several."""
        runs = self.runs_shown()
        if len(runs) < 2:
            self.query_one("#legend", Lines).set_lines([])
            return
        line = Text(" ", no_wrap=True, end="")
        for run in reversed(runs):
            text = f"{formatting.shorten(name_of(run), 28)}   "
            if line.cell_len + cell_len(text) + 2 > self.app.size.width:
                line.append("…")
                break
            line.append(f"{self.glyph(run)} ", style=self.cifar.run_colour(run.run.id))
            line.append(text, style=self.cifar.colours()["foreground"])
        self.query_one("#legend", Lines).set_lines([line])
