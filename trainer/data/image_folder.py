"""Image folders: ``train/<class>/*`` and ``test/<class>/*``, any size, resized to 32 x 32."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from trainer.data.dataset import Images, Labels, TestSplit, TrainSplit
from trainer.errors import DataError

SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".webp", ".gif", ".ppm", ".tif", ".tiff"})
# a list of our own: Pillow would hand PostScript to an interpreter
FORMATS = ("PNG", "JPEG", "BMP", "WEBP", "GIF", "PPM", "TIFF")
LARGEST_IMAGE = 50_000_000
"""Pixels. Above that it is no picture of one thing but an attempt to fill the memory."""


def detect(folder: Path) -> bool:
    """Whether a folder has both splits."""
    return (folder / "train").is_dir() and (folder / "test").is_dir()


def class_names(folder: Path) -> tuple[str, ...]:
    """Names of the classes, sorted; the same in both splits.

    Raises:
        DataError: the splits have different classes, or there are fewer than two.
    """
    train, test = (
        {p.name for p in (folder / split).iterdir() if p.is_dir() and not p.name.startswith(".")}
        for split in ("train", "test")
    )
    for name in sorted(train ^ test):
        here, there = ("train", "test") if name in train else ("test", "train")
        raise DataError(
            f"class {name} is in {folder / here} but not in {folder / there}: both need the same"
        )
    if len(train) < 2:
        raise DataError(
            f"{folder / 'train'} has {len(train)} class folders, at least two are needed"
        )
    return tuple(sorted(train))


def read_train(folder: Path) -> tuple[TrainSplit, tuple[str, ...]]:
    """The training split and what was done to its images.

    Raises:
        DataError: an image is broken or too large, a class has no image.
    """
    images, labels, notices = _read(folder / "train", class_names(folder))
    return TrainSplit(images, labels), notices


def read_test(folder: Path) -> tuple[TestSplit, tuple[str, ...]]:
    """The test split and what was done to its images.

    Raises:
        DataError: as ``read_train``.
    """
    images, labels, notices = _read(folder / "test", class_names(folder))
    return TestSplit(images, labels), notices


def files_of_test(folder: Path) -> list[Path]:
    """The files of the test split, in the order of its images.

    Raises:
        DataError: as ``class_names``; a class has no image.
    """
    return _files(folder / "test", class_names(folder))[0]


def _files(split: Path, classes: tuple[str, ...]) -> tuple[list[Path], list[int], int]:
    """The images' files, their labels, and how many files are no images."""
    files: list[Path] = []
    labels: list[int] = []
    others = 0
    for label, name in enumerate(classes):
        inside = list(_inside(split / name))
        found = sorted(p for p in inside if p.suffix.lower() in SUFFIXES and p.is_file())
        others += len(inside) - len(found)
        if not found:
            raise DataError(f"class {name} has no images in {split / name}: add some or remove it")
        files += found
        labels += [label] * len(found)
    return files, labels, others


def _inside(folder: Path) -> Iterator[Path]:
    """All files of a class, also in folders below and behind links, but none that is hidden or in a
    hidden folder: copies of editors and notebooks.

    Raises:
        DataError: a folder cannot be read.
    """

    def refuse(error: OSError) -> None:
        raise DataError(f"cannot read {error.filename}: {error.strerror}")

    seen = set()
    for here, folders, files in os.walk(folder, onerror=refuse, followlinks=True):
        where = os.stat(here)  # noqa: PTH116
        if (where.st_dev, where.st_ino) in seen:  # links can lead in circles
            folders.clear()
            continue
        seen.add((where.st_dev, where.st_ino))
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        yield from (Path(here, name) for name in files if not name.startswith("."))


def _read(split: Path, classes: tuple[str, ...]) -> tuple[Images, Labels, tuple[str, ...]]:
    files, labels, others = _files(split, classes)
    images = np.empty((len(files), 3, 32, 32), np.uint8)
    resized = converted = 0
    with _strict_pillow(), ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        try:
            for row, (pixels, was_resized, was_converted) in enumerate(
                pool.map(_read_image, files)
            ):
                images[row] = pixels.transpose(2, 0, 1)
                resized += was_resized
                converted += was_converted
        except DataError:
            pool.shutdown(cancel_futures=True)
            raise
    counts = (
        (resized, "images were resized to 32x32"),
        (converted, "images were converted to RGB"),
        (others, "files are no images and were left out"),
    )
    notices = tuple(f"{split.name}: {n:,} {what}" for n, what in counts if n)
    return images, np.array(labels, np.int64), notices


def _read_image(path: Path) -> tuple[NDArray[np.uint8], bool, bool]:
    """Pixels [32, 32, 3], and whether they were resized and converted."""
    try:
        with Image.open(path, formats=FORMATS) as image:
            width, height = image.size
            if width * height > LARGEST_IMAGE:
                raise DataError(
                    f"{path} has {width}x{height} pixels, at most {LARGEST_IMAGE:,} are read"
                )
            if image.mode == "F":
                raise DataError(f"{path} has fractions for pixels: save it with 8 or 16 bits")
            upright = ImageOps.exif_transpose(image)
            rgb = _to_rgb(upright)
            small = rgb if rgb.size == (32, 32) else rgb.resize((32, 32), Image.Resampling.LANCZOS)
            return np.asarray(small, np.uint8), rgb.size != (32, 32), upright.mode != "RGB"
    except DataError:
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise DataError(f"{path} has more than {LARGEST_IMAGE:,} pixels: remove it") from None
    except Exception as error:  # decoders of broken files raise whatever they stumble over
        reason = error.strerror if isinstance(error, OSError) and error.strerror else None
        raise DataError(f"{path} cannot be read as an image ({reason or 'broken'})") from None


def _to_rgb(image: Image.Image) -> Image.Image:
    """RGB of any mode; 16-bit gray keeps its range, transparency is dropped as torchvision does."""
    if image.mode.startswith("I"):
        values = np.asarray(image, np.int64)
        values = values >> 8 if image.mode != "I" or values.max(initial=0) > 255 else values
        return Image.fromarray(values.clip(0, 255).astype(np.uint8)).convert("RGB")
    if image.mode == "P" and "transparency" in image.info:
        image = image.convert("RGBA")
    return image.convert("RGB")


@contextmanager
def _strict_pillow() -> Iterator[None]:
    """Pillow's warnings must not be printed over the screen; that of a huge image is an error."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        yield
