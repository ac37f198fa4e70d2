"""Which run the keys mean, and what is told in the corner."""

from __future__ import annotations

import json
import os
import time
from contextlib import ExitStack
from pathlib import Path

import pytest
from textual.pilot import Pilot
from textual.widgets import Input, Static
from textual.widgets._toast import Toast, ToastHolder, ToastRack

from tests.tui_helpers import append, held, keys, make_app, make_run, status, until
from trainer.config import RunConfig
from trainer.events import Paused, RunEnded
from trainer.lifecycle.submit import name_of
from trainer.runs.follower import Follower
from trainer.runs.rundir import RunDir
from tui import toasts
from tui.app import CifarApp
from tui.commands import entries
from tui.run_control import _epoch
from tui.runs import reader
from tui.screens.dialogs import Choice
from tui.screens.runs import RunsScreen
from tui.toasts import ERROR_SECONDS, SECONDS
from tui.widgets.key_line import KeyLine
from tui.widgets.run_table import RunTable

pytestmark = pytest.mark.usefixtures("data_is_there")


def told(app: CifarApp) -> list[str]:
    return [notice.message for notice in app._notifications]


def target(app: CifarApp) -> str:
    run = app.runs.target()
    return run.run.id if run is not None else ""


# which run


@pytest.mark.parametrize("paused", [False, True])
async def test_keys_mean_the_run_that_trains_not_one_that_waits(
    tmp_path: Path, paused: bool
) -> None:
    waiting = make_run(tmp_path / "runs", name="waiting", done=0, end=None)
    running = make_run(
        tmp_path / "runs", name="running", done=1, end=None, paused=paused, created=9
    )
    done = make_run(tmp_path / "runs", name="done", created=99)
    app = make_app(tmp_path / "runs")
    with held(waiting, running):
        async with app.run_test(size=(120, 40)) as pilot:
            await until(pilot, lambda: len(app.store.active()) == 2)
            assert status(app, waiting) == "queued"
            assert app.store.selected == done.id
            assert target(app) == running.id
            await pilot.press("c")
            assert told(app) == ["running saves a checkpoint at its next step"]
            assert b"checkpoint" in running.control.read_bytes()
            assert b"checkpoint" not in waiting.control.read_bytes()


async def test_a_run_in_the_queue_saves_no_checkpoint(tmp_path: Path) -> None:
    waiting = make_run(tmp_path / "runs", name="waiting", done=0, end=None)
    app = make_app(tmp_path / "runs")
    with held(waiting):
        async with app.run_test(size=(120, 40)) as pilot:
            await until(pilot, lambda: target(app) == waiting.id)
            await pilot.press("c")
            assert told(app) == ["waiting waits in the queue: there is nothing new to save"]
            assert b"checkpoint" not in waiting.control.read_bytes()


async def resume_behind_another(pilot: Pilot[None], app: CifarApp, only: RunDir) -> None:
    """Start a run, and have the one that was there go on behind it."""
    await until(pilot, lambda: len(app.store) == 1)
    await pilot.press("s")
    await until(pilot, lambda: any(run.status == "training" for run in app.store))
    app.store.selected = only.id
    await pilot.press("r")


async def stop_all(pilot: Pilot[None], app: CifarApp) -> None:
    """The queued ones first: none of them begins."""
    for run in reversed(app.store.active()):
        app.runs.stop(run)
    await until(pilot, lambda: not app.store.active())


@pytest.mark.usefixtures("runs_may_start")
async def test_a_resumed_run_behind_another_is_told_to_wait(tmp_path: Path) -> None:
    # it is called as its configuration says: as it is when it was queued once more
    older = make_run(tmp_path / "runs", preset="dws-late", epochs=3, done=1, end="stopped")
    app = make_app(tmp_path / "runs")
    async with app.run_test(size=(120, 40)) as pilot:
        await resume_behind_another(pilot, app, older)
        await until(pilot, lambda: status(app, older) == "queued")
        line = "dws-late is queued behind 1 other: then it goes on from its checkpoint"
        await until(pilot, lambda: line in told(app))
        await stop_all(pilot, app)


@pytest.mark.usefixtures("runs_may_start")
async def test_a_run_that_never_began_is_told_to_wait_in_one_sentence(tmp_path: Path) -> None:
    never = make_run(tmp_path / "runs", preset="dws-late", done=0, end=None)
    app = make_app(tmp_path / "runs")
    async with app.run_test(size=(120, 40)) as pilot:
        await resume_behind_another(pilot, app, never)
        line = "dws-late is queued behind 1 other: then it begins"
        await until(pilot, lambda: line in told(app))
        await stop_all(pilot, app)


async def test_a_second_p_takes_the_pause_back(tmp_path: Path) -> None:
    running = make_run(tmp_path / "runs", name="running", done=1, end=None)
    app = make_app(tmp_path / "runs")
    with held(running):
        async with app.run_test(size=(120, 40)) as pilot:
            await until(pilot, lambda: status(app, running) == "training")
            follower = app.store.followers[running.id]
            table = app.screen.query_one(RunTable)
            await pilot.press("p")
            await until(pilot, lambda: "pausing" in str(table.get_cell(running.id, "state")))
            await pilot.press("p")
            sent = [line for line in running.control.read_text().split() if line]
            assert [json.loads(line)["command"] for line in sent] == ["pause", "resume"]
            await until(pilot, lambda: "▶ training" in str(table.get_cell(running.id, "state")))
            await pilot.press("p")
            append(running, Paused(step=9))
            await until(pilot, lambda: status(app, running) == "paused")
            await pilot.press("r", "r")
            assert running.control.read_text().count("resume") == 3
            assert app.runs.asked(follower) == ""


# what the filter leaves out


@pytest.mark.usefixtures("runs_may_start")
async def test_a_run_that_the_filter_hides_is_shown_when_it_begins(tmp_path: Path) -> None:
    old = make_run(tmp_path / "runs", name="older", epochs=3, done=1, end="stopped")
    app = make_app(tmp_path / "runs")
    async with app.run_test(size=(120, 40)) as pilot:
        table = app.screen.query_one(RunTable)
        await until(pilot, lambda: table.order == (old.id,))
        await pilot.press("slash", *"stopped", "enter", "s")
        await until(pilot, lambda: len(table.order) == 2)
        await until(pilot, lambda: table.chosen == app.store.selected != old.id)
        assert app.screen.query_one("#filter", Input).value == ""
        name = app.store.followers[app.store.selected or ""].name
        line = f"{name} has begun: the filter hid it and is cleared"
        await until(pilot, lambda: line in told(app))
        await stop_all(pilot, app)


async def test_keys_mean_the_highlighted_run_or_none(tmp_path: Path) -> None:
    old = make_run(tmp_path / "runs", name="alpha", done=1, end="stopped")
    new = make_run(tmp_path / "runs", name="beta", seed=2, created=600)
    app = make_app(tmp_path / "runs")
    async with app.run_test(size=(120, 40)) as pilot:
        table = app.screen.query_one(RunTable)
        await until(pilot, lambda: len(table.order) == 2)
        await pilot.press("slash", *"alpha", "enter")
        await until(pilot, lambda: app.store.selected == old.id)
        app.store.selected = new.id  # as from the palette
        app.repaint()
        assert app.store.selected == table.chosen == old.id
        assert app.runs.resumable()
        await pilot.press("slash", *"zzz", "enter")
        await until(pilot, lambda: table.order == ())
        assert not app.runs.resumable()
        await pilot.press("r", "d")
        assert told(app) == []
        assert len(app.screen_stack) == 2


async def test_what_cannot_go_on_is_not_offered_to(tmp_path: Path) -> None:
    lost = make_run(tmp_path / "runs", name="lost", done=2, end=None)
    lost.checkpoint("last").unlink()
    whole = make_run(tmp_path / "runs", name="whole", done=2, end=None, created=600)
    queued = make_run(tmp_path / "runs", name="queued", done=0, end="stopped", created=1200)
    app = make_app(tmp_path / "runs")
    async with app.run_test(size=(120, 40)) as pilot:
        await until(pilot, lambda: len(app.screen.query_one(RunTable).order) == 3)
        for run, can in ((lost, False), (whole, True), (queued, True)):
            app.open_run(run.id)
            await pilot.pause()
            assert app.store.selected == run.id
            assert app.runs.resumable() is can
            offered = app.screen.query_one(KeyLine).render().plain
            assert ("Resume" in offered) is can
            await pilot.press("1")


async def test_a_run_whose_end_comes_late_is_not_offered_to_go_on(tmp_path: Path) -> None:
    """Its log was copied in two parts, by nobody who trains it."""
    run = make_run(tmp_path / "runs", done=2, end=None)
    app = make_app(tmp_path / "runs")
    async with app.run_test(size=(120, 40)) as pilot:
        await until(pilot, lambda: "r Resume" in keys(app))
        append(run, RunEnded(state="completed", seconds=2.0))
        await until(pilot, lambda: "r Resume" not in keys(app))


# a run that goes


def names(app: CifarApp) -> list[str]:
    return [type(screen).__name__ for screen in app.screen_stack[1:]]


def move(app: CifarApp, run: RunDir, to: Path) -> None:
    """Move a run's folder, which the app notices."""
    run.path.rename(to)
    app.poll(now=True)


@pytest.fixture
def three(tmp_path: Path) -> list[RunDir]:
    """Oldest first; the best one is the oldest."""
    return [
        make_run(tmp_path / "runs", name=f"run {i}", best=0.9 - i / 10, created=60 * i)
        for i in range(3)
    ]


async def test_when_the_chosen_run_goes_no_screen_shows_another_in_silence(
    tmp_path: Path, three: list[RunDir]
) -> None:
    app = make_app(tmp_path / "runs")
    async with app.run_test(size=(120, 40)) as pilot:
        await until(pilot, lambda: len(app.screen.query_one(RunTable).order) == 3)
        await pilot.press("down", "4")
        await until(pilot, lambda: names(app) == ["MistakesScreen"])
        assert app.store.selected == three[1].id
        move(app, three[1], tmp_path / "runs" / "elsewhere")
        await until(pilot, lambda: names(app) == ["RunsScreen"])
        line = f"run 1: its folder {three[1].id} was moved or deleted"
        await until(pilot, lambda: told(app) == [line])
        assert app.store.selected == three[0].id, "the one below it in the list"
        await until(pilot, lambda: app.screen.query_one(RunTable).chosen == three[0].id)


async def test_the_neighbour_is_the_one_in_the_sorted_list(
    tmp_path: Path, three: list[RunDir]
) -> None:
    app = make_app(tmp_path / "runs")
    async with app.run_test(size=(120, 40)) as pilot:
        screen = app.screen
        assert isinstance(screen, RunsScreen)
        await until(pilot, lambda: len(screen.query_one(RunTable).order) == 3)
        await pilot.press("o")
        assert screen.sort[0] == "best"
        await pilot.press("home", "down")
        order = [three[i].id for i in (0, 1, 2)]
        await until(pilot, lambda: list(screen.query_one(RunTable).order) == order)
        await until(pilot, lambda: app.store.selected == three[1].id)
        move(app, three[1], tmp_path / "away")
        assert app.store.selected == three[2].id
        assert screen.query_one(RunTable).chosen == three[2].id


async def test_a_question_about_a_run_that_has_gone_stays_and_does_nothing(
    tmp_path: Path, three: list[RunDir]
) -> None:
    """The key that is on its way to it would ask about the run that took its place."""
    app = make_app(tmp_path / "runs")
    async with app.run_test(size=(120, 40)) as pilot:
        await until(pilot, lambda: len(app.store) == 3)
        await pilot.press("2", "1", "d")
        await until(pilot, lambda: names(app) == ["RunsScreen", "Choice"])
        move(app, three[2], tmp_path / "away")
        title = app.screen.query_one(".title", Static)
        await until(pilot, lambda: str(title.render()) == "The run has gone")
        await pilot.press("d", "d")
        assert names(app) == ["RunsScreen", "Choice"]
        await pilot.press("c")
        await until(pilot, lambda: names(app) == ["RunsScreen"])
        assert not (tmp_path / "runs" / ".trash").exists()
        assert app.store.selected == three[1].id


async def test_another_dialog_stays_and_the_screen_below_is_left_after_it(
    tmp_path: Path, three: list[RunDir]
) -> None:
    app = make_app(tmp_path / "runs")
    async with app.run_test(size=(120, 40)) as pilot:
        await until(pilot, lambda: len(app.store) == 3)
        await pilot.press("3", "n")
        await until(pilot, lambda: names(app) == ["LayersScreen", "NewRun"])
        move(app, three[2], tmp_path / "away")
        await pilot.pause()
        assert names(app) == ["LayersScreen", "NewRun"], "what was typed is kept"
        await pilot.press("escape")
        await until(pilot, lambda: names(app) == ["RunsScreen"])


async def test_a_run_that_is_not_chosen_goes_without_a_word(
    tmp_path: Path, three: list[RunDir]
) -> None:
    app = make_app(tmp_path / "runs")
    async with app.run_test(size=(120, 40)) as pilot:
        await until(pilot, lambda: len(app.store) == 3)
        await pilot.press("3")
        await until(pilot, lambda: names(app) == ["LayersScreen"])
        move(app, three[0], tmp_path / "away")
        await until(pilot, lambda: len(app.store) == 2)
        assert names(app) == ["LayersScreen"]
        assert told(app) == []
        assert app.store.selected == three[2].id


async def test_a_line_that_is_typed_is_not_cut_off_when_the_run_goes(tmp_path: Path) -> None:
    runs = [make_run(tmp_path / "runs", created=60 * i, with_predictions=True) for i in range(2)]
    app = make_app(tmp_path / "runs")
    async with app.run_test(size=(120, 40)) as pilot:
        await until(pilot, lambda: len(app.store) == 2)
        await pilot.press("4")
        await until(pilot, lambda: "mistakes.filter" in offered(app))
        await pilot.press("slash", "b")
        move(app, runs[1], tmp_path / "away")
        await pilot.press("i", "r", "d")
        assert names(app) == ["MistakesScreen"]
        field = app.focused
        assert isinstance(field, Input)
        assert field.value == "bird"
        await pilot.press("enter")
        await until(pilot, lambda: names(app) == ["RunsScreen"])


async def test_a_comparison_stays_when_a_run_goes_that_it_does_not_show(
    tmp_path: Path, three: list[RunDir]
) -> None:
    app = make_app(tmp_path / "runs")
    async with app.run_test(size=(120, 40)) as pilot:
        await until(pilot, lambda: len(app.store) == 3)
        app.store.toggle_mark(three[0].id)
        app.store.toggle_mark(three[1].id)
        await pilot.press("5")
        await until(pilot, lambda: names(app) == ["CompareScreen"])
        move(app, three[2], tmp_path / "away")
        await until(pilot, lambda: len(told(app)) == 1)
        assert names(app) == ["CompareScreen"]
        await pilot.press("d")
        await until(pilot, lambda: names(app) == ["DifferenceScreen"])
        (tmp_path / "away").rename(three[2].path)
        app.poll(now=True)
        app.store.selected = three[2].id
        move(app, three[2], tmp_path / "away")
        await pilot.pause()
        assert names(app) == ["DifferenceScreen"]
        app.store.selected = three[1].id
        move(app, three[1], tmp_path / "gone")
        await until(pilot, lambda: names(app) == ["RunsScreen"])


@pytest.mark.usefixtures("runs_may_start")
async def test_a_run_that_is_started_meanwhile_is_shown(
    tmp_path: Path, three: list[RunDir]
) -> None:
    app = make_app(tmp_path / "runs")
    async with app.run_test(size=(120, 40)) as pilot:
        await until(pilot, lambda: len(app.store) == 3)
        await pilot.press("2", "n")
        await until(pilot, lambda: names(app) == ["DashboardScreen", "NewRun"])
        move(app, three[2], tmp_path / "away")
        await pilot.press("ctrl+s")
        known = {run.id for run in three}
        await until(pilot, lambda: app.store.selected not in known)
        await pilot.pause()
        assert names(app) == ["DashboardScreen"]


# messages in the corner


async def test_a_message_takes_the_place_of_its_kind_and_three_are_shown(tmp_path: Path) -> None:
    app = make_app(tmp_path / "runs")
    async with app.run_test(notifications=True, size=(100, 30)) as pilot:
        for number in range(9):
            app.tell(f"quick is queued behind {number} others", kind="queued")
            app.tell("the same")
        await until(pilot, lambda: told(app) == ["quick is queued behind 8 others", "the same"])
        app.tell("an error", severity="error")
        app.tell("one")
        app.tell("two")
        await until(pilot, lambda: told(app) == ["an error", "one", "two"])
        await until(pilot, lambda: len(app.screen.query(ToastHolder)) == 3)
        await pilot.press("question_mark")
        app.tell("three")
        await until(pilot, lambda: told(app) == ["an error", "two", "three"])
        await pilot.press("escape")
        await until(pilot, lambda: len(app.screen.query(ToastHolder)) == 3)


async def test_only_an_error_takes_the_place_of_an_error(tmp_path: Path) -> None:
    app = make_app(tmp_path / "runs")
    async with app.run_test(size=(100, 30)) as pilot:
        for number in range(3):
            app.tell(f"error {number}", severity="error")
        app.tell("copied 12", kind="copied")
        errors = ["error 0", "error 1", "error 2"]
        await until(pilot, lambda: told(app) == [*errors, "copied 12"])
        app.tell("saved")
        await until(pilot, lambda: told(app) == [*errors, "saved"])
        app.tell("error 3", severity="error")
        await until(pilot, lambda: told(app) == ["error 1", "error 2", "error 3"])


@pytest.fixture
def in_one_look(monkeypatch: pytest.MonkeyPatch) -> None:
    """However slow the machine: what has come by a poll is found by it, and not the rest later."""
    monkeypatch.setattr(reader, "SLICE_SECONDS", 600.0)


@pytest.mark.usefixtures("in_one_look")
async def test_ends_of_runs_of_one_name_are_not_one_message(tmp_path: Path) -> None:
    runs = [make_run(tmp_path / "runs", done=1, end=None, created=i) for i in range(5)]
    app = make_app(tmp_path / "runs")
    with held(*runs):
        async with app.run_test(size=(100, 30)) as pilot:
            await until(pilot, lambda: len(app.store.active()) == 5)
            for run in runs[:2]:
                append(run, RunEnded(state="stopped"))
            app.poll(now=True)
            stopped = ["quick stopped after 1 epoch"] * 2
            await until(pilot, lambda: told(app) == stopped)
            for run in runs[2:]:
                append(run, RunEnded(state="failed", error="disk full"))
            app.poll(now=True)
            await until(pilot, lambda: told(app) == [*stopped, "3 runs failed: disk full"])


async def test_an_error_under_a_dialog_is_seen_when_that_has_closed(tmp_path: Path) -> None:
    assert (SECONDS, ERROR_SECONDS) == (5, 10)  # as the app has them; in tests they are longer
    app = make_app(tmp_path / "runs")
    async with app.run_test(notifications=True, size=(80, 24)) as pilot:
        await pilot.press("n")
        await until(pilot, lambda: names(app) == ["RunsScreen", "NewRun"])
        began = time.time()
        app.tell("an error", severity="error")
        app.tell("a word")
        await until(pilot, lambda: told(app) == ["an error", "a word"])
        error, word = app._notifications
        assert error.timeout == toasts.UNTIL_CLOSED
        assert word.timeout == toasts.SECONDS
        before = error.raised_at
        assert began <= before
        await pilot.press("question_mark", "escape", "escape")
        await until(pilot, lambda: names(app) == ["RunsScreen"])
        assert error.timeout == toasts.ERROR_SECONDS
        assert error.raised_at > before, "its time begins now"
        await until(pilot, lambda: app.screen.query(Toast))
        app.tell("another", severity="error")
        await until(pilot, lambda: len(told(app)) == 3)
        assert list(app._notifications)[2].timeout == toasts.ERROR_SECONDS


async def test_no_message_lies_over_a_dialog(tmp_path: Path) -> None:
    app = make_app(tmp_path / "runs")
    async with app.run_test(notifications=True, size=(80, 24)) as pilot:
        await app.push_screen(Choice("Stop?", "", [("", str(i), "A" * 60) for i in range(12)]))
        for word in ("one", "two", "three"):
            app.tell(word, severity="error")
        await until(pilot, lambda: len(app.screen.query(Toast)) == 3)
        await pilot.pause()
        box = app.screen.query_one(".dialog").region
        toasts = [toast.region for toast in app.screen.query(Toast)]
        assert any(box.overlaps(region) for region in toasts)
        for region in toasts:
            at = region.intersection(box)
            for y in range(at.y, at.bottom):
                for x in range(at.x, at.right):
                    widget, _ = app.screen.get_widget_at(x, y)
                    assert not isinstance(widget, Toast | ToastHolder | ToastRack)


@pytest.mark.usefixtures("in_one_look")
async def test_runs_that_crash_together_are_one_message(tmp_path: Path) -> None:
    runs = [make_run(tmp_path / "runs", done=0, end=None, created=i) for i in range(3)]
    app = make_app(tmp_path / "runs")
    with ExitStack() as locks:
        locks.enter_context(held(*runs))
        async with app.run_test(size=(100, 30)) as pilot:
            await until(pilot, lambda: len(app.store.active()) == 3)
            locks.close()
            app.poll(now=True)
            line = "3 runs crashed: their trainer ended without a word"
            await until(pilot, lambda: told(app) == [line])


# keys without anything to act on


def offered(app: CifarApp) -> set[str]:
    return {str(entry.binding.id) for entry in entries(app.screen) if entry.enabled}


async def test_keys_of_images_and_layers_are_offered_where_there_are_any(tmp_path: Path) -> None:
    bare = make_run(tmp_path / "runs", done=0, end="stopped", created=9)
    full = make_run(tmp_path / "runs", with_predictions=True)
    images = {f"mistakes.{name}" for name in ("filter", "sort", "matrix", "size", "enlarge")}
    images |= {"mistakes.epoch", "mistakes.csv", "mistakes.jump", "mistakes.page", "mistakes.fault"}
    layers = {"layers.sort", "layers.fold", "layers.measured"}
    app = make_app(tmp_path / "runs")
    async with app.run_test(size=(160, 50)) as pilot:
        await until(pilot, lambda: app.store.selected == bare.id)
        await pilot.press("4")
        await until(pilot, lambda: names(app) == ["MistakesScreen"])
        await until(pilot, lambda: app.screen.has_class("-nothing"))
        assert not images & offered(app)
        assert "o Sort" not in keys(app)
        await pilot.press("slash")
        assert not app.screen.query_one("#filter").display
        await pilot.press("3")
        await until(pilot, lambda: names(app) == ["LayersScreen"])
        await until(pilot, lambda: app.screen.has_class("-nothing"))
        assert not layers & offered(app)
        app.store.selected = full.id
        app.repaint()
        await until(pilot, lambda: layers <= offered(app))
        await pilot.press("4")
        await until(pilot, lambda: images <= offered(app))
        await until(pilot, lambda: "o Sort" in keys(app))


def test_the_epoch_of_a_run_is_not_the_number_of_its_rows(tmp_path: Path) -> None:
    run = Follower(make_run(tmp_path, epochs=5, done=3, end=None))
    run.catch_up()
    del run.state.epochs[0]  # as in a damaged log
    run.state.progress = None
    assert _epoch(run) == "3/5"


def test_a_run_is_called_as_it_is_queued(tmp_path: Path) -> None:
    run = RunDir(tmp_path / "id")
    assert name_of(RunConfig(name=" ", preset="quick"), run) == "quick"
    assert name_of(RunConfig(name=" mine "), run) == "mine"
    assert name_of(RunConfig(), run) == "id"


async def test_without_a_run_there_is_nothing_to_export_or_to_compare(tmp_path: Path) -> None:
    app = make_app(tmp_path / "runs")
    keys = {"compare.export", "compare.difference"}
    async with app.run_test(size=(120, 40)) as pilot:
        await pilot.press("5")
        await until(pilot, lambda: names(app) == ["CompareScreen"])
        assert not keys & offered(app)
        make_run(tmp_path / "runs")
        app.poll(now=True)
        await until(pilot, lambda: keys <= offered(app))


async def test_a_run_whose_log_was_deleted_is_not_told_as_crashed(tmp_path: Path) -> None:
    run = make_run(tmp_path / "runs", name="cut off", done=1, end=None)
    app = make_app(tmp_path / "runs")
    async with app.run_test(size=(120, 40)) as pilot:
        with held(run):
            await until(pilot, lambda: status(app, run) == "training")
            run.log.unlink()
            await until(pilot, lambda: app.store.followers[run.id].lost)
        os.utime(run.path, (0, 0))
        await until(pilot, lambda: status(app, run) == "crashed")
        line = "cut off: its log was deleted: how it ended is not known"
        await until(pilot, lambda: told(app) == [line])
