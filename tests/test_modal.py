"""Dialogs close themselves, once, whatever comes at the same time or lies above."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

import pytest

from tests.tui_helpers import held, make_app, make_run, told, until
from tui import datasource
from tui.datasource import DataStatus
from tui.screens.dialogs import Choice, DataSource, Help, Quit
from tui.screens.download import Download, Line
from tui.screens.new_run import NewRun
from tui.screens.runs import RunsScreen
from tui.screens.too_small import TooSmall

SMALL = (80, 24)

pytestmark = pytest.mark.usefixtures("runs_may_start")


def waits_for(file: Path) -> tuple[str, ...]:
    """A download that is done when a file is there."""
    child = f"import os, time\nwhile not os.path.exists({str(file)!r}): time.sleep(0.01)"
    return sys.executable, "-c", child


def dialog() -> Choice:
    return Choice("Stop?", "", [("x", "stop", "Stop"), ("c", "cancel", "Cancel")])


async def test_two_answers_at_once_are_one(tmp_path: Path) -> None:
    app = make_app(tmp_path / "runs")
    async with app.run_test(size=SMALL) as pilot:
        answers: list[str | None] = []
        shown = dialog()
        await app.push_screen(shown, answers.append)
        shown.answered("stop")
        shown.answered("cancel")
        shown.action_cancel()
        await pilot.pause()
        assert answers == ["stop"]
        assert isinstance(app.screen, RunsScreen), "not closed with its dialog"
        await app.push_screen(Help(()))
        top = app.screen
        await asyncio.gather(top.run_action("dismiss"), top.run_action("dismiss"))
        await pilot.pause()
        assert isinstance(app.screen, RunsScreen)


async def test_what_ends_under_another_dialog_closes_after_it(tmp_path: Path) -> None:
    app = make_app(tmp_path / "runs")
    async with app.run_test(size=SMALL) as pilot:
        answers: list[str | None] = []
        shown = dialog()
        await app.push_screen(shown, answers.append)
        await app.push_screen(Help(()))
        shown.answered("stop")
        await pilot.pause()
        assert isinstance(app.screen, Help)
        assert answers == []
        await pilot.press("escape")
        await until(pilot, lambda: isinstance(app.screen, RunsScreen))
        assert answers == ["stop"]


async def test_a_download_that_ends_in_a_terminal_that_is_too_small(tmp_path: Path) -> None:
    app = make_app(tmp_path / "runs", download_command=waits_for(tmp_path / "go"))
    async with app.run_test(size=SMALL) as pilot:
        await pilot.press("D")
        shown = app.screen
        assert isinstance(shown, Download)
        await until(pilot, lambda: shown._process is not None)
        await pilot.resize_terminal(50, 10)
        await until(pilot, lambda: isinstance(app.screen, TooSmall))
        (tmp_path / "go").touch()
        await until(pilot, lambda: shown._answer is not None)
        assert isinstance(app.screen, TooSmall)
        await pilot.resize_terminal(*SMALL)
        await until(pilot, lambda: isinstance(app.screen, RunsScreen))
        await until(pilot, lambda: "CIFAR-10 is there" in told(app))


async def test_a_download_that_ends_under_the_question_whether_to_quit(tmp_path: Path) -> None:
    app = make_app(tmp_path / "runs", download_command=waits_for(tmp_path / "go"))
    async with app.run_test(size=SMALL) as pilot:
        await pilot.press("s")
        await until(pilot, lambda: [f.status for f in app.store] == ["training"])
        await pilot.press("D")
        shown = app.screen
        assert isinstance(shown, Download)
        await until(pilot, lambda: shown._process is not None)
        await pilot.press("ctrl+c")
        await until(pilot, lambda: isinstance(app.screen, Quit))
        (tmp_path / "go").touch()
        await until(pilot, lambda: shown._answer is not None)
        assert isinstance(app.screen, Quit)
        await pilot.press("c")
        await until(pilot, lambda: isinstance(app.screen, RunsScreen))
        await pilot.press("q")
        await until(pilot, lambda: isinstance(app.screen, Quit))
        await pilot.press("s")
        await until(pilot, lambda: not app.is_running)


async def test_a_dialog_over_the_word_that_it_is_too_small(tmp_path: Path) -> None:
    run = make_run(tmp_path / "runs", end=None, done=1)
    app = make_app(tmp_path / "runs")
    with held(run):
        async with app.run_test(size=SMALL) as pilot:
            await pilot.resize_terminal(50, 10)
            await until(pilot, lambda: isinstance(app.screen, TooSmall))
            shown = dialog()
            await app.push_screen(shown)
            await pilot.resize_terminal(*SMALL)
            await pilot.pause()
            assert app.screen is shown, "not closed in the place of what lies under it"
            await pilot.press("escape")
            await until(pilot, lambda: isinstance(app.screen, RunsScreen))


async def test_what_arrives_after_the_answer_does_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    app = make_app(tmp_path / "runs", download_command=waits_for(tmp_path / "never"))
    async with app.run_test(size=SMALL) as pilot:
        await pilot.press("F")
        source = app.screen
        assert isinstance(source, DataSource)
        await pilot.press("escape", "D")
        download = app.screen
        assert isinstance(download, Download)
        await pilot.press("escape", "n")
        form = app.screen
        assert isinstance(form, NewRun)
        await until(pilot, lambda: form._config is not None)
        config = form._config
        assert config is not None
        await pilot.press("escape")
        for closed in (source, download, form):
            await until(pilot, lambda closed=closed: not closed.query("*"))  # type: ignore[misc]
        missing = DataStatus(ready=False, line="not there")
        monkeypatch.setattr(datasource, "look", lambda source: missing)
        await source._take("/nowhere")
        download._heard(Line(downloaded=1, total=2))
        form._check()
        await form._start(config)
        assert isinstance(app.screen, RunsScreen)
