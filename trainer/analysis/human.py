"""What people say about the test images: counts as in CIFAR-10H. Torch-free.

CIFAR-10H: Peterson, Battleday, Griffiths, Russakovsky, "Human uncertainty makes classification
more robust", ICCV 2019: some 50 people labelled each test image of CIFAR-10.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from trainer.errors import DataError
from trainer.words import percent

SURE = 0.9
"""People are sure of a label when at least this share of them says it.

In CIFAR-10H people say something else than the label 5 % of the time, slips and doubts together.
Of 50 people, at 5 % slips alone, fewer than 4 % of the images would have more than 5 of them
against the label: below 0.9 it is the image, not the people. 88 % of the images reach it."""
LARGEST_FILE = 256 * 2**20
"""Bytes; CIFAR-10H takes 100 kB as uint8 and 800 kB as int64."""
IN_ORDER = 0.5
"""If people agree with fewer labels than this, the file probably has another order of images."""

Column = NDArray[np.float64]
Indices = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class People:
    """What people said about each of ``N`` test images, of ``C`` classes.

    ``counts`` int64 [N, C]: how many people said which class, at least 0; ``labels`` int64 [N].
    Images that nobody was asked about have counts of 0 only; their figures are not-a-number.
    """

    counts: NDArray[np.int64]
    labels: Indices

    def __len__(self) -> int:
        return len(self.counts)

    @cached_property
    def asked(self) -> NDArray[np.int64]:
        """How many people were asked about each image, int64 [N]."""
        asked: NDArray[np.int64] = self.counts.sum(1)
        return asked

    @cached_property
    def shares(self) -> Column:
        """The share of people who say each class, float64 [N, C]; rows sum to 1."""
        with np.errstate(invalid="ignore"):
            shares: Column = self.counts / self.asked[:, None]
        return shares

    @cached_property
    def agreement(self) -> Column:
        """The share of people who agree with the label, float64 [N], 0 to 1."""
        agreement: Column = self.shares[np.arange(len(self)), self.labels]
        return agreement

    @cached_property
    def entropy(self) -> Column:
        """Entropy of the people's distribution in nats, float64 [N]; 0: all say the same."""
        logs = np.log(np.where(self.shares > 0, self.shares, 1.0))
        # the order of the classes must not matter; + 0: never -0
        entropy: Column = (-(self.shares * logs).sum(1)).round(12) + 0.0
        return entropy

    @cached_property
    def rather(self) -> Indices:
        """The class that most people say, int64 [N]: of equally many the label, then the first."""
        rows = np.arange(len(self))
        most = self.counts.argmax(1).astype(np.int64)
        same = self.counts[rows, self.labels] == self.counts[rows, most]
        chosen: Indices = np.where(same, self.labels, most)
        return chosen

    @cached_property
    def sure(self) -> NDArray[np.bool_]:
        """Whether people are sure of the label, bool [N]: an agreement of ``SURE`` or more."""
        sure: NDArray[np.bool_] = self.agreement >= SURE
        return sure

    @cached_property
    def doubt(self) -> NDArray[np.bool_]:
        """Whether people doubt the label, bool [N]: agreement below ``SURE``.

        Also where they are sure of another class. Not the contrary of ``sure`` for images that
        nobody was asked about: these are neither.
        """
        doubt: NDArray[np.bool_] = self.agreement < SURE
        return doubt

    @property
    def notice(self) -> str:
        """What to know before these figures are believed; empty if nothing."""
        known = self.asked > 0
        if not known.any():
            return "the human file has no answers: all counts are 0"
        agree = float((self.rather == self.labels)[known].mean())
        if agree >= IN_ORDER:
            return ""
        return (
            f"most people's answer is the label of only {percent(agree, 0)} of the images: "
            "the human file may be in another order than these test images"
        )


@dataclass(frozen=True, eq=False)
class Quadrants:
    """Images by model and people, each int64 indices, ascending; together all that were asked.

    ``wrong_sure``: the model's own fault. ``wrong_doubt``: people doubt these labels too.
    ``right_sure``: easy. ``right_doubt``: the model has learned the label that people doubt.
    """

    wrong_sure: Indices
    wrong_doubt: Indices
    right_sure: Indices
    right_doubt: Indices
    unasked: Indices
    """Images without any answer."""

    @property
    def counts(self) -> dict[str, int]:
        """How many images are in each, by the names above."""
        return {name: len(value) for name, value in vars(self).items()}

    @property
    def doubted_share(self) -> float | None:
        """The share of the mistakes whose label people doubt too; ``None`` without mistakes."""
        total = len(self.wrong_sure) + len(self.wrong_doubt)
        return len(self.wrong_doubt) / total if total else None


def load(path: Path, labels: Indices, classes: int) -> People:
    """Read counts of answers, an ``.npy`` of whole numbers [N, C] in the order of the test images.

    Args:
        path: the file; nothing in it can run code.
        labels: int64 [N], the labels of the test images.
        classes: C.

    Raises:
        DataError: it is missing, too large, no such array, or of another number of images.
    """
    counts = _read(path)
    wanted = (len(labels), classes)
    if counts.dtype.kind not in "iu":
        raise DataError(f"human file {path}: whole numbers are needed, not {counts.dtype}")
    if counts.shape != wanted:
        raise DataError(
            f"human file {path} has the shape {list(counts.shape)}, but these predictions need "
            f"{list(wanted)}: one row for each test image, one count for each class"
        )
    if counts.size and (counts.min() < 0 or int(counts.max()) > 2**31):
        raise DataError(f"human file {path} has counts outside 0 to 2147483648")
    return People(np.array(counts, np.int64), labels)


def quadrants(wrong: NDArray[np.bool_], people: People) -> Quadrants:
    """Model right or wrong (bool [N]) by people sure or in doubt of the label."""
    return Quadrants(
        wrong_sure=np.flatnonzero(wrong & people.sure),
        wrong_doubt=np.flatnonzero(wrong & people.doubt),
        right_sure=np.flatnonzero(~wrong & people.sure),
        right_doubt=np.flatnonzero(~wrong & people.doubt),
        unasked=np.flatnonzero(people.asked == 0),
    )


def entropy_correlation(entropy: Column, people: People) -> float | None:
    """Spearman's rank correlation of the model's ``entropy``, [N], with the people's, -1 to 1.

    Ranks, because both are far from normal: most entropies are near 0. Ties get their mean rank.
    ``None`` where it is not defined: fewer than two images, or no variation.
    """
    known = people.asked > 0
    return spearman(entropy[known], people.entropy[known])


def spearman(first: Column, second: Column) -> float | None:
    """Spearman's rank correlation: Pearson's of the mean ranks; ``None`` if not defined."""
    if len(first) < 2:
        return None
    a, b = _ranks(first), _ranks(second)
    a, b = a - a.mean(), b - b.mean()
    scale = float(np.sqrt((a * a).sum() * (b * b).sum()))
    return float((a * b).sum()) / scale if scale else None


def _ranks(values: Column) -> Column:
    """Ranks from 1; equal values share the mean of their ranks."""
    _, place, counts = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    means = last - (counts - 1) / 2
    ranks: Column = means[place.reshape(-1)]
    return ranks


def _read(path: Path) -> NDArray[np.generic]:
    """The array of a file, as a map of it: a header that lies about its size takes no memory."""
    try:
        if path.is_dir():
            raise DataError(f"human file {path} is a folder: give an .npy file")
        size = path.stat().st_size
        if not path.is_file():  # a pipe would be waited for
            raise DataError(f"human file {path} is no file")
        if size > LARGEST_FILE:
            raise DataError(f"human file {path} has {size:,} bytes, at most {LARGEST_FILE:,}")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # numpy warns of some damage before it raises
            found = np.load(path, mmap_mode="r", allow_pickle=False)
    except DataError:
        raise
    except OSError as error:
        reason = error.strerror or "damaged"
        raise DataError(f"human file {path} cannot be read: {reason}") from None
    except Exception:  # a damaged header raises nearly anything
        raise DataError(f"human file {path} is no .npy of numbers, or is damaged") from None
    if not isinstance(found, np.ndarray):
        found.close()
        raise DataError(f"human file {path} is an archive of arrays: give one .npy")
    return found
