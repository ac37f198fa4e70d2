"""Two models: hand-made cases, McNemar against scipy, different test sets refused."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trainer.analysis import model_diff
from trainer.analysis.confusion import confusion
from trainer.analysis.model_diff import mcnemar
from trainer.errors import RunError
from trainer.runs.predictions import Predictions


def predicting(predicted: list[int], labels: list[int]) -> Predictions:
    return Predictions(
        probabilities=np.eye(3, dtype=np.float16)[predicted],
        labels=np.array(labels, np.int64),
        split="test",
        fingerprint="a" * 64,
        epoch=1,
    )


LABELS = [0, 0, 1, 1, 2, 2]
FIRST = predicting([0, 1, 1, 0, 0, 1], LABELS)
SECOND = predicting([1, 0, 1, 1, 0, 0], LABELS)


def test_each_image_is_in_one_list() -> None:
    found = model_diff.compare(FIRST, SECOND)
    assert found.fixed.tolist() == [1, 3]
    assert found.broken.tolist() == [0]
    assert found.both_wrong.tolist() == [4, 5]
    assert found.both_right.tolist() == [2]
    assert found.same_mistake.tolist() == [4]
    assert found.counts == {"fixed": 2, "broken": 1, "both_wrong": 2, "both_right": 1}
    assert found.p_value == 1.0


def test_difference_of_confusions() -> None:
    found = model_diff.compare(FIRST, SECOND).confusion
    assert found.tolist() == [[0, 0, 0], [-1, 1, 0], [1, -1, 0]]
    second = confusion(SECOND.labels, SECOND.predicted, 3)
    assert (confusion(FIRST.labels, FIRST.predicted, 3) + found).tolist() == second.tolist()


@pytest.mark.parametrize(
    ("fixed", "words"),
    [(0, "p = 1"), (8, "p = 0.00781"), (60, "p = 1.73e-18"), (3000, "p < 1e-300")],
)
def test_a_p_value_in_words_is_never_0(fixed: int, words: str) -> None:
    labels = [0] * max(1, fixed)
    wrong = predicting([1] * len(labels), labels)
    second = predicting([0 if fixed else 1] * len(labels), labels)
    found = model_diff.compare(wrong, second)
    assert len(found.fixed) == fixed
    assert found.p_words == words


@given(st.integers(0, 400), st.integers(0, 400))
@settings(max_examples=150, deadline=None)
def test_mcnemar_against_scipy(fixed: int, broken: int) -> None:
    stats = pytest.importorskip("scipy.stats")
    expected = stats.binomtest(fixed, fixed + broken, 0.5).pvalue if fixed + broken else 1.0
    assert mcnemar(fixed, broken) == pytest.approx(expected, rel=1e-9)
    assert mcnemar(fixed, broken) == mcnemar(broken, fixed)


@pytest.mark.parametrize(("fixed", "broken"), [(5400, 5000), (6000, 5000), (9000, 10)])
def test_mcnemar_of_many_images(fixed: int, broken: int) -> None:
    stats = pytest.importorskip("scipy.stats")
    expected = stats.binomtest(fixed, fixed + broken, 0.5).pvalue
    assert mcnemar(fixed, broken) == pytest.approx(expected, rel=1e-7)


def test_mcnemar_by_hand() -> None:
    assert mcnemar(0, 0) == 1
    assert mcnemar(3, 3) == 1
    assert mcnemar(6, 0) == pytest.approx(2 / 64)
    assert mcnemar(1, 5) == pytest.approx(2 * 7 / 64)
    assert 0 <= mcnemar(10_000, 0) < math.exp(-5000 * math.log(2) / 10)


@pytest.mark.parametrize(
    ("other", "part"),
    [
        (replace(SECOND, fingerprint="b" * 64), "different test images (checksums aaaaaaaa and bb"),
        (replace(SECOND, split="train"), "one is of the test split"),
        (predicting([0], [0]), "one is of 6 images, the other of 1"),
        (replace(SECOND, labels=np.zeros(6, np.int64)), "labels differ"),
        (
            Predictions(np.eye(4, dtype=np.float16)[[0] * 6], SECOND.labels, "test", "a" * 64, 1),
            "one knows 3 classes, the other 4",
        ),
    ],
)
def test_other_test_images_are_refused(other: Predictions, part: str) -> None:
    with pytest.raises(RunError) as caught:
        model_diff.compare(FIRST, other)
    assert part in str(caught.value)
    assert "\n" not in str(caught.value)
