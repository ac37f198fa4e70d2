from __future__ import annotations

import os
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.data_helpers import image_folders, some_images
from trainer.data import sources
from trainer.errors import DataError


def test_images_by_class(tmp_path: Path) -> None:
    dataset = sources.load(str(image_folders(tmp_path, ("b", "a"))))
    assert dataset.classes == ("a", "b")
    assert dataset.kind == "folder"
    assert dataset.notices == ()
    assert dataset.train.labels.tolist() == [0, 0, 1, 1]
    np.testing.assert_array_equal(dataset.train.images[2:], some_images(2, 0))
    np.testing.assert_array_equal(dataset.test.images[:2], some_images(2, 101))


@pytest.mark.parametrize(
    ("mode", "expected"),
    [("L", (90, 90, 90)), ("RGBA", (200, 100, 50)), ("P", (200, 100, 50)), ("1", (255,) * 3)],
)
def test_other_modes_become_rgb(tmp_path: Path, mode: str, expected: tuple[int, int, int]) -> None:
    image_folders(tmp_path)
    image = Image.new("RGB", (32, 32), (200, 100, 50))
    if mode == "L":
        image = Image.new("L", (32, 32), 90)
    elif mode == "1":
        image = Image.new("1", (32, 32), 1)
    else:
        image = image.convert(mode, palette=Image.Palette.ADAPTIVE)
    image.save(tmp_path / "test" / "cat" / "0.png")
    data = sources.load_test(str(tmp_path))
    assert data.test.images[0, :, 5, 5].tolist() == list(expected)
    assert data.notices == ("test: 1 images were converted to RGB",)


def test_sixteen_bits_keep_their_range(tmp_path: Path) -> None:
    image_folders(tmp_path)
    values = np.full((32, 32), 128 << 8, np.uint16)
    Image.fromarray(values).save(tmp_path / "test" / "cat" / "0.png")
    assert sources.load_test(str(tmp_path)).test.images[0, 0, 0, 0] == 128


def test_palette_with_transparency_does_not_warn(
    tmp_path: Path, recwarn: pytest.WarningsRecorder
) -> None:
    image_folders(tmp_path)
    image = Image.new("P", (32, 32), 1)
    image.save(tmp_path / "test" / "cat" / "0.png", transparency=b"\x80\x10")
    sources.load_test(str(tmp_path))
    assert not recwarn.list


def test_other_sizes_are_resized_and_said(tmp_path: Path) -> None:
    image_folders(tmp_path)
    Image.new("RGB", (100, 50), (10, 20, 30)).save(tmp_path / "train" / "cat" / "0.png")
    (tmp_path / "train" / "cat" / "notes.txt").write_text("no image")
    (tmp_path / "train" / "cat" / ".hidden.png").write_text("no image")
    dataset = sources.load(str(tmp_path))
    assert dataset.train.images[0, :, 9, 9].tolist() == [10, 20, 30]
    assert "train: 1 images were resized to 32x32" in dataset.notices
    assert "train: 1 files are no images and were left out" in dataset.notices


def test_a_broken_image_is_named(tmp_path: Path) -> None:
    image_folders(tmp_path)
    file = tmp_path / "test" / "dog" / "broken.jpg"
    Image.fromarray(some_images(1)[0].transpose(1, 2, 0)).save(file)
    file.write_bytes(file.read_bytes()[:200])
    with pytest.raises(DataError, match=r"broken\.jpg cannot be read"):
        sources.load(str(tmp_path))
    file.write_bytes(b"not a picture")
    with pytest.raises(DataError, match=r"broken\.jpg cannot be read"):
        sources.load_test(str(tmp_path))


def test_postscript_is_not_interpreted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    image_folders(tmp_path)
    program = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 32 32\n%%EndComments\nshowpage\n"
    (tmp_path / "test" / "dog" / "program.png").write_bytes(program)
    interpreted = []
    monkeypatch.setattr("PIL.EpsImagePlugin.Ghostscript", lambda *x, **_: interpreted.append(x))
    with pytest.raises(DataError, match=r"program\.png cannot be read"):
        sources.load_test(str(tmp_path))
    assert not interpreted


def bomb(path: Path, width: int, height: int) -> None:
    """A PNG that claims to be large; decoding it would fill the memory with nothing."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        checksum = struct.pack(">I", zlib.crc32(kind + content))
        return struct.pack(">I", len(content)) + kind + content + checksum

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    rows = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0" * 1000))
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + rows + chunk(b"IEND", b""))


@pytest.mark.parametrize("side", [8_000, 10_000, 60_000])
def test_decompression_bombs_are_refused(tmp_path: Path, side: int) -> None:
    image_folders(tmp_path)
    bomb(tmp_path / "test" / "cat" / "bomb.png", side, side)
    with pytest.raises(DataError, match=r"bomb\.png has .*pixels"):
        sources.load_test(str(tmp_path))


def test_an_empty_class(tmp_path: Path) -> None:
    image_folders(tmp_path)
    for file in (tmp_path / "test" / "dog").iterdir():
        file.unlink()
    with pytest.raises(DataError, match="class dog has no images"):
        sources.load(str(tmp_path))


def test_one_class(tmp_path: Path) -> None:
    image_folders(tmp_path, ("cat",))
    with pytest.raises(DataError, match="at least two"):
        sources.load(str(tmp_path))
    assert not sources.available(str(tmp_path)).ready


@pytest.mark.parametrize("split", ["train", "test"])
def test_a_class_in_one_split_only(tmp_path: Path, split: str) -> None:
    image_folders(tmp_path)
    (tmp_path / split / "cow").mkdir()
    with pytest.raises(DataError, match=f"class cow is in .*{split} but not"):
        sources.load(str(tmp_path))


def test_names_of_classes_are_data(tmp_path: Path) -> None:
    data = sources.load_test(str(image_folders(tmp_path, ("[red]x", "y\x1b[2J"))))
    assert data.classes == ("[red]x", "y\N{REPLACEMENT CHARACTER}[2J")


@pytest.mark.parametrize("source", ["nowhere", "file", "empty", "~no-such-user-here/x", "x" * 5000])
def test_no_data_set_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").touch()
    (tmp_path / "empty").mkdir()
    for function in (sources.load, sources.load_test):
        with pytest.raises(DataError) as raised:
            function(source)
        assert str(raised.value).isprintable()
    found = sources.available(source)
    assert not found.ready
    assert found.message == str(raised.value)


def test_a_hostile_path_cannot_drive_the_terminal(tmp_path: Path) -> None:
    folder = image_folders(tmp_path / "x\x1b[2J\ny")
    found, data = sources.available(str(folder)), sources.load_test(str(folder))
    assert found.ready
    assert found.message == data.source
    assert data.source.isprintable()


def test_a_data_directory_of_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CIFAR_TUI_DATA", "~no-such-user-here/data")
    found = sources.available("cifar10")
    assert not found.ready
    assert "CIFAR_TUI_DATA: there is no home directory for ~no-such-user-here" in found.message


def test_unreadable_files_are_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    image_folders(tmp_path)

    def refuse(self: Path) -> None:
        raise PermissionError(13, "Permission denied", str(self))

    monkeypatch.setattr(Path, "iterdir", refuse)
    with pytest.raises(DataError, match=r"cannot read .*Permission denied"):
        sources.load(str(tmp_path))
    assert "Permission denied" in sources.available(str(tmp_path)).message


def test_what_lies_in_hidden_folders_is_no_image_of_the_class(tmp_path: Path) -> None:
    image_folders(tmp_path)
    hidden = tmp_path / "train" / "cat" / ".ipynb_checkpoints"
    hidden.mkdir()
    Image.new("RGB", (32, 32)).save(hidden / "0-checkpoint.png")
    inside = tmp_path / "train" / "cat" / "more"
    inside.mkdir()
    Image.new("RGB", (32, 32)).save(inside / "1.png")
    assert sources.load(str(tmp_path)).train.labels.tolist() == [0, 0, 0, 1, 1]


def test_a_limit_takes_images_of_all_classes(tmp_path: Path) -> None:
    image_folders(tmp_path, count=30)
    limited = sources.load(str(tmp_path)).limited(20)
    assert len(limited.train.labels) == 20
    assert min(np.bincount(limited.train.labels, minlength=2)) > 3
    assert "training on 20 of 60 images only, drawn from all classes" in limited.notices


def test_pixels_of_other_ranges_do_not_become_black(tmp_path: Path) -> None:
    image_folders(tmp_path)
    (tmp_path / "test" / "cat" / "0.png").unlink()
    place = tmp_path / "test" / "cat" / "0.tiff"
    for value, expected in ((200, 200), (51_200, 200)):
        Image.new("I", (32, 32), value).save(place)
        images = sources.load_test(str(tmp_path)).test.images
        assert {int(x) for x in (images[0].min(), images[0].max())} == {expected}
    Image.new("F", (32, 32), 0.7).save(place)
    with pytest.raises(DataError, match="has fractions for pixels"):
        sources.load_test(str(tmp_path))


def test_images_behind_links_belong_to_the_class(tmp_path: Path) -> None:
    folder = image_folders(tmp_path / "set")
    plain = sources.load(str(folder))
    cats = folder / "train" / "cat"
    more = tmp_path / "more"
    more.mkdir()
    Image.new("RGB", (32, 32), (1, 2, 3)).save(more / "z.png")
    (cats / "more").symlink_to(more)
    (cats / "circle").symlink_to(cats)
    (cats / "nowhere.png").symlink_to(tmp_path / "gone.png")
    linked = sources.load(str(folder))
    assert len(linked.train.labels) == len(plain.train.labels) + 1
    assert linked.notices == ("train: 1 files are no images and were left out",)


def test_a_folder_that_cannot_be_read_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = image_folders(tmp_path)
    locked = folder / "train" / "cat" / "locked"
    locked.mkdir()
    scan = os.scandir

    def refuse(path: str) -> object:  # root reads everything
        if Path(path) == locked:
            raise PermissionError(13, "Permission denied", path)
        return scan(path)

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(DataError, match=r"cannot read .*locked: Permission denied"):
        sources.load(str(folder))
