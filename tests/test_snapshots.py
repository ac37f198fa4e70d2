"""Pictures of every screen at two sizes, compared with the ones kept in ``__snapshots__``.

A picture depends on the library that draws it to the last byte: with another Textual than the one
it was taken with the comparison says nothing, and is skipped. After a wanted change:
``pytest tests/test_snapshots.py --snapshot-update``, and look at the pictures.
"""

from __future__ import annotations

import json
import time
from collections.abc import Awaitable, Callable, Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from textual.pilot import Pilot

from tests.tui_helpers import make_run, synthetic_app, until
from trainer.runs import predictions
from tui.app import CifarApp
from tui.images.evaluation_loader import EvaluationLoader
from tui.images.opinions import Opinions
from tui.screens.base import StoreScreen
from tui.screens.charts import ChartScreen
from tui.screens.difference import DifferenceScreen
from tui.screens.image import ImageScreen
from tui.screens.mistakes import MistakesScreen

TAKEN_WITH = {"textual": "8.2.8", "rich": "15.0.0", "plotext": "5.3.2"}
INSTALLED = {name: version(name) for name in TAKEN_WITH}

pytestmark = pytest.mark.skipif(
    INSTALLED != TAKEN_WITH, reason=f"pictures were taken with {TAKEN_WITH}, not {INSTALLED}"
)


@pytest.fixture(autouse=True)
def same_everywhere(monkeypatch: pytest.MonkeyPatch, data_is_there: None) -> Iterator[None]:
    monkeypatch.setattr("tui.screens.runs.time.time", lambda: 1_764_100_000.0)
    monkeypatch.setenv("COLORTERM", "truecolor")
    monkeypatch.delenv("NO_COLOR", raising=False)
    with monkeypatch.context() as zone:
        zone.setenv("TZ", "UTC")
        time.tzset()
        yield
    time.tzset()


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    folder = tmp_path / "runs"
    make_run(folder, name="first try", preset="quick", seed=1, best=0.82, created=0)
    make_run(
        folder,
        name="[red]x[/]",
        preset="dws-late",
        epochs=60,
        seed=2,
        created=900,
        with_predictions=True,
    )
    make_run(
        folder,
        name="too hot",
        preset="fast",
        epochs=8,
        done=3,
        end="failed",
        error="the loss is not a number in epoch 4, step 88: lower the learning rate",
        seed=3,
        created=1000,
    )
    return folder


@pytest.mark.parametrize("size", [(160, 50), (80, 24)], ids=["160x50", "80x24"])
@pytest.mark.parametrize(
    ("name", "keys"),
    [
        ("runs", ()),
        ("dashboard", ("down", "space", "2")),
        ("layers", ("down", "3")),
        ("mistakes", ("down", "4")),
        ("image", ("down", "4", "enter", "g", "f")),
        ("compare", ("space", "down", "space", "5")),
        ("form", ("n",)),
        ("help", ("question_mark",)),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_screen(
    snap_compare: Any, runs: Path, size: tuple[int, int], name: str, keys: tuple[str, ...]
) -> None:
    app, drive = driven(runs, keys, count=3)
    assert snap_compare(app, terminal_size=size, run_before=drive)


@pytest.mark.parametrize(
    ("size", "keys"),
    [
        pytest.param((160, 50), (), id="160x50"),
        pytest.param((160, 50), ("enter",), id="images-160x50"),
        pytest.param((80, 24), (), id="80x24"),
        pytest.param((80, 24), ("k",), id="matrix-80x24"),
        pytest.param((80, 24), ("k", "k"), id="calibration-80x24"),
    ],
)
def test_two_models(
    snap_compare: Any, tmp_path: Path, size: tuple[int, int], keys: tuple[str, ...]
) -> None:
    folder = tmp_path / "runs"
    for seed, best, name in ((1, 0.72, "one"), (2, 0.86, "[b]two[/]")):
        make_run(folder, name=name, seed=seed, best=best, created=60 * seed, with_predictions=True)
    app, drive = driven(folder, ("space", "down", "space", "5", "d", *keys), count=2)
    assert snap_compare(app, terminal_size=size, run_before=drive)


@pytest.mark.parametrize("size", [(160, 50), (80, 24)], ids=["160x50", "80x24"])
@pytest.mark.parametrize("known", ["people", "guess"])
def test_whose_fault(snap_compare: Any, tmp_path: Path, size: tuple[int, int], known: str) -> None:
    run = make_run(tmp_path / "runs", best=0.72, with_predictions=True)
    app, drive = driven(tmp_path / "runs", ("4", "w"), count=1)
    if known == "people":
        found = predictions.load(next(run.path.rglob("*.npz")))
        counts = np.ones(found.probabilities.shape, np.int64)
        counts[np.arange(len(counts)), found.labels] += np.where(found.labels == 1, 120, 4)
        np.save(tmp_path / "people.npy", counts)
        entry: dict[str, Any] = {
            "id": 3,
            "given_original_label": int(found.labels[3]),
            "our_guessed_label": 0,
        }
        entry["mturk"] = {"given": 1, "guessed": 4, "neither": 0, "both": 0}
        (tmp_path / "review.json").write_text(json.dumps([entry]))
        app.opinions = Opinions(str(tmp_path / "people.npy"), str(tmp_path / "review.json"))
    assert snap_compare(app, terminal_size=size, run_before=drive)


def driven(
    runs: Path, keys: tuple[str, ...], count: int
) -> tuple[CifarApp, Callable[[Pilot[None]], Awaitable[None]]]:
    """The app, and what presses the keys once so many runs are read."""
    app = synthetic_app(runs)

    async def drive(pilot: Pilot[None]) -> None:
        app.worker.start()  # as once a run was begun
        await until(pilot, lambda: _begun(app) and len(app.store) == count, seconds=30)
        for key in keys:
            await pilot.press(key)
            await until(pilot, lambda: _settled(app), seconds=30)
        if isinstance(app.screen, StoreScreen):
            app.repaint()
        await until(pilot, lambda: _settled(app), seconds=30)
        await pilot.pause()

    return app, drive


def _begun(app: CifarApp) -> bool:
    """The trainer has loaded, the runs are read, and the data was looked for."""
    line = app.worker_line()
    ready = "torch" in line and "loading" not in line
    return ready and not app.store.loading and app.runs.data_status is not None


def _settled(app: CifarApp) -> bool:
    """Nothing is being read, all answers are there, and all charts are drawn."""
    if any(not worker.is_finished for worker in app.workers):
        return False
    for screen in app.screen_stack:
        loaders: list[EvaluationLoader] = []
        if isinstance(screen, MistakesScreen):
            loaders = [screen.loader]
        elif isinstance(screen, DifferenceScreen):
            loaders = screen.loaders
        elif isinstance(screen, ImageScreen):
            if None in (screen._inside.answer, screen._history):
                return False
        elif isinstance(screen, ChartScreen) and (screen._waiting or screen._due is not None):
            return False
        if not screen.is_mounted or not all(map(_read, loaders)):
            return False
    return True


def _read(loader: EvaluationLoader) -> bool:
    """The evaluation is there, and its images, or why they are not."""
    pictures = loader.pictures is not None or loader.pictures_problem or not loader._with_pictures
    return loader.evaluation is not None and bool(pictures)
