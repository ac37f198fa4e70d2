"""A data set in numbers: what ``cifar-tui data`` prints. Torch-free."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

import msgspec
import numpy as np

from trainer.data import sources
from trainer.data.dataset import Channels, Dataset, Kind, overlap
from trainer.errors import DataError
from trainer.foreign import printable, short_name

OF_A_LAYOUT = re.compile(
    r"(data_batch_\d+|test_batch|train|test)(\.bin)?|meta|batches\.meta(\.txt)?"
    r"|(fine|coarse)_label_names\.txt"
)
"""Names of files in CIFAR's own layouts, binary and python."""


class FileRow(msgspec.Struct, frozen=True, kw_only=True):
    """One file of a data set."""

    name: str
    bytes: int
    md5: str


class ClassRow(msgspec.Struct, frozen=True, kw_only=True):
    """Images of one class."""

    name: str
    train: int
    test: int


class DataReport(msgspec.Struct, frozen=True, kw_only=True):
    """Everything worth knowing about a data set."""

    kind: Kind
    source: str
    path: str | None
    """``None`` for the synthetic set."""
    train_images: int
    test_images: int
    memory: int
    """Bytes of both splits' images."""
    fingerprint: str
    """SHA-256 over the test split's images and labels."""
    mean: Channels
    std: Channels
    """Of the training split, 0 to 1: red, green, blue."""
    shared_images: int
    """Test images that are also training images, pixel by pixel."""
    classes: tuple[ClassRow, ...]
    """In the order of their labels."""
    files: tuple[FileRow, ...]
    """Files of the layout; none for image folders and the synthetic set."""
    notices: tuple[str, ...]


def report_on(source: str, *, data_dir: Path | None = None) -> DataReport:
    """Load a data set and describe it.

    Raises:
        DataError: as ``sources.load``.
    """
    dataset = sources.load(source, data_dir=data_dir)
    return describe(dataset, sources.available(source, data_dir=data_dir).path)


def describe(dataset: Dataset, path: Path | None = None) -> DataReport:
    """Describe a loaded data set; ``path`` is where its files lie.

    Raises:
        DataError: one of them cannot be read.
    """
    classes = len(dataset.classes)
    train, test = (
        np.bincount(split.labels, minlength=classes).tolist()
        for split in (dataset.train, dataset.test)
    )
    return DataReport(
        kind=dataset.kind,
        source=dataset.source,
        path=None if path is None else printable(str(path)),
        train_images=len(dataset.train.labels),
        test_images=len(dataset.test.labels),
        memory=dataset.train.images.nbytes + dataset.test.images.nbytes,
        fingerprint=dataset.fingerprint,
        mean=dataset.mean,
        std=dataset.std,
        shared_images=overlap(dataset.train, dataset.test),
        classes=tuple(
            ClassRow(name=name, train=train[label], test=test[label])
            for label, name in enumerate(dataset.classes)
        ),
        files=() if path is None else _files(path),
        notices=dataset.notices,
    )


def _files(path: Path) -> tuple[FileRow, ...]:
    rows = []
    try:
        for file in sorted(path.iterdir()):
            if not (OF_A_LAYOUT.fullmatch(file.name) and file.is_file()):
                continue
            with file.open("rb") as opened:
                digest = hashlib.file_digest(opened, lambda: hashlib.md5(usedforsecurity=False))
            rows.append(
                FileRow(
                    name=short_name(file.name), bytes=file.stat().st_size, md5=digest.hexdigest()
                )
            )
    except OSError as error:
        raise DataError(f"cannot read {error.filename}: {error.strerror}") from None
    return tuple(rows)
