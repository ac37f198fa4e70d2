"""A data table whose columns have widths and whose rows are one line high: nothing is measured."""

from __future__ import annotations

from collections.abc import Iterable

from rich.text import Text
from textual.widgets import DataTable
from textual.widgets.data_table import RowKey


class FixedTable(DataTable[Text]):
    """Textual measures every cell of new rows, for columns that are as wide as what is in them."""

    def _update_dimensions(self, new_rows: Iterable[RowKey]) -> None:
        super()._update_dimensions(())
