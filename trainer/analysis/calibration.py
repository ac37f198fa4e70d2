"""Calibration: does the net's confidence say how often it is right? Torch-free.

Guo, Pleiss, Sun, Weinberger, "On calibration of modern neural networks", ICML 2017.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

BINS = 15
"""As in the paper."""


@dataclass(frozen=True)
class Bin:
    """Images whose confidence is above ``low`` and at most ``high``; the first has its low too."""

    low: float
    high: float
    count: int
    confidence: float | None
    """Mean; ``None`` without images, as is the accuracy."""
    accuracy: float | None


@dataclass(frozen=True)
class Calibration:
    """The reliability diagram of the predicted class's probability."""

    bins: tuple[Bin, ...]
    """Of equal width, from 0 to 1, empty ones too."""
    images: int
    error: float | None
    """Expected calibration error, 0 to 1: |accuracy - confidence| of the bins, weighted by their
    images (Guo et al., equation 3); ``None`` without images."""
    largest_error: float | None
    """Maximum calibration error: the largest |accuracy - confidence| of a bin (equation 5)."""
    confidence: float | None
    """Mean confidence of all images: above the accuracy the net is overconfident."""
    accuracy: float | None


def calibration(
    confidence: NDArray[np.floating], right: NDArray[np.bool_], bins: int = BINS
) -> Calibration:
    """Reliability diagram and expected calibration error.

    Args:
        confidence: [N], probability of the predicted class, 0 to 1.
        right: bool [N], whether the predicted class is the actual one.
        bins: how many of equal width, at least 1.
    """
    values = confidence.astype(np.float64)
    edges = np.linspace(0, 1, bins + 1)
    place = np.searchsorted(edges[1:-1], values, side="left")
    counts = np.bincount(place, minlength=bins)
    confident = np.bincount(place, weights=values, minlength=bins)
    correct = np.bincount(place, weights=right, minlength=bins)
    gaps = np.abs(correct - confident)
    total = len(values)
    rows = tuple(
        Bin(
            low=float(edges[i]),
            high=float(edges[i + 1]),
            count=int(n),
            confidence=float(confident[i]) / int(n) if n else None,
            accuracy=float(correct[i]) / int(n) if n else None,
        )
        for i, n in enumerate(counts)
    )
    return Calibration(
        bins=rows,
        images=total,
        error=float(gaps.sum()) / total if total else None,
        largest_error=float((gaps[counts > 0] / counts[counts > 0]).max()) if total else None,
        confidence=float(values.mean()) if total else None,
        accuracy=float(right.mean()) if total else None,
    )
