"""Evaluations of the synthetic images, and the mistakes screen on them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from textual.pilot import Pilot
from textual.widgets import Static

from tests.tui_helpers import append, make_run, until
from trainer import events
from trainer.data.dataset import TestData
from trainer.runs import predictions
from trainer.runs.predictions import Predictions
from trainer.runs.rundir import RunDir
from tui.app import CifarApp
from tui.screens.mistakes import MistakesScreen
from tui.widgets.mistake_grid import MistakeGrid

LARGE, SMALL = (160, 50), (80, 24)


def some(data: TestData, epoch: int, *, wrong: float = 0.1) -> Predictions:
    """Every tenth image or so is taken for the next class; sure of it in later epochs."""
    labels = data.test.labels
    n, c = len(labels), len(data.classes)
    random = np.random.default_rng(epoch)
    raw = random.random((n, c)) * 0.2 + 0.01
    raw[np.arange(n), labels] += 1.5
    missed = np.flatnonzero(np.random.default_rng(0).random(n) < wrong)
    raw[missed, (labels[missed] + 1) % c] += 1.5 + random.random(len(missed)) * epoch
    return Predictions(
        (raw / raw.sum(1, keepdims=True)).astype(np.float16),
        labels,
        "test",
        data.fingerprint,
        epoch,
    )


def evaluate(run: RunDir, made: Predictions, variant: events.Variant = "plain") -> None:
    """An evaluation's predictions, on disk and in the log."""
    path = run.predictions(made.epoch, variant)
    predictions.save(made, path)
    append(run, saved(run, made, variant))


def saved(
    run: RunDir, made: Predictions, variant: events.Variant = "plain"
) -> events.PredictionsSaved:
    path = run.predictions(made.epoch, variant)
    return events.PredictionsSaved(
        epoch=made.epoch,
        step=made.epoch * 8,
        split="test",
        variant=variant,
        path=str(path.relative_to(run.path)),
        images=len(made.labels),
    )


@pytest.fixture
def run(tmp_path: Path, synthetic: TestData) -> RunDir:
    """A run on the synthetic images with evaluations after epochs 1, 2 and 3."""
    run = make_run(tmp_path / "runs", end=None, classes=synthetic.classes)
    for epoch in (1, 2, 3):
        evaluate(run, some(synthetic, epoch))
    return run


async def open_mistakes(pilot: Pilot[None], app: CifarApp) -> MistakesScreen:
    await until(pilot, lambda: not app.store.loading)
    await pilot.press("4")
    await until(pilot, lambda: isinstance(app.screen, MistakesScreen))
    screen = app.screen
    assert isinstance(screen, MistakesScreen)
    return screen


async def with_images(pilot: Pilot[None], app: CifarApp) -> MistakesScreen:
    screen = await open_mistakes(pilot, app)
    await until(pilot, lambda: screen.loader.pictures is not None)
    await pilot.pause()
    return screen


def grid(screen: MistakesScreen) -> MistakeGrid:
    return screen.query_one(MistakeGrid)


def text(screen: object, where: str) -> str:
    return str(screen.query_one(where, Static).render())  # type: ignore[attr-defined]


async def type_filter(pilot: Pilot[None], line: str) -> None:
    await pilot.press("slash", *(NAMED.get(c, c) for c in line), "enter")
    await pilot.pause()


NAMED = {">": "greater_than_sign", "<": "less_than_sign", ".": "full_stop", " ": "space"}
NAMED |= {"#": "number_sign", "_": "underscore", "-": "minus"}
