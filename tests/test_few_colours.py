"""Terminals of sixteen colours and of none: what is chosen is reversed, curves end in glyphs."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from rich.console import Console
from rich.segment import Segment
from rich.style import Style
from textual.color import Color
from textual.pilot import Pilot
from textual.widgets import Input, OptionList

from tests.dashboard_helpers import LARGE, SMALL, chart
from tests.import_helpers import ROOT
from tests.terminal import Terminal
from tests.tui_helpers import make_app, make_run, until
from tui import themes
from tui.app import CifarApp
from tui.terminal import few_colours
from tui.terminal.settings import TerminalSettings, detect
from tui.widgets.run_table import RunTable

FEW = TerminalSettings(few_colours=True)
MANY = TerminalSettings()

pytestmark = pytest.mark.usefixtures("data_is_there")


def few(runs_dir: Path) -> CifarApp:
    app = make_app(runs_dir, terminal=FEW)
    few_colours.install(app)
    return app


def reversed_lines(app: CifarApp) -> list[str]:
    """What is in reverse, as it is sent."""
    return [
        "".join(piece.text for piece in line if piece.style and piece.style.reverse)
        for line in app.screen._compositor.render_strips()
    ]


async def runs_shown(pilot: Pilot[None], app: CifarApp, count: int) -> None:
    await until(pilot, lambda: len(app.store) == count and not app.store.loading)
    await pilot.pause()


@pytest.mark.parametrize(
    "environment",
    [
        {},
        {"TERM": "linux"},
        {"TERM": "vt100"},
        {"TERM": "xterm"},
        {"TERM": "xterm-mono"},
        {"TERM": "xterm-16color"},
        {"TERM": "xterm-256color"},
        {"TERM": "tmux-256color"},
        {"TERM": "xterm-kitty"},
        {"TERM": "linux", "COLORTERM": "truecolor"},
        {"TERM": "alacritty", "COLORTERM": "24bit"},
    ],
)
def test_colours_are_counted_as_the_writer_counts_them(environment: dict[str, str]) -> None:
    written = Console(force_terminal=True, legacy_windows=False, _environ=environment).color_system
    assert detect(environment).few_colours is (written not in ("256", "truecolor"))


@pytest.mark.parametrize("theme", themes.THEMES, ids=lambda theme: theme.name)
@pytest.mark.parametrize("colourless", [False, True])
async def test_cursors_are_reversed_where_there_are_few_colours(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, theme: themes.Theme, *, colourless: bool
) -> None:
    if colourless:
        monkeypatch.setenv("NO_COLOR", "1")
    for seed in (1, 2):
        make_run(tmp_path / "runs", name=f"run {seed}", seed=seed, created=seed)
    app = few(tmp_path / "runs")
    async with app.run_test(size=SMALL) as pilot:
        await runs_shown(pilot, app, 2)
        app.set_theme(theme.name)
        await pilot.pause()
        seen = reversed_lines(app)
        assert seen[0].strip() == "1 Runs"
        assert ["run 2" in line for line in seen if "run" in line.lower()] == [False, True]
        await pilot.press("down")
        await pilot.pause()
        assert "run 1" in "\n".join(reversed_lines(app))
        assert "run 2" not in "\n".join(reversed_lines(app))
        await pilot.press("slash", "r")
        await pilot.pause()
        assert isinstance(app.focused, Input)
        assert "run" in "\n".join(reversed_lines(app)[3:]), "the cursor without the focus"
        await pilot.press("escape", "d")
        await pilot.pause()
        assert isinstance(app.focused, OptionList)
        assert any("Move it" in line for line in reversed_lines(app))
        await pilot.press("down")
        await pilot.pause()
        assert any("Cancel" in line for line in reversed_lines(app))
        assert not any("Move it" in line for line in reversed_lines(app))


async def test_a_field_shows_its_text_cursor_and_a_choice_is_reversed(tmp_path: Path) -> None:
    app = few(tmp_path / "runs")
    async with app.run_test(size=SMALL) as pilot:
        await runs_shown(pilot, app, 0)
        await pilot.press("n")
        await pilot.pause()
        await until(pilot, lambda: any("quick" in line for line in reversed_lines(app)))
        await pilot.press("tab")
        await pilot.pause()
        assert isinstance(app.focused, Input)
        field = app.focused
        field.cursor_blink = False
        line = reversed_lines(app)[field.region.y]
        assert line == f"{field.value} ", "what is selected, and the text cursor"
        await pilot.press("x")
        await pilot.pause()
        assert reversed_lines(app)[field.region.y] == " "


async def test_elsewhere_nothing_is_reversed(tmp_path: Path) -> None:
    make_run(tmp_path / "runs")
    app = make_app(tmp_path / "runs", terminal=MANY)
    async with app.run_test(size=SMALL) as pilot:
        await runs_shown(pilot, app, 1)
        assert not "".join(reversed_lines(app))
        assert app.screen.query_one(RunTable).has_focus


def test_a_button_of_the_tabs_colour_is_left_alone(tmp_path: Path) -> None:
    app = few(tmp_path / "runs")
    filters = [one for one in app._filters if isinstance(one, few_colours.Reversed)]
    button = Style(color="#ffffff", bgcolor=themes.DARK.primary)
    line = [Segment("Start", button), Segment("plain"), Segment("none", Style(bold=True))]
    ground = Color.parse("#000000")
    assert [one.apply(line, ground) for one in filters] == [line]


@pytest.mark.parametrize(
    ("term", "options"), [("linux", ()), ("vt100", ()), ("vt100", ("--low-bandwidth",))]
)
def test_the_cursor_is_seen_on_a_real_terminal_of_few_colours(
    tmp_path: Path, term: str, options: tuple[str, ...]
) -> None:
    """By attributes alone: a monochrome terminal drops all colours."""
    for seed in (1, 2):
        make_run(tmp_path / "runs", name=f"run {seed}", seed=seed, created=seed)
    command = [sys.executable, "-m", "tui", "--runs-dir", str(tmp_path / "runs")]
    environment = {"PYTHONPATH": str(ROOT), "HOME": str(tmp_path), "TERM": term, "COLORTERM": ""}
    command += ["--data", "synthetic", *options]
    terminal = Terminal(command, environment, columns=80, lines=24)

    def chosen() -> list[str]:
        screen = terminal.screen
        return [
            line.split("  ")[2].strip()
            for y, line in enumerate(screen.display)
            if "run " in line and screen.buffer[y][10].reverse
        ]

    try:
        terminal.wait("the runs", lambda: chosen() == ["run 2"], 60)
        terminal.press("\x1b[B")
        terminal.wait("the next one", lambda: chosen() == ["run 1"], 60)
        assert b"8;5;" not in terminal.raw, "it would blink"
    finally:
        terminal.kill()


@pytest.mark.parametrize("few", [True, False])
@pytest.mark.parametrize("colourless", [True, False])
async def test_curves_end_in_their_runs_glyphs_where_colours_do_not_tell_them_apart(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, few: bool, colourless: bool
) -> None:
    if colourless:
        monkeypatch.setenv("NO_COLOR", "1")
    for n in range(4):
        make_run(tmp_path / "runs", best=0.6 + n / 10, epochs=6 + n, seed=n, created=n)
    app = make_app(tmp_path / "runs", terminal=FEW if few else MANY)
    async with app.run_test(size=LARGE) as pilot:
        await runs_shown(pilot, app, 4)
        for run in sorted(app.store.followers):
            app.store.toggle_mark(run)
        await pilot.press("5")
        shown = chart(app, "test-accuracy")
        await until(pilot, lambda: shown.plan)
        lines = [shown.render_line(y).text for y in range(shown.size.height)]
        ends = {mark: (x, y) for y, line in enumerate(lines) for x, mark in enumerate(line)}
        marks = [themes.run_glyph(slot) for slot in range(4)]
        if not (few or colourless):
            assert not set(marks) & set(ends)
            return
        places = [ends[mark] for mark in marks]
        assert places == sorted(places), "longer runs end more to the right"
        assert [y for _, y in places] == sorted((y for _, y in places), reverse=True)
