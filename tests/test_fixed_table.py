"""The quick table draws what Textual's own does."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from rich.segment import Segment
from rich.style import Style
from rich.text import Text
from textual.app import App, ComposeResult
from textual.geometry import Region
from textual.strip import Strip
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


def screen(table: FixedTable) -> list[Strip]:
    return table.render_lines(table.size.region)


@pytest.fixture
def painted(monkeypatch: pytest.MonkeyPatch) -> list[Region]:
    """What tables are asked to paint, the empty region for all of it."""
    asked, found = DataTable.refresh, list[Region]()

    def refresh(table: FixedTable, *regions: Region, **options: Any) -> FixedTable:
        found.extend(regions or [Region()])
        asked(table, *regions, **options)
        return table

    monkeypatch.setattr(DataTable, "refresh", refresh)
    return found


async def test_cells_that_are_set_are_all_that_is_painted(painted: list[Region]) -> None:
    app = Tables([tuple(Text(f"{y}{x}") for x in range(3)) for y in range(40)])
    async with app.run_test(size=(60, 12)) as pilot:
        table = app.query_one(FixedTable)
        table.scroll_to(y=5, animate=False)
        await pilot.pause()
        before, keys = screen(table), list(table.rows)
        painted.clear()
        table.set_cells(keys[7], 7, {1: Text("new"), 2: Text("too")})
        table.set_cells(keys[30], 30, {2: Text("far")})
        table.set_cells(keys[0], None, {2: Text("above")})
        table.set_cells(keys[8], 8, {})
        # columns of 1, 5 and 12 cells, each with one on both sides; a line of titles
        assert painted == [Region(3, 1 + 7 - 5, 7 + 14, 1)]
        after = screen(table)
        differ = [y for y, (old, new) in enumerate(zip(before, after, strict=True)) if old != new]
        assert differ == [3]
        assert after[3].text[3:24] == " new    too          "
        for y, words in ((30, "far"), (0, "above")):
            table.scroll_to(y=y, animate=False)
            await pilot.pause()
            assert any(f" {words} " in strip.text for strip in screen(table))


async def test_cells_far_apart_are_two_pieces(painted: list[Region]) -> None:
    class Wide(App[None]):
        def compose(self) -> ComposeResult:
            yield FixedTable()

    app = Wide()
    async with app.run_test(size=(90, 12)) as pilot:
        table = app.query_one(FixedTable)
        for _ in range(5):
            table.add_column("title", width=12)
        table.add_row(*(Text("x") for _ in range(5)), key="row")
        await pilot.pause()
        painted.clear()
        table.set_cells("row", 0, {0: Text("a"), 4: Text("b")})
        assert painted == [Region(0, 1, 14, 1), Region(56, 1, 14, 1)]
