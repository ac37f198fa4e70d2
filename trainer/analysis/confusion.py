"""The confusion matrix and what follows from it. Torch-free."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Matrix = NDArray[np.int64]


@dataclass(frozen=True)
class Pair:
    """How often images of one class were taken for another."""

    actual: int
    predicted: int
    count: int
    share: float
    """Of the images of the actual class."""


@dataclass(frozen=True)
class ClassFigures:
    """Figures of one class; ``None`` where they are 0/0."""

    images: int
    """Images of this class."""
    predicted: int
    """Images taken for this class."""
    correct: int
    precision: float | None
    """correct / predicted."""
    recall: float | None
    """correct / images: the accuracy within the class."""
    f1: float | None
    """2 * correct / (images + predicted): the harmonic mean of precision and recall."""


def confusion(labels: NDArray[np.int64], predicted: NDArray[np.int64], classes: int) -> Matrix:
    """Counts, int64 [C, C], rows: actual class, columns: predicted class."""
    counts = np.bincount(labels * classes + predicted, minlength=classes * classes)
    matrix: Matrix = counts.reshape(classes, classes).astype(np.int64)
    return matrix


def row_shares(matrix: Matrix) -> NDArray[np.float64]:
    """Each count as a share of its row, float64 [C, C]; rows without images are 0."""
    shares: NDArray[np.float64] = matrix / np.maximum(matrix.sum(1, keepdims=True), 1)
    return shares


def most_confused(matrix: Matrix, top: int | None = 10) -> list[Pair]:
    """The most frequent confusions, largest count first, then in the order of the classes."""
    off = matrix.copy()
    np.fill_diagonal(off, 0)
    order = np.argsort(-off, axis=None, kind="stable")[:top]
    totals = matrix.sum(1)
    pairs = []
    for flat in order:
        actual, predicted = divmod(int(flat), len(matrix))
        count = int(off[actual, predicted])
        if not count:
            break
        pairs.append(Pair(actual, predicted, count, count / int(totals[actual])))
    return pairs


def per_class(matrix: Matrix) -> list[ClassFigures]:
    """Precision, recall and F1 of each class."""
    images, predicted, correct = matrix.sum(1), matrix.sum(0), np.diagonal(matrix)
    return [
        ClassFigures(
            images=int(n),
            predicted=int(m),
            correct=int(c),
            precision=_ratio(int(c), int(m)),
            recall=_ratio(int(c), int(n)),
            f1=_ratio(2 * int(c), int(n) + int(m)),
        )
        for n, m, c in zip(images, predicted, correct, strict=True)
    ]


def _ratio(part: int, whole: int) -> float | None:
    return part / whole if whole else None
