"""Where the images of a run are, and pictures of them."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests import data_helpers, sample_log
from trainer.analysis import grid_png, mistakes, pictures
from trainer.analysis.mistakes import Mistakes
from trainer.data import sources
from trainer.errors import ConfigError, DataError
from trainer.runs.predictions import Predictions
from trainer.runs.runstate import RunState


def test_candidates() -> None:
    state = RunState()
    assert pictures.candidates(state) == ()
    assert pictures.candidates(state, "there") == ("there",)
    state.apply_all(sample_log.whole())
    assert pictures.candidates(state, "there") == ("synthetic",)


def test_other_images_are_not_taken() -> None:
    data = sources.load_test("synthetic")
    source, found = pictures.load(("synthetic",), data.fingerprint)
    assert source == "synthetic"
    assert found.fingerprint == data.fingerprint
    with pytest.raises(DataError, match="has other test images"):
        pictures.load(("synthetic",), "0" * 64)
    with pytest.raises(DataError, match="does not exist"):
        pictures.load(("/nowhere/at/all",), "0" * 64)
    with pytest.raises(DataError, match="does not say which"):
        pictures.load((), "0" * 64)


def test_paths_of_an_image_folder_are_in_the_order_of_its_images(tmp_path: Path) -> None:
    pixels = data_helpers.some_images(4)
    for split in ("train", "test"):
        for i, name in enumerate(("b/2.png", "a/z.png", "b/1.png", "a/y.png")):
            path = tmp_path / split / name
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels[i].transpose(1, 2, 0)).save(path)
    test = sources.load_test(str(tmp_path)).test
    paths = sources.image_paths(str(tmp_path), len(test.labels))
    assert [Path(p).name for p in paths] == ["y.png", "z.png", "1.png", "2.png"]
    for path, image in zip(paths, test.images, strict=True):
        assert np.array_equal(np.asarray(Image.open(path)).transpose(2, 0, 1), image)


def test_paths_inside_one_file() -> None:
    assert sources.image_paths("synthetic", 2) == ["synthetic#0", "synthetic#1"]


# ---- pictures ---------------------------------------------------------------------------------


@pytest.fixture
def images() -> Mistakes:
    probabilities = np.array([[0.75, 0.25], [0.25, 0.75], [1.0, 0.0]], np.float16)
    return mistakes.table(Predictions(probabilities, np.array([0, 0, 1]), "test", "", 1))


def test_a_grid_of_pictures(images: Mistakes, tmp_path: Path) -> None:
    pixels = data_helpers.some_images(3)
    chosen = np.array([2, 1], np.int64)
    names = ("cat", "a very long name of a class \N{SNOWMAN}")
    picture = grid_png.draw(images, chosen, pixels, names, columns=2, title="what it shows")
    grid_png.save(picture, tmp_path / "grid.png")
    assert [p.name for p in tmp_path.iterdir()] == ["grid.png"]
    read = np.asarray(Image.open(tmp_path / "grid.png").convert("RGB"))
    side = 32 * grid_png.SCALE
    top = 2 * grid_png.GAP + grid_png.LINE
    for place, index in enumerate(chosen):
        x = grid_png.GAP + place * (side + grid_png.GAP)
        shown = read[top : top + side, x : x + side][:: grid_png.SCALE, :: grid_png.SCALE]
        assert np.array_equal(shown.transpose(2, 0, 1), pixels[index]), "each pixel is there"
    captions = read[top + side : top + side + 2 * grid_png.LINE]
    assert (captions < 128).any(), "there is something written below"
    gaps = captions[:, grid_png.GAP + side : 2 * grid_png.GAP + side]
    assert (gaps == 255).all(), "a long name is cut"


def test_pictures_that_cannot_be(images: Mistakes, tmp_path: Path) -> None:
    pixels = data_helpers.some_images(3)
    with pytest.raises(ConfigError, match="no images to draw"):
        grid_png.draw(images, mistakes.NONE, pixels, ("a", "b"))
    with pytest.raises(ConfigError, match="1,001 images are too many"):
        grid_png.draw(images, np.zeros(1001, np.int64), pixels, ("a", "b"))
    picture = grid_png.draw(images, images.index, pixels, ("a", "b"))
    with pytest.raises(ConfigError, match="cannot write"):
        grid_png.save(picture, tmp_path / "missing" / "grid.png")
    with pytest.raises(ConfigError, match="cannot write"):
        grid_png.save(picture, tmp_path)
    with pytest.raises(ConfigError, match="File name too long"):
        grid_png.save(picture, tmp_path / f"{'x' * 300}.png")
    assert list(tmp_path.iterdir()) == []
    longest = tmp_path / f"{'x' * 251}.png"
    grid_png.save(picture, longest)
    assert list(tmp_path.iterdir()) == [longest]


def test_a_picture_replaces_files_only(images: Mistakes, tmp_path: Path) -> None:
    picture = grid_png.draw(images, images.index, data_helpers.some_images(3), ("a", "b"))
    pipe, to_pipe, loop = (tmp_path / name for name in ("pipe", "to-pipe", "loop"))
    os.mkfifo(pipe)
    to_pipe.symlink_to(pipe)
    loop.symlink_to(loop)
    for path in (pipe, to_pipe):
        with pytest.raises(ConfigError, match="it is no regular file"):
            grid_png.save(picture, path)
    with pytest.raises(ConfigError, match="cannot write"):
        grid_png.save(picture, loop)
    assert pipe.is_fifo()
    assert to_pipe.is_symlink()
    assert loop.is_symlink()
    folder = tmp_path / "folder"
    folder.mkdir()
    link = tmp_path / "link.png"
    link.symlink_to(Path("folder", "grid.png"))
    for _ in ("it is not there yet", "it is"):
        grid_png.save(picture, link)
        assert link.is_symlink()
        assert [path.name for path in folder.iterdir()] == ["grid.png"]
        assert (folder / "grid.png").read_bytes() == grid_png.encoded(picture)
