"""The epochs of a run: one line each, the best marked. Only lines in view are ever made."""

from __future__ import annotations

from rich.text import Text
from textual import events
from textual.binding import Binding

from trainer.events import EvalEnded
from trainer.runs.runstate import EpochRow, RunState
from trainer.words import trained
from tui import formatting
from tui.columns import fitting_columns
from tui.widgets.lines import Lines

COLUMNS: tuple[tuple[str, int, int], ...] = (
    ("epoch", 6, 0),
    ("lr", 10, 1),
    ("train loss", 12, 0),
    ("train accuracy", 16, 0),
    ("test loss", 11, 0),
    ("test accuracy", 15, 0),
    ("train", 8, 2),
    ("test", 8, 2),
    ("images/s", 10, 2),
)
"""Title, width, and how early it is left out where there is no room: 0 never."""
TEST_LOSS, TEST_ACCURACY = 4, 5
EXTRA = {"ema": "averaged weights (EMA)", "tta": "test-time augmentation"}


class EpochTable(Lines, can_focus=True):
    """Follows the newest epoch until the user scrolls up; constant cost, however many epochs."""

    DEFAULT_CSS = "EpochTable { width: 1fr; height: 1fr; }"
    BINDINGS = [
        Binding("up,k", "scroll_rows(-1)", show=False),
        Binding("down,j", "scroll_rows(1)", show=False),
        Binding("pageup", "scroll_pages(-1)", show=False),
        Binding("pagedown", "scroll_pages(1)", show=False),
        Binding("home,g", "scroll_rows(-1000000)", show=False),
        Binding("end,G", "scroll_rows(1000000)", show=False),
    ]

    def __init__(self, *, id: str | None = None) -> None:
        super().__init__(id=id)
        self._state: RunState | None = None
        self._first: int | None = None
        """The first row in view after scrolling up; ``None`` follows the newest."""
        self._shown: tuple[object, ...] = ()

    @property
    def following(self) -> bool:
        """Whether the newest row stays in view."""
        return self._first is None

    def show(self, state: RunState) -> None:
        """Show a run's epochs; nothing happens when none has changed."""
        if state is not self._state:
            self._first = None
        self._state = state
        view = (self._first, self.size, self.app.theme)
        key = (id(state), state.figures, state.attempt, len(state.evals), *view)
        if key == self._shown:
            return
        self._shown = key
        self._paint(state)

    def on_resize(self) -> None:
        """Other columns and more rows may fit."""
        if self._state is not None:
            self.show(self._state)

    # ---- painting ---------------------------------------------------------------------------

    def _paint(self, state: RunState) -> None:
        colours = self.app.theme_variables
        extra = list({e.variant: e for e in state.evals if e.variant != "plain"}.values())
        room = max(1, self.size.height - 1)
        total = len(state.epochs) + len(extra)
        last = max(0, total - room)
        if self._first is not None and self._first >= last:
            self._first = None
        first = last if self._first is None else self._first
        columns = fitting(self.size.width - 3)
        shown = state.epochs[first : first + room]
        hard = max((row.train_images for row in shown if state.left_easy_out(row)), default=0)
        lines = [_titles(columns, colours, first, room, total, hard, self.size.width)]
        for index in range(first, min(first + room, total)):
            if index < len(state.epochs):
                row = state.epochs[index]
                best = state.best is not None and row.epoch == state.best.epoch
                some = state.left_easy_out(row)
                lines.append(_row(row, columns, colours, best=best, hard=some))
            else:
                lines.append(_evaluation(extra[index - len(state.epochs)], columns, colours))
        for line in lines:
            line.truncate(self.size.width, overflow="ellipsis")
        # as many as there is room for: the number of lines stays, only changed cells are sent
        lines += [Text("")] * (room + 1 - len(lines))
        self.set_lines(lines)

    # ---- scrolling --------------------------------------------------------------------------

    def action_scroll_rows(self, rows: int) -> None:
        """Scroll; at the end the table follows the newest row again."""
        if self._state is None:
            return
        variants = {e.variant for e in self._state.evals if e.variant != "plain"}
        last = max(0, len(self._state.epochs) + len(variants) - (self.size.height - 1))
        at = (last if self._first is None else self._first) + rows
        self._first = None if at >= last else max(0, at)
        self.show(self._state)

    def action_scroll_pages(self, pages: int) -> None:
        """Scroll by what is in view."""
        self.action_scroll_rows(pages * max(1, self.size.height - 2))

    def on_mouse_scroll_up(self, event: events.MouseScrollUp) -> None:
        """Three rows a notch."""
        event.stop()
        self.action_scroll_rows(-3)

    def on_mouse_scroll_down(self, event: events.MouseScrollDown) -> None:
        """Three rows a notch."""
        event.stop()
        self.action_scroll_rows(3)


def fitting(width: int) -> tuple[int, ...]:
    """Indices of the columns for a width; the least important go first."""
    found = fitting_columns([column[1:] for column in COLUMNS], width)
    if sum(COLUMNS[i][1] for i in found) <= width:
        return tuple(found)
    room, kept = width, []
    for i in sorted(range(len(COLUMNS)), key=lambda i: (i != 0, i != TEST_ACCURACY, i)):
        _, cells, rank = COLUMNS[i]
        if not rank and cells <= room:
            kept.append(i)
            room -= cells
    return tuple(sorted(kept)) or (0,)


def _titles(
    columns: tuple[int, ...],
    colours: dict[str, str],
    first: int,
    room: int,
    total: int,
    hard: int,
    width: int,
) -> Text:
    titles = "".join(f"{COLUMNS[i][0]:>{COLUMNS[i][1]}}" for i in columns)
    text = Text(titles, style=f"bold {colours['secondary']}", no_wrap=True, end="")
    if first + room < total:
        text.append(f"   ↓ {total - first - room} more", style=colours["primary"])
    said = (f"   hard: the {hard:,} hardest images", f"   hard: {hard:,}") if hard else ()
    fits = (words for words in said if text.cell_len + len(words) <= width)
    text.append(next(fits, ""), style=colours["secondary"])
    return text


def _row(
    row: EpochRow,
    columns: tuple[int, ...],
    colours: dict[str, str],
    *,
    best: bool,
    hard: bool,
) -> Text:
    cells = (
        str(row.epoch),
        formatting.rate(row.lr),
        formatting.decimal(row.train_loss),
        trained(formatting.percent(row.train_accuracy), hardest=hard),
        formatting.decimal(row.test_loss),
        formatting.percent(row.test_accuracy),
        formatting.duration(row.train_seconds),
        formatting.duration(row.test_seconds),
        formatting.compact(row.images_per_second),
    )
    text = Text(no_wrap=True, end="")
    for i in columns:
        star = best and i == TEST_ACCURACY
        mark = "★ " if star else ""
        style = f"bold {colours['success']}" if star else colours["foreground"]
        text.append(f"{mark}{cells[i]}".rjust(COLUMNS[i][1]), style=style)
    return text


def _evaluation(evaluation: EvalEnded, columns: tuple[int, ...], colours: dict[str, str]) -> Text:
    """Its numbers under the columns of the test split, its name behind them."""
    cells = {
        0: str(evaluation.epoch),
        TEST_LOSS: formatting.decimal(evaluation.loss),
        TEST_ACCURACY: formatting.percent(evaluation.accuracy),
    }
    text = Text(no_wrap=True, end="")
    label = EXTRA.get(evaluation.variant, evaluation.variant)
    before = sum(COLUMNS[i][1] for i in columns if 0 < i < TEST_LOSS)
    for i in columns:
        if i == 1 or (i == 2 and 1 not in columns):
            text.append(f"  {label}".ljust(before)[:before], style=colours["accent"])
        if i in cells:
            style = f"bold {colours['accent']}" if i else colours["foreground"]
            text.append(cells[i].rjust(COLUMNS[i][1]), style=style)
    return text
