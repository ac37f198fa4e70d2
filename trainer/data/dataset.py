"""A data set in memory: two splits of different types, class names, and what is known about them.

Torch-free: the app shows images without torch.
"""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass, replace
from functools import cached_property
from typing import ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from trainer.errors import DataError
from trainer.foreign import printable, short_names

Kind = Literal["cifar10", "cifar100", "synthetic", "folder"]
Images = NDArray[np.uint8]
"""uint8 [N, 3, 32, 32]: red, green, blue planes."""
Labels = NDArray[np.int64]
"""int64 [N]: class indices from 0."""
Channels = tuple[float, float, float]

IMAGE_SHAPE = (3, 32, 32)


@dataclass(frozen=True, eq=False)
class TrainSplit:
    """The training images. A type of its own: nothing that evaluates accepts it."""

    images: Images
    labels: Labels
    name: ClassVar[Literal["train"]] = "train"

    def __post_init__(self) -> None:
        _check_arrays(self.images, self.labels, self.name)


@dataclass(frozen=True, eq=False)
class TestSplit:
    """The test images. A type of its own: nothing that trains accepts it."""

    __test__: ClassVar[bool] = False  # or pytest collects it by its name
    images: Images
    labels: Labels
    name: ClassVar[Literal["test"]] = "test"

    def __post_init__(self) -> None:
        _check_arrays(self.images, self.labels, self.name)

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 (hex) over images and labels: the same for the same pictures, wherever from."""
        digest = hashlib.sha256(np.ascontiguousarray(self.images).data)
        digest.update(np.ascontiguousarray(self.labels, dtype="<i8").data)
        return digest.hexdigest()


@dataclass(frozen=True, eq=False)
class TestData:
    """A test split with its class names: all that a page of mistakes needs."""

    __test__: ClassVar[bool] = False
    kind: Kind
    source: str
    classes: tuple[str, ...]
    test: TestSplit
    notices: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "classes", short_names(self.classes))
        object.__setattr__(self, "source", printable(self.source))
        _check_labels(self.test, len(self.classes))

    @property
    def fingerprint(self) -> str:
        """As ``Dataset.fingerprint``."""
        return self.test.fingerprint


@dataclass(frozen=True, eq=False)
class Dataset:
    """Both splits of a data set.

    Raises:
        DataError: a split is empty or of a wrong shape, a label is no class, or
            there are fewer than two classes.
    """

    kind: Kind
    """What the images really are; ``cifar10`` and ``cifar100`` only for the official bytes."""
    source: str
    """Where they come from, for display."""
    classes: tuple[str, ...]
    """Printable names, no two alike; index = label."""
    train: TrainSplit
    test: TestSplit
    notices: tuple[str, ...] = ()
    """What the user should know about this data, one line each."""
    drawn: NDArray[np.int64] | None = None
    """Where the training images lie in the whole split, int64 [N], when ``limited`` chose them."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "classes", short_names(self.classes))
        object.__setattr__(self, "source", printable(self.source))
        if len(self.classes) < 2:
            raise DataError(f"{self.source}: one class only, at least two are needed")
        _check_labels(self.train, len(self.classes))
        _check_labels(self.test, len(self.classes))

    @property
    def fingerprint(self) -> str:
        """SHA-256 (hex) over the test split's images and labels."""
        return self.test.fingerprint

    @cached_property
    def _moments(self) -> tuple[Channels, Channels]:
        return channel_moments(self.train.images)

    @cached_property
    def train_sample(self) -> str:
        """Tells one training split from another: SHA-256 of its labels and every 61st image."""
        digest = hashlib.sha256(self.train.labels.astype("<i8").tobytes())
        digest.update(np.ascontiguousarray(self.train.images[::61]).tobytes())
        return digest.hexdigest()

    @property
    def mean(self) -> Channels:
        """Mean of each channel over the training split, 0 to 1."""
        return self._moments[0]

    @property
    def std(self) -> Channels:
        """Standard deviation of each channel over the training split's pixels, 0 to 1."""
        return self._moments[1]

    def train_index(self, position: int) -> int:
        """A training image's index in the whole split, of which ``limited`` leaves some."""
        return position if self.drawn is None else int(self.drawn[position])

    def limited(self, images: int) -> Dataset:
        """The same with only the first so many training images; the test split stays whole.

        Of a set that is sorted by class, as folders of images are, a sample of all its classes is
        drawn, always the same; of fewer images than classes each is of another class.
        """
        if images >= len(self.train.labels):
            return self
        if images < 1:
            raise DataError("train_limit must leave at least one image")
        total = len(self.train.labels)
        if (np.diff(self.train.labels) >= 0).all():  # class after class, as in folders of images
            some = np.sort(_drawn(self.train.labels, images))
            found, present = (
                len(np.unique(x)) for x in (self.train.labels[some], self.train.labels)
            )
            of = "all" if found == present else f"{found} of {present}"
            which = f"training on {{}} of {{}} images only, drawn from {of} classes"
        else:
            some = np.arange(images)
            which = "training on the first {} of {} images only"
        train = TrainSplit(self.train.images[some], self.train.labels[some])
        notice = which.format(f"{images:,}", f"{total:,}")
        drawn = some if self.drawn is None else self.drawn[some]
        return replace(self, train=train, notices=(*self.notices, notice), drawn=drawn)


def _drawn(labels: Labels, images: int) -> NDArray[np.int64]:
    """Indices of a random sample without a class left out that there is room for."""
    order = np.random.default_rng(0).permutation(len(labels))
    found = order[:images]
    if len(np.unique(labels[found])) == min(images, len(np.unique(labels))):
        return found
    # in turn one of each class: by how many of its class come before it
    by_class = np.argsort(labels[order], kind="stable")
    _, first, counts = np.unique(labels[order][by_class], return_index=True, return_counts=True)
    before = np.empty_like(by_class)
    before[by_class] = np.arange(len(labels)) - np.repeat(first, counts)
    fair: NDArray[np.int64] = order[np.argsort(before, kind="stable")[:images]]
    return fair


def channel_moments(images: Images) -> tuple[Channels, Channels]:
    """Exact mean and standard deviation of each channel, 0 to 1, from counts of values.

    A channel without any variation gets 1/255, so that dividing by it is harmless.
    """
    counts = [[int(n) for n in _histogram(images, channel)] for channel in range(3)]
    means, deviations = [], []
    for histogram in counts:
        total = sum(histogram)
        first = sum(value * n for value, n in enumerate(histogram))
        second = sum(value * value * n for value, n in enumerate(histogram))
        # in integers until the last step: nothing cancels
        variance = (total * second - first * first) / (total * total)
        means.append(first / total / 255)
        deviations.append(max(math.sqrt(variance), 1.0) / 255)
    return (means[0], means[1], means[2]), (deviations[0], deviations[1], deviations[2])


def _histogram(images: Images, channel: int) -> NDArray[np.int64]:
    """How often each value 0 to 255 occurs in a channel, int64 [256]."""
    pairs = np.zeros(256 * 256, np.int64)
    for start in range(0, len(images), 1000):  # in pieces that fit the cache
        planes = np.ascontiguousarray(images[start : start + 1000, channel])
        pairs += np.bincount(planes.reshape(-1).view(np.uint16), minlength=pairs.size)
    table = pairs.reshape(256, 256)
    summed: NDArray[np.int64] = table.sum(0) + table.sum(1)
    return summed


def overlap(train: TrainSplit, test: TestSplit) -> int:
    """How many test images occur in the training split, pixel by pixel (by a 64-bit hash)."""
    return int(np.isin(_hashes(test.images), _hashes(train.images)).sum())


def _hashes(images: Images) -> NDArray[np.uint64]:
    words = np.ascontiguousarray(images).reshape(len(images), -1).view(np.uint64)
    weights = np.random.default_rng(0).integers(1, 2**63, words.shape[1], dtype=np.uint64) * 2 + 1
    mixed = words ^ (words >> np.uint64(31))
    hashes: NDArray[np.uint64] = mixed @ weights
    return hashes


def _check_arrays(images: Images, labels: Labels, name: str) -> None:
    if images.dtype != np.uint8 or images.shape[1:] != IMAGE_SHAPE:
        raise DataError(
            f"the {name} images are {images.dtype} {list(images.shape)}, not uint8 [N, 3, 32, 32]"
        )
    if labels.dtype != np.int64 or labels.shape != images.shape[:1]:
        raise DataError(
            f"the {name} labels are {labels.dtype} {list(labels.shape)}, "
            f"not int64 [{len(images)}] as the images"
        )


def _check_labels(split: TrainSplit | TestSplit, classes: int) -> None:
    if not len(split.labels):
        raise DataError(f"the {split.name} split has no images")
    lowest, highest = int(split.labels.min()), int(split.labels.max())
    if lowest < 0 or highest >= classes:
        wrong = lowest if lowest < 0 else highest
        raise DataError(f"the {split.name} split has label {wrong}, only 0 to {classes - 1} exist")
