"""Sorting, filtering, counting: hand-made cases, naive loops, round trips."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trainer.analysis import confusion as confusions
from trainer.analysis import mistakes
from trainer.analysis.human import People
from trainer.analysis.mistakes import SORTS, History, Mistakes, Sort
from trainer.analysis.mistakes_filter import FLAGS, Bound, Filter, parse_filter, select
from trainer.analysis.review import Review, Reviewed, Votes
from trainer.errors import ConfigError
from trainer.runs.predictions import Predictions

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


@pytest.fixture
def judged(images: Mistakes) -> Mistakes:
    """The same: people agree with 0.9, 0.5, 1.0, 0.2 of them, 4 nobody saw, 5 all say so."""
    counts = [[9, 1, 0], [5, 5, 0], [0, 10, 0], [8, 0, 2], [0, 0, 0], [0, 0, 10]]
    votes = {1: (1, 4, 0, 0), 2: (5, 0, 0, 0), 5: (2, 0, 3, 0)}
    entries = tuple(
        Reviewed(
            i,
            int(images.actual[i]),
            0,
            Votes(given=v[0], guessed=v[1], neither=v[2], both=v[3]),
        )
        for i, v in votes.items()
    )
    return images.beside(People(np.array(counts, np.int64), images.actual), Review(6, entries))


def test_the_columns(images: Mistakes) -> None:
    assert images.wrong.tolist() == [False, True, True, True, True, False]
    assert images.confidence.tolist() == [0.875, 0.625, 1.0, 0.375, 0.625, 0.75]
    assert images.p_actual.tolist() == [0.875, 0.25, 0.0, 0.3125, 0.25, 0.75]
    assert images.margin.tolist() == [0.75, -0.375, -1.0, -0.0625, -0.375, 0.625]
    assert images.loss[1] == pytest.approx(-math.log(0.25))
    assert images.loss[2] == pytest.approx(-math.log(1.5 * 2**-24)), (
        "a stored 0 or 2**-24 is less than 1.5 of it"
    )
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
        ("doubt", [3, 1, 4, 2]),
        ("index", [1, 2, 3, 4]),
    ],
)
def test_orders_are_stable(images: Mistakes, sort: Sort, order: list[int]) -> None:
    assert select(images, sort=sort).tolist() == order
    assert select(images, sort=sort, reverse=True).tolist() == order[::-1]


def test_the_order_of_label_doubts_by_hand(images: Mistakes) -> None:
    # what is usual: the mean probability of a class over the images labelled so; of deer it is 0
    usual = np.array([1.375 / 3, 2.0**-24, 1.0625 / 2])
    expected = []
    for i in range(6):
        ratio = np.maximum(images.source.probabilities[i].astype(float), 2.0**-24) / usual
        label = images.actual[i]
        other = max(ratio[k] for k in range(3) if k != label)
        expected.append(other / (other + ratio[label]))
    assert images.doubt.tolist() == pytest.approx(expected)
    order = select(images, sort="doubt", wrong_only=False).tolist()
    assert order == sorted(range(6), key=lambda i: (-round(expected[i], 12), i))


def test_the_order_of_human_doubt(images: Mistakes, judged: Mistakes) -> None:
    order = select(judged, sort="human", wrong_only=False).tolist()
    assert order == [3, 1, 0, 2, 5, 4], "who was asked about by nobody comes last"
    assert select(judged, sort="human").tolist() == [3, 1, 2, 4]
    assert judged.sorts == SORTS
    assert "human" not in images.sorts
    with pytest.raises(ConfigError, match="--human"):
        select(images, sort="human")


@pytest.mark.parametrize(
    ("line", "indices"),
    [
        ("human<0.5", [3]),
        ("human<=50%", [1, 3]),
        ("human>=0.9", [0, 2, 5]),
        ("human=0.5-0.9", [0, 1]),
        ("sure", [0, 2, 5]),
        ("!sure", [1, 3, 4]),
        ("unsure", [1, 3]),
        ("UNSURE cat>", [1]),
        ("doubtful", [1, 5]),
        ("!doubtful human>0.1", [0, 2, 3]),
        ("doubtful sure", [5]),
    ],
)
def test_filters_by_people(judged: Mistakes, line: str, indices: list[int]) -> None:
    where = parse_filter(line, CLASSES)
    chosen = select(judged, sort="index", where=where, wrong_only=False)
    assert chosen.tolist() == indices
    assert parse_filter(where.text(CLASSES), CLASSES) == where


@pytest.mark.parametrize(
    ("line", "part"),
    [("human<0.5", "--human"), ("sure", "--human"), ("unsure", "--human"), ("!doubtful", "--rev")],
)
def test_filters_by_people_need_their_files(images: Mistakes, line: str, part: str) -> None:
    where = parse_filter(line, CLASSES)
    assert not where.known(images)
    with pytest.raises(ConfigError, match=part):
        where.check(images)
    with pytest.raises(ConfigError, match=part):
        select(images, where=where)


def test_all_images_by_margin(images: Mistakes) -> None:
    chosen = select(images, sort="margin", wrong_only=False)
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
        ("#1,4", [1, 4]),
        ("#0-1,#3,5", [1, 3]),
        ("conf=0.375-0.625", [1, 3, 4]),
        ("confidence=37.5%..50%", [3]),
        ("margin=-0.5--0.1", [1, 4]),
        ("doubt>0.9", [1, 3, 4]),
        ("cat>dog conf>0.5 loss<2 #4", [4]),
    ],
)
def test_filters(images: Mistakes, line: str, indices: list[int]) -> None:
    where = parse_filter(line, CLASSES)
    assert select(images, sort="index", where=where).tolist() == indices
    assert parse_filter(where.text(CLASSES), CLASSES) == where


@pytest.mark.parametrize(
    ("line", "indices"),
    [
        ("right", [0, 5]),
        ("wrong", [1, 2, 3, 4]),
        ("!wrong dog", [5]),
        # as sure of another class as usual: cat 0.46, deer 0, dog 0.53
        ("suspect", [1, 2, 3, 4]),
        ("!suspect", [0, 5]),
        ("suspect >deer", [3]),
        ("actual=0.25-0.75", [1, 3, 4, 5]),
        ("doubt<0.9", [2]),
    ],
)
def test_filters_by_what_the_model_says(images: Mistakes, line: str, indices: list[int]) -> None:
    where = parse_filter(line, CLASSES)
    chosen = select(images, sort="index", where=where, wrong_only=False)
    assert chosen.tolist() == indices
    assert parse_filter(where.text(CLASSES), CLASSES) == where


def test_a_filter_over_all_images(images: Mistakes) -> None:
    where = parse_filter("cat>", CLASSES)
    chosen = select(images, sort="index", where=where, wrong_only=False)
    assert chosen.tolist() == [0, 1, 4]


@pytest.mark.parametrize(
    ("line", "part"),
    [
        ("d>cat", "'d' is deer or dog"),
        ("zebra", "nothing known as 'zebra'; classes: cat, deer, dog"),
        ("size>3", "nothing known as 'size'"),
        ("conf>high", "conf>high needs a number: conf>0.5, or conf=0.5-0.9"),
        ("cat>dog Loss>", "Loss> needs a number"),
        ("entropy=1", "entropy=1 needs a number"),
        ("conf<=nan", "conf<=nan needs a number"),
        ("#", "# is no index"),
        ("#x", "#x is no index"),
        ("#9-3", "ends before it begins"),
        ("#1,x", "#1,x is no index"),
        ("#1,5-2", "5-2 ends before it begins"),
        ("conf=0.9-0.5", "conf=0.9-0.5 ends before it begins"),
        ("size=1-2", "nothing known as 'size=1-2'"),
        ("!cat", "nothing known as '!cat'"),
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


def test_names_that_are_typed_alike() -> None:
    names = ("Cat", "cat", "a_b", "a,b")
    assert parse_filter('cat>"a,b"', names).confusions == (((1,), (3,)),)
    assert parse_filter("Cat>a_b", names).confusions == (((0,), (2,)),)
    with pytest.raises(ConfigError, match="'CAT' is Cat or cat: write it exactly so"):
        parse_filter("CAT>", names)


def test_classes_named_as_a_word_of_the_filter() -> None:
    names = ("sure", "doubtful", "cat")
    where = Filter((((0,), (1,)),), flags=("!doubtful",))
    assert where.text(names) == "@0>@1 !doubtful"
    assert parse_filter(where.text(names), names) == where


@pytest.mark.parametrize(
    ("line", "confusion"),
    [
        ('"cat dog">b=1', ((2,), (4,))),
        ("b=1>'CAT DOG'", ((4,), (2,))),
        ("cat,\"cat dog\">'cat d',dog", ((0, 2), (1, 2))),
        ("cat_dog>", ((2,), ())),
        ('>"loss"', ((), (3,))),
        ('"b=1"→"it\'s, a > b"', ((4,), (5,))),
    ],
)
def test_names_in_quotes(line: str, confusion: tuple[tuple[int, ...], tuple[int, ...]]) -> None:
    names = ("cat", "dog", "cat dog", "loss", "b=1", "it's, a > b")
    assert parse_filter(line, names).confusions == (confusion,)
    assert parse_filter(f"{line} loss>1", names).bounds == (Bound("loss", ">", 1.0),)


def test_a_message_lists_names_as_they_can_be_typed() -> None:
    names = ("ant", "cat dog", "cat fish")
    for line in ("cat_dog>dog", '"dog">ant'):
        with pytest.raises(ConfigError, match='\'dog\'; classes: ant, "cat dog", "cat fish"'):
            parse_filter(line, names)
    with pytest.raises(ConfigError, match='\'cat\' is "cat dog" or "cat fish"'):
        parse_filter("cat>", names)


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
        st.sampled_from(["confidence", "p_actual", "loss", "margin", "entropy", "human", "doubt"]),
        st.sampled_from([">", ">=", "<", "<="]),
        st.floats(-100, 100),
    )
    return names, Filter(
        tuple(draw(st.lists(confusion, max_size=3))),
        tuple(draw(st.lists(ranges, max_size=2))),
        tuple(draw(st.lists(bound, max_size=2))),
        tuple(draw(st.lists(st.sampled_from([*FLAGS, "!sure", "!doubtful"]), max_size=2))),
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


def test_confusion_and_figures_against_scikit_learn() -> None:
    metrics = pytest.importorskip("sklearn.metrics")
    random = np.random.default_rng(0)
    labels, predicted = random.integers(0, 4, (2, 500))
    predicted[predicted == 3] = 2  # a class that is never predicted
    matrix = confusions.confusion(labels, predicted, 5)  # and one without images
    assert matrix.tolist() == metrics.confusion_matrix(labels, predicted, labels=range(5)).tolist()
    precision, recall, f1, images = metrics.precision_recall_fscore_support(
        labels, predicted, labels=range(5), zero_division=np.nan
    )
    for k, figures in enumerate(confusions.per_class(matrix)):
        assert figures.images == images[k]
        for ours, theirs in ((figures.precision, precision), (figures.recall, recall)):
            assert ours == (None if np.isnan(theirs[k]) else pytest.approx(theirs[k]))
        assert figures.f1 == (None if np.isnan(f1[k]) else pytest.approx(f1[k]))


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


def test_class_names_of_a_log_are_padded_and_printable() -> None:
    assert mistakes.class_names(["a\x1b[0m"], 3) == (
        "a\N{REPLACEMENT CHARACTER}[0m",
        "class 1",
        "class 2",
    )


def test_class_names_of_an_earlier_log_are_told_apart() -> None:
    assert mistakes.class_names(["class 2", "a", "a"], 2) == ("class 2", "a")
    assert mistakes.class_names(["class 2", "class 2"], 3) == (
        "class 2",
        "class 2 (2)",
        "class 2 (3)",
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
    assert all(len(select(images, sort=sort)) == 0 for sort in images.sorts)
