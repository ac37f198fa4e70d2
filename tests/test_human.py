"""People's answers: hand-made counts, independent figures, files that are refused."""

from __future__ import annotations

import math
import os
import pickle
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.data_helpers import shared_file
from trainer.analysis import human, mistakes
from trainer.analysis.human import People
from trainer.errors import DataError
from trainer.runs.predictions import Predictions

LABELS = np.array([0, 0, 1, 2, 1], np.int64)
COUNTS = np.array([[9, 1, 0], [8, 1, 1], [10, 0, 0], [5, 0, 5], [0, 0, 0]], np.int64)


@pytest.fixture
def people() -> People:
    """0 sure, 1 in doubt, 2 sure of another class, 3 undecided, 4 nobody was asked."""
    return People(COUNTS, LABELS)


def test_figures_of_each_image(people: People) -> None:
    assert people.agreement[:4].tolist() == [0.9, 0.8, 0.0, 0.5]
    assert math.isnan(people.agreement[4])
    assert people.asked.tolist() == [10, 10, 10, 10, 0]
    assert people.shares[1].tolist() == [0.8, 0.1, 0.1]
    assert people.rather[:4].tolist() == [0, 0, 0, 2], "the label when as many say it"
    assert people.sure.tolist() == [True, False, False, False, False]
    assert people.doubt.tolist() == [False, True, True, True, False]
    assert people.entropy[3] == pytest.approx(math.log(2)), "nats"
    assert people.entropy[2] == 0
    assert math.isnan(people.entropy[4])


def test_entropy_against_scipy() -> None:
    scipy_stats = pytest.importorskip("scipy.stats")
    counts = np.random.default_rng(0).integers(0, 9, (50, 10)) + np.eye(10, dtype=int)[0]
    found = People(counts.astype(np.int64), np.zeros(50, np.int64)).entropy
    assert found == pytest.approx(scipy_stats.entropy(counts, axis=1))


def test_quadrants(people: People) -> None:
    wrong = np.array([False, True, True, False, True])
    found = human.quadrants(wrong, people)
    assert found.wrong_sure.tolist() == []
    assert found.wrong_doubt.tolist() == [1, 2]
    assert found.right_sure.tolist() == [0]
    assert found.right_doubt.tolist() == [3]
    assert found.unasked.tolist() == [4]
    assert found.counts == {
        "wrong_sure": 0,
        "wrong_doubt": 2,
        "right_sure": 1,
        "right_doubt": 1,
        "unasked": 1,
    }
    assert found.doubted_share == 1
    assert human.quadrants(~wrong, people).wrong_sure.tolist() == [0]
    assert human.quadrants(np.zeros(5, np.bool_), people).doubted_share is None


def test_a_file_in_another_order_is_noticed(people: People) -> None:
    assert people.notice == ""
    rolled = People(COUNTS, np.array([1, 1, 2, 1, 1], np.int64))
    assert "another order" in rolled.notice
    assert "no answers" in People(np.zeros((5, 3), np.int64), LABELS).notice


@given(
    st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5)), min_size=2, max_size=40),
)
@settings(max_examples=100, deadline=None)
def test_spearman_against_scipy(pairs: list[tuple[int, int]]) -> None:
    stats = pytest.importorskip("scipy.stats")
    first, second = np.array(pairs, np.float64).T
    found = human.spearman(first, second)
    if len(set(first)) == 1 or len(set(second)) == 1:
        assert found is None
    else:
        assert found == pytest.approx(stats.spearmanr(first, second).statistic, abs=1e-12)


def test_correlation_leaves_out_whom_nobody_was_asked_about(people: People) -> None:
    probabilities = np.array(
        [[0.9, 0.1, 0], [0.7, 0.2, 0.1], [1, 0, 0], [0.4, 0.3, 0.3], [0.4, 0.3, 0.3]], np.float16
    )
    images = mistakes.table(Predictions(probabilities, LABELS, "test", "", 1))
    # model: 0.9/0.1 < 0.7/0.2/0.1 < 0.4/0.3/0.3, 1.0 least; people: 2 < 0 < 1 < 3
    assert human.entropy_correlation(images.entropy, people) == pytest.approx(
        np.corrcoef([2, 3, 1, 4], [2, 3, 1, 4])[0, 1]
    )
    assert human.spearman(np.array([1.0]), np.array([1.0])) is None


# ---- files ------------------------------------------------------------------------------------


def saved(path: Path, array: np.ndarray[tuple[int, ...], np.dtype[np.generic]]) -> Path:
    np.save(path, array, allow_pickle=False)
    return path


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.int64, np.uint64])
def test_whole_numbers_of_any_size(tmp_path: Path, dtype: type[np.generic]) -> None:
    found = human.load(saved(tmp_path / "h.npy", COUNTS.astype(dtype)), LABELS, 3)
    assert found.counts.tolist() == COUNTS.tolist()
    assert found.counts.dtype == np.int64


@pytest.mark.parametrize(
    ("array", "part"),
    [
        (COUNTS[:4], "shape [4, 3], but these predictions need [5, 3]"),
        (COUNTS[:, :2], "[5, 2]"),
        (COUNTS.reshape(-1), "[15]"),
        (COUNTS / 10, "whole numbers are needed, not float64"),
        (COUNTS - 1, "counts outside 0"),
        (COUNTS > 1, "not bool"),
        (COUNTS.astype(np.uint64) + np.uint64(2**63), "counts outside 0"),
        (np.full((5, 3), "a"), "whole numbers"),
    ],
)
def test_wrong_arrays(
    tmp_path: Path, array: np.ndarray[tuple[int, ...], np.dtype[np.generic]], part: str
) -> None:
    assert part in refused(saved(tmp_path / "h.npy", array))


def refused(path: Path) -> str:
    with pytest.raises(DataError) as caught:
        human.load(path, LABELS, 3)
    line = str(caught.value)
    assert line.startswith("human file")
    assert "\n" not in line
    return line


class Hostile:
    def __reduce__(self) -> tuple[object, tuple[str, ...]]:
        return (exec, ("raise SystemExit('code of a file was run')",))


def test_files_that_are_no_array(tmp_path: Path) -> None:
    path = tmp_path / "h.npy"
    assert "No such file" in refused(path)
    assert "folder" in refused(tmp_path)
    for raw in (b"", b"\x93NUMPY", b"hello\n", pickle.dumps(Hostile())):
        path.write_bytes(raw)
        assert "no .npy" in refused(path)
    np.save(path, np.array([Hostile()], object), allow_pickle=True)
    assert "no .npy" in refused(path)
    np.savez(tmp_path / "h.npz", counts=COUNTS)
    assert "archive" in refused(tmp_path / "h.npz")


def test_damage(tmp_path: Path) -> None:
    path = saved(tmp_path / "h.npy", COUNTS)
    whole = path.read_bytes()
    path.write_bytes(whole[:-1])
    assert "damaged" in refused(path)
    path.write_bytes(whole.replace(b"(5, 3)", b"(9**9)"))
    refused(path)


def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    assert "no file" in refused(tmp_path / "pipe")


@pytest.mark.shared_data
def test_cifar10h() -> None:
    path = shared_file("cifar10h-counts.npy")
    counts = np.load(path, allow_pickle=False)
    people = human.load(path, counts.argmax(1).astype(np.int64), 10)
    assert people.asked.min() >= 40
    assert 0.8 < people.sure.mean() < 0.95
    assert people.notice == ""
