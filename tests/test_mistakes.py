"""Sorting, filtering, counting: hand-made cases, naive loops, round trips."""

from __future__ import annotations

import csv
import math
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trainer.analysis import confusion as confusions
from trainer.analysis import mistakes
from trainer.analysis.mistakes import SORTS, History, Mistakes, Sort
from trainer.analysis.mistakes_filter import EVERYTHING, Bound, Filter, parse_filter
from trainer.errors import ConfigError
from trainer.predictions import Predictions

CLASSES = ("cat", "deer", "dog")


def predictions(
    probabilities: list[list[float]], labels: list[int], *, epoch: int = 1
) -> Predictions:
    return Predictions(
        probabilities=np.array(probabilities, np.float16).reshape(len(labels), -1),
        labels=np.array(labels, np.int64),
        split="test",
        fingerprint="0" * 64,
        epoch=epoch,
    )


@pytest.fixture
def images() -> Mistakes:
    """0 right; 1 and 4 the same mistake; 2 sure and wrong; 3 in doubt and wrong; 5 right."""
    return mistakes.table(
        predictions(
            [
                [0.875, 0.125, 0.0],
                [0.25, 0.125, 0.625],
                [0.0, 0.0, 1.0],
                [0.3125, 0.375, 0.3125],
                [0.25, 0.125, 0.625],
                [0.125, 0.125, 0.75],
            ],
            [0, 0, 1, 2, 0, 2],
        )
    )


def test_the_columns(images: Mistakes) -> None:
    assert images.wrong.tolist() == [False, True, True, True, True, False]
    assert images.confidence.tolist() == [0.875, 0.625, 1.0, 0.375, 0.625, 0.75]
    assert images.p_actual.tolist() == [0.875, 0.25, 0.0, 0.3125, 0.25, 0.75]
    assert images.margin.tolist() == [0.75, -0.375, -1.0, -0.0625, -0.375, 0.625]
    assert images.loss[1] == pytest.approx(-math.log(0.25))
    assert images.loss[2] == pytest.approx(24 * math.log(2)), "a stored 0 is at most 2**-24"
    assert images.entropy[2] == 0
    assert images.entropy[0] == pytest.approx(-0.875 * math.log(0.875) - 0.125 * math.log(0.125))
    assert images.classes == 3


@pytest.mark.parametrize(
    ("sort", "order"),
    [
        ("confidence", [2, 1, 4, 3]),
        ("loss", [2, 1, 4, 3]),
        ("margin", [2, 1, 4, 3]),
        ("entropy", [3, 1, 4, 2]),
        ("index", [1, 2, 3, 4]),
    ],
)
def test_orders_are_stable(images: Mistakes, sort: Sort, order: list[int]) -> None:
    assert mistakes.select(images, sort=sort).tolist() == order
    assert mistakes.select(images, sort=sort, reverse=True).tolist() == order[::-1]


def test_all_images_by_margin(images: Mistakes) -> None:
    chosen = mistakes.select(images, sort="margin", wrong_only=False)
    assert chosen.tolist() == [2, 1, 4, 3, 5, 0]


@pytest.mark.parametrize(
    ("line", "indices"),
    [
        ("", [1, 2, 3, 4]),
        ("cat>dog", [1, 4]),
        ("CAT→DOG", [1, 4]),
        ("c>", [1, 4]),
        ("cat>*", [1, 4]),
        (">dog", [1, 2, 4]),
        ("de>do", [2]),
        ("cat>deer", []),
        ("deer", [2, 3]),
        ("deer,dog>", [2, 3]),
        ("dog>deer deer>dog", [2, 3]),
        ("*>*", [1, 2, 3, 4]),
        ("conf>0.5", [1, 2, 4]),
        ("conf>0.625", [2]),
        ("conf>=0.625", [1, 2, 4]),
        ("conf>=.5 conf<1", [1, 4]),
        ("conf<=37.5%", [3]),
        ("actual<0.3", [1, 2, 4]),
        ("loss>2", [2]),
        ("margin>-0.5", [1, 3, 4]),
        ("entropy>1", [3]),
        ("#2", [2]),
        ("#0", []),
        ("#2-4", [2, 3, 4]),
        ("#1 #4..9", [1, 4]),
        ("cat>dog conf>0.5 loss<2 #4", [4]),
    ],
)
def test_filters(images: Mistakes, line: str, indices: list[int]) -> None:
    where = parse_filter(line, CLASSES)
    assert mistakes.select(images, sort="index", where=where).tolist() == indices
    assert parse_filter(where.text(CLASSES), CLASSES) == where


def test_a_filter_over_all_images(images: Mistakes) -> None:
    where = parse_filter("cat>", CLASSES)
    chosen = mistakes.select(images, sort="index", where=where, wrong_only=False)
    assert chosen.tolist() == [0, 1, 4]


@pytest.mark.parametrize(
    ("line", "part"),
    [
        ("d>cat", "'d' is deer or dog"),
        ("zebra", "nothing known as 'zebra'; classes: cat, deer, dog"),
        ("size>3", "nothing known as 'size'"),
        ("conf>high", "nothing known as 'conf'"),
        ("#", "# is no index"),
        ("#x", "#x is no index"),
        ("#9-3", "ends before it begins"),
        ("cat>dog>cat", "nothing known as 'dog>cat'"),
        ("@3", "nothing known as '@3'"),
        ("\x1b[31m", "nothing known as"),
    ],
)
def test_filters_that_are_not_understood(line: str, part: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_filter(line, CLASSES)
    assert part in str(caught.value)
    assert "\n" not in str(caught.value)
    assert "\x1b" not in str(caught.value)


def test_a_name_that_begins_another_is_found() -> None:
    assert parse_filter("cat>", ("cattle", "cat")).confusions == (((1,), ()),)


def test_digits_as_class_names() -> None:
    assert parse_filter("3>8 a>1", ("1", "3", "8", "a")).confusions == (
        ((1,), (2,)),
        ((3,), (0,)),
    )


_names = st.lists(st.text(min_size=1, max_size=6), min_size=2, max_size=5)


@st.composite
def _filters(draw: st.DrawFn) -> tuple[tuple[str, ...], Filter]:
    names = mistakes.class_names(draw(_names), 6)
    some = st.lists(st.integers(0, 5), max_size=3, unique=True).map(lambda x: tuple(sorted(x)))
    confusion = st.tuples(some, some).filter(any)
    ranges = st.tuples(st.integers(0, 99), st.integers(0, 99)).map(lambda p: (min(p), max(p)))
    bound = st.builds(
        Bound,
        st.sampled_from(["confidence", "p_actual", "loss", "margin", "entropy"]),
        st.sampled_from([">", ">=", "<", "<="]),
        st.floats(-100, 100),
    )
    return names, Filter(
        tuple(draw(st.lists(confusion, max_size=3))),
        tuple(draw(st.lists(ranges, max_size=2))),
        tuple(draw(st.lists(bound, max_size=2))),
    )


@given(_filters())
@settings(max_examples=200, deadline=None)
def test_every_filter_can_be_typed(case: tuple[tuple[str, ...], Filter]) -> None:
    names, where = case
    assert parse_filter(where.text(names), names) == where


# ---- the matrix -------------------------------------------------------------------------------


@given(
    st.integers(2, 6).flatmap(
        lambda c: st.tuples(
            st.just(c),
            st.lists(st.tuples(st.integers(0, c - 1), st.integers(0, c - 1)), max_size=60),
        )
    )
)
@settings(max_examples=100, deadline=None)
def test_confusion_and_figures_against_loops(case: tuple[int, list[tuple[int, int]]]) -> None:
    classes, pairs = case
    labels = np.array([a for a, _ in pairs], np.int64)
    predicted = np.array([p for _, p in pairs], np.int64)
    matrix = confusions.confusion(labels, predicted, classes)
    naive = [[0] * classes for _ in range(classes)]
    for a, p in pairs:
        naive[a][p] += 1
    assert matrix.tolist() == naive
    for k, figures in enumerate(confusions.per_class(matrix)):
        true = sum(a == p == k for a, p in pairs)
        false_positive = sum(p == k != a for a, p in pairs)
        false_negative = sum(a == k != p for a, p in pairs)
        assert (figures.correct, figures.images) == (true, true + false_negative)
        precision = true / (true + false_positive) if true + false_positive else None
        recall = true / (true + false_negative) if true + false_negative else None
        assert (figures.precision, figures.recall) == (precision, recall)
        if precision is None and recall is None:
            assert figures.f1 is None
        elif precision and recall:
            assert figures.f1 == pytest.approx(2 * precision * recall / (precision + recall))
        else:
            assert figures.f1 == 0
    ranked = confusions.most_confused(matrix, None)
    counts = {(a, p): naive[a][p] for a in range(classes) for p in range(classes) if a != p}
    expected = sorted((k for k in counts if counts[k]), key=lambda k: (-counts[k], k))
    assert [(pair.actual, pair.predicted) for pair in ranked] == expected
    assert all(pair.share == pair.count / sum(naive[pair.actual]) for pair in ranked)


def test_row_shares_and_top() -> None:
    matrix = np.array([[8, 2, 0], [1, 0, 3], [0, 0, 0]], np.int64)
    assert confusions.row_shares(matrix).tolist() == [[0.8, 0.2, 0], [0.25, 0, 0.75], [0, 0, 0]]
    top = confusions.most_confused(matrix, 2)
    assert [(p.actual, p.predicted, p.count, p.share) for p in top] == [
        (1, 2, 3, 0.75),
        (0, 1, 2, 0.2),
    ]
    last = confusions.per_class(matrix)[2]
    assert (last.recall, last.precision, last.f1) == (None, 0.0, 0.0)


# ---- rows, history, speed ---------------------------------------------------------------------


def test_rows_name_their_split(images: Mistakes) -> None:
    listed = mistakes.rows(images, mistakes.select(images), ("cat", "de\ner", "dog"))
    assert listed[0] == {
        "index": 2,
        "actual": "de\ner",
        "predicted": "dog",
        "p_predicted": 1.0,
        "p_actual": 0.0,
        "loss": pytest.approx(16.6355, abs=1e-3),
        "split": "test",
    }
    read = list(csv.DictReader(mistakes.to_csv(listed).splitlines()))
    assert tuple(read[0]) == mistakes.FIELDS
    assert [row["index"] for row in read] == ["2", "1", "4", "3"]
    assert {row["split"] for row in read} == {"test"}
    assert read[0]["actual"] == "de\N{REPLACEMENT CHARACTER}er"


def test_class_names_of_a_log_are_padded_and_printable() -> None:
    assert mistakes.class_names(["a\x1b[0m"], 3) == (
        "a\N{REPLACEMENT CHARACTER}[0m",
        "class 1",
        "class 2",
    )


def test_history() -> None:
    history = History()
    history.add(predictions([[0.75, 0.25], [0.5, 0.5]], [1, 0], epoch=1))
    history.add(predictions([[0.25, 0.75]], [1], epoch=3))
    assert len(history) == 2
    moments = [(m.epoch, m.right, m.p_actual) for m in history.of(0)]
    assert moments == [(1, False, 0.25), (3, True, 0.75)]
    assert [m.epoch for m in history.of(1)] == [1]
    assert history.of(2) == history.of(-1) == []


def test_no_images() -> None:
    images = mistakes.table(
        Predictions(np.empty((0, 3), np.float16), np.empty(0, np.int64), "test", "", 1)
    )
    assert all(len(mistakes.select(images, sort=sort)) == 0 for sort in SORTS)


def test_ten_thousand_images_in_a_blink() -> None:
    random = np.random.default_rng(0)
    raw = random.random((10_000, 10)).astype(np.float32)
    found = Predictions(
        (raw / raw.sum(1, keepdims=True)).astype(np.float16),
        random.integers(0, 10, 10_000),
        "test",
        "",
        1,
    )
    names = mistakes.class_names([f"c{i}" for i in range(10)], 10)
    best = math.inf
    for _ in range(3):  # the machine may be busy: the best of three counts
        began = time.perf_counter()
        images = mistakes.table(found)
        where = parse_filter("c1>c2 conf>0.1 loss>1", names)
        for sort in SORTS:
            mistakes.select(images, sort=sort, where=where)
        confusions.per_class(confusions.confusion(images.actual, images.predicted, 10))
        best = min(best, time.perf_counter() - began)
    assert best < 0.1
    assert len(mistakes.select(images, where=EVERYTHING)) == len(found.wrong)
