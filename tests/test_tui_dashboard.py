"""The dashboard through its keys, on fabricated logs: finished, live, failed, foreign."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest
from rich.style import Style
from textual._compositor import ChopsUpdate, Compositor
from textual.geometry import Region
from textual.strip import Strip

from tests.dashboard_helpers import (
    LARGE,
    MIDDLE,
    SIZES,
    SMALL,
    chart,
    dashboard,
    drawn,
    epoch_ended,
    evaluated,
    text,
)
from tests.tui_helpers import (
    append,
    at_rest,
    held,
    make_app,
    make_run,
    progress,
    started,
    until,
)
from trainer import events
from trainer.runs.follower import Follower
from trainer.runs.runlog import RunLog
from trainer.runs.runstate import NOTICES_KEPT
from tui import device_stats
from tui.runs import pace
from tui.runs.pace import CALM_POLLS, POLL_SECONDS
from tui.runs.store import Changes
from tui.screens import charts
from tui.screens.charts import REPAINT_SECONDS, SHARED_PACE, SHARED_PART
from tui.screens.dashboard import DashboardScreen
from tui.terminal.exact import ExactCompositor, ExactUpdate, SpanUpdate
from tui.widgets.curve_chart import CurveChart
from tui.widgets.device_panel import DevicePanel
from tui.widgets.epoch_table import EpochTable
from tui.widgets.lines import Lines
from tui.widgets.run_header import RunHeader

pytestmark = pytest.mark.usefixtures("data_is_there")


# ---- what it says -----------------------------------------------------------------------------


@pytest.mark.parametrize("size", SIZES)
async def test_a_finished_run(tmp_path: Path, size: tuple[int, int]) -> None:
    make_run(tmp_path / "runs", name="first look", best=0.86, epochs=30)
    async with dashboard(tmp_path / "runs", size) as (app, _):
        title = text(app, "#title")
        assert "first look" in title
        assert "✓ completed" in title
        assert "synthetic data, not CIFAR-10" in title
        assert "100%" in text(app, "#progress")
        rows = text(app, "#epochs").splitlines()
        assert "test accuracy" in rows[0]
        assert rows[-1].split()[0] == "30"
        assert "★ 86.00 %" in rows[-1]
        assert "test accuracy" in chart(app, "accuracy").render_line(0).text
        assert "test loss" in chart(app, "loss").render_line(0).text


@pytest.mark.parametrize("size", SIZES)
async def test_nothing_is_cut_within_a_word(tmp_path: Path, size: tuple[int, int]) -> None:
    run = make_run(tmp_path / "runs", epochs=20, done=3, end=None)
    append(run, progress(4, 3))
    with held(run):
        async with dashboard(tmp_path / "runs", size) as (app, _):
            for where in ("#title", "#progress", "#epochs"):
                assert "…" not in text(app, where)
            assert "…" not in chart(app, "loss").render_line(0).text
            assert "left" in text(app, "#progress")
            screen = app.screen
            assert screen.query_one("#charts").region.bottom == size[1] - 1
            assert chart(app, "loss").size.height >= 8


async def test_data_is_named_for_what_it_is(tmp_path: Path) -> None:
    make_run(tmp_path / "runs", data="cifar10", data_kind="synthetic")
    async with dashboard(tmp_path / "runs", SMALL) as (app, _):
        assert "synthetic data, not CIFAR-10" in text(app, "#title")


async def test_reason_of_a_failure_and_hostile_names(tmp_path: Path) -> None:
    make_run(
        tmp_path / "runs",
        name="[red]x[/]\x1b[31m",
        end="failed",
        done=2,
        error="[b]out[/b] of memory: lower the batch size",
    )
    async with dashboard(tmp_path / "runs", SMALL) as (app, _):
        assert "[red]x[/][31m" in text(app, "#title")
        assert "✗ failed" in text(app, "#title")
        assert "[b]out[/b] of memory: lower the batch size" in text(app, "#title")


async def test_a_failure_says_which_file_tells_more(tmp_path: Path) -> None:
    run = make_run(tmp_path / "runs", end="failed", error="AttributeError: no such layer")
    run.traceback.write_text("Traceback")
    async with dashboard(tmp_path / "runs") as (app, _):
        said = "AttributeError: no such layer; traceback.txt in its folder tells more"
        assert said in text(app, "#title")


async def test_a_crashed_run_says_so(tmp_path: Path) -> None:
    make_run(tmp_path / "runs", end=None, done=2)
    async with dashboard(tmp_path / "runs") as (app, _):
        assert "ended without a word; its last checkpoint is of epoch 2" in text(app, "#title")


async def test_results_with_tta_have_a_line_of_their_own(tmp_path: Path) -> None:
    run = make_run(tmp_path / "runs", end=None, epochs=5, best=0.8)
    append(run, evaluated(5, 0.91, "tta"), events.RunEnded(state="completed"))
    async with dashboard(tmp_path / "runs", SMALL) as (app, _):
        rows = text(app, "#epochs").splitlines()
        assert "test-time augmentation" in rows[-1]
        assert "91.00 %" in rows[-1]
        assert "★ 80.00 %" in rows[-2], "TTA is never the best plain accuracy"
        assert app.store.current is not None
        assert chart(app, "accuracy").plan is not None
        assert max(p.points.y.max() for p in chart(app, "accuracy").plan.curves if p.label) < 0.9


async def test_no_run(tmp_path: Path) -> None:
    (tmp_path / "runs").mkdir()
    app = make_app(tmp_path / "runs")
    async with app.run_test(size=SMALL) as pilot:
        await until(pilot, lambda: app.store.listed)
        await pilot.press("2")
        await until(pilot, lambda: isinstance(app.screen, DashboardScreen))
        await until(pilot, lambda: app.screen.query_one("#empty").display)
        assert not app.screen.query_one("#charts").display
        for key in ("e", "v", "z", "f", "right", "m"):
            await pilot.press(key)


async def test_the_epoch_table_scrolls_again_after_a_chart_was_alone(tmp_path: Path) -> None:
    make_run(tmp_path / "runs", epochs=40)
    app = make_app(tmp_path / "runs")
    async with app.run_test(size=(80, 24)) as pilot:
        await until(pilot, lambda: len(app.store) == 1)
        await pilot.press("2", "f", "f")
        await until(pilot, lambda: app.focused is None)
        await pilot.press("escape")
        await until(pilot, lambda: isinstance(app.focused, EpochTable))


async def test_a_queued_run_has_empty_charts(tmp_path: Path) -> None:
    run = make_run(tmp_path / "runs", done=0, end=None)
    with held(run):
        async with dashboard(tmp_path / "runs", SMALL) as (app, pilot):
            assert "queued" in text(app, "#title")
            await pilot.press("v", "e", "e", "l")


# ---- live -------------------------------------------------------------------------------------


async def test_a_live_run_grows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(charts, "REPAINT_SECONDS", 0.1)
    run = make_run(tmp_path / "runs", epochs=10, done=2, end=None, best=0.8)
    with held(run):
        async with dashboard(tmp_path / "runs") as (app, pilot):
            assert "▶ training" in text(app, "#title")
            assert "3" not in [r.split()[0] for r in text(app, "#epochs").splitlines() if r.split()]
            append(run, progress(3, 4))
            await until(pilot, lambda: "4.2k images/s" in text(app, "#progress"))
            assert "train accuracy  50 %" in text(app, "#progress")
            drawings = chart(app, "loss").drawings
            append(run, *epoch_ended(3))
            await until(pilot, lambda: "★ 99.00 %" in text(app, "#epochs"))
            await until(pilot, lambda: chart(app, "loss").drawings > drawings)
            append(run, events.RunEnded(state="stopped"))
            await until(pilot, lambda: "■ stopped" in text(app, "#title"))


async def test_charts_are_drawn_once_a_second_at_most(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert charts.REPAINT_SECONDS == 1  # here it is longer than the test, however slow that is
    monkeypatch.setattr(charts, "REPAINT_SECONDS", 3600.0)
    monkeypatch.setattr(charts, "SLOWEST_SECONDS", 3600.0)
    run = make_run(tmp_path / "runs", epochs=10, done=2, end=None)
    with held(run):
        async with dashboard(tmp_path / "runs") as (app, pilot):
            drawings = chart(app, "loss").drawings
            for done in range(1, 6):
                append(run, progress(3, done))
                app.poll()
                await pilot.pause()
            assert chart(app, "loss").drawings <= drawings + 1
            monkeypatch.setattr(charts, "REPAINT_SECONDS", 0.05)
            monkeypatch.setattr(charts, "SLOWEST_SECONDS", 0.05)
            append(run, *epoch_ended(3))
            await until(pilot, lambda: len(app.store.current.state.evals) == 3)  # type: ignore[union-attr]
            newest = app.store.current.state.points  # type: ignore[union-attr]
            await until(
                pilot,
                lambda: app.screen._drawn[0][-1][1] == newest,  # type: ignore[attr-defined]
            )


async def test_within_an_epoch_a_chart_waits_for_the_next_dot(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(charts, "REPAINT_SECONDS", 0.05)
    monkeypatch.setattr(charts, "SLOWEST_SECONDS", 3600.0)
    run = make_run(tmp_path / "runs", epochs=10, done=2, end=None)
    with held(run):
        append(run, progress(3, 1), seconds=5000)
        async with dashboard(tmp_path / "runs") as (app, pilot):
            await until(pilot, lambda: chart(app, "loss").drawings > 0)
            drawings = chart(app, "loss").drawings
            append(run, progress(3, 2))
            await until(pilot, lambda: app.store.current.state.progress.done == 2)  # type: ignore[union-attr]
            await pilot.pause(0.3)
            assert chart(app, "loss").drawings == drawings
            append(run, *epoch_ended(3))
            await until(pilot, lambda: chart(app, "loss").drawings > drawings)


@pytest.mark.parametrize(("host", "device"), [("", "cpu"), ("elsewhere", "cpu"), ("", "cuda:0")])
async def test_logs_are_looked_at_less_often_beside_a_run_on_the_processor(
    tmp_path: Path, host: str, device: str
) -> None:
    run = make_run(tmp_path / "runs", epochs=10, done=2, end=None)
    with held(run):
        append(run, started(host=host, device=device), progress(3, 1))
        async with dashboard(tmp_path / "runs") as (app, pilot):
            assert app.shares_processor == (host == "" and device == "cpu")
            slower = CALM_POLLS if app.shares_processor else 1
            assert app.pace.seconds == pytest.approx(POLL_SECONDS * slower)
            append(run, progress(3, 2))  # and still looks
            await until(pilot, lambda: app.store.current.state.progress.done == 2)  # type: ignore[union-attr]


async def test_logs_are_looked_at_less_often_while_nothing_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pace, "STIR_SECONDS", 3600.0)  # no rest, however slow the test is
    run = make_run(tmp_path / "runs", epochs=10, done=2)
    async with dashboard(tmp_path / "runs") as (app, pilot):
        assert app.pace.seconds == pytest.approx(POLL_SECONDS * CALM_POLLS)
        with held(run):  # resumed by another process
            append(run, started(host="elsewhere"), progress(3, 1))
            await until(pilot, lambda: app.store.current.status == "training")  # type: ignore[union-attr]
            await until(pilot, lambda: app.pace.seconds == pytest.approx(POLL_SECONDS))
        await until(pilot, lambda: app.store.current.status == "crashed")  # type: ignore[union-attr]
        await until(pilot, lambda: app.pace.seconds == pytest.approx(POLL_SECONDS * CALM_POLLS))


async def test_progress_alone_moves_the_line_and_asks_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = make_run(tmp_path / "runs", epochs=10, done=2, end=None)
    with held(run):
        append(run, started(host=""), progress(3, 1))
        async with dashboard(tmp_path / "runs") as (app, pilot):
            await until(pilot, lambda: chart(app, "loss").drawings > 0)
            asked: list[str] = []
            for kind in (RunHeader, EpochTable):
                shown = kind.show

                def noted(self: Any, *args: Any, shown: Any = shown, **kwargs: Any) -> None:
                    asked.append(type(self).__name__)
                    shown(self, *args, **kwargs)

                monkeypatch.setattr(kind, "show", noted)
            line = app.screen.query_one("#progress", Lines)
            append(run, progress(3, 5))
            app.store.poll(now=True)
            screen = app.screen
            assert isinstance(screen, DashboardScreen)
            asked.clear()
            before = line._strips[0].text
            screen.show(Changes(runs={run.id}, news=False))
            assert line._strips[0].text.count("█") > before.count("█")
            assert asked == []
            screen.show(Changes(runs={run.id}))
            assert set(asked) == {"RunHeader", "EpochTable"}


@pytest.mark.parametrize("host", ["", "elsewhere"])
async def test_beside_a_run_charts_take_a_part_of_the_time(tmp_path: Path, host: str) -> None:
    run = make_run(tmp_path / "runs", epochs=10, done=2, end=None)
    with held(run):
        append(run, started(host=host, device="cpu"), progress(3, 1))
        async with dashboard(tmp_path / "runs") as (app, pilot):
            await until(pilot, lambda: chart(app, "accuracy").drawings > 0)
            screen = app.screen
            assert isinstance(screen, DashboardScreen)
            assert screen._cost > 0
            screen._cost, screen._dot = 0.015, 0.0
            within, fresh = screen._pace(fresh=False), screen._pace(fresh=True)
            shared = host == ""
            assert within == pytest.approx(0.015 / SHARED_PART if shared else REPAINT_SECONDS)
            assert fresh == REPAINT_SECONDS * (SHARED_PACE if shared else 1)
            # what an epoch leaves is drawn once: with its evaluation
            append(run, progress(3, 2, phase="test", loss=None))
            await until(pilot, lambda: app.store.current.state.progress.phase == "test")  # type: ignore[union-attr]
            assert (screen._pace(fresh=True) > fresh) is shared


async def test_the_header_shows_the_newest_notice_however_many_there_were(tmp_path: Path) -> None:
    def warning(text: str) -> events.Notice:
        return events.Notice(level="warning", code="x", message=text)

    run = make_run(tmp_path / "runs", epochs=10, done=2, end=None)
    with held(run):
        append(run, progress(3, 1), *(warning(f"no. {i}") for i in range(NOTICES_KEPT)))
        async with dashboard(tmp_path / "runs") as (app, pilot):
            header = app.screen.query_one(RunHeader)

            def says(text: str) -> Callable[[], bool]:
                return lambda: text in "".join(strip.text for strip in header._strips)

            await until(pilot, says(f"no. {NOTICES_KEPT - 1}"))
            append(run, warning("one more"))
            await until(pilot, says("one more"))


async def test_without_a_new_point_nothing_is_drawn(tmp_path: Path) -> None:
    run = make_run(tmp_path / "runs", epochs=10, done=2, end=None)
    with held(run):
        async with dashboard(tmp_path / "runs") as (app, pilot):
            await pilot.pause(1.1)
            before = {name: chart(app, name).drawings for name in ("loss", "accuracy", "lr")}
            assert before["lr"] == 0, "hidden charts are not drawn"
            append(run, events.Notice(level="info", code="x", message="nothing new"))
            append(run, progress(2, 8, phase="test", loss=None))
            await pilot.pause(1.2)
            assert before == {name: chart(app, name).drawings for name in before}


async def test_an_idle_run_repaints_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_run(tmp_path / "runs")
    async with dashboard(tmp_path / "runs") as (app, pilot):
        await at_rest(pilot, app)
        await pilot.pause(1.0)
        painted: list[object] = []
        monkeypatch.setattr(app, "_display", lambda *args: painted.append(args))
        await pilot.pause(1.5)
        assert painted == []


async def test_a_resumed_run_is_one_curve(tmp_path: Path) -> None:
    run = make_run(tmp_path / "runs", epochs=5, done=3, end="stopped")
    append(run, started(resumed_step=16), progress(3, 2), *epoch_ended(3))
    async with dashboard(tmp_path / "runs") as (app, pilot):
        rows = [r.split()[0] for r in text(app, "#epochs").splitlines()[1:] if r.strip()]
        assert rows == ["1", "2", "3"]
        plan = chart(app, "loss").plan
        assert plan is not None
        for curve in plan.curves:
            assert (curve.points.x[1:] > curve.points.x[:-1]).all()
        await pilot.press("e")
        assert chart(app, "loss").plan.axis == "step"  # type: ignore[union-attr]


# ---- keys -------------------------------------------------------------------------------------


async def test_axis_log_smoothing(tmp_path: Path) -> None:
    make_run(tmp_path / "runs", epochs=20)
    async with dashboard(tmp_path / "runs") as (app, pilot):
        loss = chart(app, "loss")
        assert loss.plan is not None
        assert (loss.plan.axis, loss.plan.log) == ("epoch", False)
        raw = {c.label: c.points.y.tolist() for c in loss.plan.curves}
        await pilot.press("e", "l", "m")
        assert (loss.plan.axis, loss.plan.log) == ("step", True)
        assert "log, smoothed 0.3, steps" in loss.render_line(0).text
        assert not chart(app, "accuracy").plan.log  # type: ignore[union-attr]
        smoothed = next(c for c in loss.plan.curves if c.label == "test loss")
        assert smoothed.points.y.tolist() != raw["test loss"]
        assert smoothed.exact is not None
        assert smoothed.exact.y.tolist() == raw["test loss"], "the cursor tells what was measured"
        assert sum(c.behind for c in loss.plan.curves) == 3
        await pilot.press("M", "M", "e", "e")
        assert loss.plan.axis == "epoch"
        assert sum(c.behind for c in loss.plan.curves) == 1


async def test_zoom_and_pan(tmp_path: Path) -> None:
    make_run(tmp_path / "runs", epochs=40)
    async with dashboard(tmp_path / "runs") as (app, pilot):
        loss = chart(app, "loss")
        await pilot.press("left")
        assert loss.plan is not None
        assert loss.plan.x_limits == (0, 40)
        await pilot.press("plus")
        assert loss.plan.x_limits == (10, 30)
        await pilot.press("right")
        assert loss.plan.x_limits == (15, 35)
        await pilot.press("right", "right", "right")
        assert loss.plan.x_limits == (20, 40)
        for _ in range(12):
            await pilot.press("plus")
        low, high = loss.plan.x_limits
        assert high - low == 2
        await pilot.press("z")
        assert loss.plan.x_limits == (0, 40)
        await pilot.press("plus", "minus", "minus")
        assert not loss.plan.zoomed


async def test_the_cursor_tells_the_values(tmp_path: Path) -> None:
    make_run(tmp_path / "runs", epochs=20, best=0.86)
    async with dashboard(tmp_path / "runs") as (app, pilot):
        accuracy = chart(app, "accuracy")
        drawings = accuracy.drawings
        await pilot.press("v")
        head = accuracy.render_line(0).text
        assert "epoch 20" in head
        assert "test accuracy 86.00 %" in head
        assert "train accuracy (augmented) 84.00 %" in head
        await pilot.press("left", "left")
        assert "epoch 18" in accuracy.render_line(0).text
        assert any("│" in accuracy.render_line(y).text[10:] for y in range(1, 20))
        await pilot.hover(CurveChart, offset=(7, 10))
        await pilot.pause()
        assert "epoch 0" in accuracy.render_line(0).text
        assert accuracy.drawings == drawings, "moving the cursor draws no chart anew"
        await pilot.press("escape")
        assert "epoch" not in accuracy.render_line(0).text.replace("within the epoch", "")
        await pilot.click("#loss", offset=(7, 5))
        await pilot.pause()
        assert "epoch 0" in chart(app, "loss").render_line(0).text


async def test_both_values_fit_a_small_chart(tmp_path: Path) -> None:
    make_run(tmp_path / "runs", epochs=20, best=0.86)
    async with dashboard(tmp_path / "runs", SMALL) as (app, pilot):
        await pilot.press("v")
        await pilot.pause()
        head = chart(app, "accuracy").render_line(0).text
        assert "test 86.00 %" in head
        assert "train 84.00 %" in head


async def test_enlarge(tmp_path: Path) -> None:
    make_run(tmp_path / "runs", epochs=10)
    async with dashboard(tmp_path / "runs", SMALL) as (app, pilot):
        shown = []
        for _ in range(4):
            await pilot.press("f")
            await pilot.pause()
            shown.append([n for n in ("loss", "accuracy", "lr") if chart(app, n).display])
            if shown[-1] != ["loss", "accuracy"]:
                assert chart(app, shown[-1][0]).size.height >= 18
        assert shown == [["loss"], ["accuracy"], ["lr"], ["loss", "accuracy"]]


async def test_marked_runs_share_the_axes(tmp_path: Path) -> None:
    first = make_run(tmp_path / "runs", name="one", epochs=4, seed=1)
    second = make_run(tmp_path / "runs", name="two", epochs=8, seed=2, created=60)
    async with dashboard(tmp_path / "runs") as (app, pilot):
        assert not text(app, "#legend")
        app.store.toggle_mark(first.id)
        await until(pilot, lambda: "one" in text(app, "#legend"))
        assert "two" in text(app, "#legend")
        plan = chart(app, "loss").plan
        assert plan is not None
        assert plan.x_limits == (0, 8)
        labelled = [c for c in plan.curves if c.label]
        assert len(labelled) == 4
        assert {c.colour for c in labelled[:2]}.isdisjoint(c.colour for c in labelled[2:])
        assert app.store.current is not None
        assert app.store.current.run.id == second.id


async def test_resizing_keeps_everything_in_place(tmp_path: Path) -> None:
    make_run(tmp_path / "runs", epochs=20)
    async with dashboard(tmp_path / "runs", LARGE) as (app, pilot):
        for size in (SMALL, MIDDLE, LARGE, (100, 30), SMALL):
            await pilot.resize_terminal(*size)
            await drawn(pilot, app)
            loss = chart(app, "loss")
            assert loss.region.right <= size[0]
            assert loss.render_line(loss.size.height - 1).text.strip()
            assert len(loss.render_line(1).text) == loss.size.width
            assert text(app, "#epochs").splitlines()[-1].split()[0] == "20"


# ---- epoch table ------------------------------------------------------------------------------


async def test_the_table_follows_unless_scrolled(tmp_path: Path) -> None:
    run = make_run(tmp_path / "runs", epochs=1000, done=60, end=None, steps_per_epoch=1)
    with held(run):
        async with dashboard(tmp_path / "runs") as (app, pilot):
            table = app.screen.query_one(EpochTable)
            assert table.following
            await pilot.press("pageup")
            assert not table.following
            top = text(app, "#epochs").splitlines()[1].split()[0]
            append(run, *epoch_ended(61, steps=1))
            await until(pilot, lambda: len(app.store.current.state.epochs) == 61)  # type: ignore[union-attr]
            await pilot.pause()
            assert text(app, "#epochs").splitlines()[1].split()[0] == top
            assert "more" in text(app, "#epochs").splitlines()[0]
            await pilot.press("end")
            assert table.following
            assert text(app, "#epochs").splitlines()[-1].split()[0] == "61"
            await pilot.press("home")
            assert text(app, "#epochs").splitlines()[1].split()[0] == "1"


async def test_hundreds_of_epochs_make_only_the_lines_in_view(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_run(tmp_path / "runs", epochs=300, steps_per_epoch=1)
    from tui.widgets import epoch_table

    made: list[object] = []
    row = epoch_table._row

    def counted(*args: object, **options: object) -> object:
        made.append(args)
        return row(*args, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(epoch_table, "_row", counted)
    async with dashboard(tmp_path / "runs") as (app, pilot):
        await until(pilot, lambda: "300" in text(app, "#epochs"))
        made.clear()
        await pilot.press("up")
        assert 0 < len(made) <= 20


def test_epochs_of_the_hardest_images_are_told_apart() -> None:
    from trainer.runs.runstate import EpochRow
    from tui.themes import DARK
    from tui.widgets import epoch_table

    colours = {"secondary": DARK.secondary or "", "foreground": "white", "primary": DARK.primary}
    columns = epoch_table.fitting(200)
    row = EpochRow(9, 90, train_accuracy=0.9013, train_images=24_000)
    made = [
        epoch_table._row(row, columns, colours, best=False, hard=h).plain for h in (True, False)
    ]
    assert ["hard 90.13 %" in line for line in made] == [True, False]
    assert len(made[0]) == len(made[1])
    for width, said in (
        (200, "hard: the 24,000 hardest images"),
        (115, "hard: 24,000"),
        (98, "/s"),
    ):
        head = epoch_table._titles(columns, colours, 0, 20, 9, row.train_images, width).plain
        assert head.endswith(said)
        assert len(head) <= width


# ---- device -----------------------------------------------------------------------------------


class Readings:
    """Stands in for the machine."""

    def __init__(self, device: str) -> None:
        self.device = device

    def read(self) -> device_stats.Sample:
        return device_stats.Sample(
            "H200", gpu=True, use=98, used=4 << 30, total=141 << 30, celsius=61, watts=412
        )


async def test_device_figures_of_a_live_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tui.widgets.device_panel.DeviceStats", Readings)
    monkeypatch.setattr("trainer.runs.follower.platform.node", lambda: "testhost")
    run = make_run(tmp_path / "runs", epochs=10, done=2, end=None)
    with held(run):
        async with dashboard(tmp_path / "runs") as (app, pilot):
            await until(pilot, lambda: " 98%" in text(app, "#device"))
            panel = text(app, "#device")
            assert "4.0 of 141 GiB" in panel
            assert "61 °C, 412 W" in panel
            assert "300 MiB" in panel


async def test_a_line_for_each_rank(tmp_path: Path) -> None:
    run = make_run(tmp_path / "runs", epochs=10, done=2, end="stopped")
    ranks = tuple(events.Rank(host="testhost", pid=n, device=f"cuda:{n}") for n in range(2))
    with run.locked():
        before = Follower(run).catch_up().started
        assert before is not None
        log = RunLog(run)
        log.begin_attempt()
        log.emit(msgspec.structs.replace(before, ranks=ranks, resumed_step=16))
        log.close()
    async with dashboard(tmp_path / "runs") as (app, pilot):
        await until(pilot, lambda: "rank 1      cuda:1" in text(app, "#device"))
        with run.locked():
            log = RunLog(run)
            speeds = (1234.4, 1200.0)
            log.emit(events.Ranks(step=17, images_per_second=speeds, memory=(1 << 30, 2 << 30)))
            log.close()
            await until(pilot, lambda: "rank 0      1,234 images/s" in text(app, "#device"))
            assert "rank 1      1,200 images/s, 2.0 GiB" in text(app, "#device")


@pytest.mark.parametrize("end", ["completed", None])
async def test_nothing_is_read_of_finished_or_foreign_runs(tmp_path: Path, end: str | None) -> None:
    run = make_run(tmp_path / "runs", epochs=10, done=2, end=end)
    with held(*([run] if end is None else [])):
        async with dashboard(tmp_path / "runs") as (app, pilot):
            await pilot.pause(1.3)
            panel = app.screen.query_one(DevicePanel)
            assert panel.readings == 0
            assert "testhost" in text(app, "#device")


def test_without_a_driver_the_cpu_is_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "pynvml", None)
    sample = device_stats.DeviceStats("cuda:0 NVIDIA H200").read()
    assert not sample.gpu
    assert "no figures" in sample.reason
    assert sample.total > 0
    sample = device_stats.DeviceStats("cpu").read()
    assert sample.reason == ""
    assert 0 <= (sample.use or 0) <= 100


def test_the_first_use_of_a_processor_is_measured_too(monkeypatch: pytest.MonkeyPatch) -> None:
    intervals: list[float | None] = []

    def percent(interval: float | None = None) -> float:
        intervals.append(interval)
        return 96.6

    monkeypatch.setattr("tui.device_stats.psutil.cpu_percent", percent)
    stats = device_stats.DeviceStats("cpu")
    assert [stats.read().use for _ in range(3)] == [97, 97, 97]
    assert intervals == [device_stats.FIRST_SECONDS, None, None]


def test_an_nvidia_card(monkeypatch: pytest.MonkeyPatch) -> None:
    class Nvml:
        class Memory:
            used, total = 3 << 30, 80 << 30

        @staticmethod
        def nvmlInit() -> None: ...

        @staticmethod
        def nvmlDeviceGetHandleByIndex(index: int) -> int:
            return index

        @staticmethod
        def nvmlDeviceGetMemoryInfo(handle: int) -> object:
            return Nvml.Memory

        @staticmethod
        def nvmlDeviceGetName(handle: int) -> bytes:
            return b"card %d" % handle

        @staticmethod
        def nvmlDeviceGetPowerUsage(handle: int) -> int:
            raise OSError("not supported")

    monkeypatch.setitem(__import__("sys").modules, "pynvml", Nvml)
    sample = device_stats.DeviceStats("cuda:1 card 1").read()
    assert (sample.name, sample.gpu, sample.use, sample.watts) == ("card 1", True, None, None)
    assert (sample.used, sample.total) == (3 << 30, 80 << 30)


@pytest.mark.parametrize(
    ("visible", "device", "shown"),
    [
        ("", "cuda:1 card 1", "card 1"),
        ("3,5", "cuda:1 card 5", "card 5"),
        ("GPU-77, GPU-78", "cuda:1", "card 78"),
        ("", "cuda:0 card 4", "another GPU in this place (card 0)"),
        ("MIG-1", "cuda:0 card 0 MIG 1g", "card 0"),
    ],
)
def test_which_card_it_is(
    monkeypatch: pytest.MonkeyPatch, visible: str, device: str, shown: str
) -> None:
    nvml = SimpleNamespace(
        nvmlInit=lambda: None,
        nvmlDeviceGetHandleByIndex=lambda index: index,
        nvmlDeviceGetHandleByUUID=lambda uuid: int(uuid[4:]),
        nvmlDeviceGetName=lambda handle: f"card {handle}",
        nvmlDeviceGetMemoryInfo=lambda handle: SimpleNamespace(used=1, total=2),
    )
    monkeypatch.setitem(__import__("sys").modules, "pynvml", nvml)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    sample = device_stats.DeviceStats(device).read()
    assert shown in (sample.name if sample.gpu else sample.reason)


@pytest.mark.parametrize("key", ["1", "2", "3", "4", "5"])
async def test_a_partial_update_is_what_textual_makes_of_more_work(
    tmp_path: Path, key: str
) -> None:
    make_run(tmp_path)
    async with dashboard(tmp_path) as (app, pilot):
        await until(pilot, lambda: chart(app, "loss").drawings > 0)
        await pilot.press(key)
        await pilot.pause(0.3)
        compositor = app.screen._compositor
        assert isinstance(compositor, ExactCompositor)
        for dirty in (
            [(0, 1, 160, 1)],
            [(3, 0, 20, 2), (100, 30, 30, 6)],
            [(70, 5, 40, 40)],
            [(0, 0, 160, 50)],
            [(159, 49, 1, 1), (0, 20, 1, 1)],
        ):
            regions = {Region(*place) for place in dirty}
            cells = []
            for render in (ExactCompositor.render_partial_update, Compositor.render_partial_update):
                compositor._dirty_regions = set(regions)
                update = render(compositor)
                assert not compositor._dirty_regions
                cells.append(_cells_of(update))
            assert cells[0] == cells[1]
            assert cells[0].keys() == {p for r in regions for p in _places(r)}


async def test_a_change_within_a_widget_is_not_cut_at_the_others(tmp_path: Path) -> None:
    make_run(tmp_path)
    async with dashboard(tmp_path) as (app, pilot):
        await until(pilot, lambda: chart(app, "loss").drawings > 0)
        compositor = app.screen._compositor
        assert isinstance(compositor, ExactCompositor)
        for region, kind in (
            (app.screen.query_one("#progress").region, SpanUpdate),
            (Region(70, 5, 60, 40), ExactUpdate),
        ):
            compositor._dirty_regions = {region}
            assert type(compositor.render_partial_update()) is kind
        # nothing of what is outside of the screen
        compositor._dirty_regions = {Region(500, 500, 3, 1)}
        assert compositor.render_partial_update() is None


def _places(region: Region) -> list[tuple[int, int]]:
    return [(x, y) for y in region.line_range for x in region.column_range]


def _cells_of(update: object) -> dict[tuple[int, int], tuple[str, object]]:
    """Character and style of each cell that an update writes."""
    if isinstance(update, SpanUpdate):
        pieces, spans = list(update.pieces), None
    else:
        assert isinstance(update, ChopsUpdate)
        pieces = [(x, y, s) for y, line in enumerate(update.chops) for x, s in line.items() if s]
        spans = {(x, y) for y, x1, x2 in update.spans for x in range(x1, x2)}
    return {
        (x, y): cell
        for left, y, strip in pieces
        for x, cell in enumerate(_drawn(strip), left)
        if spans is None or (x, y) in spans
    }


def _drawn(strip: Strip) -> list[tuple[str, object]]:
    return [(c, segment.style) for segment in strip for c in segment.text]


async def test_an_update_renders_only_the_widgets_that_changed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_run(tmp_path)
    async with dashboard(tmp_path) as (app, pilot):
        await until(pilot, lambda: chart(app, "loss").drawings > 0)
        rendered: list[str] = []
        plain = Lines._line

        def noted(self: Lines, y: int, style: Style) -> Strip:
            rendered.append(self.id or "")
            return plain(self, y, style)

        monkeypatch.setattr(Lines, "_line", noted)
        progress = app.screen.query_one("#progress", Lines)
        compositor = app.screen._compositor
        compositor._dirty_regions = {progress.region}
        for widget in app.screen.query(Lines):
            widget._styles_cache.clear()
        assert compositor.render_partial_update() is not None
        assert set(rendered) == {"progress"}
