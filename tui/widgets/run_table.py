"""The list of runs: columns by width, cells updated in place, the cursor stays on its run."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Sequence
from functools import lru_cache

import msgspec
from rich.text import Text
from textual.binding import Binding
from textual.message import Message

from trainer.runs.follower import Follower
from trainer.runs.rundir import made_at
from tui import formatting, themes
from tui.formatting import DASH
from tui.run_words import damaged, data_of, model_of, name_of, state_of, time_of
from tui.runs.store import Store
from tui.widgets.fixed_table import FixedTable

Sort = tuple[str, bool]
"""Column and whether it is reversed."""


class Column(msgspec.Struct, frozen=True):
    """A column: its key, title, width in cells, and the least width of the table to show it."""

    key: str
    title: str
    width: int
    from_width: int = 0
    right: bool = False
    sort: Callable[[Follower], tuple[bool, float | str]] | None = None
    """Order of its values, best first; what has none comes last."""
    short: str = ""
    """The title beside an arrow, where there is no room for all of it."""


def _preset(run: Follower) -> str:
    return formatting.clean(run.state.queued.preset if run.state.queued else "")


def _text(of: Callable[[Follower], str]) -> Callable[[Follower], tuple[bool, float | str]]:
    return lambda run: (not of(run), of(run).lower())


def _most(of: Callable[[Follower], float | None]) -> Callable[[Follower], tuple[bool, float | str]]:
    def order(run: Follower) -> tuple[bool, float | str]:
        value = of(run)
        return (value is None, -(value or 0.0))

    return order


def _best(run: Follower) -> float | None:
    return run.state.best.test_accuracy if run.state.best else None


def _parameters(run: Follower) -> float | None:
    return run.state.described.parameters if run.state.described else None


def _began(run: Follower) -> float:
    """What ``started`` tells, seconds since 1970; before that is known, what the id does."""
    told = run.state.started_at or run.state.queued_at
    return told if formatting.is_moment(told) else _made(run.run.id)


@lru_cache(maxsize=8192)
def _made(run: str) -> float:
    return made_at(run)


STATE_ORDER = ("training", "paused", "queued", "failed", "crashed", "stopped", "completed")

COLUMNS = (
    Column("mark", " ", 1),
    Column("name", "name", 0, sort=_text(name_of)),
    Column("state", "state", 11, sort=lambda run: (False, STATE_ORDER.index(run.status))),
    Column("preset", "preset", 11, 132, sort=_text(_preset)),
    Column("model", "model", 11, 91, sort=_text(model_of)),
    Column("data", "data", 9, 65, sort=_text(data_of)),
    Column(
        "epochs", "epochs", 7, 0, right=True, sort=_most(lambda r: float(r.state.epochs_trained))
    ),
    Column("best", "best test", 9, 0, right=True, sort=_most(_best), short="best"),
    Column("at", "at", 4, 97, right=True),
    Column(
        *("parameters", "parameters", 10, 119),
        right=True,
        sort=_most(_parameters),
        short="params",
    ),
    Column("time", "time", 9, 107, right=True, sort=_most(lambda run: run.state.elapsed)),
    Column("started", "started", 11, 77, right=True, sort=_most(_began)),
)
NAME_MIN = 14
ID_WORD = 4
"""Characters from which on a filter's word may be of an id: its date has most pairs of digits."""
NAME_MAX = 60
PADDING = 2
"""Cells around each cell's content."""


class RunTable(FixedTable):
    """Runs as rows; keys are run ids."""

    BINDINGS = [
        Binding(
            "enter",
            "select_cursor",
            "Open",
            key_display="↵",
            id="runs.open",
            tooltip="Show the run's dashboard",
        ),
        Binding(
            "space", "mark", "Mark", id="runs.mark", tooltip="Mark the run for comparison, or not"
        ),
        Binding(
            "u", "unmark", "Unmark all", id="runs.unmark", show=False, tooltip="Unmark all runs"
        ),
        Binding("j", "cursor_down", show=False),
        Binding("k", "cursor_up", show=False),
        Binding("g,home", "scroll_top", show=False),
        Binding("G,end", "scroll_bottom", show=False),
    ]
    DEFAULT_CSS = "RunTable { height: 1fr; }"

    class MarkToggled(Message):
        """Space on a run, or all marks are to go (run ``None``)."""

        def __init__(self, run: str | None) -> None:
            super().__init__()
            self.run = run

    def __init__(self) -> None:
        super().__init__(id="runs", cursor_type="row", cell_padding=1)
        self._layout: tuple[object, ...] = ()
        self._shown: dict[str, tuple[Text, ...]] = {}
        self._visible: list[Column] = []
        self._order: list[str] = []
        self._name_width = NAME_MAX
        self._made: dict[str, tuple[tuple[object, ...], tuple[Text, ...]]] = {}
        """Rows by run, each with what it was made from, and"""
        self._look: tuple[object, ...] = ()
        """what they all depend on."""
        self._selected: str | None = None

    @property
    def order(self) -> tuple[str, ...]:
        """Ids of the shown runs, from the top."""
        return tuple(self._order)

    @property
    def chosen(self) -> str | None:
        """Id of the run under the cursor."""
        return self._order[self.cursor_row] if 0 <= self.cursor_row < len(self._order) else None

    def beside(self, run: str, there: Collection[str]) -> str | None:
        """The one of those still ``there`` that takes a run's place: the next below it, else the
        next above; ``None`` for a run that is not shown, or without others.
        """
        if run not in self._order:
            return None
        at = self._order.index(run)
        nearest = [*self._order[at + 1 :], *reversed(self._order[:at])]
        return next((other for other in nearest if other in there), None)

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        """Without runs there is nothing to open or mark."""
        return bool(self._order) or action not in ("select_cursor", "mark", "unmark")

    def action_mark(self) -> None:
        """Mark the run under the cursor."""
        if self.chosen is not None:
            self.post_message(self.MarkToggled(self.chosen))

    def action_unmark(self) -> None:
        """Unmark all."""
        self.post_message(self.MarkToggled(None))

    def fill(
        self,
        runs: Sequence[Follower],
        store: Store,
        colours: dict[str, str],
        *,
        sort: Sort,
        asked: Callable[[Follower], str],
        dark: bool,
        touched: set[str] | None = None,
    ) -> None:
        """Show these runs in this order; only cells that differ are painted again.

        ``asked``: what a run was asked for and has not done yet; ``touched``: the runs that can
        differ, ``None`` means all of them.
        """
        order = [run.run.id for run in runs]
        relaid = self._lay_out(sort)
        new_order = order != self._order
        was_empty = not self._order
        now = time.time()
        look = (self._layout, dark, *colours.values(), time.localtime(now)[:3])
        if look != self._look or len(self._made) > len(store):
            self._look = look
            self._made.clear()
        fresh: dict[str, tuple[Text, ...]] = {}
        for run in runs:
            if touched is not None and run.run.id not in touched and not new_order and not relaid:
                continue
            fresh[run.run.id] = self._cells_of(run, store, colours, asked, dark, now)
        if relaid or new_order:
            self._rebuild(order, fresh, relaid=relaid)
            self._restore_cursor(store.selected)
        else:
            for shown, cells in fresh.items():
                self._update(shown, cells)
            if store.selected not in (self._selected, self.chosen):  # chosen elsewhere
                self._restore_cursor(store.selected)
        self._selected = store.selected
        if was_empty != (not order):
            self.refresh_bindings()

    def _cells_of(
        self,
        run: Follower,
        store: Store,
        colours: dict[str, str],
        asked: Callable[[Follower], str],
        dark: bool,
        now: float,
    ) -> tuple[Text, ...]:
        """The row of a run; as it was made before when nothing that it tells has changed."""
        shown, state = run.run.id, run.state
        told = (
            *(id(state), state.revision, run.status, run.stalled, run.problem, run.halfway),
            *(store.slot(shown), asked(run)),
        )
        made = self._made.get(shown)
        if made is not None and made[0] == told:
            return made[1]
        cells = tuple(
            _cut(
                _cell(column, run, store, colours, asked, dark, now),
                column.width or self._name_width,
            )
            for column in self._visible
        )
        self._made[shown] = told, cells
        return cells

    def _lay_out(self, sort: Sort) -> bool:
        """Choose the columns for the width; whether they changed."""
        width = self.size.width or self.app.size.width
        visible = [column for column in COLUMNS if width >= column.from_width]
        fixed = sum(column.width + PADDING for column in visible) + 1  # the scroll bar
        name = max(NAME_MIN, min(NAME_MAX, width - fixed))
        layout = (tuple(column.key for column in visible), name, sort)
        if layout == self._layout:
            return False
        self._layout, self._visible, self._name_width = layout, visible, name
        self.clear(columns=True)
        self._shown.clear()
        for column in visible:
            title = column.title
            if column.key == sort[0] and column.width != 1:
                # the arrow shows which way the column's best value lies
                title = f"{column.short or title}{'▲' if sort[1] else '▼'}"
            label = Text(title, justify="right" if column.right else "left")
            self.add_column(label, key=column.key, width=column.width or name)
        return True

    def _rebuild(
        self, order: list[str], fresh: dict[str, tuple[Text, ...]], *, relaid: bool
    ) -> None:
        if not relaid:
            self.clear()
        self._order, self._shown = order, fresh
        for run in order:
            self.add_row(*fresh[run], key=run)

    def _update(self, run: str, cells: tuple[Text, ...]) -> None:
        if cells is self._shown[run]:
            return
        self._shown[run] = cells
        # Textual would look at all rows to find a cell on the screen
        first = self.scroll_offset.y
        rows = self._order[first : first + self.size.height + 1]
        line = first + rows.index(run) if run in rows else None
        self.set_cells(run, line, dict(enumerate(cells)))

    def _restore_cursor(self, selected: str | None) -> None:
        if selected in self._order:
            self.move_cursor(row=self._order.index(selected), animate=False)


def _cell(
    column: Column,
    run: Follower,
    store: Store,
    colours: dict[str, str],
    asked: Callable[[Follower], str],
    dark: bool,
    now: float,
) -> Text:
    """A cell of the table."""
    state = run.state
    if column.key == "mark":
        slot = store.slot(run.run.id)
        if slot is None:
            return Text(" ")
        return Text(themes.run_glyph(slot), style=themes.run_colour(slot, dark=dark))
    if damaged(run) and column.key == "name":
        return formatting.safe(run.problem, NAME_MAX, colours["error"])
    if column.key == "state" and run.halfway:  # what the other columns have is not all
        return formatting.safe("… reading", style=colours["warning"])
    if column.key == "state":
        return state_of(run, colours, asked=asked(run), narrow=True)
    if column.key == "data":
        style = "" if state.real_data else colours["warning"]
        return formatting.safe(data_of(run), column.width, style)
    if column.key == "best":
        return _right(formatting.percent(_best(run)), "bold" if state.best else "")
    if column.key == "started":
        return _right(formatting.moment(state.started_at or state.queued_at, now))
    words = WORDS[column.key](run)
    return _right(words) if column.right else formatting.safe(words, column.width or NAME_MAX)


WORDS: dict[str, Callable[[Follower], str]] = {
    "name": name_of,
    "preset": _preset,
    "model": lambda run: model_of(run).rpartition("/")[2],
    "epochs": lambda run: f"{run.state.epochs_trained}/{_planned(run)}",
    "at": lambda run: str(run.state.best.epoch) if run.state.best else "",
    "parameters": lambda run: formatting.count(
        run.state.described.parameters if run.state.described else None
    ),
    "time": time_of,
}


def _planned(run: Follower) -> str:
    return str(run.state.queued.epochs) if run.state.queued else DASH


def _cut(cell: Text, width: int) -> Text:
    """The cell within its column, with an ellipsis where it is cut."""
    cell.truncate(width, overflow="ellipsis")
    return cell


def _right(text: str, style: str = "") -> Text:
    return Text(text, style=style, justify="right", no_wrap=True, end="")


def ordered(runs: Sequence[Follower], sort: Sort) -> list[Follower]:
    """Runs (newest first) by a column; of equal ones the newest first."""
    column = next(column for column in COLUMNS if column.key == sort[0])
    if column.sort is None:
        return list(runs)
    keyed = [(column.sort(run), run) for run in runs]
    known = [pair for pair in keyed if not pair[0][0]]
    known.sort(key=lambda pair: pair[0], reverse=sort[1])
    return [run for _, run in known] + [run for key, run in keyed if key[0]]


def fits(run: Follower, words: Sequence[str]) -> bool:
    """Whether each word is in name, preset, state, data or model, or a long one in the id."""
    if not words:
        return True
    hay = " ".join((name_of(run), _preset(run), run.status, data_of(run), model_of(run)))
    hay, run_id = hay.lower(), run.run.id.lower()
    return all(word in hay or (len(word) >= ID_WORD and word in run_id) for word in words)
