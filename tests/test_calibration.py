"""Calibration against scikit-learn and by hand."""

from __future__ import annotations

import numpy as np
import pytest

from trainer.analysis.calibration import BINS, calibration


@pytest.mark.parametrize("bins", [1, 10, BINS])
def test_against_scikit_learn(bins: int) -> None:
    sklearn = pytest.importorskip("sklearn.calibration")
    random = np.random.default_rng(0)
    confidence = random.beta(5, 1, 3000)
    right = random.random(3000) < confidence**2
    found = calibration(confidence, right, bins)
    accuracy, mean = sklearn.calibration_curve(right, confidence, n_bins=bins)
    filled = [b for b in found.bins if b.count]
    assert [b.accuracy for b in filled] == pytest.approx(accuracy.tolist())
    assert [b.confidence for b in filled] == pytest.approx(mean.tolist())
    counts = np.array([b.count for b in filled])
    assert found.error == pytest.approx(float((counts * np.abs(accuracy - mean)).sum() / 3000))
    assert found.largest_error == pytest.approx(float(np.abs(accuracy - mean).max()))
    assert (found.images, sum(b.count for b in found.bins)) == (3000, 3000)


def test_by_hand() -> None:
    confidence = np.array([0.0, 0.5, 0.6, 1.0, 0.9])
    right = np.array([False, True, False, True, True])
    found = calibration(confidence, right, 2)
    low, high = found.bins
    assert (low.low, low.high, low.count) == (0, 0.5, 2), "0 and the upper edge are inside"
    assert (low.confidence, low.accuracy) == (0.25, 0.5)
    assert (high.count, high.confidence) == (3, pytest.approx(2.5 / 3))
    assert high.accuracy == pytest.approx(2 / 3)
    assert found.error == pytest.approx((2 * 0.25 + 3 * 0.5 / 3) / 5)
    assert found.largest_error == pytest.approx(0.25)
    assert (found.confidence, found.accuracy) == (pytest.approx(0.6), 0.6)


def test_perfectly_calibrated_is_zero() -> None:
    confidence = np.full(4, 0.75)
    assert calibration(confidence, np.array([True, True, True, False])).error == 0


def test_empty_bins_and_no_images() -> None:
    found = calibration(np.array([0.99]), np.array([True]))
    assert len(found.bins) == BINS
    assert found.bins[0].accuracy is None
    none = calibration(np.empty(0), np.empty(0, np.bool_))
    assert (none.error, none.largest_error, none.confidence) == (None, None, None)
