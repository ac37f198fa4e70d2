from __future__ import annotations

import numpy as np
import pytest

from trainer.data import sources, synthetic
from trainer.data.dataset import Dataset, TrainSplit, channel_moments, overlap


@pytest.fixture(scope="module")
def dataset() -> Dataset:
    return sources.load("synthetic")


def test_it_is_what_it_says(dataset: Dataset) -> None:
    assert dataset.kind == "synthetic"
    assert "no photographs" in dataset.source
    assert len(dataset.train.labels) == 10_000
    assert len(dataset.test.labels) == 2_000
    assert dataset.classes == tuple(synthetic.SHAPES)
    for split in (dataset.train, dataset.test):
        counts = np.bincount(split.labels)
        assert counts.tolist() == [len(split.labels) // 10] * 10


def test_every_machine_draws_the_same_bytes(dataset: Dataset) -> None:
    # changes only when the pictures are meant to change: results before and after do not compare
    assert dataset.fingerprint == (
        "a7a7fc6a88f71af2be1e4e82f9ae646bf6f1b81161b5753c5fcf798cb4a7c2a9"
    )


def test_train_and_test_share_no_image(dataset: Dataset) -> None:
    assert overlap(dataset.train, dataset.test) == 0
    everything = TrainSplit(dataset.train.images[5000:], dataset.train.labels[5000:])
    first = type(dataset.test)(dataset.train.images[:5000], dataset.train.labels[:5000])
    assert overlap(everything, first) == 0


def test_the_order_tells_nothing_about_the_class(dataset: Dataset) -> None:
    labels = dataset.train.labels
    assert (labels[1:] == labels[:-1]).mean() < 0.15
    assert np.bincount(labels[:1000]).min() > 60


def test_colour_and_brightness_tell_nothing_about_the_class(dataset: Dataset) -> None:
    images, labels = dataset.train.images, dataset.train.labels
    for label in range(10):
        mean, _ = channel_moments(images[labels == label])
        np.testing.assert_allclose(mean, dataset.mean, atol=0.02)


def test_shapes_are_there_and_differ() -> None:
    line = (np.arange(32, dtype=np.float32) + 0.5) / 16 - 1
    u, v = line[None, None, :] / np.float32(0.9), line[None, :, None] / np.float32(0.9)
    p = np.full((1, 1, 1), 0.5, np.float32)
    masks = {name: shape(u, v, p)[0] < 0 for name, shape in synthetic.SHAPES.items()}
    shares = {name: mask.mean() for name, mask in masks.items()}
    assert shares["disk"] == pytest.approx(np.pi * (0.8 * 0.9) ** 2 / 4, abs=0.03)
    assert shares["square"] == pytest.approx((0.7 * 0.9) ** 2, abs=0.05)
    assert all(0.05 < share < 0.6 for share in shares.values())
    names = list(masks)
    for i, one in enumerate(names):
        for other in names[i + 1 :]:
            assert (masks[one] != masks[other]).mean() > 0.05, (one, other)
    assert not masks["ring"][16, 16]
    assert masks["cross"][16, 16]


def test_another_seed_gives_other_pictures() -> None:
    one, same, other = (synthetic.load_test(50, seed=seed) for seed in (1, 1, 2))
    assert one.fingerprint == same.fingerprint != other.fingerprint
    assert overlap(synthetic.load_train(200, seed=1), one) == 0
