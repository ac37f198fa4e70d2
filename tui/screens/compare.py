"""The marked runs side by side: the coursework's four graphs, results, and what differs."""

from __future__ import annotations

from rich.text import Text
from textual.app import ComposeResult
from textual.binding import Binding
from textual.containers import Grid
from textual.widgets import Static

from trainer.errors import UserError
from trainer.runstate import Follower
from tui import comparison, formatting, themes
from tui.export import export_runs
from tui.screens.charts import ChartScreen
from tui.store import Changes
from tui.widgets.curve_chart import CurveChart, Plan
from tui.widgets.lines import Lines
from tui.widgets.run_table import name_of

HINT = "space in the list of runs (1) marks more runs to compare"


class CompareScreen(ChartScreen):
    """All marked runs on the same axes, live; without marks the chosen run."""

    TAB = "compare"
    CSS_PATH = "compare.tcss"
    CHARTS = ("train-loss", "test-loss", "train-accuracy", "test-accuracy")
    BINDINGS = [
        Binding(
            "E",
            "export",
            "Export",
            id="compare.export",
            tooltip="Write results, epochs and graphs of the shown runs into a folder",
        ),
    ]

    def body(self) -> ComposeResult:
        """Four charts and a table."""
        yield Static("", id="empty", markup=False)
        with Grid(id="graphs"):
            for name in self.CHARTS:
                yield CurveChart(id=name)
        yield Lines(id="results")

    def on_mount(self) -> None:
        """Nothing to compare yet is no error."""
        self.query_one("#empty").display = False

    def show(self, changes: Changes) -> None:
        """Repaint what changed of the shown runs."""
        if not self.is_mounted:
            return
        runs = self.runs_shown()
        self.query_one("#empty").display = not runs
        self.query_one("#graphs").display = bool(runs)
        if not runs:
            self.query_one("#empty", Static).update("No run yet: press s to start one.")
            return
        self.query_one("#results", Lines).set_lines(self._results(runs))
        self.draw_charts()

    def plans(self) -> dict[str, Plan]:
        """Train and test apart, loss and accuracy apart."""
        return {
            "train-loss": self.plan("train loss", "loss", ("train",), raw=False),
            "test-loss": self.plan("test loss", "loss", ("test",), raw=False),
            "train-accuracy": self.plan("train accuracy", "accuracy", ("train",), raw=False),
            "test-accuracy": self.plan("test accuracy", "accuracy", ("test",), raw=False),
        }

    def _results(self, runs: list[Follower]) -> list[Text]:
        """One line a run, best first; then the settings in which they differ."""
        colours = self.cifar.colours()
        ordered = comparison.best_first(runs)
        head = Text(f"   {'run':<26}", style=f"bold {colours['secondary']}", no_wrap=True, end="")
        head.append("".join(f"{title:>{width}}" for title, width in comparison.COLUMNS))
        lines = [head]
        for run in ordered:
            slot = self.store.slot(run.run.id)
            glyph = themes.run_glyph(slot) if slot is not None else "━"
            line = Text(f" {glyph} ", style=self.cifar.run_colour(run.run.id), no_wrap=True, end="")
            line.append(f"{formatting.shorten(name_of(run), 25):<26}", style=colours["foreground"])
            cells = zip(comparison.cells(run), comparison.COLUMNS, strict=True)
            line.append("".join(f"{cell:>{width}}" for cell, (_, width) in cells))
            lines.append(line)
        for key, values in comparison.differences(ordered).items():
            line = Text(f"   {key:<26}", style=colours["secondary"], no_wrap=True, end="")
            line.append("  ".join(formatting.clean(v, 24) for v in values))
            lines.append(line)
        if len(runs) < 2:
            lines.append(Text(f"   {HINT}", style=colours["secondary"], no_wrap=True, end=""))
        return lines

    def action_export(self) -> None:
        """Write everything shown into a new folder of the runs directory."""
        try:
            folder = export_runs(self.runs_shown(), self.store.runs_dir)
        except UserError as error:
            self.cifar.tell(str(error), severity="error")
            return
        self.cifar.tell(f"written to {folder}")
