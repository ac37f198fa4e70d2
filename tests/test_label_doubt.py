"""Label doubts: by hand, and a naive loop."""

from __future__ import annotations

import numpy as np
import pytest

from trainer.analysis.label_doubt import label_doubt


def test_by_hand() -> None:
    probabilities = np.array([[0.9, 0.1], [0.7, 0.3], [0.2, 0.8], [0.6, 0.4]])
    labels = np.array([0, 0, 1, 1])
    found = label_doubt(probabilities, labels)
    # class 0: (0.9 + 0.7) / 2, class 1: (0.8 + 0.4) / 2
    assert found.thresholds.tolist() == pytest.approx([0.8, 0.6])
    # image 1: 0.3 / 0.6 of class 1 against 0.7 / 0.8
    assert found.score[1] == pytest.approx(0.5 / (0.5 + 0.875))
    # image 3, labelled 1: 0.6 / 0.8 against 0.4 / 0.6
    assert found.score[3] == pytest.approx(0.75 / (0.75 + 0.4 / 0.6))
    assert found.rather.tolist() == [1, 1, 0, 0]
    assert found.score.argmax() == 3
    assert not found.doubtful.any(), "0.6 is less than usual for class 0"


def test_off_the_diagonal_of_the_confident_joint() -> None:
    probabilities = np.array([[0.9, 0.1], [0.7, 0.3], [0.2, 0.8], [0.95, 0.05]])
    found = label_doubt(probabilities, np.array([0, 0, 1, 1]))
    assert found.doubtful.tolist() == [False, False, False, True]
    assert found.score[3] > 0.5


def test_against_a_loop() -> None:
    random = np.random.default_rng(0)
    p = random.dirichlet(np.full(5, 0.3), 300).astype(np.float16)
    labels = np.where(random.random(300) < 0.8, p.argmax(1), random.integers(0, 5, 300))
    found = label_doubt(p, labels)
    wide = p.astype(float)
    usual = [wide[labels == k, k].mean() for k in range(5)]
    for i, label in enumerate(labels):
        ratio = [max(wide[i, k], 2**-24) / usual[k] for k in range(5)]
        other = max(ratio[k] for k in range(5) if k != label)
        assert found.score[i] == pytest.approx(other / (other + ratio[label]))
        assert found.rather[i] != label
        sure = [k for k in range(5) if wide[i, k] >= usual[k]]
        best = max(sure, key=lambda k: wide[i, k], default=label)
        assert found.doubtful[i] == (best != label)
    assert 0 <= found.score.min() <= found.score.max() <= 1


def test_edges() -> None:
    one = label_doubt(np.ones((3, 1)), np.zeros(3, np.int64))
    assert one.score.tolist() == [0, 0, 0]
    none = label_doubt(np.empty((0, 3)), np.empty(0, np.int64))
    assert len(none.score) == 0
    nothing = label_doubt(np.zeros((2, 2)), np.array([0, 1]))
    assert nothing.score.tolist() == [0.5, 0.5]
