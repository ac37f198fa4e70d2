"""Find and load a data set: ``cifar10``, ``cifar100``, ``synthetic``, or a folder. Torch-free."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import platformdirs

from trainer.data import binary, image_folder, python_layout, synthetic
from trainer.data.dataset import Dataset, Kind, TestData, TestSplit, TrainSplit, overlap
from trainer.errors import ConfigError, DataError
from trainer.files.paths import absolute, home
from trainer.foreign import printable, short_name, short_names

DATA_DIR_VARIABLE = "CIFAR_TUI_DATA"
SYNTHETIC_SOURCE = "drawn shapes and textures, no photographs"
SUSPICIOUS_OVERLAP = 0.005
"""Share of test images in the training split from which on it is said."""


@dataclass(frozen=True)
class Availability:
    """What is known about a source without reading it."""

    source: str
    ready: bool
    message: str
    """One line: what is there, or what is missing and what to do."""
    kind: Kind
    path: Path | None = None
    missing: tuple[str, ...] = ()
    """Names of absent files."""


@dataclass(frozen=True)
class Place:
    """A folder and how the images lie in it."""

    path: Path
    layout: binary.Layout | python_layout.Layout | None
    """``None``: image folders."""

    @property
    def kind(self) -> Kind:
        """Official only where checksums tell so."""
        return self.layout.kind if isinstance(self.layout, python_layout.Layout) else "folder"

    @property
    def source(self) -> str:
        """For display; says it when the bytes are not the official ones."""
        if self.layout is None:
            return f"image folders in {self.path}"
        if isinstance(self.layout, python_layout.Layout):
            return f"{self.layout.title}, official files in {self.path}"
        return f"{self.layout.title} layout, not the official bytes: {self.path}"

    def missing(self) -> tuple[str, ...]:
        """Names of absent files; nothing is read."""
        match self.layout:
            case None:
                return ()
            case python_layout.Layout():
                return python_layout.missing(self.path, self.layout)
            case binary.Layout():
                return binary.missing(self.path, self.layout)

    def class_names(self) -> tuple[str, ...]:
        """Index = label."""
        match self.layout:
            case None:
                return image_folder.class_names(self.path)
            case python_layout.Layout():
                return python_layout.class_names(self.path, self.layout)
            case binary.Layout():
                return binary.class_names(self.path, self.layout)

    def image_paths(self, images: int) -> list[str]:
        """Where each test image lies: its file, or the file of all and its place in that."""
        match self.layout:
            case None:
                return [str(path) for path in image_folder.files_of_test(self.path)]
            case python_layout.Layout():
                file = next(iter(self.layout.test))
            case binary.Layout():
                file = self.layout.test_file
        place = str(self.path / file)
        return [f"{place}#{i}" for i in range(images)]

    def read_train(self) -> tuple[TrainSplit, tuple[str, ...]]:
        """The training split and notices on it."""
        match self.layout:
            case None:
                return image_folder.read_train(self.path)
            case python_layout.Layout():
                return python_layout.read_train(self.path, self.layout), ()
            case binary.Layout():
                return binary.read_train(self.path, self.layout)

    def read_test(self) -> tuple[TestSplit, tuple[str, ...]]:
        """The test split and notices on it."""
        match self.layout:
            case None:
                return image_folder.read_test(self.path)
            case python_layout.Layout():
                return python_layout.read_test(self.path, self.layout), ()
            case binary.Layout():
                title = self.layout.title
                notice = f"{title} layout, not verified as the official bytes: compare accuracies "
                notice += "only with runs on the same files"
                return binary.read_test(self.path, self.layout), (notice,)


def default_data_dir() -> Path:
    """Where downloads go: ``CIFAR_TUI_DATA`` or the user's data directory; an absolute path.

    Raises:
        DataError: the variable names the home of nobody.
    """
    given = os.environ.get(DATA_DIR_VARIABLE)
    if not given:
        return platformdirs.user_data_path("cifar-tui") / "data"
    try:
        return absolute(given)
    except ConfigError as error:
        raise DataError(f"{DATA_DIR_VARIABLE}: {error}") from None


def load(source: str, *, data_dir: Path | None = None) -> Dataset:
    """Load both splits.

    Args:
        source: ``cifar10``, ``cifar100``, ``synthetic``, or a folder in CIFAR-10's or CIFAR-100's
            binary or pickled layout (or its parent), or with ``train/<class>/*`` and
            ``test/<class>/*``.
        data_dir: where the named sets lie; ``default_data_dir()`` by default.

    Raises:
        DataError: it is not there, or damaged; one line that says what to do.
    """
    test = load_test(source, data_dir=data_dir)
    if test.kind == "synthetic":
        train, notices = synthetic.load_train(), test.notices
    else:
        with _reading(source):
            train, notices = _place(source, data_dir).read_train()
    if test.kind == "folder":
        notices += _overlap_notice(train, test.test)
    return Dataset(
        test.kind, test.source, test.classes, train, test.test, (*test.notices, *notices)
    )


def load_test(source: str, *, data_dir: Path | None = None) -> TestData:
    """Load the test split and the class names only; as ``load`` otherwise."""
    if source == "synthetic":
        return TestData("synthetic", SYNTHETIC_SOURCE, synthetic.CLASSES, synthetic.load_test())
    with _reading(source):
        place = _place(source, data_dir)
        classes = place.class_names()
        test, notices = place.read_test()
        return TestData(place.kind, place.source, classes, test, notices + _name_notice(classes))


def image_paths(source: str, images: int, *, data_dir: Path | None = None) -> list[str]:
    """Where each of so many test images lies: a file, or ``FILE#INDEX`` where one file has all.

    Raises:
        DataError: as ``load``.
    """
    if source == "synthetic":
        return [f"synthetic#{i}" for i in range(images)]
    with _reading(source):
        return _place(source, data_dir).image_paths(images)


def available(source: str, *, data_dir: Path | None = None) -> Availability:
    """Look for a source without reading images; never raises."""
    if source == "synthetic":
        return Availability(source, True, "synthetic: drawn on the fly, always there", "synthetic")
    layout = python_layout.LAYOUTS.get(source)
    kind: Kind = layout.kind if layout is not None else "folder"
    try:
        with _reading(source):
            place = _place(source, data_dir)
            missing = place.missing()
            if place.layout is None:
                place.class_names()
    except DataError as error:
        return Availability(source, False, str(error), kind)
    if missing:
        line = f"{', '.join(missing)} missing in {place.path}: {_remedy(place, data_dir)}"
        return Availability(source, False, printable(line), place.kind, place.path, missing)
    return Availability(source, True, printable(place.source), place.kind, place.path)


def _remedy(place: Place, data_dir: Path | None) -> str:
    if isinstance(place.layout, python_layout.Layout):
        return f"delete the folder and run {place.layout.download_command(data_dir)}"
    return "copy it there" if len(place.missing()) == 1 else "copy them there"


def _place(source: str, data_dir: Path | None) -> Place:
    layout = python_layout.LAYOUTS.get(source)
    if layout is not None:
        return _named_place(layout, data_dir)
    folder = home(source)
    if not folder.is_dir():
        what = "is no folder" if folder.exists() else "does not exist"
        raise DataError(f"data {source!r} {what}: give cifar10, cifar100, synthetic, or a folder")
    found = _inside(folder)
    if not found:
        raise DataError(
            f"{folder} holds no data set: expected data_batch_1.bin … test_batch.bin, "
            "cifar-10-batches-py, or train/<class> and test/<class> with images"
        )
    return found


def _named_place(layout: python_layout.Layout, named: Path | None) -> Place:
    data_dir = named or default_data_dir()
    folder = data_dir / layout.folder
    if folder.is_dir():
        return Place(folder, layout)
    other = data_dir / ("cifar-10-batches-bin" if layout.kind == "cifar10" else "cifar-100-binary")
    hint = (
        f"take the unverified {other} with --data '{other}'"
        if other.is_dir()
        else "give a folder with --data"
    )
    raise DataError(
        f"{layout.title} is not in {data_dir}: run {layout.download_command(named)}, "
        f"{hint}, or train on --data synthetic"
    )


def _inside(folder: Path) -> Place | None:
    """The data set in a folder or right below it; official files before others.

    Raises:
        DataError: there are several.
    """
    here = python_layout.detect(folder) or binary.detect(folder)
    if here is not None:
        return Place(folder, here)
    if image_folder.detect(folder):
        return Place(folder, None)
    found: dict[str, Place] = {}
    for name in (
        python_layout.CIFAR10.folder,
        "cifar-10-batches-bin",
        python_layout.CIFAR100.folder,
        "cifar-100-binary",
    ):
        below = folder / name
        layout = python_layout.detect(below) or binary.detect(below) if below.is_dir() else None
        if layout is not None:
            found.setdefault(layout.title, Place(below, layout))
    if len(found) > 1:
        paths = " or ".join(str(place.path) for place in found.values())
        raise DataError(f"{folder} holds several data sets: give {paths}")
    return next(iter(found.values()), None)


def _overlap_notice(train: TrainSplit, test: TestSplit) -> tuple[str, ...]:
    shared, total = overlap(train, test), len(test.labels)
    if shared < SUSPICIOUS_OVERLAP * total:
        return ()
    return (
        f"{shared:,} of {total:,} test images are also training images: "
        "the test accuracy says little about new images",
    )


def _name_notice(names: tuple[str, ...]) -> tuple[str, ...]:
    pairs = zip(map(short_name, names), short_names(names), strict=True)
    other = [(label, name, told) for label, (name, told) in enumerate(pairs) if told != name]
    if not other:
        return ()
    label, name, told = other[0]
    more = f", and {len(other) - 1} more alike" if len(other) > 1 else ""
    return (f"several classes are named '{name}': class {label} is called '{told}' here{more}",)


@contextmanager
def _reading(source: str) -> Iterator[None]:
    """What the system refuses becomes one line."""
    try:
        yield
    except OSError as error:
        place = error.filename or source
        raise DataError(f"cannot read {place}: {error.strerror or error}") from None
