"""Comparing runs: graphs, results, differences, export."""

from __future__ import annotations

import csv
import json
import re
from pathlib import Path
from xml.etree import ElementTree

import msgspec
import pytest
from rich.cells import cell_len
from textual.events import MouseScrollDown, MouseScrollUp
from textual.pilot import Pilot

from tests import sample_log
from tests.dashboard_helpers import LARGE, MIDDLE, SIZES, SMALL, chart, drawn, epoch_ended, text
from tests.tui_helpers import append, held, make_app, make_run, progress, until
from trainer import events
from trainer.runs.follower import Follower
from tui import run_words, themes
from tui.app import CifarApp
from tui.charts import comparison, export
from tui.charts.export import prepare
from tui.screens.compare import CompareScreen
from tui.widgets import progress_line, run_table
from tui.widgets.curve_chart import CurveChart
from tui.widgets.lines import Lines

NAMES = ("train-loss", "test-loss", "train-accuracy", "test-accuracy")

pytestmark = pytest.mark.usefixtures("data_is_there")


def three(runs_dir: Path) -> list[str]:
    quick = make_run(runs_dir, preset="quick", best=0.8, epochs=5, seed=1)
    late = make_run(
        runs_dir, preset="dws-late", data="cifar10", best=0.9, epochs=8, seed=2, created=60
    )
    queued = make_run(runs_dir, preset="standard", done=0, end="stopped", seed=3, created=120)
    return [quick.id, late.id, queued.id]


def followed(run: Path | object) -> Follower:
    follower = Follower(run)  # type: ignore[arg-type]
    follower.catch_up()
    return follower


def test_a_norm_is_told_of_nets_that_are_known_to_take_one() -> None:
    assert run_words.norm_of("resnet8", "batch") == "batch"
    assert run_words.norm_of("net.py:Net", "batch") is None
    assert run_words.norm_of("net.py:Net", "group") == "group"


def test_runs_on_other_test_images_are_not_comparable(tmp_path: Path) -> None:
    one, other = (
        followed(make_run(tmp_path, epochs=1, seed=seed, created=seed)) for seed in (1, 2)
    )
    assert comparison.comparable([one, other])
    queued = followed(make_run(tmp_path, done=0, end=None, seed=3, created=3))
    assert comparison.comparable([one, queued])
    for changes in ({"data_fingerprint": "1" * 64}, {"data_kind": "folder"}):
        begun = other.state.started
        assert begun is not None
        other.state.started = msgspec.structs.replace(begun, **changes)
        assert not comparison.comparable([one, other])
        other.state.started = begun


@pytest.mark.parametrize("size", SIZES)
async def test_four_graphs_of_the_marked_runs(tmp_path: Path, size: tuple[int, int]) -> None:
    runs = three(tmp_path / "runs")
    app = make_app(tmp_path / "runs")
    async with app.run_test(size=size) as pilot:
        await until(pilot, lambda: len(app.store) == 3 and not app.store.loading)
        for run in runs:
            app.store.toggle_mark(run)
        await pilot.press("5")
        await drawn(pilot, app)
        for name in NAMES:
            plan = chart(app, name).plan
            assert plan is not None
            assert plan.x_limits == (0, 8)
            assert [len(c.points) for c in plan.curves if len(c.points)] == [5, 8]
            assert len({c.colour for c in plan.curves}) == 3
            assert name.replace("-", " ") in chart(app, name).render_line(0).text
            assert chart(app, name).size.height >= 6
        rows = text(app, "#results").splitlines()
        shown = [row for row in rows if re.search(r"quick|dws-late|standard", row)]
        assert "★" not in "".join(rows), "their accuracies do not compare"
        assert "90.00 %" in shown[0], "best first"
        assert "80.00 %" in shown[1]
        assert "–" in shown[2]  # noqa: RUF001
        assert "CIFAR-10" in shown[0]
        assert "synthetic" in shown[1]
        assert "do not compare" in "".join(rows)


async def compare_all(pilot: Pilot[None], app: CifarApp, runs: int) -> None:
    """Mark all runs, so many, and go to the screen."""
    await until(pilot, lambda: len(app.store) == runs and not app.store.loading)
    for run in app.store.followers:
        app.store.toggle_mark(run)
    await pilot.press("5")
    await drawn(pilot, app)


@pytest.mark.parametrize("size", [(60, 18), (80, 20), (70, 21)])
async def test_four_graphs_in_a_low_terminal(tmp_path: Path, size: tuple[int, int]) -> None:
    for seed in range(4):
        make_run(tmp_path / "runs", name=f"run{seed}", best=0.6 + seed / 10, epochs=5, seed=seed)
    app = make_app(tmp_path / "runs")
    async with app.run_test(size=size) as pilot:
        await compare_all(pilot, app, 4)
        await until(pilot, lambda: "80.00 %" in text(app, "#results"))
        for name in NAMES:
            assert name.replace("-", " ") in chart(app, name).render_line(0).text
        await pilot.press("f")
        await until(pilot, lambda: "60.00 %" in text(app, "#results"))
        assert "test accuracy" in chart(app, "test-accuracy").render_line(0).text


async def test_the_best_of_runs_on_the_same_images_are_marked(tmp_path: Path) -> None:
    for seed, best in ((1, 0.8), (2, 0.9), (3, 0.9)):
        make_run(tmp_path / "runs", name=f"run{seed}", best=best, seed=seed, created=60 * seed)
    app = make_app(tmp_path / "runs")
    async with app.run_test(size=SMALL) as pilot:
        await compare_all(pilot, app, 3)
        await until(pilot, lambda: "90.00 %" in text(app, "#results"))
        starred = [row for row in text(app, "#results").splitlines() if row.startswith("★")]
        assert sorted(row.split()[2] for row in starred) == ["run2", "run3"], starred


async def test_without_marks_the_chosen_run_and_a_hint(tmp_path: Path) -> None:
    make_run(tmp_path / "runs", epochs=3)
    app = make_app(tmp_path / "runs")
    async with app.run_test(size=SMALL) as pilot:
        await until(pilot, lambda: len(app.store) and not app.store.loading)
        await pilot.press("5")
        await drawn(pilot, app)
        assert "marks runs to compare" in text(app, "#results")
        assert chart(app, "test-accuracy").plan is not None
        assert "settings that differ" not in text(app, "#results")


async def test_nothing_to_compare(tmp_path: Path) -> None:
    (tmp_path / "runs").mkdir()
    app = make_app(tmp_path / "runs")
    async with app.run_test(size=SMALL) as pilot:
        await pilot.press("5")
        await pilot.pause()
        assert app.screen.query_one("#empty").display
        for key in ("E", "e", "v", "f", "down"):
            await pilot.press(key)
        assert not list((tmp_path / "runs").glob("export-*"))


async def test_marked_runs_are_live(tmp_path: Path) -> None:
    run = make_run(tmp_path / "runs", epochs=10, done=2, end=None, best=0.5)
    with held(run):
        app = make_app(tmp_path / "runs")
        async with app.run_test(size=MIDDLE) as pilot:
            await until(pilot, lambda: len(app.store))
            app.store.toggle_mark(run.id)
            await pilot.press("5")
            append(run, *epoch_ended(3))
            await until(pilot, lambda: "99.00 %" in text(app, "#results"))
            shown = chart(app, "test-accuracy")
            await until(pilot, lambda: shown.plan and len(shown.plan.curves[0].points) == 3)


async def test_cursor_and_enlarging(tmp_path: Path) -> None:
    runs = three(tmp_path / "runs")
    app = make_app(tmp_path / "runs")
    async with app.run_test(size=LARGE) as pilot:
        await until(pilot, lambda: len(app.store) == 3 and not app.store.loading)
        for run in runs[:2]:
            app.store.toggle_mark(run)
        await pilot.press("5", "v")
        await drawn(pilot, app)
        head = chart(app, "test-accuracy").render_line(0).text
        assert "epoch 8" in head
        assert "90.0 %" in head
        assert "80" not in head, "the other run has ended before"
        await pilot.press("left", "left", "left")
        await drawn(pilot, app)
        head = chart(app, "test-accuracy").render_line(0).text
        assert "epoch 5" in head
        assert "80.0 %" in head
        await pilot.press("f")
        await pilot.pause()
        assert [name for name in NAMES if chart(app, name).display] == ["test-accuracy"]


@pytest.mark.parametrize(("size", "least"), [(LARGE, 4), (SMALL, 1)])
async def test_values_that_do_not_fit_are_counted(
    tmp_path: Path, size: tuple[int, int], least: int
) -> None:
    for n in range(12):
        make_run(tmp_path / "runs", epochs=2, seed=n, created=n)
    app = make_app(tmp_path / "runs")
    async with app.run_test(size=size) as pilot:
        await compare_all(pilot, app, 12)
        await pilot.press("v")
        await drawn(pilot, app)
        for name in NAMES:
            head = chart(app, name).render_line(0).text
            marks = {themes.run_glyph(slot) for slot in range(12)}
            shown = sum(character in marks for character in head)
            assert shown >= least, head
            assert head.rstrip().endswith(f"  +{12 - shown}"), head


async def test_results_scroll_by_pages_to_both_ends_and_by_the_wheel(tmp_path: Path) -> None:
    for n in range(12):
        make_run(tmp_path / "runs", name=f"run {n:02}", epochs=2, best=0.9 - n / 50, seed=n)
    app = make_app(tmp_path / "runs")
    async with app.run_test(size=SMALL) as pilot:
        await compare_all(pilot, app, 12)
        results = app.screen.query_one("#results")

        def top() -> str:
            return text(app, "#results").splitlines()[1][4:].split()[1]

        room = text(app, "#results").count("\n")
        assert top() == "00"
        await pilot.press("pagedown")
        assert top() == f"{room - 1:02}", "one line of the page before stays"
        await pilot.press("pageup")
        assert top() == "00"
        await pilot.press("end")
        assert "↓" not in text(app, "#results")
        assert "train.seed" in text(app, "#results")
        await pilot.press("home")
        assert top() == "00"
        for kind, place, expected in (
            (MouseScrollDown, results, "03"),
            (MouseScrollDown, chart(app, "test-loss"), "03"),
            (MouseScrollUp, results, "00"),
        ):
            x, y = place.region.x + 5, place.region.y + 2
            # as the terminal's driver sends it, with no widget
            app.post_message(kind(None, x, y, 0, 0, 0, False, False, False, x, y))
            await until(pilot, lambda expected=expected: top() == expected)  # type: ignore[misc]


def test_only_settings_that_differ(tmp_path: Path) -> None:
    runs = [
        followed(make_run(tmp_path, seed=1, epochs=4)),
        followed(make_run(tmp_path, seed=2, epochs=4, created=60, data="cifar10")),
    ]
    assert comparison.differences(runs) == {
        "data": ["synthetic", "cifar10"],
        "train.seed": ["1", "2"],
    }
    assert comparison.differences(runs[:1]) == {}


@pytest.mark.parametrize("width", [40, 60, 100, 140, 200])
def test_columns_fit(width: int) -> None:
    columns = [comparison.COLUMNS[i] for i in comparison.fitting(width)]
    assert sum(c.width for c in columns) <= max(width, 43)
    assert {"data", "best test acc", "epoch"} <= {c.title for c in columns}


def test_what_only_some_runs_have_is_there_where_one_has_it(tmp_path: Path) -> None:
    """Averaged weights, test-time augmentation, epochs of the hardest images."""
    bare, full = (followed(make_run(tmp_path, seed=s, epochs=4, created=60 * s)) for s in (1, 2))
    done = full.state.epochs[-1]
    assert full.state.started is not None
    for seq, variant in enumerate(("ema", "tta"), start=full.state.seq + 1):
        made = sample_log.eval_ended(done.epoch, 5 / 6, variant)  # type: ignore[arg-type]
        full.state.apply(sample_log.envelope(seq, made))
    done.train_images = full.state.started.batch_size
    titles = [
        [comparison.COLUMNS[i].title for i in comparison.fitting(300, r)]
        for r in ([bare], [bare, full])
    ]
    assert set(titles[1]) - set(titles[0]) == {"EMA test acc", "TTA test acc"}
    cells = dict(zip((c.title for c in comparison.COLUMNS), comparison.cells(full), strict=True))
    assert cells["EMA test acc"] == cells["TTA test acc"] == "83.33 %"
    assert cells["last train acc"].startswith("hard ")
    found = comparison.figures(full)
    assert found["ema_test_accuracy"] == found["tta_test_accuracy"] == 5 / 6
    assert found["last_train_images"] == done.train_images
    assert comparison.figures(bare)["ema_test_accuracy"] is None


# ---- export -----------------------------------------------------------------------------------


async def test_export_by_key(tmp_path: Path) -> None:
    runs = three(tmp_path / "runs")
    app = make_app(tmp_path / "runs")
    async with app.run_test(size=SMALL) as pilot:
        await until(pilot, lambda: len(app.store) == 3 and not app.store.loading)
        for run in runs:
            app.store.toggle_mark(run)
        await pilot.press("5", "E")
        await until(pilot, lambda: list((tmp_path / "runs").glob("export-*/*.svg")))
        await until(pilot, lambda: app._notifications)
        folder = next((tmp_path / "runs").glob("export-*"))
        assert folder.name in next(iter(app._notifications)).message
        assert len(app.store) == 3, "an export is no run"


def test_what_is_exported(tmp_path: Path) -> None:
    runs = [
        followed(make_run(tmp_path, name='=cmd|"x"</svg>[red]', seed=1, epochs=4, best=0.7)),
        followed(make_run(tmp_path, name="../../x", seed=2, epochs=6, best=0.9, created=60)),
        followed(make_run(tmp_path, name="none yet", seed=3, done=0, end=None, created=90)),
    ]
    export = prepare(runs, ["#ff0000", "#00ff00", "#0000ff"])
    folder = export.write(tmp_path)
    again = export.write(tmp_path)
    assert folder != again, "nothing is overwritten"
    assert {path.name for path in folder.iterdir()} == {
        "summary.csv",
        "epochs.csv",
        "runs.json",
        *(f"{name}.svg" for name in NAMES),
    }
    with (folder / "summary.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["best_test_accuracy"] for row in rows] == ["0.9", "0.7", ""]
    assert rows[1]["name"].startswith("'=cmd")
    with (folder / "epochs.csv").open(newline="") as file:
        epochs = list(csv.DictReader(file))
    assert len(epochs) == 10
    assert epochs[0]["run"] == runs[1].run.id
    assert float(epochs[5]["test_accuracy"]) == 0.9
    everything = json.loads((folder / "runs.json").read_text("utf-8"))
    assert everything[1]["name"] == '=cmd|"x"</svg>[red]'
    assert len(everything[0]["epoch_rows"]) == 6
    for name in NAMES:
        tree = ElementTree.parse(folder / f"{name}.svg")
        lines = tree.findall(".//{http://www.w3.org/2000/svg}polyline")
        assert [len((line.get("points") or "").split()) for line in lines] == [4, 6, 0]


def test_a_receptive_field_that_is_no_square_has_both_sides(tmp_path: Path) -> None:
    run = make_run(tmp_path, epochs=2)
    run.log.write_bytes(run.log.read_bytes().replace(b"[55,55]", b"[1,11]"))
    found = followed(run)
    assert comparison.figures(found)["receptive_field"] == "1×11"  # noqa: RUF001
    assert "1×11" in comparison.cells(found)  # noqa: RUF001
    square = followed(make_run(tmp_path, epochs=2, created=60))
    assert comparison.figures(square)["receptive_field"] == 55


def test_an_export_that_cannot_be_written(tmp_path: Path) -> None:
    from trainer.errors import RunError

    export = prepare([followed(make_run(tmp_path, epochs=2))], ["#ff0000"])
    (tmp_path / "file").write_text("")
    with pytest.raises(RunError, match="cannot write"):
        export.write(tmp_path / "file")
    with pytest.raises(RunError, match="cannot write"):
        export.write(tmp_path / "not there")


def test_figures_fit_their_columns(tmp_path: Path) -> None:
    widths = {c.title: c.width for c in comparison.COLUMNS}
    fitting = (("5.00e-05", "lr"), ("12:30:05", "time"), ("99,999,999", "parameters"))
    for words, title in (*fitting, ("57×101", "RF")):  # noqa: RUF001
        assert len(words) <= widths[title] - 2


def test_a_run_of_one_epoch_is_seen_in_the_exported_graph(tmp_path: Path) -> None:
    runs = [
        followed(make_run(tmp_path, seed=seed, epochs=1, created=60 * seed)) for seed in range(25)
    ]
    graph = export.graph(runs, ["#ffffff"] * len(runs), "accuracy", "test")
    assert graph.count("<circle") == 25
    height = float(graph.partition('viewBox="0 0 900 ')[2].partition('"')[0])
    legend = [float(y) for y in re.findall(r'<text x="690" y="([0-9.]+)"', graph)]
    assert len(legend) == 25
    assert max(legend) < height


def test_an_epoch_0_of_a_damaged_log_is_exported(tmp_path: Path) -> None:
    run = make_run(tmp_path, epochs=1)
    run.log.write_bytes(run.log.read_bytes().replace(b'"epoch":1', b'"epoch":0'))
    graph = export.graph([followed(run)], ["#ffffff"], "loss", "test")
    assert "<circle" in graph
    assert "nan" not in graph


def test_a_time_is_the_same_on_all_screens(tmp_path: Path) -> None:
    run = make_run(tmp_path, epochs=1)
    time = re.compile(rb'"elapsed":[0-9.]+')
    run.log.write_bytes(time.sub(b'"elapsed":47.6', run.log.read_bytes()))
    follower = followed(run)
    assert follower.state.elapsed == 47.6
    assert run_table.WORDS["time"](follower) == "48 s"
    assert comparison.cells(follower)[-2] == "48 s"
    assert progress_line._times(follower)[0] == "elapsed 48 s"
    follower.status, follower.state.ended = "training", None
    assert run_table.WORDS["time"](follower) == "47 s"
    assert comparison.cells(follower)[-2] == "47 s"
    assert progress_line._times(follower)[0] == "elapsed 47 s"


async def test_names_of_wide_characters_do_not_move_the_figures(tmp_path: Path) -> None:
    make_run(tmp_path / "runs", name="日本語" * 5, seed=1)
    make_run(tmp_path / "runs", name="plain", seed=2, created=60)
    app = make_app(tmp_path / "runs")
    async with app.run_test(size=LARGE) as pilot:
        await compare_all(pilot, app, 2)
        lines = app.screen.query_one("#results", Lines)
        rows = [lines.render_line(y) for y in (1, 2)]
        places = []
        for row in rows:
            text = row.text
            places.append(cell_len(text[: text.index("98,442")]))
        assert places[0] == places[1]


async def test_keys_that_come_together_leave_all_charts_alike(tmp_path: Path) -> None:
    make_run(tmp_path / "runs", epochs=40)
    app = make_app(tmp_path / "runs")
    async with app.run_test(size=LARGE) as pilot:
        await until(pilot, lambda: len(app.store) == 1 and not app.store.loading)
        await pilot.press("5")
        await drawn(pilot, app)
        screen = app.screen
        assert isinstance(screen, CompareScreen)
        charts = [c for c in screen.query(CurveChart) if c.display]
        for factors in ((0.5, 0.5), (2.0,), (0.5,), (2.0, 2.0)):
            for factor in factors:  # in one turn: nothing is painted in between
                screen.action_zoom(factor)
            await drawn(pilot, app)
            limits = {chart.plan.x_limits for chart in charts if chart.plan is not None}
            assert limits == {screen.window or (0.0, screen.reach())}


async def test_the_cursor_stands_on_whole_epochs_and_says_whose_value_it_shows(
    tmp_path: Path,
) -> None:
    run = make_run(tmp_path / "runs", epochs=20, done=7, end=None)
    append(run, progress(8, 3), events.RunEnded(state="stopped"))
    app = make_app(tmp_path / "runs")
    async with app.run_test(size=LARGE) as pilot:
        await until(pilot, lambda: len(app.store) == 1 and not app.store.loading)
        await pilot.press("5", "v")
        await drawn(pilot, app)
        screen = app.screen
        assert isinstance(screen, CompareScreen)
        assert screen.cursor == 7.0
        screen.action_move(10)
        screen.action_move(-1)
        assert screen.cursor is not None
        assert screen.cursor == int(screen.cursor)
        for _ in range(20):
            screen.action_move(-1)
        await drawn(pilot, app)
        assert screen.cursor == 0.0
        heads = [c.render_line(0).text for c in screen.query(CurveChart) if c.display]
        assert any("(1)" in head for head in heads), "there is no value of epoch 0"
