"""A data table of columns with widths and rows of one line: quick to fill and to draw."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from itertools import accumulate
from typing import Self

from rich.segment import Segment
from rich.style import Style
from rich.text import Text
from textual.geometry import Region
from textual.widgets import DataTable
from textual.widgets.data_table import RowKey

Line = list[Segment]
JUSTIFIED = ("left", "right")
APART = 20
"""Cells between two that have changed, from which on they are painted as two pieces."""


class FixedTable(DataTable[Text]):
    """Cells are lines of text. What it draws is what Textual's table draws, to the last cell."""

    _setting = False

    def set_cells(self, row: RowKey | str, line: int | None, cells: Mapping[int, Text]) -> None:
        """Change cells of a row: those that say something else are painted again, nothing else.

        Args:
            row: its key.
            line: which one it is from the top; ``None``: it is not in view.
            cells: by the number of their column, from the left.
        """
        columns, before = self.ordered_columns, self.get_row(row)
        changed = [
            at
            for at, cell in sorted(cells.items())
            if (cell.plain, cell.style) != (before[at].plain, before[at].style)
        ]
        self._setting = True
        try:
            for at in changed:
                self.update_cell(row, columns[at].key, cells[at])
        finally:
            self._setting = False
        if line is None or not changed or not 0 <= line - self.scroll_offset.y < self.size.height:
            return
        ends = list(accumulate(column.get_render_width(self) for column in columns))
        spans: list[tuple[int, int]] = []
        for start, end in ((ends[at - 1] if at else 0, ends[at]) for at in changed):
            if spans and start - spans[-1][1] < APART:
                spans[-1] = (spans[-1][0], end)
            else:
                spans.append((start, end))
        x, y = self.scroll_offset
        y = line - y + self.header_height
        self.refresh(*(Region(start - x, y, end - start, 1) for start, end in spans))

    def refresh(
        self,
        *regions: Region,
        repaint: bool = True,
        layout: bool = False,
        recompose: bool = False,
    ) -> Self:
        """Repaint; while cells are set they say themselves where."""
        if self._setting and not regions:
            return self
        return super().refresh(*regions, repaint=repaint, layout=layout, recompose=recompose)

    def _update_dimensions(self, new_rows: Iterable[RowKey]) -> None:
        # Textual measures every cell of new rows, for columns as wide as what is in them
        super()._update_dimensions(())

    def _render_cell(
        self,
        row_index: int,
        column_index: int,
        base_style: Style,
        width: int,
        cursor: bool = False,
        hover: bool = False,
    ) -> list[Line]:
        """Draw a cell: Textual wraps, pads and styles it as if it were a paragraph, which takes
        four times as long, and a page of a list has six hundred of them."""
        if row_index >= 0 and column_index >= 0 and not self.fixed_rows and not self.fixed_columns:
            cell = self._get_row_renderables(row_index).cells[column_index]
            room = width - 2 * self.cell_padding
            if type(cell) is Text and _is_line(cell, room):
                meta = Style.from_meta({"row": row_index, "column": column_index})
                component, post = self._get_styles_to_render_cell(
                    False,
                    False,
                    False,
                    hover,
                    cursor,
                    self.show_cursor,
                    self._show_hover_cursor,
                    self.cursor_foreground_priority == "css",
                    self.cursor_background_priority == "css",
                )
                return [self._line(cell, room, base_style + meta + component, post)]
        return super()._render_cell(row_index, column_index, base_style, width, cursor, hover)

    def _line(self, cell: Text, room: int, style: Style, post: Style) -> Line:
        """The cell in its style on the table's, which stands in for what it leaves open."""
        console = self.app.console
        own = style + console.get_style(cell.style, default=Style.null()) + post
        around = style + post
        # what Rich fills up to the width of a paragraph has the text's style
        gap = Segment(" " * (room - cell.cell_len), own if cell.justify in JUSTIFIED else around)
        if cell.spans:
            segments = [
                Segment(piece.text, style + piece.style + post if piece.style else around)
                for piece in cell.render(console, end="")
            ]
        else:
            segments = [Segment(cell.plain, own)]
        edge = Segment(" " * self.cell_padding, around)
        if cell.justify == "right":
            return [edge, gap, *segments, edge]
        return [edge, *segments, gap, edge]


def _is_line(cell: Text, room: int) -> bool:
    """Whether it fits into one line as it is, to the left or to the right."""
    plain = cell.plain
    return (
        cell.justify in (None, "default", *JUSTIFIED)
        and cell.cell_len <= room
        and not plain.endswith(" ")
        and plain.isprintable()
    )
