"""The epochs of a run: one line each, the best marked; only changed cells are repainted."""

from __future__ import annotations

from dataclasses import astuple

from rich.text import Text
from textual.geometry import Region, Size
from textual.scroll_view import ScrollView
from textual.strip import Strip

from trainer.events import EvalEnded
from trainer.runstate import EpochRow, RunState
from tui import formatting
from tui.widgets.lines import changed, to_strip

COLUMNS: tuple[tuple[str, int], ...] = (
    ("epoch", 6),
    ("lr", 10),
    ("train loss", 11),
    ("train acc", 10),
    ("test loss", 10),
    ("test acc", 10),
    ("train", 8),
    ("test", 8),
    ("images/s", 9),
)
"""Title and width; the last ones are left out where there is no room."""


class EpochTable(ScrollView, can_focus=True):
    """Follows the newest epoch until the user scrolls up."""

    DEFAULT_CSS = """
    EpochTable { height: 1fr; scrollbar-size-vertical: 1; overflow-x: hidden; }
    """

    def __init__(self, *, id: str | None = None) -> None:
        super().__init__(id=id)
        self._keys: list[object] = []
        self._strips: list[Strip] = []
        self._head = Strip.blank(0)
        self._columns = 0
        self._state: RunState | None = None

    def show(self, state: RunState) -> None:
        """Bring the lines up to date; those whose numbers did not change are not made again."""
        self._state = state
        columns = self._fitting()
        if columns != self._columns:
            self._columns, self._keys, self._strips = columns, [], []
            self._head = to_strip(_head(columns, self.app.theme_variables["secondary"]))
            self.refresh()
        rows = state.epochs
        best = state.best.epoch if state.best is not None else None
        extra = [e for e in state.evals if e.variant != "plain"]
        keys: list[object] = [(astuple(row), row.epoch == best) for row in rows]
        last = {e.variant: e for e in extra}
        keys += [(e.variant, e.epoch, e.loss, e.accuracy, e.seconds) for e in last.values()]
        following = self.max_scroll_y - self.scroll_offset.y <= 1
        for y, key in enumerate(keys):
            if y < len(self._keys) and self._keys[y] == key:
                continue
            line = (
                self._row(rows[y], rows[y].epoch == best)
                if y < len(rows)
                else self._evaluation(list(last.values())[y - len(rows)])
            )
            self._put(y, to_strip(line))
        del self._strips[len(keys) :]
        if len(keys) != len(self._keys):
            self.virtual_size = Size(self.size.width, len(keys) + 1)
            if following:
                self.scroll_end(animate=False)
            if len(keys) < len(self._keys):
                self.refresh()
        self._keys = keys

    def _put(self, y: int, strip: Strip) -> None:
        if y == len(self._strips):
            self._strips.append(strip)
            span: tuple[int, int] | None = (0, self.size.width)
        else:
            span = changed(self._strips[y], strip)
            self._strips[y] = strip
        line = y + 1 - self.scroll_offset.y
        if span is not None and 1 <= line < self.size.height:
            self.refresh(Region(span[0], line, span[1] - span[0], 1))

    def _fitting(self) -> int:
        room, fitting = max(self.size.width - 3, 0), 0
        for _, width in COLUMNS:
            room -= width
            fitting += room >= 0
        return max(fitting, 1)

    def _row(self, row: EpochRow, best: bool) -> Text:
        cells = (
            str(row.epoch),
            formatting.rate(row.lr),
            formatting.decimal(row.train_loss),
            formatting.percent(row.train_accuracy),
            formatting.decimal(row.test_loss),
            formatting.percent(row.test_accuracy),
            formatting.duration(row.train_seconds),
            formatting.duration(row.test_seconds),
            formatting.compact(row.images_per_second),
        )
        text = Text(no_wrap=True, end="")
        success = self.app.theme_variables["success"]
        for i, (cell, (title, width)) in enumerate(zip(cells, COLUMNS, strict=True)):
            if i < self._columns:
                style = f"bold {success}" if best and title == "test acc" else ""
                text.append(f"{cell:>{width}}", style=style)
        text.append(" ★" if best else "  ", style=success)
        return text

    def _evaluation(self, evaluation: EvalEnded) -> Text:
        names = {"ema": "averaged weights (EMA)", "tta": "test-time augmentation"}
        name = names.get(evaluation.variant, evaluation.variant)
        return Text(
            f"{evaluation.epoch:>6}  {name}: test loss {formatting.decimal(evaluation.loss)}, "
            f"test accuracy {formatting.percent(evaluation.accuracy)}",
            style=self.app.theme_variables["accent"],
            no_wrap=True,
            end="",
        )

    def on_resize(self) -> None:
        """Other columns may fit now."""
        if self._state is not None:
            self.show(self._state)

    def render_line(self, y: int) -> Strip:
        """The titles, then the lines from the scroll offset on."""
        width, style = self.size.width, self.rich_style
        row = y - 1 + self.scroll_offset.y
        strip = self._head if y == 0 else Strip.blank(width)
        if y > 0 and row < len(self._strips):
            strip = self._strips[row]
        return strip.adjust_cell_length(width, style).apply_style(style)


def _head(columns: int, colour: str) -> Text:
    titles = "".join(f"{title:>{width}}" for title, width in COLUMNS[:columns])
    return Text(titles, style=f"bold {colour}", no_wrap=True, end="")
