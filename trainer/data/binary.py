"""The binary layouts of CIFAR-10 and CIFAR-100: label bytes, then 3072 bytes of planes."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from trainer.data.dataset import Images, Labels, TestSplit, TrainSplit
from trainer.errors import DataError

CIFAR10_CLASSES = (
    "airplane",
    "automobile",
    "bird",
    "cat",
    "deer",
    "dog",
    "frog",
    "horse",
    "ship",
    "truck",
)
PIXELS = 3 * 32 * 32
OFFICIAL_BATCHES = 5


@dataclass(frozen=True)
class Layout:
    """A binary layout: how long a record is and where the class names are."""

    title: str
    label_bytes: int
    """The last of them is the label (CIFAR-100 has the coarse one before it)."""
    classes: int
    names_file: str
    names: tuple[str, ...]
    """Names when the file is not there."""
    test_file: str

    @property
    def record(self) -> int:
        """Bytes per image."""
        return self.label_bytes + PIXELS


CIFAR10 = Layout("CIFAR-10", 1, 10, "batches.meta.txt", CIFAR10_CLASSES, "test_batch.bin")
CIFAR100 = Layout(
    "CIFAR-100",
    2,
    100,
    "fine_label_names.txt",
    tuple(f"class {i:02}" for i in range(100)),
    "test.bin",
)


def detect(folder: Path) -> Layout | None:
    """Which binary layout a folder has, if any."""
    if any(folder.glob("data_batch_*.bin")) or (folder / "test_batch.bin").is_file():
        return CIFAR10
    if (folder / "train.bin").is_file() or (folder / "test.bin").is_file():
        return CIFAR100
    return None


def train_files(folder: Path, layout: Layout) -> list[Path]:
    """The training files in order.

    Raises:
        DataError: none, or one in between is missing.
    """
    if layout is CIFAR100:
        numbered = {1: folder / "train.bin"}
    else:
        found = [(re.fullmatch(r"data_batch_(\d+)\.bin", p.name), p) for p in folder.iterdir()]
        numbered = {int(match[1]): path for match, path in found if match}
    for number in range(1, max(numbered, default=1) + 1):
        path = numbered.get(number, folder / f"data_batch_{number}.bin")
        if not path.is_file():
            raise DataError(f"{path.name} is missing in {folder}: copy it there")
    return [numbered[number] for number in sorted(numbered)]


def missing(folder: Path, layout: Layout) -> tuple[str, ...]:
    """Names of files that are not there; nothing is read."""
    absent = []
    try:
        train_files(folder, layout)
    except DataError:
        absent.append("train.bin" if layout is CIFAR100 else "data_batch_*.bin")
    if not (folder / layout.test_file).is_file():
        absent.append(layout.test_file)
    return tuple(absent)


def read_train(folder: Path, layout: Layout) -> tuple[TrainSplit, tuple[str, ...]]:
    """The training split and what the user should know about it.

    Raises:
        DataError: a file is missing, is cut off, or has a label that does not exist.
    """
    files = train_files(folder, layout)
    sizes = [_records(path, layout) for path in files]
    images = np.empty((sum(sizes), 3, 32, 32), np.uint8)
    labels = np.empty(sum(sizes), np.int64)
    start = 0
    for path, size in zip(files, sizes, strict=True):
        _read(path, layout, images[start : start + size], labels[start : start + size])
        start += size
    notices: tuple[str, ...] = ()
    if layout is CIFAR10 and 10_000 in sizes and len(files) < OFFICIAL_BATCHES:
        notices = (f"{len(files)} training files only, CIFAR-10 has {OFFICIAL_BATCHES}",)
    return TrainSplit(images, labels), notices


def read_test(folder: Path, layout: Layout) -> TestSplit:
    """The test split.

    Raises:
        DataError: as ``read_train``.
    """
    path = folder / layout.test_file
    if not path.is_file():
        raise DataError(f"{path.name} is missing in {folder}: copy it there")
    size = _records(path, layout)
    images, labels = np.empty((size, 3, 32, 32), np.uint8), np.empty(size, np.int64)
    _read(path, layout, images, labels)
    return TestSplit(images, labels)


def class_names(folder: Path, layout: Layout) -> tuple[str, ...]:
    """The names beside the images, or the standard ones.

    Raises:
        DataError: the file has another number of names, or is no text.
    """
    path = folder / layout.names_file
    if not path.is_file():
        return layout.names
    try:
        names = [line.strip() for line in path.read_text("utf-8").splitlines() if line.strip()]
    except UnicodeDecodeError:
        raise DataError(f"{path} is not UTF-8 text: remove it to get the standard names") from None
    if len(names) != layout.classes:
        raise DataError(
            f"{path} has {len(names)} names, not {layout.classes}: "
            "remove it to get the standard names"
        )
    return tuple(names)


def _records(path: Path, layout: Layout) -> int:
    size = path.stat().st_size
    if not size or size % layout.record:
        raise DataError(
            f"{path} has {size:,} bytes, no multiple of {layout.record:,}: "
            f"it is cut off or not in {layout.title}'s binary layout; copy it again"
        )
    return size // layout.record


def _read(path: Path, layout: Layout, images: Images, labels: Labels) -> None:
    records = np.fromfile(path, np.uint8)
    if records.size != len(labels) * layout.record:
        raise DataError(f"{path} changed while it was read: try again")
    records = records.reshape(len(labels), layout.record)
    labels[:] = records[:, layout.label_bytes - 1]
    images.reshape(len(labels), PIXELS)[:] = records[:, layout.label_bytes :]
    wrong = np.flatnonzero(labels >= layout.classes)
    if wrong.size:
        raise DataError(
            f"{path}: image {wrong[0]} has label {labels[wrong[0]]}, "
            f"only 0 to {layout.classes - 1} exist: the file is damaged or no {layout.title}"
        )
