"""The mistakes screen through its keys, on small predictions and the synthetic images."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from rich.segment import Segment
from textual.pilot import Pilot
from textual.widgets import Input, OptionList, Static

from tests.mistakes_helpers import (
    LARGE,
    SMALL,
    evaluate,
    grid,
    open_mistakes,
    run,
    saved,
    some,
    text,
    type_filter,
    with_images,
)
from tests.tui_helpers import append, at_rest, held, make_app, make_run, synthetic_app, until
from trainer import events
from trainer.analysis.mistakes import Moment
from trainer.data import sources
from trainer.data.dataset import TestData
from trainer.errors import DataError
from trainer.runs import predictions
from trainer.runs.predictions import Predictions
from trainer.runs.rundir import RunDir
from tui.app import CifarApp
from tui.images import evaluation_choice, evaluations
from tui.screens.image import ImageScreen
from tui.screens.mistakes import MistakesScreen
from tui.widgets import image_view
from tui.widgets.confusion_table import ConfusionTable
from tui.widgets.mistake_grid import MistakeGrid

__all__ = ["run"]  # a fixture

COLOR_MODE = image_view.color_mode
COLOURS = {"secondary": "#999999", "success": "#00ff00", "error": "#ff0000", "primary": "#0000ff"}

pytestmark = pytest.mark.usefixtures("images_are_there")


@asynccontextmanager
async def live(
    tmp_path: Path, run: RunDir
) -> AsyncIterator[tuple[CifarApp, Pilot[None], MistakesScreen]]:
    """The screen with its images, of a run that a trainer holds."""
    app = synthetic_app(tmp_path / "runs")
    with held(run):
        async with app.run_test(size=LARGE) as pilot:
            yield app, pilot, await with_images(pilot, app)


def lines(screen: MistakesScreen) -> list[str]:
    shown = grid(screen)
    return [shown.render_line(y).text for y in range(shown.size.height)]


# ---- the grid ---------------------------------------------------------------------------------


async def test_the_images_have_the_keys_when_the_matrix_is_hidden(
    tmp_path: Path, run: RunDir
) -> None:
    app = synthetic_app(tmp_path / "runs")
    async with app.run_test(size=LARGE) as pilot:
        screen = await with_images(pilot, app)
        await pilot.press("tab")
        assert isinstance(app.focused, ConfusionTable)
        await pilot.resize_terminal(100, 30)
        await until(pilot, lambda: app.focused is grid(screen))


@pytest.mark.parametrize(("size", "fit"), [(LARGE, 6), ((120, 40), 2), (SMALL, 2)])
async def test_images_with_their_classes(
    tmp_path: Path, run: RunDir, synthetic: TestData, size: tuple[int, int], fit: int
) -> None:
    app = synthetic_app(tmp_path / "runs")
    async with app.run_test(size=size) as pilot:
        screen = await with_images(pilot, app)
        made = some(synthetic, 3)
        assert grid(screen).count == len(made.wrong)
        assert grid(screen).per_page >= fit
        confidence = made.probabilities[np.arange(len(made.labels)), made.predicted]
        first = grid(screen).chosen
        assert first is not None
        assert confidence[first] == confidence[made.wrong].max()
        shown = lines(screen)
        actual = synthetic.classes[int(made.labels[first])]
        predicted = synthetic.classes[int(made.predicted[first])]
        assert f"{actual} → {predicted}" in shown[16]
        assert f"#{first}" in shown[16]
        p = float(made.probabilities[first, made.labels[first]])
        assert f"p({predicted}) {confidence[first]:.2f}  p({actual}) {p:.2f}" in shown[17]
        # the picture itself: the upper left pixel is the first cell's foreground
        cell = grid(screen).render_line(0)._segments[0]
        assert cell.style is not None
        assert cell.style.color is not None
        pixel = synthetic.test.images[first, :, 0, 0]
        assert cell.style.color.triplet == tuple(int(v) for v in pixel)
        title = text(screen, "#title")
        assert "synthetic" in title
        assert "epoch 3 newest" in title
        assert f"{len(made.wrong)} of 2,000 wrong" in title
        assert "test accuracy" in title


@pytest.mark.parametrize("mode", ["256", "grey", "ascii"])
async def test_fewer_colours(
    tmp_path: Path, run: RunDir, mode: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(image_view, "color_mode", lambda app: mode)
    app = synthetic_app(tmp_path / "runs")
    async with app.run_test(size=SMALL) as pilot:
        screen = await with_images(pilot, app)
        line = grid(screen).render_line(3)
        picture: Sequence[Segment] = list(line.crop(0, 32))
        blocks = "▀" in "".join(segment.text for segment in picture)
        assert blocks == (mode != "ascii")
        if mode != "ascii":
            colours = [s.style.color.number for s in picture if s.style and s.style.color]
            assert all(number is not None and number >= 16 for number in colours)
            assert mode == "256" or all(number and number >= 232 for number in colours)


@pytest.mark.parametrize(
    ("system", "mode"),
    [("truecolor", "true"), ("256", "256"), ("standard", "16"), (None, "ascii")],
)
def test_what_a_terminal_can_show(system: str | None, mode: str) -> None:
    console = SimpleNamespace(color_system=system)
    assert COLOR_MODE(SimpleNamespace(no_color=False, console=console)) == mode  # type: ignore[arg-type]
    gray = {"true": "grey", "256": "grey"}.get(mode, mode)  # the others have no colours
    assert COLOR_MODE(SimpleNamespace(no_color=True, console=console)) == gray  # type: ignore[arg-type]


async def test_cursor_and_pages(tmp_path: Path, run: RunDir) -> None:
    app = synthetic_app(tmp_path / "runs")
    async with app.run_test(size=LARGE) as pilot:
        screen = await with_images(pilot, app)
        at = grid(screen)
        assert at.across == 3
        for key, cursor in (
            ("left", 0),
            ("right", 1),
            ("down", 4),
            ("up", 1),
            ("up", 1),
            ("pagedown", 7),
            ("pageup", 1),
            ("end", at.count - 1),
            ("right", at.count - 1),
            ("down", at.count - 1),
            ("pagedown", at.count - 1),
            ("home", 0),
        ):
            await pilot.press(key)
            assert at.cursor == cursor, key
        await pilot.press("pagedown")
        assert "page 2 of" in text(screen, "#shown")


async def test_a_move_within_the_page_paints_captions_only(tmp_path: Path, run: RunDir) -> None:
    app = synthetic_app(tmp_path / "runs")
    async with app.run_test(size=LARGE) as pilot:
        screen = await with_images(pilot, app)
        asked: list[tuple[object, ...]] = []
        refresh = grid(screen).refresh
        grid(screen).refresh = lambda *r, **k: (asked.append(r), refresh(*r, **k))[1]  # type: ignore[assignment,method-assign]
        await pilot.press("right")
        await pilot.press("down")
        assert len(asked) == 2
        assert all(region.height == 2 for regions in asked for region in regions)  # type: ignore[attr-defined]
        assert f"#{grid(screen).chosen}" in lines(screen)[19 + 16]


async def test_sizes(tmp_path: Path, run: RunDir) -> None:
    app = synthetic_app(tmp_path / "runs")
    async with app.run_test(size=SMALL) as pilot:
        screen = await with_images(pilot, app)
        chosen = grid(screen).chosen
        await pilot.press("z")
        assert grid(screen).per_page == 4
        assert f"#{chosen}" in lines(screen)[0]
        await pilot.press("z")
        assert grid(screen).per_page == 19
        assert "p(predicted)" in lines(screen)[0]
        assert f"#{chosen}" in lines(screen)[1]
        await pilot.press("z")
        assert grid(screen).per_page == 2
        assert grid(screen).chosen == chosen


async def test_sorts(tmp_path: Path, run: RunDir, synthetic: TestData) -> None:
    made = some(synthetic, 3)
    app = synthetic_app(tmp_path / "runs")
    async with app.run_test(size=SMALL) as pilot:
        screen = await with_images(pilot, app)
        for sort in ("loss", "margin", "entropy", "doubt", "index"):
            await pilot.press("home", "o", "home")
            assert f"sorted by {sort}▼" in text(screen, "#shown")
        assert grid(screen).chosen == made.wrong[0]
        await pilot.press("O", "home")
        assert grid(screen).chosen == made.wrong[-1]
        assert "index▲" in text(screen, "#shown")


# ---- filters ----------------------------------------------------------------------------------


async def test_filter_line(tmp_path: Path, run: RunDir, synthetic: TestData) -> None:
    made = some(synthetic, 3)
    app = synthetic_app(tmp_path / "runs")
    first, second = synthetic.classes[0], synthetic.classes[1]
    async with app.run_test(size=SMALL) as pilot:
        screen = await with_images(pilot, app)
        await type_filter(pilot, f"{first}>{second} conf>0.5")
        fits = (made.labels == 0) & (made.predicted == 1)
        fits &= made.probabilities[np.arange(len(fits)), made.predicted] > 0.5
        assert grid(screen).count == int(fits.sum()) > 0
        assert f"only {first}>{second} conf>0.5" in text(screen, "#shown")
        assert not screen.query_one("#filter").display
        await type_filter(pilot, " qqq")
        assert "nothing known as 'qqq'" in text(screen, "#shown")
        assert grid(screen).count == int(fits.sum()), "what was understood last stays"
        await pilot.press("escape")
        assert grid(screen).count == len(made.wrong)
        wanted = int(made.wrong[7])
        await type_filter(pilot, f"#{wanted}")
        assert grid(screen).chosen == wanted


async def test_class_choosers(tmp_path: Path, run: RunDir, synthetic: TestData) -> None:
    made = some(synthetic, 3)
    app = synthetic_app(tmp_path / "runs")
    async with app.run_test(size=SMALL) as pilot:
        screen = await with_images(pilot, app)
        await pilot.press("a", "down", "down", "down", "enter")
        await pilot.pause()
        assert grid(screen).count == int((made.labels[made.wrong] == 2).sum())
        await pilot.press("A", "down", "down", "down", "down", "enter")
        await pilot.pause()
        assert text(screen, "#shown").endswith(
            f"only {synthetic.classes[2]}>{synthetic.classes[3]}"
        )
        await pilot.press("a", "enter")
        await pilot.pause()
        assert text(screen, "#shown").endswith(f"only >{synthetic.classes[3]}")


async def test_all_images(tmp_path: Path, run: RunDir) -> None:
    app = synthetic_app(tmp_path / "runs")
    async with app.run_test(size=LARGE) as pilot:
        screen = await with_images(pilot, app)
        await pilot.press("t", "home")
        assert grid(screen).count == 2000
        await type_filter(pilot, "conf<0.6")
        await pilot.press("t")
        assert 0 < grid(screen).count < 2000


# ---- the matrix -------------------------------------------------------------------------------


@pytest.mark.usefixtures("run")
async def test_pairs_without_room_beside_the_matrix_are_not_folded_into_it(tmp_path: Path) -> None:
    app = synthetic_app(tmp_path / "runs")
    async with app.run_test(size=(80, 24)) as pilot:
        screen = await with_images(pilot, app)
        await pilot.press("k")
        pairs = screen.query_one("#pairs", OptionList)
        await until(pilot, lambda: pairs.region.height > 1)
        assert pairs.virtual_size.height == pairs.option_count
        await pilot.resize_terminal(66, 24)
        await until(pilot, lambda: not pairs.region.height)
        matrix = screen.query_one(ConfusionTable)
        assert matrix.region.width > 60
        await pilot.resize_terminal(80, 24)
        await until(pilot, lambda: pairs.virtual_size.height == pairs.option_count)


@pytest.mark.parametrize("size", [LARGE, SMALL])
async def test_a_cell_shows_exactly_its_images(
    tmp_path: Path, run: RunDir, synthetic: TestData, size: tuple[int, int]
) -> None:
    made = some(synthetic, 3)
    app = synthetic_app(tmp_path / "runs")
    async with app.run_test(size=size) as pilot:
        screen = await with_images(pilot, app)
        matrix = screen.query_one(ConfusionTable)
        assert screen.query_one("#pane").display == (size == LARGE)
        await type_filter(pilot, "conf>0.9")
        await pilot.press("k")
        assert matrix.has_focus
        assert grid(screen).display == (size == LARGE)
        await pilot.press("down", "down", "right", "right", "right")
        assert "taken for" in text(screen, "#cell")
        await pilot.press("enter")
        await pilot.pause()
        assert grid(screen).has_focus
        assert grid(screen).display
        count = int(((made.labels == 2) & (made.predicted == 3)).sum())
        assert grid(screen).count == count > 0
        # the diagonal holds what was right
        await pilot.press("k", "left", "enter")
        await pilot.pause()
        assert grid(screen).count == int(((made.labels == 2) & (made.predicted == 2)).sum())
        await pilot.press("escape")
        assert grid(screen).count == len(made.wrong)


async def test_counts_and_percentages(tmp_path: Path, run: RunDir, synthetic: TestData) -> None:
    made = some(synthetic, 3)
    app = synthetic_app(tmp_path / "runs")
    async with app.run_test(size=LARGE) as pilot:
        screen = await with_images(pilot, app)
        matrix = screen.query_one(ConfusionTable)
        right = int(((made.labels == 0) & (made.predicted == 0)).sum())
        of = int((made.labels == 0).sum())
        assert matrix.render_line(2).text.split()[1] == str(right)
        await pilot.press("percent_sign")
        assert matrix.render_line(2).text.split()[1] == f"{100 * right / of:.0f}"
        assert "% of row" in matrix.render_line(0).text


async def test_most_confused_pairs_and_figures(
    tmp_path: Path, run: RunDir, synthetic: TestData
) -> None:
    app = synthetic_app(tmp_path / "runs")
    async with app.run_test(size=LARGE) as pilot:
        screen = await with_images(pilot, app)
        pairs = screen.query_one("#pairs", OptionList)
        pairs.focus()
        await pilot.press("enter")
        await pilot.pause()
        found = screen.loader.evaluation
        assert found is not None
        off = found.matrix - np.diag(np.diagonal(found.matrix))
        assert grid(screen).count == off.max()
        figures = text(screen, "#classes")
        assert "precision recall" in figures
        recall = found.matrix[0, 0] / found.matrix[0].sum()
        assert f"{100 * recall:.1f}" in figures


@pytest.mark.parametrize("size", [LARGE, SMALL])
async def test_a_hundred_classes(tmp_path: Path, size: tuple[int, int]) -> None:
    names = tuple(f"class_{i:02d}" for i in range(100))
    run = make_run(tmp_path / "runs", data="cifar100", end=None, classes=names, done=1, epochs=2)
    random = np.random.default_rng(0)
    labels = np.arange(1000) % 100
    raw = random.random((1000, 100)) ** 4
    made = Predictions(
        (raw / raw.sum(1, keepdims=True)).astype(np.float16), labels, "test", "0" * 64, 1
    )
    evaluate(run, made)
    app = synthetic_app(tmp_path / "runs")
    async with app.run_test(size=size) as pilot:
        screen = await open_mistakes(pilot, app)
        await until(pilot, lambda: screen.loader.evaluation)
        await pilot.press("k")
        matrix = screen.query_one(ConfusionTable)
        await pilot.press("end")
        await pilot.pause()
        assert matrix.cursor == (99, 99)
        shown = [matrix.render_line(y).text for y in range(matrix.size.height)]
        assert any(line.startswith("class_99") for line in shown)
        assert not any(line.startswith("class_00") for line in shown)
        assert all(len(line) == matrix.size.width for line in shown)
        assert "class_99 right" in text(screen, "#cell")
        visible = matrix.region.intersection(screen.query_one("#pane").region)
        assert visible.height == matrix.region.height, "nothing of it is cut off"
        await pilot.press("home")
        await pilot.pause()
        assert matrix.render_line(2).text.startswith("class_00")
        await pilot.press(*["down"] * 40)
        await pilot.pause()
        seen = matrix.scrollable_content_region.height
        assert matrix.render_line(seen - 1).text.startswith("class_40"), "not under a scrollbar"
        assert "class_00" in text(screen, "#classes")


# ---- evaluations ------------------------------------------------------------------------------


async def test_stepping_through_evaluations(
    tmp_path: Path, run: RunDir, synthetic: TestData
) -> None:
    evaluate(run, some(synthetic, 3, wrong=0.05), "tta")
    app = synthetic_app(tmp_path / "runs")
    async with app.run_test(size=LARGE) as pilot:
        screen = await with_images(pilot, app)
        assert "epoch 3 newest" in text(screen, "#title"), "of one epoch the plain one"

        async def at(words: str) -> None:
            await until(pilot, lambda: words in text(screen, "#title"))

        await pilot.press("right_square_bracket")
        await at("epoch 3 (tta)")
        await pilot.press("left_square_bracket")
        await at("epoch 3 newest")
        await pilot.press("left_square_bracket")
        await at("epoch 2")
        await pilot.press("left_square_bracket", "left_square_bracket")
        await at("epoch 1")
        chosen = grid(screen).chosen
        evaluate(run, some(synthetic, 4))
        app.poll()
        await until(pilot, lambda: app.store.current.state.predictions[-1].epoch == 4)  # type: ignore[union-attr]
        assert "epoch 1" in text(screen, "#title"), "an older one is not taken away"
        assert grid(screen).chosen == chosen


@pytest.fixture
def worth(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """Set the seconds that a page of images stays."""

    def seconds(longest: float) -> None:
        monkeypatch.setattr(evaluation_choice, "LONGEST", longest)

    return seconds


async def test_the_newest_evaluation_comes_by_itself(
    tmp_path: Path,
    run: RunDir,
    synthetic: TestData,
    worth: Callable[[float], None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    worth(0.0)
    monkeypatch.setattr(evaluation_choice, "READING", 0.0)
    async with live(tmp_path, run) as (_, pilot, screen):
        first = grid(screen).chosen
        evaluate(run, some(synthetic, 4))
        await until(pilot, lambda: "epoch 4 newest" in text(screen, "#title"))
        assert grid(screen).cursor == 0, "who has not moved sees the first page"
        assert grid(screen).chosen != first
        await pilot.press("right", "right")
        chosen = grid(screen).chosen
        evaluate(run, some(synthetic, 5))
        await until(pilot, lambda: "epoch 5 newest" in text(screen, "#title"))
        assert grid(screen).chosen == chosen, "the cursor stays on its image"


async def test_a_page_of_images_stays_for_what_its_bytes_are_worth(
    tmp_path: Path, run: RunDir, synthetic: TestData, worth: Callable[[float], None]
) -> None:
    worth(600.0)
    began = time.monotonic()
    async with live(tmp_path, run) as (_, pilot, screen):
        stays = screen.choice._stays_until
        worth_it = "six images of 512 cells at 1,800 bytes a second"
        assert began + 71 < stays < time.monotonic() + 72, worth_it
        evaluate(run, some(synthetic, 4))
        await until(pilot, lambda: "epoch 3, 4 is there: ]" in text(screen, "#title"))
        assert screen.loader.evaluation is not None
        assert screen.loader.evaluation.saved.epoch == 3, "the figures are of what is shown"
        await pilot.press("right_square_bracket")
        await until(pilot, lambda: "epoch 4 newest" in text(screen, "#title"))
        evaluate(run, some(synthetic, 5))
        await until(pilot, lambda: "epoch 4, 5 is there: ]" in text(screen, "#title"))
        await pilot.press("z", "z")
        await pilot.pause()
        assert grid(screen).shown_density == "list"
        assert "epoch 4, 5 is there: ]" in text(screen, "#title"), "it counts from the first"
        evaluate(run, some(synthetic, 6))
        append(run, events.RunEnded(state="completed"))
        await until(pilot, lambda: "epoch 6 newest" in text(screen, "#title"))


async def test_a_page_of_images_turns_when_its_time_is_over(
    tmp_path: Path,
    run: RunDir,
    synthetic: TestData,
    worth: Callable[[float], None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    worth(1.5)
    async with live(tmp_path, run) as (app, pilot, screen):
        await pilot.press("2")
        evaluate(run, some(synthetic, 4))
        await until(pilot, lambda: len(app.store.current.state.predictions) == 4)  # type: ignore[union-attr]
        await pilot.press("4")
        await until(pilot, lambda: "epoch 4 newest" in text(screen, "#title"))
        evaluate(run, some(synthetic, 5))
        await until(pilot, lambda: "epoch 5 newest" in text(screen, "#title"))
        monkeypatch.setattr(evaluation_choice, "READING", 600.0)
        await pilot.press("right")
        evaluate(run, some(synthetic, 6))
        await until(pilot, lambda: "epoch 5, 6 is there: ]" in text(screen, "#title"))
        await pilot.pause(1.7)
        assert "epoch 5, 6 is there: ]" in text(screen, "#title"), "someone looks at it"
        await pilot.press("enter")
        await until(pilot, lambda: isinstance(app.screen, ImageScreen))
        await pilot.press("escape")
        await until(pilot, lambda: app.screen is screen)
        assert "epoch 5, 6 is there: ]" in text(screen, "#title")


async def test_nothing_changes_behind_one_image(
    tmp_path: Path,
    run: RunDir,
    synthetic: TestData,
    worth: Callable[[float], None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    worth(0.0)
    monkeypatch.setattr(evaluation_choice, "READING", 0.0)
    async with live(tmp_path, run) as (app, pilot, screen):
        await pilot.press("right", "right", "enter")
        await until(pilot, lambda: isinstance(app.screen, ImageScreen))
        chosen = grid(screen).chosen
        right = some(synthetic, 4, wrong=0.0)  # the net has become right about it
        evaluate(run, right)
        follower = app.store.current
        assert follower is not None
        await until(pilot, lambda: len(follower.state.predictions) == 4)
        await pilot.pause(0.6)
        assert screen.loader.evaluation is not None
        assert screen.loader.evaluation.saved.epoch == 3
        assert grid(screen).chosen == chosen
        await pilot.press("escape")
        await until(pilot, lambda: "epoch 4 newest" in text(screen, "#title"))


async def test_a_jump_goes_to_the_page_that_was_asked_on(
    tmp_path: Path, run: RunDir, synthetic: TestData, worth: Callable[[float], None]
) -> None:
    worth(600.0)
    async with live(tmp_path, run) as (app, pilot, screen):
        evaluate(run, some(synthetic, 4))
        await until(pilot, lambda: "epoch 3, 4 is there: ]" in text(screen, "#title"))
        index = int(grid(screen).indices[20])
        await pilot.press("j", *str(index), "enter")
        await until(pilot, lambda: app.screen is screen)
        await pilot.pause(0.3)
        assert grid(screen).chosen == index
        assert "epoch 3, 4 is there: ]" in text(screen, "#title")


async def test_a_filter_of_classes_that_another_run_does_not_have(
    tmp_path: Path, run: RunDir, synthetic: TestData
) -> None:
    few = make_run(
        tmp_path / "runs", name="few", end=None, created=-600, seed=9, classes=("one", "two")
    )
    labels = synthetic.test.labels % 2
    shares = np.full((len(labels), 2), 0.3, np.float16)
    shares[np.arange(len(labels)), (labels + (np.arange(len(labels)) % 5 == 0)) % 2] = 0.7
    evaluate(few, Predictions(shares, labels, "test", synthetic.fingerprint, 1))
    app = synthetic_app(tmp_path / "runs")
    async with app.run_test(size=LARGE) as pilot:
        screen = await with_images(pilot, app)
        await type_filter(pilot, f">{synthetic.classes[9]}")
        assert 0 < grid(screen).count < 2000
        await pilot.press("1", "down", "4")
        await until(pilot, lambda: "few" in text(screen, "#title"))
        await until(pilot, lambda: "nothing known as" in text(screen, "#shown"))
        assert grid(screen).count == len(labels) // 5 + (len(labels) % 5 > 0)
        await pilot.press("a")
        await until(pilot, lambda: app.screen is not screen)
        await pilot.press("down", "enter")
        await until(pilot, lambda: "only one" in text(screen, "#shown"))


async def test_images_are_looked_for_again_where_the_data_is_new(
    tmp_path: Path, run: RunDir, monkeypatch: pytest.MonkeyPatch
) -> None:
    read, asked = evaluations.read_pictures, []

    def gone(candidates: Sequence[str], fingerprint: str) -> object:
        asked.append(candidates)
        raise DataError("the images of this run are not here")

    monkeypatch.setattr(evaluations, "read_pictures", gone)
    app = make_app(tmp_path / "runs", data="cifar10")
    async with app.run_test(size=LARGE) as pilot:
        screen = await open_mistakes(pilot, app)
        await until(pilot, lambda: "are not here" in text(screen, "#problem"))
        await pilot.pause(0.6)
        assert len(asked) == 1, "not at each look at the log"
        monkeypatch.setattr(evaluations, "read_pictures", read)
        app.runs.data = "synthetic"
        await until(pilot, lambda: screen.loader.pictures is not None)
        assert text(screen, "#problem") == ""


async def test_another_run_is_chosen(tmp_path: Path, run: RunDir, synthetic: TestData) -> None:
    make_run(tmp_path / "runs", created=-600, seed=7, name="elder", done=1, epochs=2)
    app = synthetic_app(tmp_path / "runs")
    async with app.run_test(size=LARGE) as pilot:
        screen = await with_images(pilot, app)
        await pilot.press("1", "down", "4")
        await until(pilot, lambda: "no evaluation with its images" in text(screen, "#nothing"))
        assert grid(screen).count == 0
        await pilot.press("1", "up", "4")
        await until(pilot, lambda: grid(screen).count)


# ---- bad input --------------------------------------------------------------------------------


async def test_no_run_and_no_evaluation(tmp_path: Path) -> None:
    app = synthetic_app(tmp_path / "runs")
    async with app.run_test(size=SMALL) as pilot:
        screen = await open_mistakes(pilot, app)
        assert "No run is chosen" in text(screen, "#nothing")
        for key in ("enter", "o", "k", "a", "z", "t", "y", "percent_sign", "slash", "x", "escape"):
            await pilot.press(key)
        run = make_run(tmp_path / "runs", done=0, end=None)
        with held(run):
            await until(pilot, lambda: "first evaluation" in text(screen, "#nothing"))


async def test_damaged_and_missing_predictions(
    tmp_path: Path, run: RunDir, synthetic: TestData
) -> None:
    path = run.predictions(3, "plain")
    path.write_bytes(path.read_bytes()[:1000])
    run.predictions(2, "plain").unlink()
    app = synthetic_app(tmp_path / "runs")
    async with app.run_test(size=SMALL) as pilot:
        screen = await open_mistakes(pilot, app)
        await until(pilot, lambda: "cannot be read" in text(screen, "#nothing"))
        assert "[ and ] go to other evaluations" in text(screen, "#nothing")
        await pilot.press("left_square_bracket")
        await until(pilot, lambda: "are gone" in text(screen, "#nothing"))
        await pilot.press("left_square_bracket")
        await until(pilot, lambda: grid(screen).count == len(some(synthetic, 1).wrong))
        assert not screen.query_one("#nothing").display


async def test_a_log_that_names_a_file_elsewhere(tmp_path: Path, synthetic: TestData) -> None:
    run = make_run(tmp_path / "runs", end=None, classes=synthetic.classes)
    made = some(synthetic, 5)
    predictions.save(made, tmp_path / "epoch.npz")
    hostile = saved(run, made)
    append(run, events.PredictionsSaved(**{**_fields(hostile), "path": "../../epoch.npz"}))  # type: ignore[arg-type]
    app = synthetic_app(tmp_path / "runs")
    async with app.run_test(size=SMALL) as pilot:
        screen = await open_mistakes(pilot, app)
        await until(pilot, lambda: "outside the run's folder" in text(screen, "#nothing"))


def _fields(event: events.PredictionsSaved) -> dict[str, object]:
    return {name: getattr(event, name) for name in event.__struct_fields__}


async def test_predictions_of_another_split(tmp_path: Path, synthetic: TestData) -> None:
    run = make_run(tmp_path / "runs", end=None, classes=synthetic.classes)
    made = some(synthetic, 5)
    evaluate(
        run,
        Predictions(made.probabilities, made.labels, "train", made.fingerprint, 5, made.predicted),
    )
    app = synthetic_app(tmp_path / "runs")
    async with app.run_test(size=SMALL) as pilot:
        screen = await open_mistakes(pilot, app)
        await until(pilot, lambda: "another split than test" in text(screen, "#nothing"))


async def test_a_line_has_the_colours_of_the_theme_it_is_read_in(tmp_path: Path) -> None:
    make_run(tmp_path / "runs", with_predictions=True)
    app = synthetic_app(tmp_path / "runs")
    async with app.run_test(size=SMALL) as pilot:
        screen = await open_mistakes(pilot, app)
        await until(pilot, lambda: "mistakes" in text(screen, "#shown"))
        await type_filter(pilot, "zzz>cat")
        line = screen.query_one("#shown", Static)
        for theme in ("cifar-dark", "cifar-light"):
            app.set_theme(theme)
            await pilot.pause()
            await until(pilot, lambda: line.content.style == app.colours()["error"])  # type: ignore[union-attr]


@pytest.mark.parametrize("gone", [True, False])
async def test_without_images_the_rest_works(tmp_path: Path, gone: bool) -> None:
    data = str(tmp_path / "away") if gone else "synthetic"
    run = make_run(tmp_path / "runs", data=data, data_kind="folder", with_predictions=True)
    app = make_app(tmp_path / "runs", data=data)
    async with app.run_test(size=LARGE) as pilot:
        screen = await open_mistakes(pilot, app)
        await until(pilot, lambda: screen.query_one("#problem").display)
        problem = text(screen, "#problem")
        assert problem.startswith("the images of this run are not here: ")
        assert ("does not exist" if gone else "other test images") in problem
        found = predictions.load(run.predictions(5, "plain"))
        assert grid(screen).count == len(found.wrong)
        assert "p(predicted)" in lines(screen)[0]
        await pilot.press("k", "enter")
        await pilot.pause()
        assert grid(screen).count == int(((found.labels == 0) & (found.predicted == 0)).sum())
        await pilot.press("enter")
        await until(pilot, lambda: isinstance(app.screen, ImageScreen))
        view = app.screen.query_one("#image")
        await until(pilot, lambda: "no image" in view.render_line(16).text)


def test_the_app_s_own_data_may_hold_the_images(
    synthetic: TestData, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []

    def load_test(source: str, data_dir: Path | None = None) -> TestData:
        asked.append(source)
        if source == "here":
            return synthetic
        raise sources.DataError(f"{source} does not exist")

    monkeypatch.setattr(sources, "load_test", load_test)
    place, found = evaluations.read_pictures(("away", "cifar10", "here"), synthetic.fingerprint)
    assert place == "here"
    assert found is synthetic.test.images
    assert asked == ["away", "cifar10", "here"]
    with pytest.raises(sources.DataError, match="not here: away does not exist"):
        evaluations.read_pictures(("away", "cifar10"), synthetic.fingerprint)


async def test_names_of_classes_are_data(tmp_path: Path) -> None:
    names = ("[red]x[/]", "\x1b[31mevil", "漢字漢字漢字", "a→b", "conf", "#1", "", "é" * 300)
    run = make_run(tmp_path / "runs", end=None, classes=names, done=1, epochs=2)
    labels = np.arange(80) % 8
    raw = np.eye(8)[(labels + 1) % 8] * 0.9 + 0.0125
    evaluate(run, Predictions(raw.astype(np.float16), labels, "test", "0" * 64, 1))
    app = synthetic_app(tmp_path / "runs")
    async with app.run_test(size=SMALL) as pilot:
        screen = await open_mistakes(pilot, app)
        await until(pilot, lambda: grid(screen).count == 80)
        shown = "\n".join(lines(screen))
        assert "[red]x[/]" in shown
        assert "\x1b" not in shown
        await pilot.press("k")
        matrix = screen.query_one(ConfusionTable)
        for column in range(8):
            await pilot.press("right", "enter")
            await pilot.pause()
            wanted = (0, min(column + 1, 7))
            assert matrix.cursor == wanted
            fits = (labels == 0) & ((labels + 1) % 8 == wanted[1])
            assert grid(screen).count == int(fits.sum())
            await pilot.press("k")
        await pilot.press("k", "a", "escape", "question_mark", "escape", "escape")


# ---- one image --------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [LARGE, SMALL])
async def test_one_image_enlarged(
    tmp_path: Path, run: RunDir, synthetic: TestData, size: tuple[int, int]
) -> None:
    app = synthetic_app(tmp_path / "runs")
    async with app.run_test(size=size) as pilot:
        screen = await with_images(pilot, app)
        await pilot.press("enter")
        await until(pilot, lambda: isinstance(app.screen, ImageScreen))
        shown = app.screen
        await until(pilot, lambda: "evaluations, epochs 1 to 3" in text(shown, "#history"))
        index = grid(screen).chosen
        assert index is not None
        assert f"test image #{index}" in text(shown, "#what")
        bars = text(shown, "#bars").splitlines()
        made = some(synthetic, 3)
        first = synthetic.classes[int(made.predicted[index])]
        assert bars[0].split()[0] == first
        assert bars[0].endswith("predicted")
        actual = next(line for line in bars if line.endswith("actual"))
        assert actual.split()[0] == synthetic.classes[int(made.labels[index])]
        assert len(bars) >= 10
        scale = 2 if size == LARGE else 1
        view = shown.query_one("#image")
        assert view.size == (32 * scale, 16 * scale)
        assert shown.styles.background.a == 1, "or the grid below is drawn again with every key"
        pixel = synthetic.test.images[index, :, 0, 0]
        style = view.render_line(0)._segments[0].style
        assert style is not None
        assert style.color is not None
        assert style.color.triplet == tuple(int(v) for v in pixel)
        await pilot.press("right")
        assert grid(screen).chosen != index
        assert f"#{grid(screen).chosen}" in text(shown, "#what")
        await pilot.press("escape")
        assert app.screen is screen


def test_bars_name_actual_and_predicted() -> None:
    drawn = image_view.bars(
        np.array([0.25, 0.5, 0.25]),
        ("cat", "deer", "dog"),
        actual=2,
        predicted=1,
        colours=COLOURS,
        width=40,
        limit=2,
    ).plain.splitlines()
    assert [line.split()[0] for line in drawn] == ["deer", "dog", "and"]
    assert drawn[0].endswith("0.500 predicted")
    assert drawn[1].endswith("0.250 actual")
    length = [line.count("█") for line in drawn[:2]]
    assert abs(length[0] - 2 * length[1]) <= 1
    right = image_view.bars(
        np.array([1.0, 0.0]),
        ("a", "b"),
        actual=0,
        predicted=0,
        colours=COLOURS,
        width=40,
        limit=9,
    )
    assert "1.000 actual ✓" in right.plain


def test_bars_rank_by_one_kind_of_figure() -> None:
    drawn = image_view.bars(
        np.array([0, 1, 0, 6e-8, 0], np.float16),
        ("ape", "bat", "cat", "deer", "eel"),
        actual=4,
        predicted=1,
        colours=COLOURS,
        width=40,
        limit=9,
        written=np.array([0, 1 - 1e-9, 0, 6e-8, 3e-23]),
    ).plain.splitlines()
    assert [line.split()[0] for line in drawn] == ["bat", "deer", "ape", "cat", "eel"]
    assert [bool(set(line) & set("█▏")) for line in drawn] == [True, True, False, False, False]
    assert drawn[0].endswith(">.999 predicted")
    assert drawn[4].endswith("<.001 actual")


def test_history_strip() -> None:
    moments = [Moment(1, False, 0.0), Moment(2, False, 0.01), Moment(5, True, 1.0)]
    first, right, curve = image_view.history(moments, COLOURS, 60).plain.splitlines()
    assert first == "right at 1 of 3 evaluations, epochs 1 to 5"
    assert right.endswith("✗✗■")
    assert curve.endswith(" ▁▁█")
    many = [Moment(i, True, 0.5) for i in range(1, 201)]
    cut = image_view.history(many, COLOURS, 62).plain.splitlines()
    assert cut[0] == "right at 50 of 50 evaluations, epochs 151 to 200"
    assert all(len(line) <= 62 for line in cut)
    assert "no evaluation" in image_view.history([], COLOURS, 60).plain


def test_histories_read_only_what_is_new(
    run: RunDir, synthetic: TestData, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded: list[str] = []
    load = predictions.load
    monkeypatch.setattr(predictions, "load", lambda p: (loaded.append(p.name), load(p))[1])
    listed = [saved(run, some(synthetic, epoch)) for epoch in (1, 2, 3)]
    histories = evaluations.Histories(run)
    run.predictions(2, "plain").write_bytes(b"damaged")
    history = histories.update(listed, "plain")
    assert [m.epoch for m in history.of(0)] == [1, 3]
    evaluate(run, some(synthetic, 4))
    loaded.clear()
    listed.append(saved(run, some(synthetic, 4)))
    assert [m.epoch for m in histories.update(listed, "plain").of(0)] == [1, 3, 4]
    assert loaded == ["epoch-0004-plain.npz"]
    # resumed from epoch 1: the second attempt's evaluations are others
    again = [listed[0], saved(run, some(synthetic, 3))]
    assert [m.epoch for m in histories.update(again, "plain").of(0)] == [1, 3]


async def test_the_index_is_copied(tmp_path: Path, run: RunDir) -> None:
    app = synthetic_app(tmp_path / "runs")
    async with app.run_test(size=SMALL) as pilot:
        screen = await with_images(pilot, app)
        await pilot.press("right", "y")
        assert app.clipboard == str(grid(screen).chosen)


async def test_idle_it_paints_nothing(tmp_path: Path, run: RunDir) -> None:
    app = synthetic_app(tmp_path / "runs")
    async with app.run_test(size=LARGE) as pilot:
        screen = await with_images(pilot, app)
        await at_rest(pilot, app)
        painted: list[str] = []
        for widget in (grid(screen), *screen.query(Static)):
            name = str(widget.id)
            widget.refresh = lambda *_, name=name, **__: painted.append(name)  # type: ignore[assignment,method-assign]
        app.repaint()
        await pilot.pause(0.1)
        assert painted == []


async def test_a_click_below_the_tiles_is_none_on_the_next_page(
    tmp_path: Path, run: RunDir
) -> None:
    app = synthetic_app(tmp_path / "runs")
    async with app.run_test(size=(160, 36)) as pilot:
        screen = await with_images(pilot, app)
        await pilot.click(MistakeGrid, offset=(5, grid(screen).size.height - 1))
        assert grid(screen).cursor == 0


async def test_a_click_chooses_and_a_second_one_enlarges(tmp_path: Path, run: RunDir) -> None:
    app = synthetic_app(tmp_path / "runs")
    async with app.run_test(size=LARGE) as pilot:
        screen = await with_images(pilot, app)
        await pilot.click(MistakeGrid, offset=(40, 25))
        assert grid(screen).cursor == 4
        await pilot.click(MistakeGrid, offset=(40, 25), times=2)
        await until(pilot, lambda: isinstance(app.screen, ImageScreen))


async def test_filter_has_the_keys_while_it_is_typed(tmp_path: Path, run: RunDir) -> None:
    app = synthetic_app(tmp_path / "runs")
    async with app.run_test(size=LARGE) as pilot:
        screen = await with_images(pilot, app)
        await pilot.press("slash", "o", "k", "left_square_bracket")
        assert screen.query_one("#filter", Input).value == "ok["
        assert screen.sort == "confidence"
