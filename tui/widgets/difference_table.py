"""The second model's confusion matrix minus the first's: more and fewer, by sign and by colour."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from rich.segment import Segment
from rich.style import Style
from textual.color import Color

from trainer.analysis.confusion import Matrix
from tui.widgets.confusion_table import LABEL, ConfusionTable, shade


class DifferenceTable(ConfusionTable):
    """Rows: actual class, columns: predicted class; to walk as the matrix of one model."""

    def fill(self, matrix: Matrix, classes: Sequence[str]) -> None:
        """Show another difference, int64 [C, C]."""
        super().fill(matrix, classes)
        largest = int(np.abs(matrix).max()) if matrix.size else 0
        # of the largest change, not of its row: rows of a difference add up to 0
        self._shares = matrix / max(1, largest)
        self._lay_out()

    def set_percent(self, percent: bool) -> None:
        """Differences are always counts."""

    @property
    def cell_width(self) -> int:
        """Cells of a column: a sign and digits."""
        largest = int(np.abs(self._matrix).max()) if self._matrix.size else 0
        wide = LABEL + 5 * len(self._matrix) <= self.size.width
        return max(5 if wide else 4, len(str(largest)) + 2)

    def _cell(self, row: int, column: int, here: bool, plain: Style) -> Segment:
        change, share = int(self._matrix[row, column]), float(self._shares[row, column])
        words = (f"{change:+d}" if change else "·").rjust(self.cell_width)
        if not here:
            return Segment(words, plain + self._shade(row == column, share))
        colours = self.app.theme_variables
        name = "block-cursor-background" if self.has_focus else "block-cursor-blurred-background"
        text = colours["block-cursor-foreground"] if self.has_focus else None
        return Segment(words, plain + Style(color=text, bgcolor=colours[name], bold=True))

    def _shade(self, diagonal: bool, share: float) -> Style:
        colours = self.app.theme_variables
        if not share:
            return Style(color=colours["secondary" if diagonal else "panel"])
        base = Color.parse(colours["background"])
        goal = Color.parse(colours["warning" if share > 0 else "primary"])
        style = shade(base, goal, round((0.12 + 0.73 * abs(share) ** 0.5) * 12))
        return style + Style(underline=True) if diagonal else style

    def about_cell(self) -> str:
        """The cell under the cursor in words."""
        if not self._matrix.size:
            return ""
        row, column = self.cursor
        change = int(self._matrix[row, column])
        actual, predicted = self._names[row], self._names[column]
        what = f"{actual} right" if row == column else f"{actual} taken for {predicted}"
        if not change:
            return f"{what}: as many in both"
        return f"{what}: {abs(change):,} {'more' if change > 0 else 'fewer'} in the second"
