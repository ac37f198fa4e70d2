"""Whose fault: the app beside files of what people say, or without them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from textual.pilot import Pilot
from textual.widgets import OptionList, Static

from tests.mistakes_helpers import LARGE, SMALL, evaluate, open_mistakes, some
from tests.tui_helpers import held, make_run, synthetic_app, until
from trainer.analysis import human, label_doubt, mistakes
from trainer.data.dataset import TestData
from trainer.runs.rundir import RunDir
from tui.__main__ import quick_options
from tui.app import CifarApp
from tui.images.opinions import Opinions
from tui.screens.dialogs import Help
from tui.screens.fault import FaultScreen
from tui.screens.image import ImageScreen
from tui.screens.mistakes import MistakesScreen
from tui.widgets.mistake_grid import DENSITIES, MistakeGrid

pytestmark = pytest.mark.usefixtures("images_are_there")


def answers(data: TestData) -> NDArray[np.uint8]:
    """Of ten people, all or six agree with the label, the others say the next class."""
    labels = data.test.labels
    counts = np.zeros((len(labels), len(data.classes)), np.uint8)
    rows = np.arange(len(labels))
    agree = np.where(np.random.default_rng(5).random(len(labels)) < 0.3, 6, 10)
    counts[rows, labels] = agree
    counts[rows, (labels + 1) % len(data.classes)] += (10 - agree).astype(np.uint8)
    return counts


def reviews(data: TestData, given: dict[int, int]) -> bytes:
    """Of five people so many find the label right, the others the next class."""
    entries = [
        {
            "id": index,
            "given_original_label": int(data.test.labels[index]),
            "our_guessed_label": int(data.test.labels[index] + 1) % len(data.classes),
            "mturk": {"given": votes, "guessed": 5 - votes, "neither": 0, "both": 0},
        }
        for index, votes in given.items()
    ]
    return json.dumps(entries).encode()


@pytest.fixture
def run(tmp_path: Path, synthetic: TestData) -> RunDir:
    run = make_run(tmp_path / "runs", end=None, classes=synthetic.classes)
    evaluate(run, some(synthetic, 1))
    return run


def app_with(run: RunDir, human: Path | None = None, review: Path | None = None) -> CifarApp:
    app = synthetic_app(run.path.parent)
    app.opinions = Opinions(human and str(human), review and str(review))
    return app


async def open_fault(pilot: Pilot[None], app: CifarApp) -> FaultScreen:
    screen = await open_mistakes(pilot, app)
    await until(pilot, lambda: screen.loader.evaluation is not None)
    await pilot.press("w")
    await until(pilot, lambda: isinstance(app.screen, FaultScreen) and app.screen.is_mounted)
    await pilot.pause()
    assert isinstance(app.screen, FaultScreen)
    return app.screen


def groups(screen: FaultScreen) -> dict[str, str]:
    listed = screen.query_one("#groups", OptionList)
    return {str(o.id): str(o.prompt) for o in listed.options}


def said(screen: FaultScreen, where: str = "#said") -> str:
    return " ".join(str(screen.query_one(where, Static).render()).split())


@pytest.mark.parametrize("size", [LARGE, SMALL])
async def test_people_and_model(
    tmp_path: Path, run: RunDir, synthetic: TestData, size: tuple[int, int]
) -> None:
    counts, made = answers(synthetic), some(synthetic, 1)
    np.save(tmp_path / "people.npy", counts)
    wrong = made.predicted != made.labels
    sure = counts[np.arange(len(counts)), made.labels] >= 9
    app = app_with(run, tmp_path / "people.npy")
    async with app.run_test(size=size) as pilot:
        screen = await open_fault(pilot, app)
        shown = groups(screen)
        expected = {
            "wrong_sure": wrong & sure,
            "wrong_doubt": wrong & ~sure,
            "right_sure": ~wrong & sure,
            "right_doubt": ~wrong & ~sure,
        }
        assert list(shown) == list(expected)
        for name, mask in expected.items():
            assert f" {mask.sum():,} " in shown[name]
            assert mask.any()
        share = 100 * (wrong & ~sure).sum() / wrong.sum()
        assert f"people doubt {share:.2f} %" in said(screen)
        people = human.People(counts.astype(np.int64), made.labels)
        rank = human.entropy_correlation(mistakes.table(made).entropy, people)
        assert f"correlation: {rank:.2f}" in said(screen)
        assert "guess" not in said(screen)
        # exactly these images, in the grid
        for at, mask in enumerate(expected.values()):
            if at:
                screen = await open_fault(pilot, app)
                await pilot.press(*["down"] * at)
            await pilot.press("enter")
            await until(pilot, lambda: isinstance(app.screen, MistakesScreen))
            grid = app.screen.query_one(MistakeGrid)
            await until(pilot, lambda g=grid, m=mask: g.count == m.sum())  # type: ignore[misc]
            assert set(grid._chosen) == set(np.flatnonzero(mask))
            assert grid.has_focus
            assert grid.cursor == 0


async def test_label_review(tmp_path: Path, run: RunDir, synthetic: TestData) -> None:
    made = some(synthetic, 1)
    wrong = np.flatnonzero(made.predicted != made.labels)
    right = np.flatnonzero(made.predicted == made.labels)
    given = {int(wrong[0]): 1, int(wrong[1]): 2, int(right[0]): 0, int(right[1]): 5}
    (tmp_path / "review.json").write_bytes(reviews(synthetic, given))
    app = app_with(run, review=tmp_path / "review.json")
    async with app.run_test(size=SMALL) as pilot:
        screen = await open_fault(pilot, app)
        shown = groups(screen)
        assert " 2 " in shown["doubtful_wrong"]
        assert " 1 " in shown["doubtful_right"]
        n = len(made.labels)
        assert "4 labels were looked at, 3 are doubtful" in said(screen)
        assert f"{100 * len(right) / n:.2f} % with them" in said(screen)
        assert f"{100 * (len(right) - 1) / (n - 3):.2f} % without" in said(screen)
        await pilot.press("down", "enter")
        await until(pilot, lambda: isinstance(app.screen, MistakesScreen))
        assert list(app.screen.query_one(MistakeGrid)._chosen) == [right[0]]


async def test_without_files_a_guess(run: RunDir, synthetic: TestData) -> None:
    made = some(synthetic, 9)  # surer
    evaluate(run, made)
    guess = label_doubt.label_doubt(made.probabilities, made.labels)
    wrong = made.predicted != made.labels
    app = app_with(run)
    async with app.run_test(size=SMALL) as pilot:
        screen = await open_fault(pilot, app)
        assert label_doubt.CALLED in said(screen)
        assert f" {(guess.doubtful & wrong).sum():,} " in groups(screen)["suspect_wrong"]
        await pilot.press("question_mark")
        await until(pilot, lambda: isinstance(app.screen, Help))
        await pilot.press("escape")
        await until(pilot, lambda: app.screen is screen)
        await pilot.press("enter")
        await until(pilot, lambda: isinstance(app.screen, MistakesScreen))
        chosen = app.screen.query_one(MistakeGrid)._chosen
        assert set(chosen) == set(np.flatnonzero(guess.doubtful & wrong))
        assert len(chosen) > 0
        scores = guess.score[chosen]
        assert (np.diff(scores) <= 0).all(), "the surest first"


async def test_a_new_evaluation_comes_when_it_is_closed(run: RunDir, synthetic: TestData) -> None:
    app = app_with(run)
    with held(run):
        async with app.run_test(size=SMALL) as pilot:
            screen = await open_fault(pilot, app)
            assert "epoch 1 " in said(screen, "#what")
            evaluate(run, some(synthetic, 2))
            follower = app.store.current
            assert follower is not None
            await until(pilot, lambda: len(follower.state.predictions) == 2)
            await pilot.pause(0.5)
            assert "epoch 1 " in said(screen, "#what"), "what is chosen here is what is shown then"
            await pilot.press("escape")
            await until(pilot, lambda: isinstance(app.screen, MistakesScreen))
            below = app.screen
            assert isinstance(below, MistakesScreen)
            await pilot.press("right_square_bracket")
            await until(pilot, lambda: below.loader.evaluation is not None)
            await until(pilot, lambda: below.loader.evaluation.saved.epoch == 2)  # type: ignore[union-attr]
            screen = await open_fault(pilot, app)
            assert "epoch 2 " in said(screen, "#what")


@pytest.mark.parametrize("bad", ["shape", "no array", "missing"])
async def test_bad_people(tmp_path: Path, run: RunDir, synthetic: TestData, bad: str) -> None:
    path = tmp_path / "people.npy"
    if bad == "shape":
        np.save(path, answers(synthetic)[:-1])
    elif bad == "no array":
        path.write_bytes(b"\x93NUMPY nothing of the kind")
    index = int(some(synthetic, 1).wrong[0])
    (tmp_path / "review.json").write_bytes(reviews(synthetic, {index: 1}))
    app = app_with(run, path, tmp_path / "review.json")
    async with app.run_test(size=SMALL) as pilot:
        screen = await open_fault(pilot, app)
        line = said(screen, "#notices")
        words = {"shape": "has the shape", "no array": "no .npy", "missing": "cannot be read"}
        assert words[bad] in line
        # the rest works: the review, the guess, and the images
        assert list(groups(screen)) == [
            "doubtful_wrong", "doubtful_right", "suspect_wrong", "suspect_right",
        ]  # fmt: skip
        await pilot.press("escape")
        await until(pilot, lambda: isinstance(app.screen, MistakesScreen))
        assert words[bad] in str(app.screen.query_one("#problem", Static).render())
        assert app.screen.query_one(MistakeGrid).count == len(some(synthetic, 1).wrong)


async def test_bad_review(tmp_path: Path, run: RunDir, synthetic: TestData) -> None:
    found = json.loads(reviews(synthetic, {0: 1}))
    found[0]["id"] = len(synthetic.test.labels)
    (tmp_path / "review.json").write_text(json.dumps(found))
    np.save(tmp_path / "people.npy", answers(synthetic))
    app = app_with(run, tmp_path / "people.npy", tmp_path / "review.json")
    async with app.run_test(size=SMALL) as pilot:
        screen = await open_fault(pilot, app)
        assert f"index {len(synthetic.test.labels)} is outside" in said(screen, "#notices")
        assert "wrong_sure" in groups(screen)


@pytest.mark.parametrize("size", [LARGE, SMALL])
async def test_what_people_say_of_an_image(
    tmp_path: Path, run: RunDir, synthetic: TestData, size: tuple[int, int]
) -> None:
    made, counts = some(synthetic, 1), answers(synthetic)
    unsure = counts[np.arange(len(counts)), made.labels] == 6
    index = int(np.flatnonzero(unsure & (made.predicted != made.labels))[0])
    np.save(tmp_path / "people.npy", counts)
    (tmp_path / "review.json").write_bytes(reviews(synthetic, {index: 1}))
    app = app_with(run, tmp_path / "people.npy", tmp_path / "review.json")
    async with app.run_test(size=size) as pilot:
        screen = await open_mistakes(pilot, app)
        grid = screen.query_one(MistakeGrid)
        await until(pilot, lambda: grid.count and screen.loader.pictures is not None)
        screen._set_line(f"#{index},{int(made.wrong[-1])}")
        await until(pilot, lambda: grid.count == 2)
        grid.go_to(index)
        await pilot.pause()
        label = synthetic.classes[made.labels[index]]
        other = synthetic.classes[(made.labels[index] + 1) % 10]
        for density in DENSITIES:
            grid.set_density(density)
            await pilot.pause()
            lines = [grid.render_line(y).text for y in range(grid.size.height)]
            assert sum(f"{label}?" in line for line in lines) == 1, density
            assert sum("?" in line for line in lines) == 1, "the other label is not doubtful"
        words = f"60 % of 10 people agree, reviewers say {other}"
        assert words in str(screen.query_one("#shown", Static).render())
        await pilot.press("enter")
        await until(pilot, lambda: isinstance(app.screen, ImageScreen))
        await until(pilot, lambda: words in str(app.screen.query_one("#what", Static).render()))
        bars = str(app.screen.query_one("#bars", Static).render()).splitlines()
        assert "people 0.40" in next(line for line in bars if other in line)
        of_label = next(line for line in bars if "actual" in line)
        assert "people 0.60" in of_label
        if size == LARGE:
            share = of_label.partition("people 0.60 ")[2].count("█")
            whole = next(line for line in bars if other in line)
            assert share > whole.partition("people 0.40 ")[2].count("█") > 0


async def test_without_evaluations_it_is_said_why(tmp_path: Path) -> None:
    run = make_run(tmp_path / "runs", epochs=2, done=0, end="stopped")
    app = app_with(run)
    async with app.run_test(size=SMALL) as pilot:
        await until(pilot, lambda: len(app.store) == 1 and not app.store.loading)
        await pilot.press("4")
        await until(pilot, lambda: isinstance(app.screen, MistakesScreen))
        why = "This run's log tells of no evaluation with its images."
        nothing = app.screen.query_one("#nothing", Static)
        await until(pilot, lambda: str(nothing.content) == why)
        await pilot.press("w", "d")
        await until(pilot, lambda: len(app._notifications))
        told = [note.message for note in app._notifications]
        assert told == ["there is no evaluation of this run to put beside another"]
        assert isinstance(app.screen, MistakesScreen)


async def test_predictions_that_cannot_be_read_are_said(tmp_path: Path, run: RunDir) -> None:
    path = next(run.path.rglob("*.npz"))
    path.write_bytes(path.read_bytes()[:100])
    app = app_with(run)
    async with app.run_test(size=SMALL) as pilot:
        await until(pilot, lambda: len(app.store) == 1 and not app.store.loading)
        await pilot.press("4")
        await until(pilot, lambda: isinstance(app.screen, MistakesScreen))
        screen = app.screen
        assert isinstance(screen, MistakesScreen)
        fault = FaultScreen(screen.loader)  # perhaps before anything is read
        await app.push_screen(fault)
        await until(pilot, lambda: "cannot be read" in said(fault, "#what"))


def test_options() -> None:
    assert quick_options(["--human", "a.npy", "--review=b.json"]) == {
        "human": "a.npy",
        "review": "b.json",
    }
