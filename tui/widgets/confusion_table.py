"""The confusion matrix as a table to walk, shaded; with lines drawn as they are needed."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
from rich.cells import set_cell_size
from rich.segment import Segment
from rich.style import Style
from textual import events
from textual.binding import Binding
from textual.color import Color
from textual.geometry import Size
from textual.message import Message
from textual.scroll_view import ScrollView
from textual.strip import Strip

from trainer.analysis.confusion import Matrix, row_shares
from trainer.words import figure
from tui import formatting
from tui.formatting import clean
from tui.widgets.tile import fit

LABEL = 10
HEAD = 2
"""Lines above the first row: what the axes are, the predicted classes."""


@lru_cache(maxsize=128)
def shade(base: Color, goal: Color, twelfths: int) -> Style:
    """A background so many twelfths of the way to a colour, and letters that can be read on it."""
    mixed = base.blend(goal, twelfths / 12)
    return Style(bgcolor=mixed.rich_color, color=mixed.get_contrast_text(1).rich_color)


class ConfusionTable(ScrollView, can_focus=True):
    """Rows: actual class, columns: predicted class. Labels stay where they are."""

    BINDINGS = [
        Binding(
            "enter",
            "choose",
            "Show",
            key_display="↵",
            id="confusion.show",
            tooltip="Show the images of this cell",
        ),
        Binding("left", "step(0,-1)", show=False),
        Binding("right", "step(0,1)", show=False),
        Binding("up", "step(-1,0)", show=False),
        Binding("down", "step(1,0)", show=False),
        Binding("pageup", "step(-10,0)", show=False),
        Binding("pagedown", "step(10,0)", show=False),
        Binding("home", "step(-999,-999)", show=False),
        Binding("end", "step(999,999)", show=False),
    ]
    DEFAULT_CSS = "ConfusionTable { width: 1fr; height: auto; overflow: auto; }"

    class Chosen(Message):
        """Enter on a cell."""

        def __init__(self, actual: int, predicted: int) -> None:
            super().__init__()
            self.actual = actual
            self.predicted = predicted

    class Moved(Message):
        """The cursor is on another cell."""

    def __init__(self) -> None:
        super().__init__(id="confusion")
        self.percent = False
        self.cursor = (0, 0)
        self._matrix: Matrix = np.zeros((0, 0), np.int64)
        self._shares = row_shares(self._matrix)
        self._names: tuple[str, ...] = ()
        self._strips: dict[tuple[object, ...], Strip] = {}

    def fill(self, matrix: Matrix, classes: Sequence[str]) -> None:
        """Show another matrix; the cursor stays where it was."""
        self._matrix, self._names = matrix, tuple(clean(name, 40) for name in classes)
        self._shares = row_shares(matrix)
        last = max(0, len(matrix) - 1)
        self.cursor = (min(self.cursor[0], last), min(self.cursor[1], last))
        self._lay_out()

    def set_percent(self, percent: bool) -> None:
        """Percentages of the rows instead of counts."""
        self.percent = percent
        self._lay_out()

    @property
    def cell_width(self) -> int:
        """Cells of a column."""
        digits = 3 if self.percent or not self._matrix.size else len(str(int(self._matrix.max())))
        wide = LABEL + 5 * len(self._matrix) <= self.size.width
        return max(5 if wide else 4, digits + 1)

    def _lay_out(self) -> None:
        self._strips.clear()
        self.virtual_size = Size(
            LABEL + self.cell_width * len(self._matrix), HEAD + len(self._matrix)
        )
        self.refresh()

    def get_content_height(self, container: Size, viewport: Size, width: int) -> int:
        """All rows where there is room."""
        return HEAD + len(self._matrix)

    def on_resize(self) -> None:
        """The columns may be wider."""
        self._lay_out()

    # ---- painting ---------------------------------------------------------------------------

    def render_line(self, y: int) -> Strip:
        """A line: labels to the left, the cells that are scrolled into view."""
        scroll_x, scroll_y = int(self.scroll_offset.x), int(self.scroll_offset.y)
        width = self.size.width
        row = y - HEAD + scroll_y if y >= HEAD else y - HEAD
        if row >= len(self._matrix) or not self._matrix.size:
            return Strip.blank(width, self.rich_style)
        at = self.cursor[1] if row == self.cursor[0] or row < 0 else -1
        key = (row, at, scroll_x, width, self.app.theme, self.has_focus)
        if key not in self._strips:
            if len(self._strips) > 500:
                self._strips.clear()
            label, cells = self._line(row, at)
            shown = Strip(cells).crop(scroll_x, scroll_x + width - LABEL)
            self._strips[key] = Strip([label, *shown]).adjust_cell_length(width, self.rich_style)
        return self._strips[key]

    def _line(self, row: int, at: int) -> tuple[Segment, list[Segment]]:
        plain, colours = self.rich_style, self.app.theme_variables
        dim = plain + Style(color=colours["secondary"])
        if row == -2:
            kind = "% of row" if self.percent else "images"
            words = "predicted class →"
            return Segment(fit(kind, LABEL), dim), [Segment(words, dim)]
        w = self.cell_width
        bold = plain + Style(bold=True)
        if row == -1:
            heads = [
                Segment(
                    set_cell_size(name, w - 1).rstrip().rjust(w),
                    bold if i == self.cursor[1] else dim,
                )
                for i, name in enumerate(self._names)
            ]
            return Segment(fit("actual ↓", LABEL), dim), heads
        label = Segment(fit(self._names[row], LABEL), bold if at >= 0 else dim)
        columns = range(len(self._matrix))
        return label, [self._cell(row, column, column == at, plain) for column in columns]

    def _cell(self, row: int, column: int, here: bool, plain: Style) -> Segment:
        count, share = int(self._matrix[row, column]), float(self._shares[row, column])
        words = figure(share, 0) if self.percent else str(count)
        words = (words if count else "·").rjust(self.cell_width)
        colours = self.app.theme_variables
        if here:
            background = (
                "block-cursor-background" if self.has_focus else "block-cursor-blurred-background"
            )
            style = Style(
                color=colours["block-cursor-foreground"] if self.has_focus else None,
                bgcolor=colours[background],
                bold=True,
            )
            return Segment(words, plain + style)
        return Segment(words, plain + self._shade(row == column, share))

    def _shade(self, diagonal: bool, share: float) -> Style:
        colours = self.app.theme_variables
        if not share:
            return Style(color=colours["panel"] if not diagonal else colours["secondary"])
        base = Color.parse(colours["background"])
        goal = Color.parse(colours["success" if diagonal else "error"])
        # the root: a confusion of 3 % must be seen beside a diagonal of 90 %
        strength = 0.55 * share**0.5 if diagonal else min(0.85, 1.9 * share**0.5)
        return shade(base, goal, round(strength * 12))

    # ---- keys -------------------------------------------------------------------------------

    def action_step(self, rows: int, columns: int) -> None:
        """Move the cursor, and what is seen with it."""
        last = len(self._matrix) - 1
        if last < 0:
            return
        row = max(0, min(self.cursor[0] + rows, last))
        column = max(0, min(self.cursor[1] + columns, last))
        if (row, column) != self.cursor:
            self.cursor = (row, column)
            self._follow()
            self.refresh()
            self.post_message(self.Moved())

    def _follow(self) -> None:
        """Scroll so that the cursor is seen beside the labels."""
        w, (row, column) = self.cell_width, self.cursor
        seen = self.scrollable_content_region  # without the scrollbars
        room_x, room_y = seen.width - LABEL, seen.height - HEAD
        x, y = int(self.scroll_offset.x), int(self.scroll_offset.y)
        x = min(max(x, (column + 1) * w - room_x), column * w)
        y = min(max(y, row + 1 - room_y), row)
        self.scroll_to(max(0, x), max(0, y), animate=False)

    def action_choose(self) -> None:
        """The images of this cell."""
        if self._matrix.size:
            self.post_message(self.Chosen(*self.cursor))

    def on_click(self, event: events.Click) -> None:
        """A click moves the cursor, a double click shows the images."""
        row = event.y - HEAD + int(self.scroll_offset.y)
        column = (event.x - LABEL + int(self.scroll_offset.x)) // self.cell_width
        if event.y >= HEAD and event.x >= LABEL and max(row, column) < len(self._matrix):
            self.action_step(row - self.cursor[0], column - self.cursor[1])
            if event.chain > 1:
                self.action_choose()

    def about_cell(self) -> str:
        """The cell under the cursor in words."""
        if not self._matrix.size:
            return ""
        row, column = self.cursor
        count, share = int(self._matrix[row, column]), float(self._shares[row, column])
        actual, predicted = self._names[row], self._names[column]
        of = f"{count} of {int(self._matrix[row].sum())} {actual}"
        words = "right" if row == column else f"taken for {predicted}"
        return f"{of} {words} ({formatting.percent(share, 1)})"
