"""What is sent to the terminal: only cells that changed."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from rich.console import Console
from rich.segment import Segment
from rich.style import Style
from textual.geometry import Region
from textual.strip import Strip
from textual.widget import Widget

from tests.tui_helpers import held, make_app, make_run, until
from tui.screens.dashboard import DashboardScreen
from tui.terminal import exact
from tui.terminal.exact import ExactUpdate
from tui.widgets.lines import NEAR, Lines, changed

RED = Style(color="red")


def strip(*parts: str) -> Strip:
    return Strip([Segment(part) for part in parts])


def test_equal_lines_have_no_changes() -> None:
    assert changed(strip("abc", "def"), strip("abcdef")) == []


def test_spans_of_changed_cells() -> None:
    gap = "." * NEAR
    assert changed(strip("abc"), strip("axc")) == [(1, 2)]
    assert changed(strip("abcd"), strip("xbcx")) == [(0, 4)], "near ones are one span"
    assert changed(strip(f"a{gap}.b"), strip(f"x{gap}.y")) == [(0, 1), (NEAR + 2, NEAR + 3)]
    assert changed(strip("ab"), strip("abcd")) == [(2, 4)]
    assert changed(strip("abcd"), strip("ab")) == [(2, 4)]
    assert changed(strip("ab"), Strip([Segment("a"), Segment("b", RED)])) == [(1, 2)]


def test_wide_characters_take_two_cells() -> None:
    assert changed(strip("日本x"), strip("日本y")) == [(4, 5)]
    assert changed(strip("日本"), strip("日木")) == [(2, 4)]
    assert changed(strip("日本", "x"), strip("日本", "y")) == [(4, 5)]


@pytest.mark.parametrize("spans", [[(0, 2, 8)], [(0, 0, 10)], [(0, 7, 9), (1, 1, 2)]])
def test_an_update_writes_the_changed_cells_alone(spans: list[tuple[int, int, int]]) -> None:
    lines = ["abcdefghij", "klmnopqrst"]
    chops = [{0: strip(line[:3], line[3:6]), 6: strip(line[6:])} for line in lines]
    update = ExactUpdate(chops, spans, [[6, 10], [6, 10]])
    written = update.render_segments(Console(color_system=None, width=10))
    cells = {}
    for row, column, text in re.findall(r"\x1b\[(\d+);(\d+)H([a-z]*)", written):
        for i, character in enumerate(text):
            cells[int(row) - 1, int(column) - 1 + i] = character
    expected = {(y, x): lines[y][x] for y, first, last in spans for x in range(first, last)}
    assert cells == expected


def test_hidden_parts_are_left_out() -> None:
    update = ExactUpdate([{0: None, 6: strip("ghij")}], [(0, 0, 10)], [[6, 10]])
    written = update.render_segments(Console(color_system=None, width=10))
    assert "ghij" in written
    assert ";1H" not in written


def test_exact_updates_are_installed_in_this_textual() -> None:
    class Unknown:
        _compositor = None

    assert exact.install(DashboardScreen()) is False  # its own constructor has done it
    assert isinstance(DashboardScreen()._compositor, exact.ExactCompositor)
    assert exact.install(Unknown()) is False


@pytest.mark.parametrize("screen", ["dashboard", "compare"])
@pytest.mark.parametrize("colours", [True, False])
async def test_plain_lines_are_as_textual_would_paint_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, screen: str, *, colours: bool
) -> None:
    """A padding or a border in a style sheet would be left out."""
    if not colours:
        monkeypatch.setenv("NO_COLOR", "1")
    run = make_run(tmp_path / "runs", end=None, done=2)
    app = make_app(tmp_path / "runs")
    with held(run):
        async with app.run_test(size=(160, 50)) as pilot:
            await until(pilot, lambda: app.store.active())
            app.store.toggle_mark(run.id)
            app.action_show(screen)
            await until(pilot, lambda: any(lines.PLAIN for lines in app.screen.query(Lines)))
            await pilot.pause()
            plain = [lines for lines in app.screen.query(Lines) if lines.PLAIN and lines.size]
            assert plain
            for lines in plain:
                width, height = lines.outer_size
                assert lines.outer_size == lines.content_size
                for part in (Region(0, 0, width, height), Region(7, 0, width // 2, height)):
                    assert lines.render_lines(part) == Widget.render_lines(lines, part)
