"""Export of the mistakes screen's list, the jump to an index, the copy through the terminal."""

from __future__ import annotations

import base64
import csv
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from textual.pilot import Pilot
from textual.widgets import Static

from tests.mistakes_helpers import LARGE, SMALL, grid, run, type_filter, with_images
from tests.tui_helpers import synthetic_app, until
from trainer.analysis import grid_png
from trainer.data.dataset import TestData
from trainer.errors import DataError
from trainer.runs.rundir import RunDir
from tui.app import CifarApp
from tui.charts import export
from tui.images import evaluations
from tui.screens.mistakes import MistakesScreen
from tui.screens.mistakes_keys import Jump

__all__ = ["run"]  # a fixture

pytestmark = pytest.mark.usefixtures("images_are_there")


def exported(runs_dir: Path, name: str) -> Path:
    (path,) = runs_dir.glob(f"export-*/{name}")
    return path


async def told(pilot: Pilot[None], app: CifarApp) -> str:
    """The last notification, when there is another one than that it takes some time."""

    def lines() -> list[str]:
        return [note.message for note in app._notifications if note.message[-1] != "…"]

    await until(pilot, lines)
    return lines()[-1]


async def test_the_shown_list_as_csv(tmp_path: Path, run: RunDir, synthetic: TestData) -> None:
    app = synthetic_app(tmp_path / "runs")
    async with app.run_test(size=LARGE) as pilot:
        screen = await with_images(pilot, app)
        await type_filter(pilot, "#0-400")
        await pilot.press("o", "e")
        line = await told(pilot, app)
        path = exported(tmp_path / "runs", "mistakes-epoch-3.csv")
        assert line == f"{grid(screen).count} images written to {path}"
        with path.open(newline="") as file:
            rows = list(csv.DictReader(file))
        assert [int(row["index"]) for row in rows] == grid(screen).indices.tolist()
        assert all(int(row["index"]) <= 400 for row in rows)
        assert {row["split"] for row in rows} == {"test"}
        first = int(rows[0]["index"])
        assert rows[0]["actual"] == synthetic.classes[synthetic.test.labels[first]]


async def test_paths_in_the_csv(
    tmp_path: Path, run: RunDir, monkeypatch: pytest.MonkeyPatch
) -> None:
    from trainer.data import sources

    def where(source: str, images: int, *, data_dir: Path | None = None) -> list[str]:
        return [f"={source}/{i}.png" for i in range(images)]

    monkeypatch.setattr(sources, "image_paths", where)
    app = synthetic_app(tmp_path / "runs")
    async with app.run_test(size=SMALL) as pilot:
        await with_images(pilot, app)
        await pilot.press("k", "e")  # also from the matrix
        assert "no paths" not in await told(pilot, app)
    with exported(tmp_path / "runs", "*.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    # a spreadsheet must not run it
    assert all(row["path"] == f"'=synthetic/{row['index']}.png" for row in rows)


async def test_the_shown_images_as_png(
    tmp_path: Path, run: RunDir, monkeypatch: pytest.MonkeyPatch, synthetic: TestData
) -> None:
    monkeypatch.setattr(grid_png, "MOST", 6)
    app = synthetic_app(tmp_path / "runs")
    async with app.run_test(size=LARGE) as pilot:
        screen = await with_images(pilot, app)
        await pilot.press("E")
        line = await told(pilot, app)
        path = exported(tmp_path / "runs", "mistakes-epoch-3.png")
        assert line == f"the first 6 of {grid(screen).count} images drawn in {path}"
        with Image.open(path) as image:
            top = 2 * grid_png.GAP + grid_png.LINE
            drawn = np.asarray(image)[top : top + 128 : 4, grid_png.GAP : grid_png.GAP + 128 : 4]
        first = synthetic.test.images[int(grid(screen).indices[0])]
        assert (drawn == first.transpose(1, 2, 0)).all()


async def test_nothing_to_draw(
    tmp_path: Path, run: RunDir, monkeypatch: pytest.MonkeyPatch
) -> None:
    def gone(candidates: object, fingerprint: str) -> None:
        raise DataError("the images of this run are not here: /gone is gone")

    monkeypatch.setattr(evaluations, "read_pictures", gone)
    app = synthetic_app(tmp_path / "runs")
    async with app.run_test(size=LARGE) as pilot:
        await until(pilot, lambda: not app.store.loading)
        await pilot.press("4")
        await until(pilot, lambda: isinstance(app.screen, MistakesScreen))
        screen = app.screen
        assert isinstance(screen, MistakesScreen)
        await until(pilot, lambda: screen.loader.pictures_problem)
        await pilot.press("E")
        assert await told(pilot, app) == "no picture: the images of this run are not here"
        assert not list((tmp_path / "runs").glob("export-*"))


async def test_a_list_without_paths_is_written(
    tmp_path: Path, run: RunDir, monkeypatch: pytest.MonkeyPatch
) -> None:
    from trainer.data import sources

    app = synthetic_app(tmp_path / "runs")
    async with app.run_test(size=LARGE) as pilot:
        await with_images(pilot, app)

        def gone(source: str, data_dir: Path | None = None) -> None:
            raise DataError("/gone is gone")

        monkeypatch.setattr(sources, "load_test", gone)
        monkeypatch.setattr(
            sources,
            "available",
            lambda source: sources.Availability(source, False, "gone since", "folder"),
        )
        await pilot.press("e")
        line = await told(pilot, app)
    assert "; no paths: the images of this run are not here: " in line
    with exported(tmp_path / "runs", "*.csv").open(newline="") as file:
        assert {row["path"] for row in csv.DictReader(file)} == {""}


@pytest.mark.parametrize("key", ["e", "E"])
async def test_a_full_disk_is_one_line(
    tmp_path: Path, run: RunDir, monkeypatch: pytest.MonkeyPatch, key: str
) -> None:
    def full(path: Path, content: bytes) -> int:
        with path.open("wb") as file:
            file.write(content[:10])
        raise OSError(28, "No space left on device")

    app = synthetic_app(tmp_path / "runs")
    async with app.run_test(size=LARGE) as pilot:
        await with_images(pilot, app)
        monkeypatch.setattr(Path, "write_bytes", full)
        await pilot.press(key)
        line = await told(pilot, app)
        assert line.startswith("cannot write ")
        assert line.endswith(": No space left on device")
        assert "\n" not in line
        # half a file would look like all of it
        assert not list((tmp_path / "runs").glob("export-*"))


def test_a_folder_that_may_not_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def denied(*_: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "mkdir", denied)
    with pytest.raises(export.RunError, match=r"^cannot write .*: Permission denied$"):
        export.Export({"a.csv": b"1"}).write(tmp_path)


async def test_jump_to_an_index(tmp_path: Path, run: RunDir) -> None:
    app = synthetic_app(tmp_path / "runs")
    async with app.run_test(size=SMALL) as pilot:
        screen = await with_images(pilot, app)
        images = screen.loader.evaluation
        assert images is not None
        goal = int(grid(screen).indices[-3])
        await pilot.press("k", "j", *str(goal), "enter")
        assert app.screen is screen
        assert grid(screen).chosen == goal
        assert grid(screen).has_focus

        right = int(np.flatnonzero(~images.images.wrong)[0])
        await pilot.press("number_sign", *str(right), "enter")
        assert isinstance(app.screen, Jump)
        assert says(app) == f"{right} is not shown: the model is right about it (t shows all)"
        await pilot.press("escape", "t", "j", *str(right), "enter")
        assert app.screen is screen
        assert grid(screen).chosen == right


async def test_jumps_that_lead_nowhere(tmp_path: Path, run: RunDir) -> None:
    app = synthetic_app(tmp_path / "runs")
    async with app.run_test(size=LARGE) as pilot:
        screen = await with_images(pilot, app)
        found = screen.loader.evaluation
        assert found is not None
        last = len(found.images) - 1
        await pilot.press("j", "enter")
        assert says(app) == f"type a test index, 0 to {last:,}"
        await pilot.press("x", *str(last + 1), "enter")
        assert says(app) == f"type a test index, 0 to {last:,}"
        await pilot.press("escape")
        hidden, kept = (int(i) for i in np.flatnonzero(found.images.wrong)[:2])
        await type_filter(pilot, f"#{kept}")
        await pilot.press("j", *str(hidden), "enter")
        assert says(app).startswith(f"{hidden} is not shown: the filter leaves it out")
        assert grid(screen).chosen == kept


def says(app: CifarApp) -> str:
    return str(app.screen.query_one("#text", Static).render())


async def test_the_copy_goes_to_the_terminal(
    tmp_path: Path, run: RunDir, monkeypatch: pytest.MonkeyPatch
) -> None:
    app = synthetic_app(tmp_path / "runs")
    async with app.run_test(size=SMALL) as pilot:
        screen = await with_images(pilot, app)
        sent: list[str] = []
        assert app._driver is not None
        monkeypatch.setattr(app._driver, "write", sent.append)
        await pilot.press("y")
        code = base64.b64encode(str(grid(screen).chosen).encode()).decode()
        assert f"\x1b]52;c;{code}\a" in "".join(sent)
