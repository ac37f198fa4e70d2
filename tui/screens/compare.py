"""The marked runs side by side: the coursework's four graphs, results, and what differs."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from rich.cells import set_cell_size
from rich.text import Text
from textual import events
from textual.app import ComposeResult
from textual.binding import Binding
from textual.containers import Grid
from textual.widgets import Static

from trainer.errors import UserError
from tui import formatting, themes
from tui.charts import comparison
from tui.run_words import name_of
from tui.runs.store import Changes
from tui.screens.charts import ChartScreen
from tui.widgets.curve_chart import LEAST, CurveChart
from tui.widgets.lines import Lines

if TYPE_CHECKING:
    from trainer.runs.follower import Follower

NOTHING = "No run yet: press s to start one, 1 for the list of runs."
HINT = "space in the list of runs (1) marks runs to compare"
READING = "logs are still being read: the figures are of what has been read"
OTHER_DATA = "these runs have other test images: their accuracies do not compare"
HARDEST = "hard: training accuracy of the hardest images only (train.skip_easy)"
NAME_WIDTH = 28
WAIT_SECONDS = 0.05
MARKS = 4
"""Cells before a name: the best, the mark."""
FRAME = 4
"""Lines around charts and results: header, key line, border, titles."""


class CompareScreen(ChartScreen):
    """All marked runs on the same axes, live; without marks the chosen run."""

    # the second is of the screen behind d: read in advance, its first key need not wait for it
    CSS_PATH = ["compare.tcss", "difference.tcss"]
    CHARTS = (
        ("train-loss", "loss", ("train",)),
        ("test-loss", "loss", ("test",)),
        ("train-accuracy", "accuracy", ("train",)),
        ("test-accuracy", "accuracy", ("test",)),
    )
    VIEWS = (
        ("train-loss", "test-loss", "train-accuracy", "test-accuracy"),
        ("test-accuracy",),
        ("test-loss",),
        ("train-accuracy",),
        ("train-loss",),
    )
    BINDINGS = [
        Binding(
            "E",
            "export",
            "Export",
            id="compare.export",
            tooltip="Write results, epochs and graphs of the shown runs into a folder",
        ),
        Binding(
            "d",
            "difference",
            "Difference",
            id="compare.difference",
            tooltip="Two marked runs image by image: fixed, broken, calibration",
        ),
        Binding("up", "scroll_results(-1)", show=False),
        Binding("down", "scroll_results(1)", show=False),
        Binding("pageup", "scroll_pages(-1)", show=False),
        Binding("pagedown", "scroll_pages(1)", show=False),
        Binding("home", "scroll_results(-1000000)", show=False),
        Binding("end", "scroll_results(1000000)", show=False),
    ]

    def __init__(self) -> None:
        super().__init__()
        self._first = 0
        """Line of the results at the top, below the titles."""

    def body(self) -> ComposeResult:
        """Four charts and a table."""
        yield Static(NOTHING, id="empty", markup=False)
        with Grid(id="graphs"):
            for name, _, _ in self.CHARTS:
                yield CurveChart(id=name)
        yield Lines(id="results")

    def ready(self) -> None:
        """All four."""
        self.show_view()

    def on_resize(self) -> None:
        """Other columns may fit."""
        self.call_after_refresh(self.show, Changes())

    def show_view(self) -> None:
        """Show the charts of the chosen view; one alone leaves more lines to the results."""
        super().show_view()
        if runs := self.runs_shown():
            self._show_results(runs)

    def runs_shown(self) -> list[Follower]:
        """The marked runs; the chosen one where none is marked."""
        marked = self.store.marked()
        current = self.store.current
        return marked or ([current] if current is not None else [])

    def show(self, changes: Changes) -> None:
        """Repaint what changed of the shown runs."""
        if not self.stands:
            return
        runs = self.runs_shown()
        if self.has_class("-no-run") == bool(runs):
            self.set_class(not runs, "-no-run")
            self.refresh_bindings()
        if not runs:
            return
        self._show_results(runs)
        self.draw_charts()

    def shows(self, run: str) -> bool:
        """Whether it is one of the marked runs, or none is marked."""
        return run in self.store.view.marked or not self.store.marked()

    # ---- results ----------------------------------------------------------------------------

    def _show_results(self, runs: list[Follower]) -> None:
        head, *lines = self._results(runs)
        room = self._room()
        self._first = max(0, min(self._first, len(lines) - room))
        below = len(lines) - self._first - room
        if below > 0:
            primary, said = self.cifar.colours()["primary"], f"  ↓ {below} more"
            if head.cell_len + len(said) <= self.app.size.width:
                head.append(said, style=primary)
            else:  # where the marks of the runs stand below
                head = Text.assemble((f"↓{below:<3}"[:MARKS], primary), head[MARKS:], end="")
        shown = [head, *lines[self._first : self._first + room]]
        for line in shown:
            line.truncate(self.app.size.width, overflow="ellipsis")
        self.query_one("#results", Lines).set_lines(shown)

    def _room(self) -> int:
        """Lines of the results below their titles: what the charts need to be drawn is theirs."""
        height = self.app.size.height
        charts = LEAST.height * (1 if self.view else 2)
        return max(2, min(height * 2 // 5 - 2, height - FRAME - charts))

    def _results(self, runs: list[Follower]) -> list[Text]:
        """One line a run, best first; then the settings in which they differ."""
        colours, width = self.cifar.colours(), self.app.size.width
        ordered = comparison.best_first(runs)
        name_width = min(NAME_WIDTH, max(12, width // 6))
        columns = comparison.fitting(width - name_width - 5, runs)
        head = Text(
            f"{'':{MARKS}}{'run':<{name_width}}", style=f"bold {colours['secondary']}", end=""
        )
        for i in columns:
            head.append(_cell(comparison.COLUMNS[i], comparison.COLUMNS[i].title))
        lines = [head]
        comparable, reading = comparison.comparable(runs), any(run.reading for run in runs)
        certain = len(runs) > 1 and comparable and not reading
        top = comparison.best_accuracy(ordered[0]) if certain else None
        for run in ordered:
            best = "★" if top is not None and comparison.best_accuracy(run) == top else " "
            line = Text(best, style=colours["success"], no_wrap=True, end="")
            line.append(f" {self.glyph(run)} ", style=self.cifar.run_colour(run.run.id))
            name = set_cell_size(formatting.shorten(name_of(run), name_width - 1), name_width)
            line.append(name, style=colours["foreground"])
            cells = comparison.cells(run)
            for i in columns:
                column = comparison.COLUMNS[i]
                warn = column.title == "data" and not cells[i].startswith("CIFAR")
                style = colours["warning" if warn else "foreground"]
                line.append(_cell(column, cells[i]), style=style)
            lines.append(line)
        for words, holds in ((READING, reading), (OTHER_DATA, not comparable)):
            if holds:
                lines.append(Text(f"    {words}", style=colours["warning"], no_wrap=True, end=""))
        if any(map(comparison.last_left_easy_out, runs)):
            lines.append(Text(f"    {HARDEST}", style=colours["secondary"], no_wrap=True, end=""))
        lines += self._differences(ordered, name_width)
        if len(runs) < 2:
            lines.append(Text(f"    {HINT}", style=colours["primary"], no_wrap=True, end=""))
        return lines

    def _differences(self, ordered: list[Follower], name_width: int) -> list[Text]:
        found = comparison.differences(ordered)
        if not found:
            return []
        colours = self.cifar.colours()
        room = max(8, (self.app.size.width - name_width - 5) // len(ordered))
        head = Text("    settings that differ", style=f"bold {colours['secondary']}", end="")
        lines = [head]
        for key, values in found.items():
            line = Text(f"    {formatting.shorten(key, name_width + 1):<{name_width + 2}}", end="")
            line.stylize(colours["secondary"])
            for run, value in zip(ordered, values, strict=True):
                line.append(f"{self.glyph(run)} ", style=self.cifar.run_colour(run.run.id))
                words = formatting.clean(value, min(24, room - 3))
                line.append(set_cell_size(words, min(24, room - 2)), style=colours["foreground"])
            lines.append(line)
        return lines

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        """Without a run there is nothing to export, nor two to put side by side."""
        if action in ("export", "difference"):
            return bool(self.runs_shown())
        return super().check_action(action, parameters)

    def action_scroll_results(self, lines: int) -> None:
        """Scroll the results where there is no room for all."""
        self._first = max(0, self._first + lines)
        self.show(Changes())

    def action_scroll_pages(self, pages: int) -> None:
        """Scroll by what is in view, but for a line."""
        self.action_scroll_results(pages * (self._room() - 1))

    def on_mouse_scroll_up(self, event: events.MouseScrollUp) -> None:
        """Over the results: three lines a notch."""
        self._wheel(event, -3)

    def on_mouse_scroll_down(self, event: events.MouseScrollDown) -> None:
        """Over the results: three lines a notch."""
        self._wheel(event, 3)

    def _wheel(self, event: events.MouseEvent, lines: int) -> None:
        if self.query_one("#results").region.contains_point(event.screen_offset):
            self.action_scroll_results(lines)

    def action_difference(self) -> None:
        """Two marked runs on the same images."""
        from tui.screens.difference_open import marked_runs

        marked_runs(self.cifar)

    # ---- export -----------------------------------------------------------------------------

    def action_export(self) -> None:
        """Write everything shown into a new folder of the runs directory."""
        if self.runs_shown():
            self.run_worker(self._export(), group="export", description="export the shown runs")

    async def _export(self) -> None:
        """The shown runs once their logs are read; the store reads on whatever is shown."""
        from tui.charts.export import prepare

        if any(run.reading for run in self.runs_shown()):
            self.cifar.tell("the export waits until the logs are read")
        while any(run.reading for run in self.runs_shown()):
            await asyncio.sleep(WAIT_SECONDS)
        if not (runs := self.runs_shown()):
            return
        # on the dark ground that the graphs always have
        colours = [themes.colour_in(themes.DARK, self.store.slot(run.run.id)) for run in runs]
        export = prepare(runs, colours)
        try:
            folder = await asyncio.to_thread(export.write, self.store.runs_dir)
        except UserError as error:
            self.cifar.tell(str(error), severity="error")
            return
        self.cifar.tell(f"written to {formatting.clean(folder, 300)}")


def _cell(column: comparison.Column, words: str) -> str:
    words = formatting.shorten(words, column.width - 2)
    return words.rjust(column.width) if column.right else f"  {words}".ljust(column.width)
