"""The quick table draws what Textual's own does."""

from __future__ import annotations

import asyncio
from typing import Any

from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from rich.segment import Segment
from rich.style import Style
from rich.text import Text
from textual.app import App, ComposeResult
from textual.widgets import DataTable

from tui.widgets.fixed_table import FixedTable

WIDTHS = (1, 5, 12)
TEXTS = st.builds(
    lambda words, style, justify, spans: _spanned(
        Text(words, style=style, justify=justify, no_wrap=True, end=""), spans
    ),
    st.text(st.sampled_from("ab 世é█\n\t"), max_size=14),
    st.sampled_from(["", "red", "bold", "bold #00ff00"]),
    st.sampled_from([None, "left", "right", "center"]),
    st.lists(st.tuples(st.integers(0, 5), st.integers(0, 8)), max_size=2),
)


def _spanned(text: Text, spans: list[tuple[int, int]]) -> Text:
    for start, end in spans:
        text.stylize("italic blue", start, end)
    return text


class Tables(App[None]):
    def __init__(self, rows: list[tuple[Text, ...]]) -> None:
        super().__init__()
        self.rows = rows

    def compose(self) -> ComposeResult:
        yield FixedTable(cursor_type="row", zebra_stripes=True)

    def on_mount(self) -> None:
        table = self.query_one(FixedTable)
        for width in WIDTHS:
            table.add_column("title", width=width)
        for row in self.rows:
            table.add_row(*row)


def seen(line: list[Segment]) -> list[tuple[str, Style | None, dict[str, Any]]]:
    """A line cell by cell, blanks with their style too."""
    return [
        (character, segment.style, segment.style.meta if segment.style else {})
        for segment in line
        for character in segment.text
    ]


@settings(deadline=None, max_examples=25, phases=[Phase.explicit, Phase.reuse, Phase.generate])
@given(st.lists(st.tuples(TEXTS, TEXTS, TEXTS), min_size=1, max_size=4))
def test_cells_are_drawn_as_textual_draws_them(rows: list[tuple[Text, ...]]) -> None:
    async def look() -> None:
        app = Tables(rows)
        async with app.run_test(size=(60, 30)):
            table = app.query_one(FixedTable)
            for y in range(-1, len(rows)):
                for x, width in enumerate(WIDTHS):
                    for cursor in (False, True):
                        at = (y, x, table.rich_style, width + 2, cursor)
                        mine = table._render_cell(*at)
                        theirs = DataTable._render_cell(table, *at)
                        assert [seen(line) for line in mine] == [seen(line) for line in theirs]
            assert table.virtual_size.height == len(rows) + 1

    asyncio.run(look())
