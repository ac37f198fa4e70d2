"""No screen shows a figure that is not so: half-read logs, other places, other shares."""

from __future__ import annotations

import csv
import re
from pathlib import Path

import pytest

from tests.dashboard_helpers import LARGE, chart, dashboard, evaluated, text
from tests.tui_helpers import append, held, make_app, make_run, progress, until
from trainer import events
from trainer.runs import follower
from trainer.runs.follower import Follower
from trainer.runs.rundir import RunDir
from tui.runs import store
from tui.runs.store import Store
from tui.screens.compare import READING
from tui.widgets import progress_line

pytestmark = pytest.mark.usefixtures("data_is_there")


@pytest.fixture
def small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    """Any log is as long to read as one of hundreds of megabytes."""
    monkeypatch.setattr(follower, "PIECE_BYTES", 4096)
    monkeypatch.setattr(store, "CHUNK_BYTES", 4096)


# ---- logs that are still being read -----------------------------------------------------------


@pytest.mark.usefixtures("small_pieces")
def test_a_log_is_being_read_until_its_end_was_seen(tmp_path: Path) -> None:
    run = make_run(tmp_path, epochs=20, end=None)
    watched = Follower(run)
    assert watched.reading
    watched.poll(limit=4096)
    assert watched.reading
    with held(run):
        watched.catch_up()
        append(run, *[progress(21, 1 + i % 8) for i in range(3)])
        assert watched.behind()
        assert not watched.reading, "a run that goes on is known as of the last look"
    missing = Follower(RunDir(tmp_path / "gone"))
    missing.poll()
    assert not missing.reading


@pytest.mark.usefixtures("small_pieces")
def test_the_end_of_the_reading_is_news(tmp_path: Path) -> None:
    run = make_run(tmp_path, done=2, epochs=40, end=None)
    with held(run):
        append(run, progress(3, 1))
        watched = Store(tmp_path)
        watched.poll(now=True, budget=10)
        append(run, *[progress(3, 1) for _ in range(100)])
        assert watched.poll(budget=0)
        told = []
        while watched.followers[run.id].reading:
            told.append(watched.poll(budget=0))
    assert told[-1].news, "what said that it was read must go"
    assert told[-1].runs == {run.id}


async def test_what_is_half_read_says_so_and_is_exported_when_it_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_run(tmp_path / "runs", epochs=20, best=0.9)
    app = make_app(tmp_path / "runs")
    async with app.run_test(size=LARGE) as pilot:
        await until(pilot, lambda: app.store.current and not app.store.loading)
        current = app.store.current
        assert current is not None
        whole, half = current.state, Follower(current.run)
        half.poll(limit=follower.PIECE_BYTES // 16)
        assert half.reading
        monkeypatch.setattr(Follower, "reading", True)
        current.state = half.state
        await pilot.press("2")
        app.repaint()
        await until(pilot, lambda: "reading…" in text(app, "#title"))
        await pilot.press("5")
        await until(pilot, lambda: READING in text(app, "#results"))
        await pilot.press("E")
        await until(pilot, lambda: app._notifications)
        assert "waits" in next(iter(app._notifications)).message
        assert not list((tmp_path / "runs").glob("export-*"))
        current.state = whole
        monkeypatch.setattr(Follower, "reading", False)
        await until(pilot, lambda: list((tmp_path / "runs").glob("export-*/*.svg")))
        with next((tmp_path / "runs").glob("export-*/summary.csv")).open(newline="") as file:
            row = next(csv.DictReader(file))
        assert (row["epochs"], row["best_test_accuracy"]) == ("20", "0.9")
        app.repaint()
        await until(pilot, lambda: READING not in text(app, "#results"))
        await pilot.press("2")
        await until(pilot, lambda: "reading…" not in text(app, "#title"))


# ---- values of other places -------------------------------------------------------------------


async def test_the_cursor_says_where_its_value_is_from_on_every_axis(tmp_path: Path) -> None:
    run = make_run(tmp_path / "runs", epochs=40, done=0, end=None)
    append(run, *[progress(1 + i // 8, 1 + i % 8) for i in range(24)])
    append(run, evaluated(3, 0.5), events.RunEnded(state="stopped"))
    async with dashboard(tmp_path / "runs") as (app, pilot):
        for axis, there, before in (("step", "24", "20"), ("time", r"[\d:]+( s)?", None)):
            await pilot.press("e", "v")
            await until(pilot, lambda: "test loss" in chart(app, "loss").render_line(0).text)
            at_it = chart(app, "loss").render_line(0).text
            assert "(" not in at_it.partition("test loss")[2].partition("train")[0], at_it
            await pilot.press("shift+left", "shift+left")
            await pilot.pause()
            head = chart(app, "loss").render_line(0).text
            assert re.search(rf"test loss [\d.]+ \({there}\)", head), head
            assert before is None or f"step {before}" not in head, axis


# ---- shares and memory ------------------------------------------------------------------------


@pytest.mark.parametrize(("done", "words"), [(35, "23%"), (150, "100%")])
def test_a_run_that_stopped_early_has_not_done_all(tmp_path: Path, done: int, words: str) -> None:
    watched = Follower(make_run(tmp_path, epochs=150, done=done, end="completed"))
    watched.catch_up()
    colours = dict.fromkeys(("secondary", "accent", "panel", "foreground"), "#808080")
    line = progress_line._run_line(watched, colours, 160).text
    assert f"{done}/150 {words:>4}" in line, line


async def test_the_memory_of_a_run_stays_while_it_is_evaluated(tmp_path: Path) -> None:
    run = make_run(tmp_path / "runs", epochs=10, done=2, end=None)
    test = progress(3, 1, phase="test", loss=None, memory=None)
    append(run, progress(3, 8), test, events.RunEnded(state="stopped"))
    async with dashboard(tmp_path / "runs") as (app, pilot):
        await until(pilot, lambda: "this run    312 MiB" in text(app, "#device"))


def test_the_memory_of_an_earlier_attempt_is_forgotten(tmp_path: Path) -> None:
    run = make_run(tmp_path, epochs=10, done=2, end="stopped")
    watched = Follower(run)
    begun = watched.catch_up().started
    assert begun is not None
    assert watched.state.memory == 300 << 20
    append(run, begun)
    assert watched.catch_up().memory is None
