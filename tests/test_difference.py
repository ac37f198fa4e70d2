"""Two models side by side: counts, images, confusion difference, calibration, live runs."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from textual.pilot import Pilot
from textual.widgets import OptionList, Static

from tests.mistakes_helpers import LARGE, SMALL, evaluate, some
from tests.tui_helpers import held, make_run, synthetic_app, until
from trainer.analysis import calibration, model_diff
from trainer.data.dataset import TestData
from trainer.runs.predictions import Predictions
from trainer.runs.rundir import RunDir
from tui.app import CifarApp
from tui.images import difference
from tui.screens.compare import CompareScreen
from tui.screens.dialogs import Choice
from tui.screens.difference import DifferenceScreen
from tui.screens.mistakes import MistakesScreen
from tui.screens.pair_image import PairImageScreen
from tui.widgets.difference_table import DifferenceTable
from tui.widgets.pair_grid import PairGrid
from tui.widgets.reliability import ReliabilityChart

pytestmark = pytest.mark.usefixtures("images_are_there")


def other(data: TestData, epoch: int) -> Predictions:
    """As ``some``, with other images wrong and another confidence."""
    labels = data.test.labels
    n, c = len(labels), len(data.classes)
    random = np.random.default_rng(100 + epoch)
    raw = random.random((n, c)) * 0.3 + 0.01
    raw[np.arange(n), labels] += 1.0
    missed = np.flatnonzero(random.random(n) < 0.08 + 0.01 * epoch)
    raw[missed, (labels[missed] + 2) % c] += 1.2 + random.random(len(missed))
    shares = (raw / raw.sum(1, keepdims=True)).astype(np.float16)
    return Predictions(shares, labels, "test", data.fingerprint, epoch)


def two_runs(folder: Path, data: TestData) -> tuple[RunDir, RunDir]:
    first = make_run(folder, name="first", end=None, classes=data.classes, seed=1)
    second = make_run(folder, name="second", end=None, classes=data.classes, seed=2, created=60)
    evaluate(first, some(data, 1))
    evaluate(second, other(data, 1))
    return first, second


async def read(pilot: Pilot[None], app: CifarApp, *marks: RunDir) -> None:
    await until(pilot, lambda: len(app.store) and not app.store.loading)
    for run in marks:
        app.store.toggle_mark(run.id)
    app.poll()
    await until(pilot, lambda: all(f.state.predictions for f in app.store.marked()))


async def open_runs(pilot: Pilot[None], app: CifarApp, *marks: RunDir) -> DifferenceScreen:
    await read(pilot, app, *marks)
    await pilot.press("5", "d")
    await until(pilot, lambda: isinstance(app.screen, DifferenceScreen))
    screen = app.screen
    assert isinstance(screen, DifferenceScreen)
    # not only that nothing is being read: it may not have begun
    await until(pilot, lambda: all(one.evaluation or one.problem for one in screen.loaders))
    # what is computed of them, on threads
    await until(pilot, lambda: all(worker.is_finished for worker in app.workers))
    await pilot.pause()
    return screen


def text(screen: object, where: str) -> str:
    return str(screen.query_one(where, Static).render())  # type: ignore[attr-defined]


def groups(screen: DifferenceScreen) -> dict[str, str]:
    listed = screen.query_one("#groups", OptionList)
    return {str(o.id): str(o.prompt) for o in listed.options}


async def test_a_run_without_predictions_is_not_read_for_ever(
    tmp_path: Path, synthetic: TestData
) -> None:
    first, second = two_runs(tmp_path / "runs", synthetic)
    for file in second.path.glob("predictions/*"):
        file.unlink()
    bare = make_run(tmp_path / "runs", name="bare", seed=3, created=120)
    for marks in ((first, second), (first, bare)):
        app = synthetic_app(tmp_path / "runs")
        async with app.run_test(size=LARGE) as pilot:
            await until(pilot, lambda: len(app.store) == 3 and not app.store.loading)  # noqa: B023
            for run in marks:
                app.store.toggle_mark(run.id)
            app.poll()
            await pilot.press("5", "d")
            await until(pilot, lambda: isinstance(app.screen, DifferenceScreen))  # noqa: B023
            await until(pilot, lambda: "There are not two" in text(app.screen, "#verdict"))  # noqa: B023
            app.store.clear_marks()


# ---- the numbers ------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [LARGE, SMALL])
async def test_counts_are_those_of_the_analysis(
    tmp_path: Path, synthetic: TestData, size: tuple[int, int]
) -> None:
    first, second = two_runs(tmp_path / "runs", synthetic)
    app = synthetic_app(tmp_path / "runs")
    async with app.run_test(size=size) as pilot:
        screen = await open_runs(pilot, app, first, second)
        one, two = some(synthetic, 1), other(synthetic, 1)
        right1, right2 = one.predicted == one.labels, two.predicted == two.labels
        expected = {
            "fixed": (~right1 & right2).sum(),
            "broken": (right1 & ~right2).sum(),
            "both_wrong": (~right1 & ~right2).sum(),
            "same_mistake": (~right1 & (one.predicted == two.predicted)).sum(),
            "both_right": (right1 & right2).sum(),
        }
        shown = groups(screen)
        assert list(shown) == list(expected)
        for name, count in expected.items():
            assert f" {count:,} " in shown[name]
        assert expected["fixed"] > 0 < expected["broken"]
        for number, run, found in ((1, "first", one), (2, "second", two)):
            title = text(screen, f"#side-{number}")
            assert run in title
            assert "epoch 1 newest" in title
            assert f"{100 * (found.predicted == found.labels).mean():.2f} %" in title
        p = model_diff.mcnemar(int(expected["fixed"]), int(expected["broken"]))
        assert f"p = {p:.3g}" in text(screen, "#verdict")


@pytest.mark.parametrize("size", [LARGE, SMALL])
async def test_calibration_of_each(
    tmp_path: Path, synthetic: TestData, size: tuple[int, int]
) -> None:
    first, second = two_runs(tmp_path / "runs", synthetic)
    app = synthetic_app(tmp_path / "runs")
    async with app.run_test(size=size) as pilot:
        screen = await open_runs(pilot, app, first, second)
        if size == SMALL:
            assert not screen.query_one("#calibration").display
            await pilot.press("k", "k")
            await pilot.pause()
        for number, made in ((1, some(synthetic, 1)), (2, other(synthetic, 1))):
            chart = screen.query_one(f"#reliability-{number}", ReliabilityChart)
            await until(pilot, lambda c=chart: c.size.height > 10)  # type: ignore[misc]
            confidence = made.probabilities.astype(np.float64)
            confidence = confidence[np.arange(len(confidence)), made.predicted]
            known = calibration.calibration(confidence, made.predicted == made.labels)
            assert known.error is not None
            error = f"{100 * known.error:.2f} % (15 bins)"
            await until(pilot, lambda c=chart, e=error: e in c.render_line(1).text)  # type: ignore[misc]
            lines = [chart.render_line(y).text for y in range(chart.size.height)]
            assert "accuracy" in lines[2]
            assert any("100%" in line for line in lines[3:])
            drawn = "".join(lines[3:-2])
            assert sum(0x2800 < ord(c) < 0x2900 for c in drawn) > 20


async def test_the_difference_of_the_matrices(tmp_path: Path, synthetic: TestData) -> None:
    first, second = two_runs(tmp_path / "runs", synthetic)
    app = synthetic_app(tmp_path / "runs")
    async with app.run_test(size=LARGE) as pilot:
        screen = await open_runs(pilot, app, first, second)
        table = screen.query_one(DifferenceTable)
        expected = np.zeros((10, 10), int)
        for sign, made in ((-1, some(synthetic, 1)), (1, other(synthetic, 1))):
            np.add.at(expected, (made.labels, made.predicted), sign)
        await pilot.press("k")
        assert table.has_focus
        for row in range(10):
            words = table.render_line(2 + row).text.split()[-10:]
            assert words == [f"{n:+d}" if n else "·" for n in expected[row]]
        # more and fewer have colours of their own
        line = list(table.render_line(2 + 4))
        shades = {
            s.text.strip()[0]: s.style.bgcolor for s in line[1:] if s.style and s.text.strip()
        }
        assert shades["+"] != shades["-"]
        # enter: the images that one model alone has in the cell
        await pilot.press("right", "right", "enter")
        await until(pilot, lambda: screen.query_one(PairGrid).has_focus)
        one, two = some(synthetic, 1).predicted, other(synthetic, 1).predicted
        labels = synthetic.test.labels
        cell = np.flatnonzero((labels == 0) & ((one == 2) != (two == 2)))
        assert screen.query_one(PairGrid).count == len(cell) > 0
        assert set(screen.query_one(PairGrid)._chosen) == set(cell)


# ---- images -----------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [LARGE, SMALL])
async def test_enter_shows_exactly_the_images(
    tmp_path: Path, synthetic: TestData, size: tuple[int, int]
) -> None:
    first, second = two_runs(tmp_path / "runs", synthetic)
    app = synthetic_app(tmp_path / "runs")
    async with app.run_test(size=size) as pilot:
        screen = await open_runs(pilot, app, first, second)
        await pilot.press("down", "enter")
        grid = screen.query_one(PairGrid)
        await until(pilot, lambda: grid.has_focus and screen.loaders[1].pictures is not None)
        await pilot.pause()
        one, two = some(synthetic, 1), other(synthetic, 1)
        broken = np.flatnonzero((one.predicted == one.labels) & (two.predicted != two.labels))
        assert set(grid._chosen) == set(broken)
        assert len(grid._chosen) == len(broken)
        assert f"{len(broken)} images" in text(screen, "#shown")
        # both predictions at the image under the cursor
        index = grid.chosen
        assert index is not None
        shown = " ".join(grid.render_line(y).text for y in range(grid.size.height))
        assert f"#{index}" in shown
        for number, made in ((1, one), (2, two)):
            predicted = int(made.predicted[index])
            p = float(made.probabilities[index, predicted])
            right = predicted == made.labels[index]
            assert f"{number} {'✓' if right else synthetic.classes[predicted]} {p:.2f}" in shown
        await pilot.press("enter")
        await until(pilot, lambda: isinstance(app.screen, PairImageScreen))
        await until(pilot, lambda: f"#{index}" in text(app.screen, "#what"))
        what = text(app.screen, "#what")
        assert what.startswith(" 2 ")
        assert f" 1  {synthetic.classes[int(one.predicted[index])]} ✓ (b)" in what
        image = app.screen
        assert isinstance(image, PairImageScreen)
        image._inside.trusted = True
        await pilot.press("b")
        await until(pilot, lambda: text(app.screen, "#what").startswith(" 1 "))
        assert not image._inside.trusted, "the other run's code was not trusted"
        assert "✓ right" in text(app.screen, "#what")
        await pilot.press("escape", "escape")
        await until(pilot, lambda: not screen.has_class("-images"))
        await pilot.press("escape")
        await until(pilot, lambda: isinstance(app.screen, CompareScreen))


# ---- ways in ----------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [0, 1, 3])
async def test_not_two_runs_marked(tmp_path: Path, synthetic: TestData, count: int) -> None:
    runs = [*two_runs(tmp_path / "runs", synthetic), make_run(tmp_path / "runs", seed=9)]
    app = synthetic_app(tmp_path / "runs")
    async with app.run_test(size=SMALL) as pilot:
        await until(pilot, lambda: len(app.store) == 3 and not app.store.loading)
        for run in runs[:count]:
            app.store.toggle_mark(run.id)
        await pilot.press("5", "d")
        await pilot.pause()
        assert isinstance(app.screen, CompareScreen)
        assert any("mark exactly two runs" in n.message for n in app._notifications)


@pytest.fixture
def run(tmp_path: Path, synthetic: TestData) -> RunDir:
    run = make_run(tmp_path / "runs", end=None, classes=synthetic.classes)
    for epoch in (1, 2, 3):
        evaluate(run, other(synthetic, epoch))
    return run


async def open_evaluations(pilot: Pilot[None], app: CifarApp, *keys: str) -> DifferenceScreen:
    await read(pilot, app)
    await pilot.press("4")
    await until(pilot, lambda: app.store.current and app.store.current.state.predictions)
    await until(pilot, lambda: isinstance(app.screen, MistakesScreen))
    await pilot.press("d")
    await until(pilot, lambda: isinstance(app.screen, Choice))
    await pilot.press(*keys, "enter")
    await until(pilot, lambda: isinstance(app.screen, DifferenceScreen))
    screen = app.screen
    assert isinstance(screen, DifferenceScreen)
    await until(pilot, lambda: screen.difference.found is not None)
    return screen


async def test_the_evaluation_before_is_the_default(tmp_path: Path, run: RunDir) -> None:
    app = synthetic_app(tmp_path / "runs")
    async with app.run_test(size=SMALL) as pilot:
        screen = await open_evaluations(pilot, app)
        assert "epoch 2 " in text(screen, "#side-1")
        assert "epoch 3 newest" in text(screen, "#side-2")
        await pilot.press("escape")
        await until(pilot, lambda: isinstance(app.screen, MistakesScreen))


async def test_another_evaluation_is_chosen(tmp_path: Path, run: RunDir) -> None:
    app = synthetic_app(tmp_path / "runs")
    async with app.run_test(size=SMALL) as pilot:
        screen = await open_evaluations(pilot, app, "up")
        assert "epoch 1 " in text(screen, "#side-1")
        await pilot.press("right_curly_bracket")
        await until(pilot, lambda: "epoch 2  test" in text(screen, "#side-1"))
        fixed = screen.difference.group("fixed")
        await pilot.press("w")
        await until(pilot, lambda: "epoch 2  test" in text(screen, "#side-2"))
        assert set(screen.difference.group("broken")) == set(fixed)


async def test_a_run_with_one_evaluation(tmp_path: Path, synthetic: TestData) -> None:
    run = make_run(tmp_path / "runs", end=None, classes=synthetic.classes)
    evaluate(run, some(synthetic, 1))
    app = synthetic_app(tmp_path / "runs")
    async with app.run_test(size=SMALL) as pilot:
        await read(pilot, app)
        await pilot.press("4")
        await until(pilot, lambda: app.store.current and app.store.current.state.predictions)
        await pilot.press("d")
        await pilot.pause()
        assert isinstance(app.screen, MistakesScreen)
        assert any("no other evaluation" in n.message for n in app._notifications)


# ---- live, and what is broken -----------------------------------------------------------------


async def test_the_newest_is_followed_and_the_chosen_one_stays(
    tmp_path: Path, run: RunDir, synthetic: TestData
) -> None:
    app = synthetic_app(tmp_path / "runs")
    with held(run):
        async with app.run_test(size=SMALL) as pilot:
            screen = await open_evaluations(pilot, app)
            evaluate(run, other(synthetic, 4))
            await until(pilot, lambda: "epoch 4 newest" in text(screen, "#side-2"))
            assert "epoch 2  test" in text(screen, "#side-1")
            before, after = other(synthetic, 2), other(synthetic, 4)
            expected = model_diff.compare(before, after).fixed
            await until(pilot, lambda: set(screen.difference.group("fixed")) == set(expected))
            await pilot.press("left_square_bracket")
            await until(pilot, lambda: "epoch 3  test" in text(screen, "#side-2"))
            evaluate(run, other(synthetic, 5))
            state = app.store.followers[run.id].state
            await until(pilot, lambda: len(state.predictions) == 5)
            await pilot.pause()
            assert "epoch 3  test" in text(screen, "#side-2"), "what was chosen stays"


async def test_other_test_images(tmp_path: Path, synthetic: TestData) -> None:
    first, second = two_runs(tmp_path / "runs", synthetic)
    evaluate(second, replace(other(synthetic, 2), fingerprint="f" * 64))
    app = synthetic_app(tmp_path / "runs")
    async with app.run_test(size=SMALL) as pilot:
        screen = await open_runs(pilot, app, first, second)
        assert "different test images" in text(screen, "#problem")
        assert screen.query_one("#problem").display
        assert not groups(screen)
        assert "test accuracy" in text(screen, "#side-2")
        await pilot.press("enter", "k", "enter", "k", "k", "enter")
        await pilot.pause()
        assert not screen.has_class("-images")


@pytest.mark.parametrize("damage", ["missing", "corrupt"])
async def test_damaged_predictions(tmp_path: Path, synthetic: TestData, damage: str) -> None:
    first, second = two_runs(tmp_path / "runs", synthetic)
    path = first.predictions(1, "plain")
    if damage == "missing":
        path.unlink()
    else:
        path.write_bytes(b"PK\x03\x04 nothing of the kind")
    app = synthetic_app(tmp_path / "runs")
    async with app.run_test(size=LARGE) as pilot:
        screen = await open_runs(pilot, app, first, second)
        assert "epoch 1" in text(screen, "#side-1")
        assert screen.loaders[0].problem in text(screen, "#side-1")
        assert "test accuracy" in text(screen, "#side-2")
        assert not groups(screen)
        chart = screen.query_one("#reliability-2", ReliabilityChart)
        assert "15 bins" in chart.render_line(1).text, "the other side is still shown"
        # an evaluation that can be read
        evaluate(first, some(synthetic, 2))
        await until(pilot, lambda: len(groups(screen)) == len(difference.GROUPS))


async def test_an_evaluation_that_is_read_when_the_screen_is_left(
    tmp_path: Path, synthetic: TestData
) -> None:
    runs = two_runs(tmp_path, synthetic)
    app = synthetic_app(tmp_path)
    async with app.run_test(size=LARGE) as pilot:
        screen = await open_runs(pilot, app, *runs)
        await pilot.press("escape")
        await until(pilot, lambda: not screen.query("*"))
        screen._loaded()
        screen.on_resize()
        assert isinstance(app.screen, CompareScreen)


def test_words_of_the_test(synthetic: TestData) -> None:
    one = some(synthetic, 1)
    assert "nothing to weigh" in difference.verdict(model_diff.compare(one, one))
    better = replace(one, predicted=one.labels.copy())
    words = difference.verdict(model_diff.compare(one, better))
    assert "the second is better" in words
    assert "the first is better" in difference.verdict(model_diff.compare(better, one))
    predicted = one.predicted.copy()
    predicted[one.wrong[0]] = one.labels[one.wrong[0]]
    slightly = difference.verdict(model_diff.compare(one, replace(one, predicted=predicted)))
    assert "does not show that one is better" in slightly
    assert "p = 1:" in slightly
