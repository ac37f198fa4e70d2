"""Which labels this run's own predictions make doubtful: a guess, made by confident learning.

Northcutt, Jiang, Chuang, "Confident learning: estimating uncertainty in dataset labels", JAIR 2021.
There the predictions are out of sample; those of a test split are. Torch-free.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

CALLED = "a guess from this run's own predictions"
"""What is said wherever the score is shown: it knows no more than the net does."""

Column = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class LabelDoubt:
    """Doubts of ``N`` labels of ``C`` classes; a guess from one run's own predictions."""

    thresholds: Column
    """Mean probability of a class over the images labelled so, float64 [C]: how sure the net
    usually is of it. 1 for classes without images."""
    score: Column
    """float64 [N], 0 to 1, larger: more doubtful. From 0.5 on another class fits better than the
    label, measured by what is usual for each of them."""
    rather: NDArray[np.int64]
    """The class other than the label that fits best, int64 [N]; with one class, the label."""
    doubtful: NDArray[np.bool_]
    """bool [N], off the diagonal of the confident joint: the net is at least as sure of another
    class as it usually is of that class, and of no such class is it surer than of that one."""


def label_doubt(probabilities: NDArray[np.floating], labels: NDArray[np.int64]) -> LabelDoubt:
    """Doubts of all labels.

    The score is 1 minus the normalized margin of the adjusted probabilities: the thresholds are
    taken off each probability, rows are shifted by the largest threshold and made to sum to 1, and
    of these the label's is compared with the largest other.

    Args:
        probabilities: [N, C], 0 to 1.
        labels: int64 [N].
    """
    p = probabilities.astype(np.float64)
    images, classes = p.shape
    rows = np.arange(images)
    counts = np.bincount(labels, minlength=classes)
    sums = np.bincount(labels, weights=p[rows, labels], minlength=classes)
    thresholds = np.where(counts > 0, sums / np.maximum(counts, 1), 1.0)
    if classes < 2:
        return LabelDoubt(thresholds, np.zeros(images), labels, np.zeros(images, np.bool_))
    adjusted = p - thresholds + thresholds.max(initial=0)
    # a row is 0 only where nothing is predicted and all thresholds are equal: nothing is known
    adjusted /= np.maximum(adjusted.sum(1, keepdims=True), np.finfo(np.float64).tiny)
    own = adjusted[rows, labels]
    adjusted[rows, labels] = -np.inf
    rather = adjusted.argmax(1).astype(np.int64)
    score = (1 - own + adjusted[rows, rather]) / 2
    confident = np.where(p >= thresholds, p, -1.0)
    best = confident.argmax(1)
    doubtful = (confident[rows, best] >= 0) & (best != labels)
    return LabelDoubt(thresholds, score, rather, doubtful)
