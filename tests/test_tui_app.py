"""The app through its keys, with a fake trainer: messages and state first."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from pathlib import Path

import pytest
from textual.events import MouseDown, MouseUp
from textual.geometry import Region
from textual.pilot import Pilot
from textual.widgets import Input, OptionList, Select, Static

from tests.tui_helpers import append, at_rest, held, keys, make_app, make_run, told, until
from trainer import events
from trainer.errors import RunError
from trainer.lifecycle.submit import read_config
from trainer.presets import catalog
from trainer.runs.follower import Follower
from trainer.runs.rundir import RunDir
from tui import datasource
from tui import form as form_of
from tui.app import CifarApp
from tui.datasource import DataStatus
from tui.runs import reader, store
from tui.runs.launcher import Launcher
from tui.screens.dashboard import DashboardScreen
from tui.screens.dialogs import Choice, DataSource, Help, Quit, Stop
from tui.screens.download import Download
from tui.screens.new_run import NewRun
from tui.screens.runs import RunsScreen
from tui.screens.too_small import TooSmall
from tui.widgets.header import HeaderLine
from tui.widgets.key_line import KeyLine
from tui.widgets.layer_table import LayerTable
from tui.widgets.run_header import RunHeader
from tui.widgets.run_table import COLUMNS, RunTable

LARGE = (160, 50)
SMALL = (80, 24)
READY = DataStatus(ready=True, line="CIFAR-10: 50,000 train and 10,000 test images")
MISSING = DataStatus(ready=False, line="CIFAR-10 is not on this machine")

pytestmark = pytest.mark.usefixtures("runs_may_start")


@pytest.fixture
def no_data(monkeypatch: pytest.MonkeyPatch, runs_may_start: None) -> None:
    monkeypatch.setattr(
        datasource, "look", lambda source: READY if source == "synthetic" else MISSING
    )


def table(app: CifarApp) -> RunTable:
    return app.screen_stack[1].query_one(RunTable)


def cells(app: CifarApp, run: str) -> dict[str, str]:
    shown = table(app)
    keys = [str(key.value) for key in shown.columns]
    return dict(zip(keys, (cell.plain for cell in shown.get_row(run)), strict=True))


def words(app: CifarApp, where: str) -> str:
    return str(app.screen_stack[1].query_one(where, Static).render())


def line(app: CifarApp, kind: type[HeaderLine] | type[KeyLine]) -> str:
    return app.screen_stack[1].query_one(kind).render().plain


def headline(app: CifarApp) -> str:
    return app.screen.query_one(RunHeader).render_line(0).text


def texts(app: CifarApp) -> str:
    """All of the screen's texts, those to scroll to as well."""
    found = []
    for static in app.screen.query(Static):
        lines = static.render_lines(Region(0, 0, *static.size))
        found += ["".join(segment.text for segment in line) for line in lines]
    return "\n".join(found)


# ---- the list ---------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [LARGE, (120, 40), SMALL])
async def test_runs_are_listed_newest_first(tmp_path: Path, size: tuple[int, int]) -> None:
    old = make_run(tmp_path / "runs", preset="quick", best=0.8, seed=1)
    new = make_run(
        tmp_path / "runs", preset="dws-late", data="cifar10", end="stopped", seed=2, created=600
    )
    app = make_app(tmp_path / "runs")
    async with app.run_test(size=size) as pilot:
        await until(pilot, lambda: table(app).order)
        assert table(app).order == (new.id, old.id)
        assert app.store.selected == new.id
        shown = cells(app, old.id)
        assert shown["state"] == "✓ completed"
        assert shown["data"] == "synthetic"
        assert shown["epochs"] == "5/5"
        assert shown["best"] == "80.00 %"
        assert cells(app, new.id)["data"] == "CIFAR-10"
        assert cells(app, new.id)["state"] == "■ stopped"
        if size == LARGE:
            assert shown["parameters"] == "98,442"
            assert list(shown) == [column.key for column in COLUMNS]
        assert shown["started"] == "2025-11-24"
        assert table(app).virtual_size.width <= size[0], "no sideways scrolling"


@pytest.mark.parametrize("size", [SMALL, (100, 30), (107, 30), (120, 30), (133, 30)])
async def test_the_columns_stay_when_a_scroll_bar_appears(
    tmp_path: Path, size: tuple[int, int]
) -> None:
    make_run(tmp_path / "runs", done=1, epochs=1)
    app = make_app(tmp_path / "runs")
    async with app.run_test(size=size) as pilot:
        await until(pilot, lambda: table(app).order)
        before = table(app)._layout
        for seed in range(1, 40):
            make_run(tmp_path / "runs", done=1, epochs=1, seed=seed, created=60.0 * seed)
        await until(pilot, lambda: table(app).show_vertical_scrollbar)
        await until(pilot, lambda: len(table(app).order) == 40 and not app.store.loading)
        app.repaint()
        await pilot.pause()
        assert table(app)._layout == before
        assert not table(app).show_horizontal_scrollbar
        head, row = (table(app).render_line(y).text for y in (0, 1))
        assert head.index("best test") + len("best test") == row.index(" %") + 2
        assert head.index("state") == row.index("✓")


async def test_what_the_trainer_found_counts_not_what_was_asked_for(tmp_path: Path) -> None:
    run = make_run(tmp_path / "runs", data="cifar10", data_kind="synthetic")
    app = make_app(tmp_path / "runs")
    async with app.run_test(size=SMALL) as pilot:
        await until(pilot, lambda: table(app).order)
        assert cells(app, run.id)["data"] == "synthetic"


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("[red]x[/]", "[red]x[/]"),
        ("../../x", "../../x"),
        ("a\x1b[31mb\nc\u202e", "a[31mb c"),
        ("n" * 300, "n" * 59 + "…"),
        ("[@click=app.quit]go[/]", "[@click=app.quit]go[/]"),
        ("[/", "[/"),
    ],
)
async def test_hostile_names_are_shown_as_they_are(tmp_path: Path, name: str, shown: str) -> None:
    run = make_run(tmp_path / "runs", name=name, end=None, done=1, notices=(("error", name),))
    app = make_app(tmp_path / "runs")
    with held(run):
        async with app.run_test(size=(200, 50)) as pilot:
            await until(pilot, lambda: table(app).order)
            assert cells(app, run.id)["name"] == shown
            assert shown[:20] in words(app, "#details")
            append(run, events.RunEnded(state="failed", error=name))
            await until(pilot, lambda: "failed" in told(app))
            await pilot.press("d")
            assert shown[:20] in texts(app)
            await pilot.press("escape", "ctrl+p")
            await pilot.pause(0.3)
            await pilot.press("escape")


async def test_cells_change_in_place_and_the_cursor_stays(tmp_path: Path) -> None:
    old = make_run(tmp_path / "runs")
    run = make_run(tmp_path / "runs", done=2, end=None, seed=1, created=60)
    app = make_app(tmp_path / "runs")
    with held(run):
        async with app.run_test(size=LARGE) as pilot:
            await until(pilot, lambda: table(app).order)
            await pilot.press("down")
            assert app.store.selected == old.id
            make_run(tmp_path / "runs", seed=2, created=120)
            append(
                run, events.EpochEnded(epoch=3, step=9, loss=1, accuracy=1, lr=1, seconds=1,
                                       images_per_second=1)
            )  # fmt: skip
            await until(pilot, lambda: len(table(app).order) == 3)
            await until(pilot, lambda: cells(app, run.id)["epochs"] == "3/5")
            assert table(app).chosen == old.id
            assert table(app).cursor_row == 2


async def test_the_filter_is_live_and_escape_ends_it(tmp_path: Path) -> None:
    first = make_run(tmp_path / "runs", name="Apple", preset="quick")
    second = make_run(
        tmp_path / "runs", name="pear", preset="dws-late", data="cifar10", seed=1, end="failed"
    )
    app = make_app(tmp_path / "runs")
    async with app.run_test(size=LARGE) as pilot:
        await until(pilot, lambda: len(table(app).order) == 2)
        for text, fits in (
            ("apple", {first.id}),
            ("FAILED", {second.id}),
            ("cifar-10", {second.id}),
            ("dws late", {second.id}),
            ("syn qui", {first.id}),
            ("[", set()),
            (second.id.upper(), {second.id}),
            (second.id[:2], set()),  # of the year, as any two digits of a name may be
        ):
            await pilot.press("slash")
            app.screen.query_one("#filter", Input).value = text
            await pilot.pause()
            assert set(table(app).order) == fits, text
            await pilot.press("escape")
            assert len(table(app).order) == 2
        await pilot.press("slash", "p", "e", "a", "enter", "x")
        assert table(app).order == (second.id,)
        await pilot.press("slash", *"zzz", "enter")
        assert table(app).order == ()
        assert words(app, "#status").startswith(" none of 2 runs fit"), "where 80 columns show it"
        await pilot.press(*"Gjkg", "end", "home", "pagedown", "pageup", "up", "down", "enter")
        assert table(app).has_focus
        await pilot.press("slash", *["backspace"] * 3, *"pea", "enter")
        assert table(app).has_focus
        assert "1 of 2 runs" in words(app, "#status")


async def test_only_the_left_button_presses_what_it_is_over(tmp_path: Path) -> None:
    app = make_app(tmp_path / "runs")
    async with app.run_test(size=LARGE) as pilot:
        await until(pilot, lambda: "? Help" in keys(app))
        line = app.screen.query_one(KeyLine)
        x, y = line.region.x + keys(app).index("? Help"), line.region.y
        for button, opens in ((2, False), (3, False), (1, True)):
            for kind in (MouseDown, MouseUp):
                await app.on_event(kind(None, x, y, 0, 0, button, False, False, False))
            await pilot.pause()
            assert isinstance(app.screen, Help) == opens, button


async def test_sorting_by_key_and_by_a_click_on_the_header(tmp_path: Path) -> None:
    low = make_run(tmp_path / "runs", name="a", best=0.6, seed=1, created=60)
    high = make_run(tmp_path / "runs", name="b", best=0.9, seed=2)
    none = make_run(tmp_path / "runs", name="c", done=0, end="stopped", seed=3, created=120)
    app = make_app(tmp_path / "runs")
    async with app.run_test(size=LARGE) as pilot:
        await until(pilot, lambda: len(table(app).order) == 3)
        assert table(app).order == (none.id, low.id, high.id)
        await pilot.press("o")
        assert table(app).order == (high.id, low.id, none.id)
        assert table(app).chosen == none.id, "the cursor stays on its run"
        await pilot.press("O")
        assert table(app).order == (low.id, high.id, none.id), "what has no value stays last"
        await pilot.click(RunTable, offset=(5, 0))
        await pilot.pause()
        assert app.screen.sort == ("name", False)  # type: ignore[attr-defined]
        assert table(app).order == (low.id, high.id, none.id)


async def test_started_is_sorted_by_the_time_that_is_shown(tmp_path: Path) -> None:
    # renamed: its id tells another time than its log
    early = make_run(tmp_path / "runs", name="early", created=60)
    late = make_run(tmp_path / "runs", name="late", created=7200)
    odd = make_run(tmp_path / "runs", name="odd", created=3600)
    moved = early.path.with_name(late.id.replace("-0000", "-ffff"))
    early.path.rename(moved)
    app = make_app(tmp_path / "runs")
    async with app.run_test(size=SMALL) as pilot:
        await until(pilot, lambda: not app.store.loading and len(table(app).order) == 3)
        order = (late.id, odd.id, moved.name)
        await until(pilot, lambda: table(app).order == order)
        await pilot.press("O")
        assert table(app).order == order[::-1]


async def test_newest_first_comes_back_where_its_column_is_not_shown(tmp_path: Path) -> None:
    runs = [make_run(tmp_path / "runs", best=0.9 - i / 10, created=60 * i) for i in range(2)]
    app = make_app(tmp_path / "runs")
    async with app.run_test(size=(60, 24)) as pilot:
        await until(pilot, lambda: len(table(app).order) == 2)
        assert "started" not in table(app).columns
        await pilot.press("o")
        assert table(app).order == (runs[0].id, runs[1].id)
        assert str(table(app).columns["best"].label) == "best▼"  # type: ignore[index]
        await pilot.press("o", "o")
        assert table(app).order == (runs[1].id, runs[0].id)


async def test_marks_have_colours_that_are_there_again_the_next_time(tmp_path: Path) -> None:
    runs = [make_run(tmp_path / "runs", seed=i, created=60 * i) for i in range(3)]
    app = make_app(tmp_path / "runs")
    async with app.run_test(size=SMALL) as pilot:
        await until(pilot, lambda: len(table(app).order) == 3)
        await pilot.press("space", "down", "space")
        await pilot.pause()
        assert [f.run.id for f in app.store.marked()] == [runs[2].id, runs[1].id]
        assert cells(app, runs[2].id)["mark"] != cells(app, runs[1].id)["mark"] != " "
        colours = [app.run_colour(run.id) for run in runs]
        assert len(set(colours)) == 3
    app = make_app(tmp_path / "runs")
    async with app.run_test(size=SMALL) as pilot:
        await until(pilot, lambda: len(table(app).order) == 3)
        assert [app.run_colour(run.id) for run in runs] == colours
        await pilot.press("u")
        await pilot.pause()
        assert app.store.marked() == []


async def test_deleting_asks_and_moves_the_folder_to_the_trash(tmp_path: Path) -> None:
    runs = [make_run(tmp_path / "runs", seed=i, created=60 * i) for i in range(3)]
    app = make_app(tmp_path / "runs")
    async with app.run_test(size=SMALL) as pilot:
        await until(pilot, lambda: len(table(app).order) == 3)
        await pilot.press("down", "d", "escape")
        assert runs[1].path.exists()
        await pilot.press("d", "d")
        await pilot.pause()
        assert (tmp_path / "runs" / ".trash" / runs[1].id / "events.jsonl").exists()
        assert table(app).order == (runs[2].id, runs[0].id)
        assert table(app).chosen == runs[0].id


async def test_an_end_that_is_read_while_another_run_is_deleted_is_told(tmp_path: Path) -> None:
    live = make_run(tmp_path / "runs", name="live", done=2, end=None, created=60)
    old = make_run(tmp_path / "runs", name="old")
    app = make_app(tmp_path / "runs")
    with held(live):
        async with app.run_test(size=SMALL) as pilot:
            await until(pilot, lambda: table(app).order == (live.id, old.id))
            await pilot.press("down", "d")
            question = app.screen
            assert isinstance(question, Choice)
            ended = events.RunEnded(
                state="completed", best_accuracy=0.5, best_epoch=2, final_accuracy=0.5, seconds=3
            )
            append(live, ended)
            question.answered("delete")  # before the next poll
            await until(pilot, lambda: table(app).order == (live.id,))
            await until(pilot, lambda: "live is done" in told(app))


async def test_a_running_run_is_not_deleted(tmp_path: Path) -> None:
    run = make_run(tmp_path / "runs", end=None, done=1)
    app = make_app(tmp_path / "runs")
    with held(run):
        async with app.run_test(size=SMALL) as pilot:
            await until(pilot, lambda: table(app).order)
            await pilot.press("d")
            assert not isinstance(app.screen, Choice)
            assert "stop it first" in told(app)
    assert run.path.exists()


async def test_an_unreadable_runs_directory_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    app = make_app(tmp_path / "file")
    async with app.run_test(size=SMALL) as pilot:
        await until(pilot, lambda: "cannot read" in words(app, "#status"))
        await pilot.press("s")
        await until(pilot, lambda: "no directory" in told(app) or "cannot write" in told(app))


async def test_a_run_that_is_chosen_elsewhere_is_shown_and_under_the_cursor(tmp_path: Path) -> None:
    old = make_run(tmp_path / "runs", name="the old one", seed=1)
    make_run(tmp_path / "runs", name="the new one", seed=2, created=600)
    app = make_app(tmp_path / "runs")
    async with app.run_test(size=LARGE) as pilot:
        await until(pilot, lambda: len(table(app).order) == 2)
        await pilot.press("2")
        await until(pilot, lambda: isinstance(app.screen, DashboardScreen))
        await until(pilot, lambda: "the new one" in headline(app))
        app.open_run(old.id)
        await until(pilot, lambda: "the old one" in headline(app))
        await pilot.press("1")
        await until(pilot, lambda: isinstance(app.screen, RunsScreen))
        await until(pilot, lambda: app.screen.query_one(RunTable).chosen == old.id)
        assert app.store.selected == old.id


async def test_of_filtered_runs_the_one_under_the_cursor_is_deleted(tmp_path: Path) -> None:
    old = make_run(tmp_path / "runs", name="alpha", seed=1)
    new = make_run(tmp_path / "runs", name="beta", seed=2, created=600)
    app = make_app(tmp_path / "runs")
    async with app.run_test(size=LARGE) as pilot:
        await until(pilot, lambda: len(table(app).order) == 2)
        await pilot.press("slash", *"alpha", "enter")
        await until(pilot, lambda: table(app).order == (old.id,))
        app.store.selected = new.id
        await pilot.press("d", "d")
        await until(pilot, lambda: not old.path.exists())
        assert new.path.exists()


async def test_a_directory_that_could_not_be_read_once_is_read_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = make_run(tmp_path / "runs")
    scan = store.scan

    def fails(runs_dir: Path) -> object:
        monkeypatch.setattr(store, "scan", scan)
        raise RunError("cannot read it now")

    monkeypatch.setattr(store, "scan", fails)
    monkeypatch.setattr(store, "SETTLED_SECONDS", -1.0)
    app = make_app(tmp_path / "runs")
    async with app.run_test(size=LARGE) as pilot:
        await until(pilot, lambda: table(app).order == (run.id,))
        await until(pilot, lambda: "cannot read" not in words(app, "#status"))


# ---- starting, stopping, quitting --------------------------------------------------------------


@pytest.mark.parametrize("size", [LARGE, SMALL])
async def test_one_key_starts_a_run_and_another_stops_it(
    tmp_path: Path, size: tuple[int, int]
) -> None:
    app = make_app(tmp_path / "runs")
    async with app.run_test(size=size) as pilot:
        assert app.check_action("stop", ()) is False
        await pilot.press("s")
        await until(pilot, lambda: [f.status for f in app.store] == ["training"])
        run = next(iter(app.store))
        assert cells(app, run.run.id)["state"] == "▶ training"
        for screen in "21":  # also where the screen has many keys of its own
            await pilot.press(screen)
            await until(pilot, lambda: "x Stop  p Pause" in line(app, KeyLine))
        await pilot.press("p")
        await until(pilot, lambda: run.status == "paused")
        await pilot.press("p")
        await until(pilot, lambda: run.status == "training")
        await pilot.press("c")
        await until(pilot, lambda: run.state.checkpoints)
        await pilot.press("x")
        assert isinstance(app.screen, Choice)
        await pilot.press("escape")
        assert run.status == "training"
        await pilot.press("x", "x")
        await until(pilot, lambda: run.status == "stopped")
        await until(pilot, lambda: "stopped" in told(app))
        assert "crashed" not in told(app)
        await until(pilot, lambda: "x Stop" not in line(app, KeyLine))


async def test_runs_queue_behind_each_other(tmp_path: Path) -> None:
    app = make_app(tmp_path / "runs", "steps=3", f"go={tmp_path / 'go'}")
    async with app.run_test(size=LARGE) as pilot:
        await pilot.press("s", "s", "s")
        states = ["queued", "queued", "training"]
        await until(pilot, lambda: sorted(f.status for f in app.store) == states)
        await until(pilot, lambda: "queued behind 2 others" in told(app))
        (tmp_path / "go").touch()
        await until(pilot, lambda: [f.status for f in app.store] == ["completed"] * 3)
        assert "crashed" not in told(app)


async def test_a_run_of_another_trainer_is_not_queued_behind(tmp_path: Path) -> None:
    other = make_run(tmp_path / "runs", end=None, done=1)
    app = make_app(tmp_path / "runs")
    with held(other):
        async with app.run_test(size=LARGE) as pilot:
            await until(pilot, lambda: [f.status for f in app.store] == ["training"])
            await pilot.press("s")
            await until(pilot, lambda: [f.status for f in app.store] == ["training"] * 2)
            assert "queued behind" not in told(app)
            assert app.store.selected != other.id, "the new one is shown"


async def test_a_refused_run_is_not_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store, "SUBMIT_SECONDS", 0.3)
    app = make_app(tmp_path / "runs", "refuse")
    async with app.run_test(size=LARGE) as pilot:
        await pilot.press("s")
        await until(pilot, lambda: "the trainer refused a run" in told(app))
        await until(pilot, lambda: [f.status for f in app.store] == ["crashed"])
        await pilot.press("q")
        await until(pilot, lambda: not app.is_running)


async def test_stopping_a_queued_run_leaves_the_running_one(tmp_path: Path) -> None:
    app = make_app(tmp_path / "runs")
    async with app.run_test(size=LARGE) as pilot:
        await pilot.press("s")
        await until(pilot, lambda: [f.status for f in app.store] == ["training"])
        first = next(iter(app.store))
        await pilot.press("s")
        await until(pilot, lambda: len(table(app).order) == 2)
        second = next(f for f in app.store if f is not first)
        await until(pilot, lambda: second.run.is_locked())
        await pilot.press("home" if table(app).order[0] == second.run.id else "end")
        await until(pilot, lambda: app.runs.target() is second)
        await pilot.press("x", "x")
        app.runs.stop(first)
        await until(pilot, lambda: second.status == first.status == "stopped")


async def test_who_only_looks_at_runs_loads_no_torch(tmp_path: Path) -> None:
    make_run(tmp_path / "runs")
    app = make_app(tmp_path / "runs")
    async with app.run_test(size=SMALL) as pilot:
        await until(pilot, lambda: table(app).order)
        await pilot.press("2", "3", "4", "5", "1", "question_mark", "escape")
        await pilot.pause(0.5)
        assert (app.worker.alive, app.worker.info.phase) == (False, "off")
        await pilot.press("n")
        await until(pilot, lambda: app.worker.info.phase == "ready")
        hint = app.screen.query_one("#device-hint", Static)
        await until(pilot, lambda: "here: cpu" in str(hint.content))


async def test_without_runs_or_with_a_device_torch_is_loaded_at_once(tmp_path: Path) -> None:
    app = make_app(tmp_path / "none")
    async with app.run_test(size=SMALL) as pilot:
        await until(pilot, lambda: app.worker.info.phase == "ready")
    make_run(tmp_path / "runs")
    app = make_app(tmp_path / "runs", device="cpu")
    async with app.run_test(size=SMALL) as pilot:
        await until(pilot, lambda: app.worker.info.phase == "ready")


async def test_quitting_without_a_run_is_immediate(tmp_path: Path) -> None:
    app = make_app(tmp_path / "runs")
    async with app.run_test(size=SMALL) as pilot:
        await until(pilot, lambda: app.worker.info.phase == "ready")
        await pilot.press("q")
        await until(pilot, lambda: not app.is_running)


async def test_what_a_last_poll_finds_while_the_screens_are_closed_is_let_be(
    tmp_path: Path,
) -> None:
    app = make_app(tmp_path)
    async with app.run_test():
        await app.workers.wait_for_complete()
        app.pace.end()
        make_run(tmp_path, end="stopped")
    assert not app.screen_stack
    app.poll(now=True)  # the timer's, which still runs then
    assert len(app.store) == 1


@pytest.mark.parametrize("key", ["q", "ctrl+c"])
async def test_quitting_with_a_run_asks_and_stops_it_cleanly(tmp_path: Path, key: str) -> None:
    app = make_app(tmp_path / "runs")
    async with app.run_test(size=SMALL) as pilot:
        await pilot.press("s", "s")
        await until(pilot, lambda: any(f.status == "training" for f in app.store))
        await until(pilot, lambda: len(app.store) == 2)
        await pilot.press(key)
        assert isinstance(app.screen, Quit)
        await pilot.press(key if key != "q" else "escape")
        assert len([s for s in app.screen_stack if isinstance(s, Quit)]) == (key != "q")
        if key == "q":
            assert app.is_running
            await pilot.press("q")
        await pilot.press("s")
        assert "stopping" in texts(app)
        await pilot.press("s", "ctrl+c", "q")
        await until(pilot, lambda: not app.is_running)
    assert [Follower(f.run).catch_up().ended is not None for f in app.store] == [True, True]
    assert {f.run.id: Follower(f.run).catch_up().ended.state for f in app.store}.values()  # type: ignore[union-attr]


async def test_quitting_can_leave_the_run_training(tmp_path: Path) -> None:
    app = make_app(tmp_path / "runs", "steps=3", f"go={tmp_path / 'go'}")
    async with app.run_test(size=SMALL) as pilot:
        await pilot.press("s")
        await until(pilot, lambda: any(f.status == "training" for f in app.store))
        await pilot.press("q", "l")
        await until(pilot, lambda: not app.is_running)
    follower = Follower(next(iter(app.store)).run)
    assert follower.run.is_locked()
    (tmp_path / "go").touch()
    for _ in range(600):
        follower.catch_up()
        if follower.state.ended:
            break
        await asyncio.sleep(0.05)
    assert follower.status == "completed"


async def test_quitting_just_when_the_trainer_has_died_asks_about_the_run_that_waits(
    tmp_path: Path,
) -> None:
    app = make_app(tmp_path / "runs", "steps=3", f"go={tmp_path / 'go'}")
    async with app.run_test(size=SMALL) as pilot:
        await pilot.press("s")
        await until(pilot, lambda: [f.status for f in app.store] == ["training"])
        await pilot.press("s")
        await until(pilot, lambda: len(app.runs.ours()) == 2)
        process = app.worker._process
        assert process is not None
        process.kill()
        process.wait()  # in one turn of the loop: nothing was heard of it yet
        await app.action_quit()
        await until(pilot, lambda: isinstance(app.screen, Quit))
        await until(pilot, lambda: [f.status for f in app.runs.ours()] == ["training"])
        (tmp_path / "go").touch()
        await pilot.press("s")
        await until(pilot, lambda: not app.is_running)


@pytest.mark.parametrize("answer", ["s", "l"])
async def test_quitting_asks_about_a_run_whose_folder_was_moved(
    tmp_path: Path, answer: str
) -> None:
    app = make_app(tmp_path / "runs", "steps=3", f"go={tmp_path / 'go'}")
    async with app.run_test(size=SMALL) as pilot:
        await pilot.press("s")
        await until(pilot, lambda: any(f.status == "training" for f in app.store))
        (run,) = (follower.run for follower in app.store)
        run.path.rename(tmp_path / run.id)
        await until(pilot, lambda: not len(app.store))
        await pilot.press("s")
        await until(pilot, lambda: "is queued behind 1 other" in told(app))
        await pilot.press("q")
        await until(pilot, lambda: isinstance(app.screen, Quit))
        assert f"{run.id} (its folder has gone)" in " ".join(texts(app).split())
        await pilot.press(answer)
        await until(pilot, lambda: not app.is_running)
    moved = Follower(RunDir(tmp_path / run.id))
    assert moved.run.is_locked() == (answer == "l")
    (tmp_path / "go").touch()
    while moved.run.is_locked():  # its trainer ends with its last run
        await asyncio.sleep(0.05)


async def test_a_dying_trainer_is_told_and_replaced_at_the_next_start(tmp_path: Path) -> None:
    app = make_app(tmp_path / "runs")
    async with app.run_test(size=LARGE) as pilot:
        await pilot.press("s")
        await until(pilot, lambda: [f.status for f in app.store] == ["training"])
        assert app.worker.pid is not None
        subprocess.run(["kill", "-9", str(app.worker.pid)], check=True)
        await until(pilot, lambda: "SIGKILL" in told(app))
        await until(pilot, lambda: [f.status for f in app.store] == ["crashed"])
        await until(pilot, lambda: "worker failed" in line(app, HeaderLine))
        await pilot.press("s")
        await until(pilot, lambda: "training" in [f.status for f in app.store])


async def test_a_run_for_a_trainer_that_has_just_died_waits_for_the_next_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store, "SUBMIT_SECONDS", 0.0)
    app = make_app(tmp_path / "runs")
    queue, polled = app.worker.queue, app.caller.polled
    seen: set[str] = set()

    def noted(changes: store.Changes) -> None:
        seen.update(follower.status for follower in app.store)
        polled(changes)

    def dies_before(run: Path, *, resume: bool = False) -> bool:
        process = app.worker._process
        assert process is not None
        process.kill()
        process.wait()
        return queue(run, resume=resume)

    async with app.run_test(size=LARGE) as pilot:
        await until(pilot, lambda: app.worker.info.phase == "ready")
        monkeypatch.setattr(app.worker, "queue", dies_before)
        monkeypatch.setattr(app.caller, "polled", noted)
        await pilot.press("s")
        await until(pilot, lambda: "training" in seen)
        assert "crashed" not in seen
        await until(pilot, lambda: "SIGKILL" in told(app))


async def test_a_run_of_another_process_is_seen_and_can_be_stopped(tmp_path: Path) -> None:
    app = make_app(tmp_path / "runs")
    async with app.run_test(size=SMALL) as pilot:
        run = make_run(tmp_path / "runs", end=None, done=1)
        with held(run):
            await until(pilot, lambda: run.id in table(app).order)
            await until(pilot, lambda: cells(app, run.id)["state"] == "▶ training")
            await pilot.press("x", "x")
            assert b'"stop"' in run.control.read_bytes()
            await until(pilot, lambda: cells(app, run.id)["state"] == "▶ stopping")
            await pilot.press("q")
            await until(pilot, lambda: not app.is_running)


async def test_a_run_that_ends_while_the_question_is_asked_is_not_stopping(tmp_path: Path) -> None:
    app = make_app(tmp_path / "runs")
    async with app.run_test(size=SMALL) as pilot:
        run = make_run(tmp_path / "runs", end=None, done=1)
        with held(run):
            await until(pilot, lambda: run.id in table(app).order)
            await until(pilot, lambda: cells(app, run.id)["state"] == "▶ training")
            await pilot.press("x")
            assert isinstance(app.screen, Choice)
            append(run, events.RunEnded(state="completed"))
        await until(pilot, lambda: not app.store.active())
        await pilot.press("x")
        await until(pilot, lambda: cells(app, run.id)["state"] == "✓ completed")
        assert not app.runs.stopping
        assert not run.control.read_bytes().strip()


# ---- data -------------------------------------------------------------------------------------


@pytest.mark.usefixtures("no_data")
@pytest.mark.parametrize("size", [LARGE, SMALL])
async def test_without_data_the_first_screen_offers_three_ways(
    tmp_path: Path, size: tuple[int, int]
) -> None:
    app = make_app(tmp_path / "runs")
    async with app.run_test(size=size) as pilot:
        await until(pilot, lambda: MISSING.line in words(app, "#welcome"))
        welcome = words(app, "#welcome")
        for offer in ("D  download", "F  choose a folder", "S  start"):
            assert offer in welcome
        await pilot.press("s")
        await until(pilot, lambda: isinstance(app.screen, Choice))
        assert len(app.store) == 0
        await pilot.press("S")
        await until(pilot, lambda: [f.status for f in app.store] == ["training"])
        assert app.data == "synthetic"
        assert "not CIFAR-10" in words(app, "#status")
        assert next(iter(app.store)).state.queued.data == "synthetic"  # type: ignore[union-attr]


@pytest.mark.usefixtures("no_data")
async def test_choosing_a_folder_checks_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    app = make_app(tmp_path / "runs")
    async with app.run_test(size=SMALL) as pilot:
        await until(pilot, lambda: app.runs.data_status)
        await pilot.press("F")
        assert isinstance(app.screen, DataSource)
        app.screen.query_one(Input).value = "/nowhere"
        await pilot.press("enter")
        await until(pilot, lambda: MISSING.line in texts(app))
        monkeypatch.setattr(datasource, "look", lambda source: READY)
        await pilot.press("enter")
        await until(pilot, lambda: isinstance(app.screen, RunsScreen))
        assert app.data == "/nowhere"
        assert "folder /nowhere" in words(app, "#status")


async def test_a_download_shows_its_progress_and_the_data_is_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    there = tmp_path / "there"
    monkeypatch.setattr(datasource, "look", lambda source: READY if there.exists() else MISSING)
    child = (
        f"import json,sys\nopen({str(there)!r}, 'w')\n"
        "for n in range(0, 101, 10): print(json.dumps({'downloaded': n, 'total': 100}))\n"
        "print('no json', flush=True)\nsys.stdin.read()"
    )
    app = make_app(tmp_path / "runs", download_command=(sys.executable, "-c", child))
    async with app.run_test(size=SMALL) as pilot:
        await until(pilot, lambda: app.runs.data_status == MISSING)
        await pilot.press("D")
        await until(pilot, lambda: "CIFAR-10 is there" in told(app))
        assert isinstance(app.screen, RunsScreen)
        await until(pilot, lambda: app.runs.data_status == READY)


@pytest.mark.usefixtures("no_data")
async def test_no_network_is_one_line_and_synthetic_one_key_away(tmp_path: Path) -> None:
    line = '{"error": "cannot download (no network): try --data synthetic"}'
    child = f"import sys; print({line!r}); sys.exit(1)"
    app = make_app(tmp_path / "runs", download_command=(sys.executable, "-c", child))
    async with app.run_test(size=SMALL) as pilot:
        await pilot.press("D")
        await until(pilot, lambda: "cannot download (no network)" in texts(app))
        assert isinstance(app.screen, Download)
        assert "--data" not in texts(app)
        await pilot.press("S")
        await until(pilot, lambda: [f.status for f in app.store] == ["training"])
        assert app.data == "synthetic"


async def test_closing_the_download_ends_the_child(tmp_path: Path) -> None:
    app = make_app(
        tmp_path / "runs",
        download_command=(sys.executable, "-c", "import time; time.sleep(60)"),
    )
    async with app.run_test(size=SMALL) as pilot:
        await pilot.press("D")
        screen = app.screen
        assert isinstance(screen, Download)
        await until(pilot, lambda: screen._process is not None)
        await pilot.press("escape")
        process = screen._process
        assert process is not None
        await until(pilot, lambda: process.returncode is not None)


# ---- the form ---------------------------------------------------------------------------------


async def form(pilot: Pilot[None], app: CifarApp) -> NewRun:
    await pilot.press("n")
    await until(pilot, lambda: isinstance(app.screen, NewRun))
    screen = app.screen
    assert isinstance(screen, NewRun)
    await pilot.pause()
    return screen


def hint(screen: NewRun, key: str) -> tuple[str, bool]:
    static = screen.query_one(f"#{key}-hint", Static)
    return str(static.render()), static.has_class("error")


@pytest.mark.parametrize("size", [LARGE, SMALL])
async def test_the_form_starts_what_it_says(tmp_path: Path, size: tuple[int, int]) -> None:
    app = make_app(tmp_path / "runs", data="synthetic")
    async with app.run_test(size=size) as pilot:
        screen = await form(pilot, app)
        assert screen.query_one("#start").region.bottom <= size[1], "all of it is visible"
        screen.query_one("#preset", Select).value = "dws-late"
        await pilot.pause()
        assert screen.query_one("#model", Input).value == "dws-late"
        screen.query_one("#epochs", Input).value = "3"
        screen.query_one("#lr", Input).value = "1e-2"
        screen.query_one("#norm", Select).value = "group"
        screen.query_one("#name", Input).value = "[b]5"
        screen.query_one("#settings", Input).value = "optimizer.weight_decay=1e-3 train.ema=0.9"
        await pilot.pause()
        assert "3 epochs" in str(screen.query_one("#summary", Static).render())
        screen.query_one("#name", Input).focus()
        await pilot.press("enter")
        await until(pilot, lambda: len(app.store) == 1)
    config = (next(iter(app.store)).run.path / "config.toml").read_text()
    for part in ('preset = "dws-late"', "epochs = 3", "lr = 0.01", 'norm = "group"'):
        assert part in config
    for part in ('name = "[b]5"', "weight_decay = 0.001", "ema = 0.9", 'data = "synthetic"'):
        assert part in config


@pytest.mark.parametrize(
    ("key", "text", "problem"),
    [
        ("epochs", "0", ">= 1"),
        ("data", "~nobody-here/data", "no home directory"),
        ("data", "d" * 300, "File name too long"),
        ("model", "~nobody-here/n.py:Net", "no home directory"),
        ("model", "n" * 300 + ".py:Net", "File name too long"),
        ("epochs", "many", "a whole number, not 'many'"),
        ("lr", "nan", ""),
        ("lr", "-1", "> 0"),
        ("lr", "", "a number, not ''"),
        ("batch", "1.5", "a whole number"),
        ("seed", "-1", ">= 0"),
        ("model", "resnet9", "resnet"),
        ("model", "none.py:Net", "no such file"),
        ("data", "/no/such/folder", "no such folder"),
        ("device", "tpu", "cuda"),
        ("processes", "0", ">= 1"),
        ("processes", "4000", "cannot share a batch"),
        ("name", "n" * 81, "at most 80"),
        ("settings", "nonsense", "key=value"),
        ("settings", "train.nonsense=1", "unknown key"),
        ("settings", "'open", "quotation"),
    ],
)
async def test_the_form_says_what_is_wrong_beside_the_field(
    tmp_path: Path, key: str, text: str, problem: str
) -> None:
    app = make_app(tmp_path / "runs")
    async with app.run_test(size=LARGE) as pilot:
        screen = await form(pilot, app)
        screen.query_one(f"#{key}", Input).value = text
        await pilot.pause()
        said, wrong = hint(screen, key)
        assert wrong
        assert problem in said
        assert "\n" not in said
        screen.query_one("#name", Input).focus()
        await pilot.press("enter")
        await pilot.pause()
        assert app.screen is screen
        assert screen.focused is not None
        assert screen.focused.id == key
        assert len(app.store) == 0


async def test_the_form_tells_of_a_class_that_the_file_lacks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    net = tmp_path / "my_net.py"
    net.write_text("class Net: ...\n")
    app = make_app(tmp_path / "runs", data="synthetic")
    async with app.run_test(size=LARGE) as pilot:
        screen = await form(pilot, app)
        for key, text in (("model", "my_net.py:Nope"), ("settings", "model.name=my_net.py:Nope")):
            before = screen.query_one(f"#{key}", Input).value
            screen.query_one(f"#{key}", Input).value = text
            await pilot.pause()
            assert hint(screen, key) == ("my_net.py has no class 'Nope': it has Net", True)
            screen.query_one(f"#{key}", Input).value = before
            await pilot.pause()
            assert not hint(screen, key)[1]
        screen.query_one("#model", Input).value = "my_net.py:Nope"
        await pilot.pause()
        net.write_text("class Nope: ...\n")
        await pilot.press("ctrl+s")
        await until(pilot, lambda: len(app.store) == 1)


@pytest.mark.parametrize("size", [SMALL, (60, 18)])
async def test_a_small_form_tells_the_whole_error_of_the_field(
    tmp_path: Path, size: tuple[int, int]
) -> None:
    app = make_app(tmp_path / "runs", data="synthetic")
    async with app.run_test(size=size) as pilot:
        screen = await form(pilot, app)

        def below() -> str:
            line = screen.query_one("#summary", Static)
            assert line.region.bottom < size[1]
            strips = [line.render_line(y).text.strip() for y in range(line.size.height)]
            return " ".join(strips).strip()

        screen.query_one("#settings", Input).value = "optimizer.weight_decay=x"
        screen.query_one("#model", Input).value = "nets/v.py"
        await until(pilot, lambda: "name the class as well, nets/v.py:Class" in below())
        assert "look at settings as well" in below()
        screen.query_one("#settings", Input).focus()
        told = "settings: optimizer.weight_decay: expected float, got str"
        await until(pilot, lambda: told in below())
        assert "look at model as well" in below()


@pytest.mark.parametrize("size", [LARGE, (60, 18)])
async def test_keys_of_the_form_do_what_it_says(tmp_path: Path, size: tuple[int, int]) -> None:
    app = make_app(tmp_path / "runs", data="synthetic")
    async with app.run_test(size=size) as pilot:
        screen = await form(pilot, app)

        def says(words: str) -> bool:
            return words in str(screen.query_one("#keys", Static).render())

        assert isinstance(screen.focused, Select)
        assert says("enter opens it")
        await pilot.press("down", *"my.py:Net")
        assert screen.query_one("#model", Input).value == "my.py:Net", "not another preset"
        assert screen.query_one("#preset", Select).value == "quick"
        assert says("escape cancels")
        assert not says("enter")
        await pilot.press("down")
        assert screen.focused is screen.query_one("#norm")
        await pilot.press("enter")
        await until(pilot, lambda: says("enter takes it"))
        await pilot.press("down", "enter")
        await until(pilot, lambda: screen.focused is screen.query_one("#norm"))
        assert screen.query_one("#norm", Select).value == "layer"
        await pilot.press("down")
        assert screen.focused is screen.query_one("#data")
        assert says("enter goes to model")
        await pilot.press("enter")
        assert screen.focused is screen.query_one("#model")
        await pilot.press(*"resnet8")
        await until(pilot, lambda: says("enter starts"))
        await pilot.press("enter")
        await until(pilot, lambda: len(app.store) == 1)


@pytest.mark.parametrize(
    ("key", "text", "problem"),
    [
        ("model", "net.py", "net.py: name the class as well, net.py:Class"),
        ("model", "my/net.py:", "my/net.py: name the class as well, my/net.py:Class"),
        (
            "settings",
            "optimizer.name=sgdd",
            "optimizer.name: unknown value 'sgdd': choose sgd, adam, adamw or muon",
        ),
    ],
)
def test_the_form_says_what_would_be_right(key: str, text: str, problem: str) -> None:
    texts = {**form_of.defaults("quick", "synthetic", "cpu"), key: text}
    assert form_of.build("quick", texts) == (None, {key: problem})


async def test_a_run_of_the_form_names_its_files_from_the_root_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "my_net.py").write_text("class Net: ...\n")
    monkeypatch.chdir(tmp_path)
    app = make_app(tmp_path / "runs", data="synthetic")
    async with app.run_test(size=LARGE) as pilot:
        screen = await form(pilot, app)
        screen.query_one("#model", Input).value = "my_net.py:Net"
        screen.query_one("#settings", Input).value = "data=imgs"
        await pilot.pause()
        await pilot.press("ctrl+s")
        await until(pilot, lambda: len(app.store) == 1)
    config = read_config(next(iter(app.store)).run)
    assert config.model.name == f"{tmp_path}/my_net.py:Net"
    assert config.data == f"{tmp_path}/imgs"


async def test_a_batch_above_the_images_that_are_trained_on_is_not_started(tmp_path: Path) -> None:
    app = make_app(tmp_path / "runs", data="synthetic")
    async with app.run_test(size=LARGE) as pilot:
        screen = await form(pilot, app)
        screen.query_one("#settings", Input).value = "train_limit=100"
        await pilot.pause()
        await pilot.press("ctrl+s")
        refused = ("above the 100 training images", True)
        await until(pilot, lambda: hint(screen, "batch") == refused)
        app.trainer_told.publish(app.worker.info)
        await pilot.pause()
        assert hint(screen, "batch") == refused
        assert "above the 100" in str(screen.query_one("#summary", Static).content)
        screen.query_one("#batch", Input).value = "64"
        await until(pilot, lambda: not hint(screen, "batch")[1])
        await pilot.press("escape")
        crowded = catalog.load("quick", ["data=synthetic", "train_limit=100"])
        assert not await app.runs.submit(crowded)
        await until(pilot, lambda: "100 training images" in told(app))
        assert len(app.store) == 0


@pytest.mark.parametrize(
    ("typed", "why"),
    [
        ("train.epochs=7 model.name=nope", "unknown model 'nope'"),
        ("limits.max_parameters=-3", "must not be below 0"),
    ],
)
async def test_the_form_refuses_what_would_not_be_started(
    tmp_path: Path, typed: str, why: str
) -> None:
    app = make_app(tmp_path / "runs", data="synthetic")
    async with app.run_test(size=LARGE) as pilot:
        screen = await form(pilot, app)
        screen.query_one("#settings", Input).value = typed
        await until(pilot, lambda: why in hint(screen, "settings")[0])
        await pilot.press("ctrl+s")
        assert app.screen is screen
        assert screen.query_one("#settings", Input).value == typed


async def test_the_form_opens_again_when_its_run_cannot_be_put_on_disk(tmp_path: Path) -> None:
    app = make_app(tmp_path / "runs", data="synthetic")
    async with app.run_test(size=LARGE) as pilot:
        screen = await form(pilot, app)
        screen.query_one("#name", Input).value = "my experiment"
        (tmp_path / "runs").write_text("no folder")
        await pilot.press("ctrl+s")
        await until(pilot, lambda: isinstance(app.screen, NewRun) and app.screen is not screen)
        again = app.screen
        await until(pilot, lambda: again.query("#summary") and again.is_mounted)
        await pilot.pause()
        assert again.query_one("#name", Input).value == "my experiment"
        await until(pilot, lambda: "runs" in str(again.query_one("#summary", Static).content))
        assert again.query_one("#summary", Static).has_class("error")
        (tmp_path / "runs").unlink()
        await pilot.press("ctrl+s")
        await until(pilot, lambda: len(app.store) == 1)
        await until(pilot, lambda: next(iter(app.store)).name == "my experiment")


async def test_another_preset_keeps_what_was_typed(tmp_path: Path) -> None:
    app = make_app(tmp_path / "runs")
    async with app.run_test(size=LARGE) as pilot:
        screen = await form(pilot, app)
        screen.query_one("#epochs", Input).value = "77"
        screen.query_one("#preset", Select).value = "gn-l1"
        await pilot.pause()
        assert screen.query_one("#epochs", Input).value == "77"
        assert screen.query_one("#norm", Select).value == "group"
        await pilot.press("escape")
        assert isinstance(app.screen, RunsScreen)


@pytest.mark.usefixtures("no_data")
async def test_the_form_does_not_start_without_the_data(tmp_path: Path) -> None:
    app = make_app(tmp_path / "runs")
    async with app.run_test(size=LARGE) as pilot:
        screen = await form(pilot, app)
        await pilot.press("ctrl+s")
        await until(pilot, lambda: hint(screen, "data") == (MISSING.line, True))
        assert app.screen is screen


# ---- everything around ------------------------------------------------------------------------


async def test_help_palette_and_key_line_tell_the_same_keys(tmp_path: Path) -> None:
    make_run(tmp_path / "runs", name="[x] pear")
    app = make_app(tmp_path / "runs")
    async with app.run_test(size=LARGE) as pilot:
        await until(pilot, lambda: table(app).order)
        assert "s Start" in line(app, KeyLine)
        assert "x Stop" not in line(app, KeyLine)
        await pilot.press("question_mark")
        assert isinstance(app.screen, Help)
        shown = texts(app)
        for words_of_help in ("Start the chosen preset", "Mark the run", "Filter", "Quit"):
            assert words_of_help in shown
        assert "Stop the run" not in shown
        await pilot.press("escape", "ctrl+p")
        offered = app.screen.query_one(OptionList)
        await until(pilot, lambda: "Theme cifar" in str([o.prompt for o in offered.options]))
        found = "\n".join(str(option.prompt) for option in offered.options)
        for command in ("Start (s)", "Start preset dws-late", "Open run [x] pear", "Theme cifar"):
            assert command in found


async def test_a_command_is_run_once_however_often_it_is_entered(tmp_path: Path) -> None:
    make_run(tmp_path / "runs", name="pear")
    app = make_app(tmp_path / "runs")
    async with app.run_test(size=LARGE) as pilot:
        await until(pilot, lambda: table(app).order)
        opened: list[str] = []
        app.open_run = opened.append  # type: ignore[method-assign]
        await pilot.press("ctrl+p")
        await pilot.press(*"Open run")
        offered = app.screen.query_one(OptionList)
        await until(pilot, lambda: offered.option_count == 1)
        for _ in range(3):  # in one go, as a slow link brings them
            app.simulate_key("enter")
        await until(pilot, lambda: len(app.screen_stack) == 2)
        await pilot.pause(0.2)
        assert len(opened) == 1
        assert table(app).has_focus
        await pilot.press("2")
        assert app.screen is app.get_screen("dashboard")


async def test_the_trainers_state_is_in_the_header_behind_a_dialog_too(tmp_path: Path) -> None:
    make_run(tmp_path / "runs")
    app = make_app(tmp_path / "runs")
    async with app.run_test(size=LARGE) as pilot:
        await until(pilot, lambda: table(app).order)
        assert "torch" not in line(app, HeaderLine)
        await pilot.press("n")
        await until(pilot, lambda: app.worker.info.torch)
        assert isinstance(app.screen, NewRun)
        assert "torch" in line(app, HeaderLine)


async def test_keys_that_stop_a_run_are_not_offered_for_runs_that_are_still_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for seed in range(6):
        make_run(tmp_path / "runs", seed=seed, created=seed)
    monkeypatch.setattr(reader, "SLICE_SECONDS", 0.0)  # one run in each poll
    app = make_app(tmp_path / "runs")
    async with app.run_test(size=LARGE) as pilot:
        seen = False
        while app.store.loading or not table(app).order:
            await pilot.pause()
            seen = seen or bool(app.store.active()) or "x Stop" in line(app, KeyLine)
        assert not seen
        assert "x Stop" not in line(app, KeyLine)
        going = make_run(tmp_path / "runs", seed=9, created=9, end=None)
        with held(going):
            await until(pilot, lambda: app.store.active())
            await until(pilot, lambda: "x Stop" in line(app, KeyLine))


@pytest.mark.parametrize("screen", ["1", "4"])
async def test_the_help_is_whole_in_a_small_terminal(tmp_path: Path, screen: str) -> None:
    from tui.commands import entries

    make_run(tmp_path / "runs")
    app = make_app(tmp_path / "runs")
    async with app.run_test(size=SMALL) as pilot:
        await until(pilot, lambda: table(app).order)
        await pilot.press(screen)
        shown = entries(app.screen)
        await pilot.press("question_mark")
        await pilot.pause()
        told = texts(app)
        for entry in shown:
            for word in f"{entry.key} {entry.title} {entry.tooltip}".split():
                assert word in told


async def test_every_key_has_a_name_and_a_tooltip(tmp_path: Path) -> None:
    from tui.commands import entries

    make_run(tmp_path / "runs")
    app = make_app(tmp_path / "runs")
    async with app.run_test(size=LARGE) as pilot:
        await until(pilot, lambda: table(app).order)
        shown = entries(app.screen)
        assert len({entry.binding.id for entry in shown}) == len(shown) >= 15
        assert all(entry.tooltip for entry in shown)


async def test_a_preset_is_chosen_and_shown(tmp_path: Path) -> None:
    app = make_app(tmp_path / "runs", device="cpu")
    async with app.run_test(size=SMALL) as pilot:
        await until(pilot, lambda: "preset: quick" in words(app, "#status"))
        await pilot.press("P", "down", "enter")
        await pilot.pause()
        assert app.runs.preset == "resnet18"
        assert "preset: resnet18" in words(app, "#status")


@pytest.mark.parametrize(("device", "preset"), [("cuda:0", "fast"), ("cpu", "quick")])
def test_the_default_preset_follows_the_device(tmp_path: Path, device: str, preset: str) -> None:
    assert make_app(tmp_path, device=device).runs.preset == preset


async def test_a_terminal_that_is_too_small_says_so_and_recovers(tmp_path: Path) -> None:
    app = make_app(tmp_path / "runs")
    async with app.run_test(size=(40, 10)) as pilot:
        await until(pilot, lambda: isinstance(app.screen, TooSmall))
        await pilot.press("s", "n", "2", "x", "question_mark")
        assert isinstance(app.screen, TooSmall)
        assert len(app.store) == 0
        await pilot.resize_terminal(*SMALL)
        await until(pilot, lambda: isinstance(app.screen, RunsScreen))
        await pilot.press("n")
        await pilot.resize_terminal(40, 10)
        await until(pilot, lambda: isinstance(app.screen, TooSmall))
        await pilot.resize_terminal(*LARGE)
        await until(pilot, lambda: isinstance(app.screen, NewRun))


async def test_quitting_works_in_a_tiny_terminal_with_a_run_going(tmp_path: Path) -> None:
    app = make_app(tmp_path / "runs")
    async with app.run_test(size=SMALL) as pilot:
        await pilot.press("s")
        await until(pilot, lambda: [f.status for f in app.store] == ["training"])
        await pilot.resize_terminal(40, 10)
        await until(pilot, lambda: isinstance(app.screen, TooSmall))
        await pilot.press("q")
        assert isinstance(app.screen, Quit)
        await pilot.press("s")
        await until(pilot, lambda: not app.is_running)


async def test_quitting_works_when_the_terminal_shrinks_over_the_question(tmp_path: Path) -> None:
    app = make_app(tmp_path / "runs")
    async with app.run_test(size=SMALL) as pilot:
        await pilot.press("s")
        await until(pilot, lambda: [f.status for f in app.store] == ["training"])
        await pilot.press("q")
        question = app.screen
        assert isinstance(question, Quit)
        await pilot.resize_terminal(40, 10)
        await until(pilot, lambda: isinstance(app.screen, TooSmall))
        await pilot.press("q")
        assert app.screen is question
        await pilot.press("c")
        await until(pilot, lambda: isinstance(app.screen, TooSmall))
        await pilot.press("q")
        await until(pilot, lambda: isinstance(app.screen, Quit))
        await pilot.press("s")
        await until(pilot, lambda: not app.is_running)


async def test_the_question_at_quitting_names_the_runs_that_go_on_now(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = make_run(tmp_path / "runs", name="first", end=None, done=2)
    second = make_run(tmp_path / "runs", name="second", end=None, done=2, created=60)
    monkeypatch.setattr(Launcher, "given", frozenset({first.id, second.id}))
    app = make_app(tmp_path / "runs")
    async with app.run_test(size=SMALL) as pilot:
        with held(second):
            with held(first):
                await until(pilot, lambda: len(app.store.active()) == 2)
                await pilot.press("q")
                assert "Not ended: first (training), second (training)" in texts(app)
                ended = events.RunEnded(
                    state="completed",
                    best_accuracy=0.5,
                    best_epoch=2,
                    final_accuracy=0.5,
                    seconds=3,
                )
                append(first, ended)
                await until(pilot, lambda: "Not ended: second (training)" in texts(app))
            append(second, ended)
            await until(pilot, lambda: "all runs have ended" in texts(app))
        await pilot.press("s", "l")
        assert app.is_running, "there is nothing to stop, nor to leave training"
        assert "stopping" not in texts(app)
        await pilot.press("q")
        await until(pilot, lambda: not app.is_running)


async def test_the_question_at_quitting_offers_what_can_be_done_now(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = make_run(tmp_path / "runs", name="only", end=None, done=2)
    monkeypatch.setattr(Launcher, "given", frozenset({run.id}))
    app = make_app(tmp_path / "runs")

    def shown(word: str) -> bool:
        listed = app.screen.query_one(OptionList)
        words = [str(option.prompt) for option in listed.options]
        return any(word in line for line in (*words, texts(app)))

    async with app.run_test(size=SMALL) as pilot:
        with held(run):
            await until(pilot, lambda: len(app.store.active()) == 1)
            await pilot.press("q", "down", "down")
            question = app.screen
            assert isinstance(question, Quit)
            assert shown("Stop and quit")
        append(run, events.RunEnded(state="completed", best_accuracy=0.5, best_epoch=2))
        await until(pilot, lambda: "all runs have ended" in texts(app))
        assert not shown("Stop")
        assert not shown("Leave")
        assert not shown("while a run is going")
        assert shown("Quit?")
        question.show_runs(["another (queued)"])  # its start had been under way
        assert shown("Stop and quit")
        assert shown("Not ended: another (queued)")
        await pilot.press("enter")
        await until(pilot, lambda: isinstance(app.screen, RunsScreen))
        assert app.is_running, "the cursor stayed on cancel"


async def test_the_question_whether_to_stop_a_run_tells_that_it_has_ended(tmp_path: Path) -> None:
    run = make_run(tmp_path / "runs", name="only", end=None, done=2)
    app = make_app(tmp_path / "runs")
    async with app.run_test(size=SMALL) as pilot:
        with held(run):
            await until(pilot, lambda: len(app.store.active()) == 1)
            await pilot.press("x")
            assert "Stop this run?" in texts(app)
            assert "only · training · epoch" in texts(app)
            answers = app.screen.query_one(OptionList)
            assert answers.option_count == 2
        append(run, events.RunEnded(state="completed", best_accuracy=0.5, best_epoch=2))
        await until(pilot, lambda: "only · completed · epoch" in texts(app))
        assert "The run has ended" in texts(app)
        assert [str(option.prompt) for option in answers.options] == ["c  Close"]
        await pilot.press("x")
        assert isinstance(app.screen, Stop), "there is nothing to stop"
        await pilot.press("c")
        await until(pilot, lambda: isinstance(app.screen, RunsScreen))


async def test_the_theme_can_be_changed_and_is_light_all_over(tmp_path: Path) -> None:
    make_run(tmp_path / "runs")
    app = make_app(tmp_path / "runs")
    async with app.run_test(size=SMALL) as pilot:
        await until(pilot, lambda: table(app).order)
        app.set_theme("cifar-light")
        await pilot.pause()
        assert app.colours()["success"].lower() == "#008700"
        assert "#008700" in str(table(app).get_cell(table(app).order[0], "state").style)


async def test_a_screen_that_was_shown_before_has_the_new_theme(tmp_path: Path) -> None:
    """Styles are made anew where something has changed, and only there."""
    make_run(tmp_path / "runs")
    app = make_app(tmp_path / "runs")
    async with app.run_test(size=LARGE) as pilot:
        await until(pilot, lambda: table(app).order)
        await pilot.press("3", "1")
        await pilot.pause()
        app.set_theme("cifar-light")
        await pilot.press("3")
        await pilot.pause()
        light = app.screen.query_one(LayerTable)
        assert light.styles.color.hex.lower() == app.colours()["foreground"].lower()
        assert light.rich_style.color == light.styles.color.rich_color
        await until(pilot, lambda: all(app.get_screen(name).is_running for name in app.SCREENS))
        await pilot.press("1", "3")  # their style sheets were new
        await pilot.pause(0.5)
        updates = 0
        notify = light.notify_style_update

        def count() -> None:
            nonlocal updates
            updates += 1
            notify()

        light.notify_style_update = count  # type: ignore[method-assign]
        await pilot.press("1", "3")
        await pilot.pause()
        assert not updates


async def test_an_idle_app_paints_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for i in range(3):
        make_run(tmp_path / "runs", seed=i, end=[None, "completed", "failed"][i])
    app = make_app(tmp_path / "runs")
    async with app.run_test(size=LARGE) as pilot:
        app.worker.start()
        await until(pilot, lambda: app.worker.info.phase == "ready" and table(app).order)
        await at_rest(pilot, app)
        await pilot.pause(0.5)
        painted: list[object] = []
        display = CifarApp._display
        monkeypatch.setattr(
            CifarApp, "_display", lambda self, *a: (painted.append(a), display(self, *a))[1]
        )
        await pilot.pause(2.5)
        assert painted == []


def test_importing_the_app_loads_neither_torch_nor_what_is_not_needed_yet() -> None:
    code = (
        "import sys, tui.app, tui.__main__, tui.screens.runs;"
        "late = {'torch', 'torchvision', 'typer', 'plotext', 'numpy', 'PIL'} & set(sys.modules);"
        "assert not late, late"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
