"""What an evaluation says as a whole: confusion, calibration, whose fault its mistakes are."""

from __future__ import annotations

from typing import Any

from trainer.analysis import calibration, confusion, human, label_doubt, review
from trainer.cli.evaluation import Evaluation
from trainer.cli.output import clean, number, percent


def report(opened: Evaluation) -> dict[str, Any]:
    """Everything for scripts; what people say only where it is known."""
    images, classes = opened.images, opened.classes
    matrix = confusion.confusion(images.actual, images.predicted, images.classes)
    found: dict[str, Any] = {
        "run": opened.run,
        "data": opened.folded.data_kind,
        "split": opened.found.split,
        "epoch": opened.found.epoch,
        "images": len(images),
        "misclassified": len(opened.found.wrong),
        "accuracy": opened.accuracy,
        "classes": classes,
        "confusion": matrix.tolist(),
        "most_confused": [
            {
                "actual": classes[pair.actual],
                "predicted": classes[pair.predicted],
                "count": pair.count,
                "share": pair.share,
            }
            for pair in confusion.most_confused(matrix)
        ],
        "per_class": [
            {"class": name, **vars(figures)}
            for name, figures in zip(classes, confusion.per_class(matrix), strict=True)
        ],
        "calibration": calibration.calibration(images.confidence, ~images.wrong),
        "label_doubt": {
            "is": label_doubt.CALLED,
            "doubtful": int(images.label_doubt.doubtful.sum()),
        },
    }
    if images.people is not None:
        found["human"] = _people(opened, images.people)
    if images.review is not None:
        found["review"] = review.accuracy(images.actual, images.predicted, images.review)
    return found


def _people(opened: Evaluation, people: human.People) -> dict[str, Any]:
    quadrants = human.quadrants(opened.images.wrong, people)
    return {
        **quadrants.counts,
        "sure_from": human.SURE,
        "doubted_share_of_mistakes": quadrants.doubted_share,
        "entropy_spearman": human.entropy_correlation(opened.images.entropy, people),
        "notice": people.notice,
    }


MOST_CONFUSED = 5
"""Pairs that are named in the text; the report has ten."""


def _confused(opened: Evaluation) -> list[str]:
    images, names = opened.images, [clean(name, 30) for name in opened.classes]
    matrix = confusion.confusion(images.actual, images.predicted, images.classes)
    pairs = [
        f"{names[pair.actual]} > {names[pair.predicted]} {pair.count:,} ({percent(pair.share)})"
        for pair in confusion.most_confused(matrix, MOST_CONFUSED)
    ]
    return [f"most confused: {', '.join(pairs)}"] if pairs else []


def lines(opened: Evaluation) -> list[str]:
    """Most confused pairs, calibration, and what people say where it is known; for reading."""
    images = opened.images
    said = _confused(opened)
    calibrated = calibration.calibration(images.confidence, images.right)
    if calibrated.error is not None:
        said.append(
            f"calibration: mean confidence {percent(calibrated.confidence)}, expected calibration "
            f"error {percent(calibrated.error)}"
        )
    if images.people is not None:
        quadrants = human.quadrants(images.wrong, images.people)
        n = quadrants.counts
        rank = human.entropy_correlation(images.entropy, images.people)
        said += [
            f"whose fault: of the mistakes {n['wrong_sure']:,} where people are sure of the label "
            f"(at least {100 * human.SURE:.0f} % say it), {n['wrong_doubt']:,} where people doubt "
            f"it too ({percent(quadrants.doubted_share)})",
            f"right: {n['right_sure']:,} where people are sure, {n['right_doubt']:,} where people "
            f"doubt; entropies of model and people: Spearman's correlation {number(rank, '.2f')}",
        ]
        if n["unasked"]:
            many = "s" * (n["unasked"] != 1)
            said.append(f"nobody was asked about {n['unasked']:,} image{many}")
    if images.review is not None:
        figures = review.accuracy(images.actual, images.predicted, images.review)
        said.append(
            f"label review: {percent(figures.with_doubtful)} accuracy with the "
            f"{figures.doubtful:,} doubtful labels, {percent(figures.without_doubtful)} without; "
            f"{figures.doubtful_wrong:,} of them are mistakes, {figures.as_people:,} of these "
            "predicted as people would say"
        )
    return said
