"""Two models on the same test images: what the second fixes and what it breaks. Torch-free."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from trainer.analysis.confusion import Matrix, confusion
from trainer.errors import RunError
from trainer.runs.predictions import Predictions

Indices = NDArray[np.int64]
SMALLEST_P = 1e-300
"""Below this a float is no longer exact, and at last 0."""


@dataclass(frozen=True, eq=False)
class ModelDiff:
    """From the first model to the second, each int64 indices of images, ascending."""

    first: Predictions
    second: Predictions
    fixed: Indices
    """The first is wrong, the second right."""
    broken: Indices
    """The first is right, the second wrong."""
    both_wrong: Indices
    both_right: Indices

    @property
    def counts(self) -> dict[str, int]:
        """How many images are in each, by the names above."""
        names = ("fixed", "broken", "both_wrong", "both_right")
        return {name: len(getattr(self, name)) for name in names}

    @cached_property
    def log_p(self) -> float:
        """ln of ``p_value``, which may be too small for a float."""
        return log_mcnemar(len(self.fixed), len(self.broken))

    @property
    def p_value(self) -> float:
        """McNemar's exact two-sided p-value of fixed against broken."""
        return math.exp(self.log_p)

    @property
    def p_words(self) -> str:
        """The p-value for reading: ``p = 0.031``; never 0, where it is too small for a float."""
        p = self.p_value
        return f"p = {p:.3g}" if p >= SMALLEST_P else f"p < {SMALLEST_P:.0e}"

    @cached_property
    def confusion(self) -> Matrix:
        """Second model's confusion matrix minus the first's, int64 [C, C], rows: actual class."""
        classes = self.first.probabilities.shape[1]
        first, second = (
            confusion(one.labels, one.predicted, classes) for one in (self.first, self.second)
        )
        difference: Matrix = second - first
        return difference

    @cached_property
    def same_mistake(self) -> Indices:
        """The images of ``both_wrong`` that both take for the same class."""
        alike = self.first.predicted == self.second.predicted
        return np.flatnonzero(alike & (self.first.predicted != self.first.labels))


def compare(first: Predictions, second: Predictions) -> ModelDiff:
    """Put two predictions of the same test images side by side.

    Raises:
        RunError: they are not of the same images with the same labels.
    """
    if (problem := _difference(first, second)) is not None:
        raise RunError(f"these two cannot be compared image by image: {problem}")
    before = first.predicted == first.labels
    after = second.predicted == second.labels
    return ModelDiff(
        first=first,
        second=second,
        fixed=np.flatnonzero(~before & after),
        broken=np.flatnonzero(before & ~after),
        both_wrong=np.flatnonzero(~before & ~after),
        both_right=np.flatnonzero(before & after),
    )


def mcnemar(fixed: int, broken: int) -> float:
    """McNemar's exact test: the two-sided binomial p-value of ``fixed`` against ``broken`` at 1/2.

    McNemar, Psychometrika 12 (1947), with the exact distribution: if the models were equally good,
    an image on which they differ would fall on either side like a coin. 1 where they never differ.
    """
    return math.exp(log_mcnemar(fixed, broken))


def log_mcnemar(fixed: int, broken: int) -> float:
    """ln of ``mcnemar``: summed in logarithms, any number of images is exact to floating point."""
    total, fewer = fixed + broken, min(fixed, broken)
    if 2 * fewer == total:
        return 0.0
    k = np.arange(fewer + 1)
    logs = np.array([_log_choose(total, int(i)) for i in k]) - total * math.log(2)
    largest = float(logs.max())
    tail = math.fsum(np.exp(logs - largest).tolist())
    return min(0.0, math.log(2 * tail) + largest)


def _log_choose(n: int, k: int) -> float:
    return math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1)


def _difference(first: Predictions, second: Predictions) -> str | None:
    """Why they are not of the same images."""
    if first.split != second.split:
        return f"one is of the {first.split} split, the other of the {second.split} split"
    shapes = first.probabilities.shape, second.probabilities.shape
    if shapes[0][1] != shapes[1][1]:
        return f"one knows {shapes[0][1]} classes, the other {shapes[1][1]}"
    if shapes[0][0] != shapes[1][0]:
        return f"one is of {shapes[0][0]:,} images, the other of {shapes[1][0]:,}"
    if first.fingerprint != second.fingerprint:
        return (
            "they are of different test images "
            f"(checksums {first.fingerprint[:8]} and {second.fingerprint[:8]})"
        )
    if not np.array_equal(first.labels, second.labels):
        return "their labels differ although the checksum is the same: one file is damaged"
    return None
