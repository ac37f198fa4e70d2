"""Reviews by people of labels that an algorithm doubted. Torch-free.

The format of label-errors: Northcutt, Athalye, Mueller, "Pervasive label errors in test sets
destabilize machine learning benchmarks", NeurIPS 2021: five people saw each image with two labels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Annotated, Literal

import msgspec
import numpy as np
from msgspec import Meta
from numpy.typing import NDArray

from trainer.errors import DataError

LARGEST_FILE = 32 * 2**20
"""Bytes; the review of CIFAR-10 takes 56 kB."""

Rather = Literal["given", "guessed", "both", "neither"]
Indices = NDArray[np.int64]
_Whole = Annotated[int, Meta(ge=0, le=2**31)]


class Votes(msgspec.Struct, frozen=True, kw_only=True):
    """How many people find which label right."""

    given: _Whole
    guessed: _Whole
    neither: _Whole
    both: _Whole


class _Entry(msgspec.Struct, frozen=True, kw_only=True):
    """An entry of the file; names of classes in it are not needed."""

    id: int
    given_original_label: int
    our_guessed_label: int
    mturk: Votes


@dataclass(frozen=True)
class Reviewed:
    """The review of one image."""

    index: int
    """In the test split."""
    given: int
    """The label."""
    guessed: int
    """The class that the algorithm proposed instead."""
    votes: Votes

    @property
    def doubtful(self) -> bool:
        """Whether fewer than half of the people find the label alone right, as in the paper."""
        votes = self.votes
        return 2 * votes.given < votes.given + votes.guessed + votes.neither + votes.both

    @property
    def rather(self) -> Rather:
        """What most people say: the label, the guess, both of them, or neither.

        Of a doubtful label the most frequent answer that is not the label; of equally frequent
        ones the guess, then both.
        """
        if not self.doubtful:
            return "given"
        others: tuple[Rather, ...] = ("guessed", "both", "neither")
        return max(others, key=lambda answer: int(getattr(self.votes, answer)))

    def says(self, classes: Sequence[str]) -> str:
        """What people would rather say, in words: ``dog``, ``cat and dog``, ``neither …``."""
        given, guessed = classes[self.given], classes[self.guessed]
        return {
            "given": given,
            "guessed": guessed,
            "both": f"{given} and {guessed}",
            "neither": f"neither {given} nor {guessed}",
        }[self.rather]


@dataclass(frozen=True, eq=False)
class Review:
    """Reviews of some of ``N`` test images."""

    images: int
    """N."""
    entries: tuple[Reviewed, ...]

    def __len__(self) -> int:
        return len(self.entries)

    @cached_property
    def by_index(self) -> dict[int, Reviewed]:
        """Each review by the index of its image."""
        return {entry.index: entry for entry in self.entries}

    @cached_property
    def doubtful(self) -> NDArray[np.bool_]:
        """Which labels people doubt, bool [N]; labels without a review are taken as right."""
        mask = np.zeros(self.images, np.bool_)
        mask[[entry.index for entry in self.entries if entry.doubtful]] = True
        return mask


@dataclass(frozen=True)
class ReviewedAccuracy:
    """Accuracy with and without the doubtful labels."""

    images: int
    doubtful: int
    """Images whose labels people doubt."""
    with_doubtful: float | None
    """Accuracy over all images; ``None`` of no images, here and below."""
    without_doubtful: float | None
    """Accuracy over the images whose labels people do not doubt."""
    doubtful_wrong: int
    """Mistakes among the doubtful labels."""
    as_people: int
    """Those of them where the model predicts what the people would rather say."""


def load(path: Path, labels: Indices, classes: int) -> Review:
    """Read a review, a JSON list of objects with ``id``, ``given_original_label``,
    ``our_guessed_label`` and ``mturk`` (votes ``given``, ``guessed``, ``neither``, ``both``).

    Args:
        path: the file.
        labels: int64 [N], the labels of the test images.
        classes: how many there are.

    Raises:
        DataError: it is missing, too large or no such JSON, an index or class is out of range or
            comes twice, or a label is not that of the test image.
    """
    raw = _read(path)
    try:
        found = msgspec.json.decode(raw, type=list[_Entry])
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        reason = (str(error).splitlines() or ["damaged"])[0][:120]
        raise DataError(f"review file {path} is no label review: {reason}") from None
    seen: set[int] = set()
    for number, entry in enumerate(found, 1):
        where = f"review file {path}, entry {number}"
        if not 0 <= entry.id < len(labels):
            raise DataError(f"{where}: index {entry.id} is outside 0 to {len(labels) - 1}")
        if entry.id in seen:
            raise DataError(f"{where}: index {entry.id} comes twice")
        seen.add(entry.id)
        for label in (entry.given_original_label, entry.our_guessed_label):
            if not 0 <= label < classes:
                raise DataError(f"{where}: class {label} is outside 0 to {classes - 1}")
        if entry.given_original_label != labels[entry.id]:
            raise DataError(
                f"{where}: image {entry.id} has the label {labels[entry.id]} here, not "
                f"{entry.given_original_label}: the review is of other test images"
            )
    return Review(
        len(labels),
        tuple(
            Reviewed(e.id, e.given_original_label, e.our_guessed_label, e.mturk)
            for e in sorted(found, key=lambda e: e.id)
        ),
    )


def accuracy(labels: Indices, predicted: Indices, review: Review) -> ReviewedAccuracy:
    """Accuracy of predictions (int64 [N] as ``labels``) with and without doubtful labels."""
    right = labels == predicted
    sound = right[~review.doubtful]
    wrong = [e for e in review.entries if e.doubtful and not right[e.index]]
    return ReviewedAccuracy(
        images=len(labels),
        doubtful=int(review.doubtful.sum()),
        with_doubtful=float(right.mean()) if len(right) else None,
        without_doubtful=float(sound.mean()) if len(sound) else None,
        doubtful_wrong=len(wrong),
        as_people=sum(
            e.rather in ("guessed", "both") and int(predicted[e.index]) == e.guessed for e in wrong
        ),
    )


def _read(path: Path) -> bytes:
    try:
        if path.is_dir():
            raise DataError(f"review file {path} is a folder: give a JSON file")
        size = path.stat().st_size
        if not path.is_file():  # a pipe would be waited for
            raise DataError(f"review file {path} is no file")
        if size > LARGEST_FILE:
            raise DataError(f"review file {path} has {size:,} bytes, at most {LARGEST_FILE:,}")
        return path.read_bytes()
    except OSError as error:
        reason = error.strerror or "damaged"
        raise DataError(f"review file {path} cannot be read: {reason}") from None
