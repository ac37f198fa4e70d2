"""Keys that come in one read: each means what it would mean if it came alone."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from textual import events
from textual.command import CommandList
from textual.widgets import Input

from tests.tui_helpers import give_checkpoint, make_app, make_run, until
from tui.app import CifarApp
from tui.screens.mistakes import MistakesScreen
from tui.screens.palette import Palette
from tui.screens.runs import RunsScreen

SMALL = (80, 24)

pytestmark = pytest.mark.usefixtures("data_is_there")


def burst(app: CifarApp, *keys: str) -> None:
    """Keys as one read of the terminal gives them: all before the first one is answered."""
    names = {"/": "slash"}
    for key in keys:
        app.post_message(events.Key(names.get(key, key), key if len(key) == 1 else None))


@pytest.mark.parametrize("key", ["n", "P", "d", "ctrl+p", "s", "S", "r", "4"])
async def test_keys_after_quit_are_for_nobody(tmp_path: Path, key: str) -> None:
    run = make_run(tmp_path / "runs", end="stopped", done=2)
    before = run.log.read_bytes()
    app = make_app(tmp_path / "runs")
    async with app.run_test(size=SMALL) as pilot:
        await until(pilot, lambda: len(app.store) == 1)
        burst(app, "q", key)
        await until(pilot, lambda: app._closed)
    assert app.return_code == 0
    assert [folder.name for folder in (tmp_path / "runs").iterdir() if folder.is_dir()] == [run.id]
    assert run.log.read_bytes() == before


async def test_keys_while_the_screens_are_closed_are_for_nobody(tmp_path: Path) -> None:
    app = make_app(tmp_path / "runs")
    async with app.run_test(size=SMALL):
        pass
    assert not app.screen_stack
    await app.on_event(events.Key("n", "n"))  # read before, answered now


async def test_a_run_that_is_being_made_when_the_app_is_left_ends_nothing(tmp_path: Path) -> None:
    app = make_app(tmp_path / "runs")
    give_checkpoint(make_run(tmp_path / "runs", end="stopped", done=2))
    async with app.run_test(size=SMALL) as pilot:
        await until(pilot, lambda: len(app.store) == 1)
        await until(pilot, lambda: app.runs.resumable())
        chosen = app.runs.chosen
    await app.action_start_synthetic()
    assert chosen is not None
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(type(app.runs), "chosen", chosen)
        await app.runs.resume()
    assert len([f for f in (tmp_path / "runs").iterdir() if f.is_dir()]) == 2


@pytest.mark.parametrize("page", ["pageup", "pagedown"])
@pytest.mark.parametrize("turns", range(0, 30, 4))
async def test_a_page_of_the_palette_before_it_is_laid_out(
    tmp_path: Path, page: str, turns: int
) -> None:
    app = make_app(tmp_path / "runs")
    async with app.run_test(size=SMALL) as pilot:
        burst(app, "ctrl+p", "down")
        for _ in range(turns):
            await asyncio.sleep(0)
        burst(app, page)
        await until(pilot, lambda: isinstance(app.screen, Palette))
        await pilot.pause()
        listed = app.screen.query_one(CommandList)
        await until(pilot, lambda: listed.highlighted is not None)
        await pilot.press("end", page)
        assert app.is_running


@pytest.mark.parametrize("line", ["state", "dd", "S", "q"])
async def test_what_is_typed_with_the_slash_is_in_the_filter(tmp_path: Path, line: str) -> None:
    make_run(tmp_path / "runs", end="stopped", done=2)
    app = make_app(tmp_path / "runs")
    async with app.run_test(size=SMALL) as pilot:
        await until(pilot, lambda: len(app.store) == 1)
        burst(app, "/", *line)
        field = app.screen.query_one("#filter", Input)
        await until(pilot, lambda: field.value == line)
        await pilot.pause()
        assert isinstance(app.screen, RunsScreen)
        assert field.has_focus
        await pilot.press("x", "escape")
        assert field.value == ""
        assert len(app.store) == 1


@pytest.mark.parametrize("turns", range(4))
async def test_keys_of_the_next_read_do_not_overtake_those_of_the_one_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, turns: int
) -> None:
    """They come when the field is open, while one before them is on its way to it."""
    make_run(tmp_path / "runs", end="stopped", done=2)
    app = make_app(tmp_path / "runs")
    opens = RunsScreen.action_filter
    typed = "/"

    def opens_late(screen: RunsScreen) -> None:
        nonlocal typed
        opens(screen)
        burst(app, *"/state".removeprefix(typed))
        typed = "/state"

    monkeypatch.setattr(RunsScreen, "action_filter", opens_late)
    async with app.run_test(size=SMALL) as pilot:
        await until(pilot, lambda: len(app.store) == 1)
        burst(app, "/")
        for _ in range(turns):
            await asyncio.sleep(0)
        if typed == "/":
            typed = "/s"
            burst(app, "s")
        field = app.screen.query_one("#filter", Input)
        await until(pilot, lambda: len(field.value) == len("state"))
        assert field.value == "state"
        assert isinstance(app.screen, RunsScreen)


async def test_a_paste_with_the_slash_is_in_the_filter_between_the_keys(tmp_path: Path) -> None:
    make_run(tmp_path / "runs", end="stopped", done=2)
    app = make_app(tmp_path / "runs")
    async with app.run_test(size=SMALL) as pilot:
        await until(pilot, lambda: len(app.store) == 1)
        field = app.screen.query_one("#filter", Input)
        for _ in range(5):
            burst(app, "/", "s")
            app.post_message(events.Paste("toppe"))
            burst(app, "d")
            await until(pilot, lambda: len(field.value) == len("stopped"))
            assert field.value == "stopped"
            await pilot.press("escape")
        app.post_message(events.Paste("x"))  # to the list, which has no use for it
        await pilot.press("slash")
        await pilot.pause()
        assert field.value == ""


async def test_a_filter_that_is_typed_and_taken_in_one_read(tmp_path: Path) -> None:
    make_run(tmp_path / "runs", end="stopped", done=2)
    app = make_app(tmp_path / "runs")
    async with app.run_test(size=SMALL) as pilot:
        await until(pilot, lambda: len(app.store) == 1)
        burst(app, "/", *"stopped", "enter")
        field = app.screen.query_one("#filter", Input)
        await until(pilot, lambda: not field.has_focus and field.value)
        assert field.value == "stopped"
        assert isinstance(app.screen, RunsScreen)


async def test_what_is_typed_with_the_slash_is_in_the_filter_of_mistakes(tmp_path: Path) -> None:
    make_run(tmp_path / "runs", with_predictions=True)
    app = make_app(tmp_path / "runs")
    async with app.run_test(size=SMALL) as pilot:
        await until(pilot, lambda: len(app.store) == 1)
        await pilot.press("4")
        screen = app.screen
        assert isinstance(screen, MistakesScreen)
        await until(pilot, lambda: screen.loader.evaluation is not None)
        burst(app, "/", *"dog")
        field = screen.query_one("#filter", Input)
        await until(pilot, lambda: field.value == "dog")
        assert app.screen is screen
