"""All runs: list, filter, marks, and what to do when there is nothing yet."""

from __future__ import annotations

import math
import os
import time
from contextlib import suppress
from pathlib import Path

from rich.text import Text
from textual.app import ComposeResult
from textual.binding import Binding
from textual.widgets import DataTable, Input, Static

from trainer.runs.follower import Follower
from trainer.runs.runstate import ACTIVE
from tui import formatting
from tui.formatting import clean
from tui.run_words import run_name
from tui.runs.store import Changes
from tui.screens.base import StoreScreen
from tui.widgets import run_details, run_table
from tui.widgets.lines import say
from tui.widgets.run_table import RunTable, Sort

SORTS = ("started", "best", "time", "parameters", "name")
TRASH = ".trash"
AGES_SECONDS = 60.0


class RunsScreen(StoreScreen):
    """The first screen."""

    TAB = "runs"
    AUTO_FOCUS = "RunTable"
    BINDINGS = [
        Binding("slash", "filter", "Filter", id="runs.filter", tooltip="Show only runs that fit"),
        Binding(
            "o",
            "sort",
            "Sort",
            id="runs.sort",
            show=False,
            tooltip="Sort by the next column; O reverses",
        ),
        Binding("O", "reverse", show=False),
        Binding(
            "d,delete",
            "delete",
            "Delete",
            id="runs.delete",
            show=False,
            tooltip="Move the run's folder to .trash",
        ),
        Binding("escape", "clear_filter", show=False),
    ]

    def __init__(self) -> None:
        super().__init__()
        self.sort: Sort = ("started", False)
        self._aged = 0.0
        self._begun: str | None = None
        """A run that was just started and must be seen once its log is read."""

    def body(self) -> ComposeResult:
        """Status line, filter, table or welcome, details."""
        yield Static("", id="status", markup=False)
        field = Input(placeholder="name, preset, state, data or model", id="filter", compact=True)
        field.cursor_blink = False
        yield field
        yield Static("", id="welcome", markup=False)
        yield RunTable()
        yield Static("", id="details", markup=False)

    def ready(self) -> None:
        """The table has the keys; the filter appears when it is asked for."""
        self.query_one("#filter", Input).display = False
        self.query_one("#welcome", Static).display = False
        self.query_one(RunTable).focus()
        self.set_interval(AGES_SECONDS, self._age)

    # ---- painting ---------------------------------------------------------------------------

    def show(self, changes: Changes) -> None:
        """Repaint what changed; once a minute all of it: the day may be another."""
        if not self.stands:
            return
        aged = time.monotonic() - self._aged > AGES_SECONDS
        if aged:
            self._aged = time.monotonic()
        table = self.query_one(RunTable)
        self._reveal_begun()
        table.fill(
            self._chosen_runs(),
            self.store,
            self.cifar.colours(),
            sort=self.sort,
            asked=self.cifar.runs.asked,
            dark=self.cifar.current_theme.dark,
            touched=None if aged or changes.listing else changes.runs,
        )
        self._choose_shown(table)
        self._show_status()
        self._show_welcome()
        self._show_details()

    @property
    def points_at_run(self) -> bool:
        """Whether there is a highlighted run."""
        return any(table.chosen is not None for table in self.query(RunTable))

    def reveal(self, run: str) -> None:
        """A run was started and chosen: it is shown, though the filter would leave it out."""
        self._begun = run

    def _reveal_begun(self) -> None:
        run = self.store.current
        if self._begun is None or run is None or run.state.seq < 0:  # what fits is not known yet
            return
        if run.run.id == self._begun and not run_table.fits(run, self._words()):
            self.action_clear_filter()
            self.cifar.tell(f"{run_name(run)} has begun: the filter hid it and is cleared")
        self._begun = None

    def _choose_shown(self, table: RunTable) -> None:
        """Keys mean the highlighted run, not one that was chosen elsewhere and is left out here."""
        run = self.store.current
        if run is None or self._begun is not None or table.chosen is None:
            return
        if run.run.id not in table.order:
            self.store.selected = table.chosen
            self.refresh_bindings()

    def _age(self) -> None:
        """Nothing may have happened for a long time."""
        if self.is_active:
            self._aged = -math.inf
            self.show(Changes())

    def on_resize(self) -> None:
        """Other columns may fit."""
        self.call_after_refresh(self._repaint)

    def _repaint(self) -> None:
        self.show(Changes(listing=True, runs=set(self.store.followers)))

    def _words(self) -> list[str]:
        return self.query_one("#filter", Input).value.lower().split()

    def _chosen_runs(self) -> list[Follower]:
        words = self._words()
        runs = [run for run in self.store if run_table.fits(run, words)]
        return run_table.ordered(runs, self.sort)

    def _show_status(self) -> None:
        app = self.cifar
        colours = app.colours()
        line = Text(no_wrap=True, overflow="ellipsis")
        # first what must not find no room
        if self.store.error:
            line.append(f" {clean(self.store.error, 200)}  ", style=colours["error"])
        elif not _writable(self.store.runs_dir):
            line.append(" runs directory is read-only: viewing only  ", style=colours["warning"])
        shown, all_runs = len(self.query_one(RunTable).order), len(self.store)
        if shown != all_runs:
            words = f" {shown or 'none'} of {all_runs} runs fit"
            words += "  " if shown else " (escape shows all)  "
            line.append(words, style=colours["primary"])
        elif self.store.loading:
            line.append(" reading…  ", style=colours["secondary"])
        status = app.runs.data_status
        missing = status is not None and not status.ready
        style = colours["warning"] if missing or app.data == "synthetic" else ""
        line.append(f" data: {formatting.data_sentence(app.data)}", style=style)
        if missing:
            line.append(" – not on this machine", style=style)  # noqa: RUF001
        line.append(f"   preset: {app.runs.preset}", style=colours["secondary"])
        line.append(" (s starts it)", style=colours["secondary"])
        self._say("#status", line)

    def _show_welcome(self) -> None:
        nothing = self.store.listed and len(self.store) == 0 and not self.store.error
        welcome = self.query_one("#welcome", Static)
        if welcome.display != nothing:
            welcome.display = nothing
            self.set_class(nothing, "-empty")
            self.call_after_refresh(self.keep_focus)
        if nothing:
            self._say("#welcome", self._welcome())

    def _welcome(self) -> Text:
        app = self.cifar
        status = app.runs.data_status
        text = Text()
        text.append("No runs yet", style="bold")
        text.append(f" in {clean(self.store.runs_dir, 200)}\n\n")
        if status is None:
            text.append(f"Looking for {formatting.data_sentence(app.data)} …\n\n")
            keys = [("s", f"start {app.runs.preset}")]
        elif status.ready:
            text.append(f"{clean(status.line, 300)}\n\n")
            keys = [("s", f"start {app.runs.preset}: {self._about(app.runs.preset)}")]
            keys += [("n", "new run: choose preset, model, epochs, …")]
            if app.data != "synthetic":
                keys += [("S", "start on the synthetic set (ten drawn classes, not CIFAR-10)")]
        else:
            text.append(clean(status.line, 300) + "\n\n", style=app.colours()["warning"])
            keys = [
                ("D", "download CIFAR-10 (170 MB)"),
                ("F", "choose a folder"),
                ("S", f"start {app.runs.preset} on the synthetic set: ten drawn classes"),
            ]
        for key, meaning in [*keys, ("P", "choose another preset"), ("?", "all keys")]:
            text.append(f"  {key}  ", style=f"bold {app.colours()['primary']}")
            text.append(f"{meaning}\n")
        return text

    def _about(self, preset: str) -> str:
        return dict(self.cifar.presets()).get(preset, "")

    def _show_details(self) -> None:
        panel = self.query_one("#details", Static)
        current = self.store.current
        if panel.display and current is not None:
            self._say("#details", run_details.details(current, self.cifar.colours()))
        elif current is None:
            self._say("#details", Text(""))

    def _say(self, where: str, text: Text) -> None:
        # the lines have fixed heights: a new text needs no new layout
        say(self.query_one(where, Static), text, layout=where == "#welcome")

    # ---- keys -------------------------------------------------------------------------------

    def on_data_table_row_highlighted(self, event: DataTable.RowHighlighted) -> None:
        """The cursor chooses the run for all screens."""
        if event.cursor_row < 0:  # of a table without rows: it has no key, in spite of its type
            return
        run = event.row_key.value
        if run is not None and run == self.query_one(RunTable).chosen:
            self.store.selected = run
            self._show_details()
            self.refresh_bindings()

    def on_data_table_row_selected(self, event: DataTable.RowSelected) -> None:
        """Enter: the run's dashboard."""
        if event.row_key.value is not None:
            self.cifar.open_run(event.row_key.value)

    def on_data_table_header_selected(self, event: DataTable.HeaderSelected) -> None:
        """A click on a title sorts by it, a second one the other way round."""
        key = event.column_key.value or ""
        column = next((c for c in run_table.COLUMNS if c.key == key), None)
        if column is not None and column.sort is not None:
            self.sort = (key, self.sort[0] == key and not self.sort[1])
            self._repaint()

    def on_run_table_mark_toggled(self, event: RunTable.MarkToggled) -> None:
        """Mark for comparison."""
        if event.run is None:
            self.store.clear_marks()
        else:
            self.store.toggle_mark(event.run)
        self.cifar.poll()

    def action_sort(self) -> None:
        """Sort by the next of the usual columns."""
        columns = self.query_one(RunTable).columns  # without when it began where it is narrow
        shown = [key for key in SORTS if key in columns or key == "started"]
        at = shown.index(self.sort[0]) if self.sort[0] in shown else -1
        self.sort = (shown[(at + 1) % len(shown)], False)
        self._repaint()

    def action_reverse(self) -> None:
        """Turn the order round."""
        self.sort = (self.sort[0], not self.sort[1])
        self._repaint()

    def action_filter(self) -> None:
        """Type what to show."""
        field = self.query_one("#filter", Input)
        field.display = True
        self.set_focus(field)  # at once: what is typed in the same read is for it

    def action_clear_filter(self) -> None:
        """Show all runs again."""
        field = self.query_one("#filter", Input)
        field.value = ""
        field.display = False
        self.query_one(RunTable).focus()

    def on_input_changed(self, event: Input.Changed) -> None:
        """Filter while it is typed."""
        if event.input.id == "filter":
            self._repaint()

    def on_input_submitted(self, event: Input.Submitted) -> None:
        """Back to the list; the filter stays while there is text in it."""
        if event.input.id == "filter":
            event.input.display = bool(event.value.strip())
            self.query_one(RunTable).focus()

    def action_delete(self) -> None:
        """Ask, then move the folder of the run under the cursor aside."""
        chosen = self.query_one(RunTable).chosen
        run = None if chosen is None else self.store.get(chosen)
        if run is None:
            return
        name = run_name(run)
        if run.status in ACTIVE or run.run.is_locked():
            self.cifar.tell(f"{name} is {run.status}: stop it first", severity="warning")
            return
        from tui.screens.dialogs import Choice

        def answered(answer: str | None) -> None:
            if answer == "delete":
                self._move_to_trash(run)

        choices = [("d", "delete", f"Move it to {TRASH}"), ("c", "cancel", "Cancel")]
        text = f"{name} · {run.run.id}"
        dialog = Choice("Delete this run?", text, choices, about=run.run.id)
        self.app.push_screen(dialog, answered)

    def _move_to_trash(self, run: Follower) -> None:
        trash = self.store.runs_dir / TRASH
        try:
            if run.run.is_locked():
                raise OSError(0, "it is being trained")
            trash.mkdir(exist_ok=True)
            run.run.path.rename(trash / run.run.id)
        except OSError as error:
            self.cifar.tell(
                f"cannot move {run.run.id} to {TRASH}: {error.strerror}", severity="error"
            )
            return
        self.store.view.forget(run.run.id)
        others = self.store.followers.keys() - {run.run.id}
        self.store.selected = self.query_one(RunTable).beside(run.run.id, others)
        self.cifar.poll(now=True)


def _writable(runs_dir: Path) -> bool:
    """Whether runs can be made there; a directory that does not exist yet counts by its parent."""
    with suppress(OSError):
        at = runs_dir
        while not at.exists() and at != at.parent:
            at = at.parent
        return os.access(at, os.W_OK)
    return False
