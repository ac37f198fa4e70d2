"""What the first paint waits for, and what is made ready after it."""

from __future__ import annotations

import gc
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from rich.text import Text
from textual.widgets import Static

from tests.import_helpers import modules_after
from tests.tui_helpers import make_app, make_run, until
from tui import collector
from tui.widgets.lines import to_strip
from tui.widgets.run_table import RunTable

LATER = {
    "numpy",
    "trainer.config",
    "tomllib",
    "plotext",
    "psutil",
    "typer",
    "tui.screens.dashboard",
}
LATER |= {"tui.charts.figure", "tui.charts.curves", "tui.screens.charts", "hashlib"}


def test_the_first_paint_waits_for_no_module_that_it_does_not_need() -> None:
    loaded = modules_after("import textual.app, tui.__main__, tui.app, tui.screens.runs")
    own = modules_after("import textual.app")
    assert "tui.screens.runs" in loaded
    assert not (loaded - own) & LATER


@pytest.fixture
def own_collector() -> Iterator[None]:
    threshold = gc.get_threshold()
    yield
    collector._begun = False
    gc.unfreeze()
    gc.set_threshold(*threshold)
    gc.enable()


def test_nothing_is_collected_until_the_first_paint(own_collector: None) -> None:
    collector.settle()
    assert gc.get_freeze_count() == 0  # only the program itself tunes its collector
    collector.begin()
    assert not gc.isenabled()
    collector.settle()
    assert gc.isenabled()
    assert gc.get_freeze_count() > 1000
    assert gc.get_threshold()[0] == collector.YOUNG


def test_the_program_tunes_its_collector() -> None:
    script = "import gc, sys; from tui.__main__ import main; sys.argv = ['x']\n"
    script += "try: main()\nexcept SystemExit: print(gc.isenabled())"
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=300, check=True
    )
    assert "needs a terminal" in done.stderr
    assert done.stdout.split() == ["True"]  # nothing was begun: there is no app


async def test_that_there_are_no_runs_is_said_only_after_a_look(tmp_path: Path) -> None:
    app = make_app(tmp_path)
    app.store._scan = lambda changes: None  # type: ignore[method-assign]
    make_run(tmp_path)
    async with app.run_test(size=(120, 40)):
        runs = app.screen_stack[1]
        app.store.listed = False
        runs.show(_nothing())  # type: ignore[attr-defined]
        assert not runs.query_one("#welcome", Static).display
        app.store.listed = True
        runs.show(_nothing())  # type: ignore[attr-defined]
        assert runs.query_one("#welcome", Static).display


def _nothing() -> object:
    from tui.runs.store import Changes

    return Changes()


async def test_leaving_while_screens_are_made_is_no_failure(tmp_path: Path) -> None:
    for steps in range(4):
        app = make_app(tmp_path)
        async with app.run_test(size=(160, 50)) as pilot:
            app._prepare()
            for _ in range(steps):
                await pilot.pause(0)


async def test_all_screens_are_made_while_nobody_waits(tmp_path: Path) -> None:
    make_run(tmp_path)
    app = make_app(tmp_path)
    async with app.run_test(size=(160, 50)) as pilot:
        shown = app.screen
        await until(pilot, lambda: all(app.get_screen(name).is_running for name in app.SCREENS))
        assert app.screen is shown
        assert isinstance(app.focused, RunTable)
        sources = len(app.stylesheet.source)
        for key in "2345":
            await pilot.press(key)
        assert app.screen.TAB == "compare"  # type: ignore[attr-defined]
        assert len(app.stylesheet.source) == sources


@pytest.mark.parametrize("size", [(160, 50), (130, 40), (80, 24)])
async def test_screens_begin_with_the_classes_of_their_size(
    tmp_path: Path, size: tuple[int, int]
) -> None:
    app = make_app(tmp_path)
    async with app.run_test(size=size) as pilot:
        await pilot.press("5")
        begun = app._get_screen("layers")[0].classes
        sized = app.screen.classes
        names = {name for name in sized if name in SIZES}
        assert names == {name for name in begun if name in SIZES}
        assert len(names) == 2


SIZES = {"-narrow", "-normal", "-wide", "-huge", "-short", "-tall"}


def test_what_looks_alike_is_sent_as_one_piece() -> None:
    text = Text(end="")
    for word in ("one ", "two ", "three"):
        text.append(word, style="#dadada")
    assert len(list(to_strip(text))) == 1
    text.append("four", style="bold")
    assert [segment.text for segment in to_strip(text)] == ["one two three", "four"]
