from __future__ import annotations

import hashlib
from dataclasses import FrozenInstanceError

import numpy as np
import pytest

from tests.data_helpers import some_images
from trainer.data.dataset import (
    Dataset,
    TestData,
    TestSplit,
    TrainSplit,
    channel_moments,
    overlap,
)
from trainer.errors import DataError
from trainer.foreign import short_name, short_names


def labels(*values: int) -> np.ndarray:
    return np.array(values, np.int64)


def make(train: TrainSplit | None = None, **changes: object) -> Dataset:
    values: dict[str, object] = {
        "kind": "folder",
        "source": "here",
        "classes": ("a", "b"),
        "train": train or TrainSplit(some_images(4), labels(0, 1, 0, 1)),
        "test": TestSplit(some_images(2, 1), labels(0, 1)),
    }
    return Dataset(**{**values, **changes})  # type: ignore[arg-type]


def test_splits_are_different_types_and_frozen() -> None:
    dataset = make()
    assert (dataset.train.name, dataset.test.name) == ("train", "test")
    assert not isinstance(dataset.test, TrainSplit)
    assert not isinstance(dataset.train, TestSplit)
    with pytest.raises(FrozenInstanceError):
        dataset.train.images = some_images(1)  # type: ignore[misc]


def test_moments_are_those_of_the_training_pixels() -> None:
    images = some_images(30)
    images[:, 1] //= 3
    mean, std = channel_moments(images)
    np.testing.assert_allclose(mean, images.mean((0, 2, 3)) / 255, rtol=1e-12)
    np.testing.assert_allclose(std, images.std((0, 2, 3)) / 255, rtol=1e-12)
    assert make(TrainSplit(images, np.zeros(30, np.int64))).mean == mean


def test_moments_of_many_images_are_exact() -> None:
    images = np.full((2500, 3, 32, 32), 7, np.uint8)
    images[2400:] = 8
    mean, std = channel_moments(images)
    assert mean == pytest.approx((7.04 / 255,) * 3, rel=1e-12)
    # no variation that 8 bits can show: dividing by it stays harmless
    assert std == (1 / 255,) * 3


def test_fingerprint_is_of_the_test_split_in_a_fixed_byte_order() -> None:
    dataset = make()
    content = dataset.test.images.tobytes() + dataset.test.labels.astype("<i8").tobytes()
    assert dataset.fingerprint == hashlib.sha256(content).hexdigest()
    other = make(TrainSplit(some_images(4, 9), labels(0, 1, 0, 1)))
    assert other.fingerprint == dataset.fingerprint
    swapped = make(test=TestSplit(dataset.test.images, labels(1, 0)))
    assert swapped.fingerprint != dataset.fingerprint
    strided = np.asfortranarray(dataset.test.images)
    assert make(test=TestSplit(strided, dataset.test.labels)).fingerprint == dataset.fingerprint


def test_limited_takes_the_first_images_and_says_so() -> None:
    dataset = make()
    limited = dataset.limited(3)
    np.testing.assert_array_equal(limited.train.images, dataset.train.images[:3])
    assert limited.test is dataset.test
    assert limited.fingerprint == dataset.fingerprint
    assert "first 3 of 4" in limited.notices[-1]
    assert dataset.limited(4) is dataset
    with pytest.raises(DataError):
        dataset.limited(0)


@pytest.mark.parametrize("images", [3, 8, 10, 11, 25])
def test_limited_draws_from_all_classes_of_a_sorted_set(images: int) -> None:
    names = tuple("abcdefghij")
    sizes = np.array([40, 1, 40, 2, 40, 3, 40, 40, 40, 40])
    split = TrainSplit(some_images(int(sizes.sum())), np.repeat(np.arange(10), sizes))
    dataset = make(classes=names, train=split)
    limited = dataset.limited(images)
    assert len(limited.train.labels) == images
    assert len(np.unique(limited.train.labels)) == min(images, 10)
    assert len(np.unique(limited.train.images, axis=0)) == images, "none is taken twice"
    said = "all classes" if images >= 10 else f"{images} of 10 classes"
    assert limited.notices[-1].endswith(f"drawn from {said}")
    assert limited.train_sample == dataset.limited(images).train_sample
    places = [limited.train_index(i) for i in range(images)]
    np.testing.assert_array_equal(limited.train.images, dataset.train.images[places])
    fewer = limited.limited(2)
    places = [fewer.train_index(i) for i in range(2)]
    np.testing.assert_array_equal(fewer.train.images, dataset.train.images[places])
    assert dataset.train_index(7) == 7


def test_limited_keeps_a_sample_that_has_all_classes() -> None:
    dataset = make(train=TrainSplit(some_images(100), np.repeat(np.arange(2), 50)))
    drawn = np.sort(np.random.default_rng(0).permutation(100)[:20])
    np.testing.assert_array_equal(
        dataset.limited(20).train.images, dataset.train.images[drawn], "runs of today go on"
    )


def test_class_names_cannot_drive_the_terminal() -> None:
    dataset = make(classes=("a\x1b[31m", "b\nc"))
    assert all(name.isprintable() for name in dataset.classes)
    data = TestData("folder", "x", ("\x07", " "), dataset.test)
    assert data.classes == ("\N{REPLACEMENT CHARACTER}", "(no name)")
    assert len(short_name("x" * 500)) == 60


def test_no_two_classes_have_the_same_name() -> None:
    assert short_names(["x", "y", "x", "x (2)", "x"]) == ("x", "y", "x (3)", "x (2)", "x (4)")
    dataset = make(classes=("cat", "cat\n"))
    assert dataset.classes == ("cat", "cat (2)")
    assert TestData("folder", "x", ("cat", "cat"), dataset.test).classes == dataset.classes
    assert dataset.limited(2).classes == dataset.classes
    long = short_names(["x" * 500, "x" * 600, "x" * 600])
    assert len(set(long)) == 3
    assert [len(name) for name in long] == [60] * 3
    assert short_names(long) == long


@pytest.mark.parametrize(
    ("images", "its_labels", "message"),
    [
        (some_images(2).astype(np.float32), labels(0, 1), "float32"),
        (some_images(2)[:, :, :16], labels(0, 1), "16"),
        (some_images(2), labels(0), "int64"),
        (some_images(2), np.array([0, 1], np.int32), "int32"),
        (some_images(2), labels(0, 2), "label 2"),
        (some_images(2), labels(-1, 0), "label -1"),
        (some_images(0), labels(), "no images"),
    ],
)
def test_wrong_arrays_are_refused(images: np.ndarray, its_labels: np.ndarray, message: str) -> None:
    with pytest.raises(DataError, match=message):
        make(test=TestSplit(images, its_labels))
    with pytest.raises(DataError, match=message):
        make(TrainSplit(images, its_labels))


def test_one_class_is_refused() -> None:
    with pytest.raises(DataError, match="one class"):
        make(TrainSplit(some_images(1), labels(0)), classes=("a",))


def test_overlap_counts_test_images_that_are_training_images() -> None:
    train = TrainSplit(some_images(50), np.zeros(50, np.int64))
    mixed = np.concatenate([some_images(20, 1), train.images[[7, 3, 3]]])
    assert overlap(train, TestSplit(mixed, np.zeros(23, np.int64))) == 3
    near = train.images[:5].copy()
    near[:, 0, 0, 0] ^= 1
    assert overlap(train, TestSplit(near, np.zeros(5, np.int64))) == 0
