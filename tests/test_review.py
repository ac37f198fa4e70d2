"""Label reviews: who is doubted, what people would rather say, files that are refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from tests.data_helpers import entry, shared_file
from trainer.analysis import review
from trainer.analysis.review import Review
from trainer.errors import DataError

CLASSES = ("cat", "deer", "dog")
LABELS = np.array([0, 1, 2, 0, 1, 2], np.int64)


ENTRIES = [
    entry(3, 0, 2, (2, 3, 0, 0)),
    entry(0, 0, 1, (3, 1, 0, 1)),
    entry(1, 1, 0, (0, 1, 3, 1)),
    entry(5, 2, 0, (1, 1, 0, 3)),
]


@pytest.fixture
def found(tmp_path: Path) -> Review:
    path = tmp_path / "review.json"
    path.write_text(json.dumps(ENTRIES))
    return review.load(path, LABELS, 3)


def test_doubts_and_what_people_would_rather_say(found: Review) -> None:
    assert [e.index for e in found.entries] == [0, 1, 3, 5]
    assert found.doubtful.tolist() == [False, True, False, True, False, True]
    says = {i: e.says(CLASSES) for i, e in found.by_index.items()}
    assert says == {0: "cat", 1: "neither deer nor cat", 3: "dog", 5: "dog and cat"}


def test_half_of_the_votes_are_enough_for_a_label() -> None:
    votes = review.Votes(given=2, guessed=2, neither=0, both=0)
    assert not review.Reviewed(0, 0, 1, votes).doubtful
    nobody = review.Votes(given=0, guessed=0, neither=0, both=0)
    assert not review.Reviewed(0, 0, 1, nobody).doubtful


def test_accuracy_with_and_without(found: Review) -> None:
    predicted = np.array([0, 0, 2, 2, 0, 2])  # wrong: 1 as neither says, 3 as people say, 4 plainly
    figures = review.accuracy(LABELS, predicted, found)
    assert (figures.images, figures.doubtful) == (6, 3)
    assert figures.with_doubtful == 3 / 6
    assert figures.without_doubtful == 2 / 3
    assert (figures.doubtful_wrong, figures.as_people) == (2, 1)


def test_who_predicts_one_of_both_says_what_people_say(found: Review) -> None:
    # of image 5 most people find both right, the label and what the algorithm guessed
    for predicted, as_people in ((0, 1), (1, 0)):
        figures = review.accuracy(LABELS, np.array([0, 1, 2, 0, 1, predicted]), found)
        assert (figures.doubtful_wrong, figures.as_people) == (1, as_people)


def test_accuracy_of_nothing() -> None:
    none = np.empty(0, np.int64)
    figures = review.accuracy(none, none, Review(0, ()))
    assert (figures.with_doubtful, figures.without_doubtful) == (None, None)


@pytest.mark.parametrize(
    ("entries", "part"),
    [
        ({"id": 3}, "Expected `array`"),
        ([1], "Expected `object`"),
        ([{"id": 3}], "missing required field"),
        ([entry(6, 0, 1, (5, 0, 0, 0))], "entry 1: index 6 is outside 0 to 5"),
        ([ENTRIES[0], entry(-1, 0, 1, (5, 0, 0, 0))], "entry 2: index -1 is outside"),
        ([ENTRIES[0], ENTRIES[0]], "index 3 comes twice"),
        ([entry(0, 0, 3, (5, 0, 0, 0))], "class 3 is outside 0 to 2"),
        ([entry(0, 1, 2, (5, 0, 0, 0))], "has the label 0 here, not 1"),
        ([entry(0, 0, 2, (5, 0, 0, -1))], "Expected `int` >= 0"),
        ([entry(0, 0, 2, (5, 0, 0, 0), id="0")], "Expected `int`, got `str`"),
    ],
)
def test_reviews_that_do_not_fit(tmp_path: Path, entries: object, part: str) -> None:
    path = tmp_path / "review.json"
    path.write_text(json.dumps(entries))
    assert part in refused(path)


def refused(path: Path) -> str:
    with pytest.raises(DataError) as caught:
        review.load(path, LABELS, 3)
    line = str(caught.value)
    assert line.startswith("review file")
    assert "\n" not in line
    return line


def test_files_that_are_no_review(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "review.json"
    assert "No such file" in refused(path)
    assert "folder" in refused(tmp_path)
    damages: list[Callable[[bytes], bytes]] = [
        lambda raw: b"",
        lambda raw: raw[:-9],
        lambda raw: b"\xff" + raw,
        lambda raw: b"[" * 100_000,
    ]
    for damage in damages:
        path.write_bytes(damage(json.dumps(ENTRIES).encode()))
        assert "no label review" in refused(path)
    monkeypatch.setattr(review, "LARGEST_FILE", 10)
    assert "at most 10" in refused(path)


@pytest.mark.shared_data
def test_the_review_of_cifar10() -> None:
    path = shared_file("cifar10-label-review.json")
    labels = np.zeros(10_000, np.int64)
    for one in json.loads(path.read_text()):
        labels[one["id"]] = one["given_original_label"]
    found = review.load(path, labels, 10)
    assert len(found) == 275
    assert found.doubtful.sum() == 54, "as many as the paper's table 1 says were confirmed"
