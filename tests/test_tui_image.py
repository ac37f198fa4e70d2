"""The screen of one image: what the worker says about the inside of the net."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from textual.pilot import Pilot
from textual.widgets import DataTable

from tests.mistakes_helpers import LARGE, SMALL, evaluate, grid, some, text, with_images
from tests.tui_helpers import make_run, synthetic_app, until
from trainer.analysis.human import People
from trainer.analysis.mistakes import Moment
from trainer.data.dataset import TestData
from trainer.events import LayerRow
from trainer.protocol import Inspected, Near
from trainer.runs.predictions import Figures
from trainer.runs.rundir import RunDir
from tui.app import CifarApp
from tui.commands import entries
from tui.images import inside, overlay
from tui.screens.dialogs import Help
from tui.screens.image import ImageScreen
from tui.screens.mistakes import MistakesScreen
from tui.widgets import image_view
from tui.widgets.layer_table import LayerTable
from tui.widgets.neighbours import Neighbours

COLOURS = {"secondary": "#999999", "success": "#00ff00", "error": "#ff0000", "primary": "#0000ff"}

pytestmark = pytest.mark.usefixtures("images_are_there")


@pytest.fixture
def run(tmp_path: Path, synthetic: TestData) -> RunDir:
    run = make_run(tmp_path / "runs", end=None, classes=synthetic.classes)
    for epoch in (1, 2):
        evaluate(run, some(synthetic, epoch))
    return run


async def enlarged(pilot: Pilot[None], app: CifarApp) -> ImageScreen:
    await with_images(pilot, app)
    await pilot.press("enter")
    await until(pilot, lambda: isinstance(app.screen, ImageScreen))
    shown = app.screen
    assert isinstance(shown, ImageScreen)
    await until(pilot, lambda: text(shown, "#inside"))  # not before it is painted
    await until(pilot, lambda: "computing…" not in text(shown, "#inside"))
    return shown


def colours(shown: ImageScreen, row: int) -> list[tuple[int, int, int]]:
    """Upper pixels of a line of the image."""
    found: list[tuple[int, int, int]] = []
    for segment in shown.query_one("#image").render_line(row)._segments:
        assert segment.style is not None
        assert segment.style.color is not None
        found += [tuple(segment.style.color.triplet)] * len(segment.text)  # type: ignore[list-item]
    return found


async def test_its_keys_are_told_and_the_help_closes_first(tmp_path: Path, run: RunDir) -> None:
    app = synthetic_app(tmp_path / "runs")
    async with app.run_test(size=SMALL) as pilot:
        shown = await enlarged(pilot, app)
        for close in ("escape", "question_mark", "q"):
            await pilot.press("question_mark")
            await until(pilot, lambda: isinstance(app.screen, Help))
            titles = {entry.title for entry in app.screen._entries}  # type: ignore[attr-defined]
            assert {"Grad-CAM", "Layer after", "Copy index", "Help", "Close"} <= titles
            assert "Filter" not in titles, "keys of the screen below"
            await pilot.press(close)
            await until(pilot, lambda: app.screen is shown)
        await pilot.press("question_mark", "escape", "escape")
        await until(pilot, lambda: isinstance(app.screen, MistakesScreen))
        keys = {entry.title: entry.key for entry in entries(app.screen)}
        assert keys["Next page"] == "space"
        assert keys["Reverse"] == "O"
        assert keys["Jump"] == "j #"


@pytest.mark.parametrize("size", [LARGE, SMALL], ids=["160x50", "80x24"])
async def test_the_inside_of_the_net(
    tmp_path: Path, run: RunDir, synthetic: TestData, size: tuple[int, int]
) -> None:
    app = synthetic_app(tmp_path / "runs")
    async with app.run_test(size=size) as pilot:
        shown = await enlarged(pilot, app)
        said = text(shown, "#inside")
        assert "best checkpoint, epoch 3: not epoch 2 plain" in said
        assert "c3  3 of 3 convolutions" in said
        assert "61×61, clipped at the image's edge" in said  # noqa: RUF001
        assert len(text(shown, "#note")) <= size[0] - 2
        near = shown.query_one(Neighbours)
        assert near.display is (size == LARGE)
        if size == SMALL:
            await pilot.press("n")
            assert near.display
        await until(pilot, lambda: near.fit > 0 and near.size.height > 9)
        drawn = "\n".join(near.render_line(y).text for y in range(near.size.height))
        assert "#100  0.990" in drawn
        assert synthetic.classes[0] in drawn
        assert drawn.count("#10") == min(8, near.fit)
        await pilot.press("n")
        await pilot.press("left_square_bracket")
        await until(pilot, lambda: "c2  2 of 3" in text(shown, "#inside"))
        assert "clipped" not in text(shown, "#inside")
        await pilot.press("right")
        await until(pilot, lambda: "c2  2 of 3" in text(shown, "#inside"))


async def test_maps_and_frames_over_the_image(
    tmp_path: Path, run: RunDir, synthetic: TestData
) -> None:
    app = synthetic_app(tmp_path / "runs")
    async with app.run_test(size=SMALL) as pilot:
        shown = await enlarged(pilot, app)
        screen = app.screen_stack[-2]
        index = grid(screen).chosen  # type: ignore[arg-type]
        plain = [tuple(int(v) for v in p) for p in synthetic.test.images[index, :, 24].T]
        assert colours(shown, 12) == plain
        await pilot.press("g")
        assert "Grad-CAM of" in text(shown, "#inside")
        dark = [tuple(round(v * 0.3) for v in p) for p in plain]  # the drawn map is 0 there
        assert np.abs(np.subtract(colours(shown, 12), dark)).max() <= 1
        await pilot.press("e")
        assert "effective field's gradient" in text(shown, "#inside")
        assert np.abs(np.subtract(colours(shown, 12), dark)).max() > 1
        await pilot.press("e", "f")
        assert "as it is" in text(shown, "#inside")
        assert set(colours(shown, 0)) == {overlay.THEORY}
        assert colours(shown, 12)[0] == overlay.THEORY
        assert colours(shown, 12)[1] == overlay.EFFECTIVE
        assert colours(shown, 12)[2:30] == plain[2:30]


@pytest.mark.parametrize(
    ("option", "wanted"),
    [
        ("inspect=the checkpoint best.pt is damaged", "no look inside: the checkpoint best.pt is"),
        ("untrusted", "the net is code of the file evil.py:Net"),
    ],
)
async def test_without_an_answer_the_rest_works(
    tmp_path: Path, run: RunDir, option: str, wanted: str
) -> None:
    app = synthetic_app(tmp_path / "runs", option)
    async with app.run_test(size=SMALL) as pilot:
        shown = await enlarged(pilot, app)
        assert wanted in text(shown, "#inside")
        assert "predicted" in text(shown, "#bars")
        await pilot.press("g", "f", "e", "n", "n", "right", "left_square_bracket")
        await until(pilot, lambda: wanted in text(shown, "#inside"))
        await pilot.press("t")
        if option == "untrusted":
            await until(pilot, lambda: "convolutions" in text(shown, "#inside"))


async def test_features_on_their_way(tmp_path: Path, run: RunDir) -> None:
    app = synthetic_app(tmp_path / "runs", "slow")
    async with app.run_test(size=LARGE) as pilot:
        shown = await enlarged(pilot, app)
        await until(pilot, lambda: "convolutions" in text(shown, "#inside"))
        line = shown.query_one(Neighbours).render_line(0).text
        assert "computing features… 12,000 of 50,000" in line


async def test_a_worker_that_dies_leaves_a_line(tmp_path: Path, run: RunDir) -> None:
    app = synthetic_app(tmp_path / "runs", "die=3")
    async with app.run_test(size=SMALL) as pilot:
        shown = await enlarged(pilot, app)
        assert "no look inside: the trainer ended" in text(shown, "#inside")


async def test_the_layer_of_the_layers_screen_is_the_first_one(tmp_path: Path, run: RunDir) -> None:
    app = synthetic_app(tmp_path / "runs")
    async with app.run_test(size=LARGE) as pilot:
        await until(pilot, lambda: len(app.store) == 1)
        await pilot.press("3")
        await until(pilot, lambda: app.screen.query_one(LayerTable).row_count > 2)
        table = app.screen.query_one(DataTable)
        table.move_cursor(row=table.row_count - 1)
        chosen = app.screen.query_one(LayerTable).chosen
        assert chosen is not None
        shown = await enlarged(pilot, app)
        described = app.store.current.state.described  # type: ignore[union-attr]
        assert described is not None
        wanted = inside.convolution_at(described.layers, chosen.last.path)
        assert wanted
        assert shown._inside.layer == wanted


async def test_the_first_layer_counts_once_the_cursor_came_back_to_it(
    tmp_path: Path, run: RunDir
) -> None:
    app = synthetic_app(tmp_path / "runs")
    async with app.run_test(size=LARGE) as pilot:
        await until(pilot, lambda: len(app.store) == 1)
        await pilot.press("3")
        await until(pilot, lambda: app.screen.query_one(LayerTable).row_count > 2)
        table = app.screen.query_one(LayerTable)
        assert not table.moved
        shown = await enlarged(pilot, app)
        assert shown._inside.layer == "", "nobody chose a layer"
        await pilot.press("escape", "3", "down", "up")
        await until(pilot, lambda: table.moved and table.cursor_row == 0)
        assert table.chosen is not None
        shown = await enlarged(pilot, app)
        assert shown._inside.layer == table.chosen.last.path


def layer(path: str, kind: str) -> LayerRow:
    return LayerRow(
        path=path,
        type=kind,
        input_shape=(3, 32, 32),
        output_shape=(3, 32, 32),
        parameters=0,
        share=0.0,
        macs=0,
    )


def test_the_convolution_of_a_row() -> None:
    rows = [layer("c1", "Conv2d"), layer("r1", "ReLU"), layer("c2", "Fp32Conv2d"), layer("x", "L")]
    found = [inside.convolution_at(rows, path) for path in ("c1", "r1", "c2", "x", "gone")]
    assert found == ["c1", "c1", "c2", "c2", ""]
    assert inside.convolution_at([], "c1") == ""


def test_people_stand_beside_the_bars() -> None:
    people = People(np.array([[9, 1, 0]]), np.array([0]))
    drawn = image_view.bars(
        np.array([0.2, 0.5, 0.3]),
        ("cat", "deer", "dog"),
        actual=0,
        predicted=1,
        colours=COLOURS,
        width=60,
        limit=3,
        people=people.shares[0],
    ).plain.splitlines()
    assert drawn[0].endswith("0.500 people 0.10 predicted")
    assert drawn[2].endswith("0.200 people 0.90 actual")
    assert max(map(len, drawn)) <= 60


async def test_a_very_sure_mistake(tmp_path: Path, synthetic: TestData) -> None:
    run = make_run(tmp_path / "runs", end=None, classes=synthetic.classes)
    found = some(synthetic, 1)
    images = len(found.labels)
    figures = Figures(
        loss=np.full(images, 50, np.float32),
        log_rest=np.full(images, -50, np.float32),
        log_entropy=np.full(images, -46, np.float32),
    )
    sure = np.eye(len(synthetic.classes), dtype=np.float16)[(found.labels - 1)]
    evaluate(run, replace(found, probabilities=sure, predicted=sure.argmax(1), figures=figures))
    app = synthetic_app(tmp_path / "runs")
    async with app.run_test(size=LARGE) as pilot:
        shown = await enlarged(pilot, app)
        lines = text(shown, "#bars").splitlines()
        assert [bool(set(line) & set("█▏")) for line in lines] == [True] + [False] * 9
        assert ">.999 predicted" in lines[0]
        assert "loss 50.000  margin <-0.999  entropy <0.001 nats" in text(shown, "#what")
        ranked = [line.split()[0] for line in lines[1:]]
        assert ranked == [name for name in synthetic.classes if name in ranked], "all are 0 alike"


def test_the_curve_has_rows() -> None:
    moments = [Moment(1, True, 1.0), Moment(2, False, 0.0), Moment(3, True, 0.5)]
    drawn = image_view.history(moments, COLOURS, 60, rows=4).plain.splitlines()
    assert drawn[2].startswith("p(actual) ")
    assert [line[10:] for line in drawn[2:]] == ["█  ", "█ ▁", "█ █", "█▁█"]


async def test_a_net_without_convolutions_is_told_in_one_line(tmp_path: Path, run: RunDir) -> None:
    app = synthetic_app(tmp_path / "runs")
    async with app.run_test(size=SMALL) as pilot:
        shown = await enlarged(pilot, app)
        asked = shown._inside._number
        near = (Near(7, 0, 0.5, bytes(3 * 32 * 32)),)
        for view in ("", "g", "e", "f", "right_square_bracket"):
            if view:
                await pilot.press(view)
            shown._inside.told(Inspected(ask=asked, checkpoint="best", epoch=2, neighbours=near))
            assert text(shown, "#inside").splitlines() == [
                "net       best checkpoint, epoch 2",
                "the net has no convolution over images:",
                "no Grad-CAM, no receptive field",
            ]
        assert "nearest training images, by" in shown._inside.neighbours_line(80)
        assert "Grad-CAM" not in text(shown, "#note")
        await pilot.press("question_mark")
        await until(pilot, lambda: isinstance(app.screen, Help))
        titles = {entry.title for entry in app.screen._entries if entry.enabled}  # type: ignore[attr-defined]
        assert "Neighbours" in titles
        assert not {"Grad-CAM", "Effective field", "Fields", "Layer after"} & titles


def test_answers_to_earlier_questions_are_of_no_use() -> None:
    changed: list[int] = []
    watched = inside.Inside(lambda asked: None, lambda: changed.append(1))
    watched.told(Inspected(ask=0, error="x"))
    assert watched.answer is None
    assert not changed


def test_frames_stay_inside_and_maps_of_another_size_are_left_out() -> None:
    picture = np.zeros((3, 32, 32), np.uint8)
    drawn = overlay.framed(picture, 2, [((0, 31, 4, 5), overlay.THEORY), (None, overlay.THEORY)])
    assert drawn.shape == (3, 64, 64)
    rows, columns = np.nonzero(drawn[2])
    assert (rows.min(), rows.max(), columns.min(), columns.max()) == (0, 63, 8, 11)
    assert not drawn[2, 1:63, 9:11].any()
    assert overlay.lit(picture, b"short") is picture


async def test_a_history_that_is_read_when_the_image_is_closed(run: RunDir, tmp_path: Path) -> None:
    app = synthetic_app(tmp_path / "runs")
    async with app.run_test(size=SMALL) as pilot:
        shown = await enlarged(pilot, app)
        await pilot.press("escape")
        await until(pilot, lambda: not shown.query("*"))
        await shown._read_history("plain")
        assert isinstance(app.screen, MistakesScreen)
